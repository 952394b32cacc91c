//! The shell around the state machine, as a model: the same events as the real one, with a disk that answers later.
//! Everything in here is lost when the server dies. It acts by [`Out`], which the world carries out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use calls::{
    Accepted, Assignment, Effect, FunctionCalls, Millis, NewInput, Outcome, OutcomeStatus, PageRequest, TaskEnd,
};
use calls::{CallSpec, OutputPage};
use scheduler::{AutoscalerView, RecentCompletions, TaskPhase, TaskView, plan_autoscale};
use types::ids::{FunctionCallId, InputId, TaskId};

use crate::disk::{Disk, Write};
use crate::scenario::Scenario;

/// Over this span the throughput is measured.
const WINDOW_MS: Millis = 2_000;
/// Containers that fail to start one after the other before the waiting inputs are given up.
const MAX_START_FAILURES: u32 = 3;

/// Where a reply goes: to a caller's lane, as the answer to its `step`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) caller: usize,
    pub(crate) lane: usize,
    pub(crate) step: usize,
}

#[derive(Debug, Clone)]
pub(crate) enum Request {
    Create(CallSpec, Vec<NewInput>),
    Put(FunctionCallId, Vec<NewInput>),
    FinishInputs(FunctionCallId),
    Collect(FunctionCallId, PageRequest),
    Cancel(FunctionCallId),
    Forget(FunctionCallId),
}

#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Done,
    /// The queue is full; come back later.
    Busy,
    /// No such call (any more).
    Gone,
    Page(OutputPage),
}

/// What the server does to the world.
#[derive(Debug)]
pub(crate) enum Out {
    Reply(Address, Reply),
    Hand { task: TaskId, poll: u64, inputs: Vec<Assignment> },
    Leave { task: TaskId, poll: u64 },
    Interrupt { task: TaskId, inputs: Vec<InputId> },
    Kill { task: TaskId },
    Write(Write),
    Start { task: TaskId },
    WakeAt(Millis),
}

/// What to do when the oldest write is done.
#[derive(Debug)]
enum AfterWrite {
    Create(CallSpec, Vec<NewInput>, Address),
    Put(FunctionCallId, Vec<NewInput>, Address),
    FinishInputs(FunctionCallId, Address),
    Cancel(FunctionCallId, Address),
    Recorded(InputId),
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) epoch: usize,
    pub(crate) calls: FunctionCalls,
    pub(crate) tasks: BTreeMap<TaskId, TaskPhase>,
    polls: BTreeMap<u64, TaskId>,
    waiters: Vec<(Address, FunctionCallId, PageRequest)>,
    after_writes: VecDeque<AfterWrite>,
    throughput: VecDeque<(Millis, u64)>,
    start_failures: u32,
    blocked_until: Option<Millis>,
    startup_estimate_ms: Millis,
    started: usize,
    scenario: Scenario,
}

impl Server {
    /// A server that has read the disk.
    pub(crate) fn begin(epoch: usize, scenario: &Scenario, disk: &Disk, now: Millis, out: &mut Vec<Out>) -> Self {
        let mut server = Self {
            epoch,
            calls: FunctionCalls::new(scenario.policy),
            tasks: BTreeMap::new(),
            polls: BTreeMap::new(),
            waiters: Vec::new(),
            after_writes: VecDeque::new(),
            throughput: VecDeque::new(),
            start_failures: 0,
            blocked_until: None,
            startup_estimate_ms: 1_000,
            started: 0,
            scenario: scenario.clone(),
        };
        for (restored, cancelled) in disk.restore() {
            let id = restored.spec.id.clone();
            server.calls.restore(restored, now);
            if cancelled {
                server.apply(now, out, |calls, effects| calls.cancel_call(&id, now, effects));
            }
        }
        server.plan(now, out);
        server
    }

    /// Runs an event through the state machine, performs what follows, and looks at the number of containers.
    fn apply<R>(
        &mut self,
        now: Millis,
        out: &mut Vec<Out>,
        event: impl FnOnce(&mut FunctionCalls, &mut Vec<Effect>) -> R,
    ) -> R {
        let mut effects = Vec::new();
        let result = event(&mut self.calls, &mut effects);
        let mut news = BTreeSet::new();
        while !effects.is_empty() {
            for effect in std::mem::take(&mut effects) {
                self.perform(effect, now, &mut effects, &mut news, out);
            }
        }
        self.answer_waiters(&news, out);
        self.plan(now, out);
        result
    }

    fn perform(
        &mut self,
        effect: Effect,
        now: Millis,
        more: &mut Vec<Effect>,
        news: &mut BTreeSet<FunctionCallId>,
        out: &mut Vec<Out>,
    ) {
        match effect {
            Effect::Deliver { task, poll, inputs } => {
                assert!(self.polls.remove(&poll).is_some(), "an answer to request {poll}, which does not wait");
                assert!(self.tasks.contains_key(&task), "inputs for `{task}`, which ended");
                out.push(Out::Hand { task, poll, inputs });
            }
            Effect::Drain { task, poll } => {
                self.polls.remove(&poll);
                out.push(Out::Leave { task, poll });
            }
            Effect::OutputReady { call } => _ = news.insert(call),
            Effect::Record { call, output } => {
                self.write(Write::Output(call, output.clone()), AfterWrite::Recorded(output.input), out);
            }
            Effect::CancelInputs { task, inputs } => out.push(Out::Interrupt { task, inputs }),
            Effect::StopTask { task, .. } => {
                self.tasks.insert(task.clone(), TaskPhase::Draining);
                self.calls.drain(&task, more);
                out.push(Out::Kill { task });
            }
        }
        let _ = now;
    }

    fn write(&mut self, write: Write, after: AfterWrite, out: &mut Vec<Out>) {
        self.after_writes.push_back(after);
        out.push(Out::Write(write));
    }

    // --------------------------------------------------------------------------------------------------- callers

    pub(crate) fn on_request(&mut self, request: Request, to: Address, now: Millis, out: &mut Vec<Out>) {
        match request {
            Request::Create(spec, inputs) => self.create(spec, inputs, to, now, out),
            Request::Put(call, inputs) => match self.calls.call_spec(&call).map(|s| s.durable) {
                None => out.push(Out::Reply(to, Reply::Gone)),
                Some(false) => self.put(&call, inputs, to, now, out),
                Some(true) if !self.has_room(&inputs) => out.push(Out::Reply(to, Reply::Busy)),
                Some(true) => {
                    let write = Write::Inputs(call.clone(), inputs.clone());
                    self.write(write, AfterWrite::Put(call, inputs, to), out);
                }
            },
            Request::FinishInputs(call) => match self.calls.call_spec(&call).map(|s| s.durable) {
                None => out.push(Out::Reply(to, Reply::Gone)),
                Some(false) => self.finish_inputs(&call, to, now, out),
                Some(true) => self.write(Write::FinishInputs(call.clone()), AfterWrite::FinishInputs(call, to), out),
            },
            Request::Collect(call, page) => self.collect(call, page, to, out),
            Request::Cancel(call) => match self.calls.call_spec(&call).map(|s| s.durable) {
                None => out.push(Out::Reply(to, Reply::Gone)),
                Some(false) => self.cancel(&call, to, now, out),
                Some(true) => self.write(Write::Cancel(call.clone()), AfterWrite::Cancel(call, to), out),
            },
            Request::Forget(call) => {
                self.apply(now, out, |calls, effects| calls.forget_call(&call, now, effects));
                out.push(Out::Reply(to, Reply::Done));
            }
        }
    }

    fn create(&mut self, spec: CallSpec, inputs: Vec<NewInput>, to: Address, now: Millis, out: &mut Vec<Out>) {
        if self.calls.call_spec(&spec.id).is_some() {
            out.push(Out::Reply(to, Reply::Done));
        } else if !self.has_room(&inputs) {
            out.push(Out::Reply(to, Reply::Busy));
        } else if spec.durable {
            let write = Write::Call(spec.clone(), inputs.clone());
            self.write(write, AfterWrite::Create(spec, inputs, to), out);
        } else {
            let id = spec.id.clone();
            self.calls.create_call(spec);
            self.put(&id, inputs, to, now, out);
        }
    }

    fn has_room(&self, inputs: &[NewInput]) -> bool {
        self.calls.has_room(inputs.len(), inputs.iter().map(|i| i.payload.resident_bytes()).sum())
    }

    fn put(&mut self, call: &FunctionCallId, inputs: Vec<NewInput>, to: Address, now: Millis, out: &mut Vec<Out>) {
        let accepted = self.apply(now, out, |calls, effects| calls.add_inputs(call, inputs, now, effects));
        let reply = match accepted {
            Accepted::Yes => Reply::Done,
            Accepted::QueueFull => Reply::Busy,
            Accepted::NoSuchCall => Reply::Gone,
        };
        out.push(Out::Reply(to, reply));
    }

    fn finish_inputs(&mut self, call: &FunctionCallId, to: Address, now: Millis, out: &mut Vec<Out>) {
        self.apply(now, out, |calls, _| calls.finish_inputs(call));
        // A map without inputs is finished by that.
        self.answer_waiters(&BTreeSet::from([call.clone()]), out);
        out.push(Out::Reply(to, Reply::Done));
    }

    fn cancel(&mut self, call: &FunctionCallId, to: Address, now: Millis, out: &mut Vec<Out>) {
        self.apply(now, out, |calls, effects| calls.cancel_call(call, now, effects));
        out.push(Out::Reply(to, Reply::Done));
    }

    fn collect(&mut self, call: FunctionCallId, request: PageRequest, to: Address, out: &mut Vec<Out>) {
        match self.calls.outputs(&call, request) {
            None => out.push(Out::Reply(to, Reply::Gone)),
            Some(page) if page.outputs.is_empty() && page.unfinished > 0 => self.waiters.push((to, call, request)),
            Some(page) => out.push(Out::Reply(to, Reply::Page(page))),
        }
    }

    fn answer_waiters(&mut self, news: &BTreeSet<FunctionCallId>, out: &mut Vec<Out>) {
        if news.is_empty() {
            return;
        }
        let (woken, still): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiters).into_iter().partition(|(_, call, _)| news.contains(call));
        self.waiters = still;
        for (to, call, request) in woken {
            self.collect(call, request, to, out);
        }
    }

    /// A caller's patience is over: it is answered with what there is, which must be nothing, or its wake-up was
    /// forgotten.
    pub(crate) fn on_collect_timeout(&mut self, to: Address, out: &mut Vec<Out>) {
        let Some(n) = self.waiters.iter().position(|(address, ..)| *address == to) else { return };
        let (_, call, request) = self.waiters.swap_remove(n);
        let page = self.calls.outputs(&call, request);
        let nothing = page.as_ref().is_some_and(|p| p.outputs.is_empty() && p.unfinished > 0);
        assert!(nothing, "nobody said that `{call}` has news");
        out.extend(page.map(|page| Out::Reply(to, Reply::Page(page))));
    }

    pub(crate) fn on_written(&mut self, now: Millis, out: &mut Vec<Out>) {
        let Some(after) = self.after_writes.pop_front() else { return };
        match after {
            AfterWrite::Create(spec, inputs, to) => {
                let id = spec.id.clone();
                self.calls.create_call(spec);
                self.put(&id, inputs, to, now, out);
            }
            AfterWrite::Put(call, inputs, to) => self.put(&call, inputs, to, now, out),
            AfterWrite::FinishInputs(call, to) => self.finish_inputs(&call, to, now, out),
            AfterWrite::Cancel(call, to) => self.cancel(&call, to, now, out),
            AfterWrite::Recorded(input) => self.apply(now, out, |calls, effects| calls.on_recorded(&input, effects)),
        }
    }

    // ------------------------------------------------------------------------------------------------ containers

    pub(crate) fn on_poll(&mut self, task: &TaskId, poll: u64, max: usize, now: Millis, out: &mut Vec<Out>) {
        let Some(phase) = self.tasks.get_mut(task) else {
            out.push(Out::Leave { task: task.clone(), poll });
            return;
        };
        if let TaskPhase::Starting { since } = *phase {
            self.startup_estimate_ms = (self.startup_estimate_ms + (now - since)) / 2;
            *phase = TaskPhase::Active { since: now };
        }
        self.start_failures = 0;
        self.polls.insert(poll, task.clone());
        self.apply(now, out, |calls, effects| calls.poll(task, poll, max, now, effects));
    }

    /// The request is over for the container: it broke, or waited long enough. True if it was still waiting.
    pub(crate) fn on_poll_over(&mut self, task: &TaskId, poll: u64) -> bool {
        self.calls.cancel_poll(task, poll);
        self.polls.remove(&poll).is_some()
    }

    pub(crate) fn on_undelivered(&mut self, task: &TaskId, inputs: &[InputId], now: Millis, out: &mut Vec<Out>) {
        self.apply(now, out, |calls, effects| calls.on_undelivered(task, inputs, now, effects));
    }

    pub(crate) fn on_output(
        &mut self,
        task: &TaskId,
        input: &InputId,
        attempt: u32,
        outcome: Outcome,
        now: Millis,
        out: &mut Vec<Out>,
    ) -> bool {
        self.apply(now, out, |calls, effects| calls.on_output(task, input, Some(attempt), outcome, now, effects))
    }

    pub(crate) fn on_task_end(&mut self, task: &TaskId, end: &TaskEnd, now: Millis, out: &mut Vec<Out>) {
        self.tasks.remove(task);
        self.apply(now, out, |calls, effects| calls.on_task_end(task, end, now, effects));
    }

    /// User code failed before it took an input.
    pub(crate) fn on_init_failure(&mut self, now: Millis, out: &mut Vec<Out>) {
        let outcome = Outcome::of(OutcomeStatus::InitFailure, "the container could not start");
        self.apply(now, out, |calls, effects| calls.fail_waiting(&outcome, now, effects));
    }

    pub(crate) fn on_start_failure(&mut self, task: &TaskId, for_good: bool, now: Millis, out: &mut Vec<Out>) {
        self.start_failures += 1;
        self.blocked_until = Some(now + (500 << self.start_failures.min(6)));
        if for_good || self.start_failures >= MAX_START_FAILURES {
            self.on_init_failure(now, out);
        }
        self.on_task_end(task, &TaskEnd::Lost("it could not start".to_owned()), now, out);
    }

    pub(crate) fn on_tick(&mut self, now: Millis, out: &mut Vec<Out>) {
        self.apply(now, out, |calls, effects| calls.tick(now, effects));
    }

    fn plan(&mut self, now: Millis, out: &mut Vec<Out>) {
        let view = self.view(now);
        let plan = plan_autoscale(&view);
        for _ in 0..plan.start {
            self.started += 1;
            let name = format!("ta-{:04}{:022}", self.epoch, self.started);
            let task = TaskId::parse(&name).expect("letters and digits");
            self.tasks.insert(task.clone(), TaskPhase::Starting { since: now });
            out.push(Out::Start { task });
        }
        let mut effects = Vec::new();
        for (task, _) in &plan.stop {
            let before = self.tasks.insert(task.clone(), TaskPhase::Draining);
            self.calls.drain(task, &mut effects);
            if matches!(before, Some(TaskPhase::Starting { .. })) {
                out.push(Out::Kill { task: task.clone() });
            }
        }
        for effect in effects {
            self.perform(effect, now, &mut Vec::new(), &mut BTreeSet::new(), out);
        }
        let due = [self.calls.next_due(), plan.reconsider_at].into_iter().flatten().min();
        out.extend(due.map(|at| Out::WakeAt(at.max(now + 1))));
    }

    fn view(&mut self, now: Millis) -> AutoscalerView {
        let completed = self.calls.completed();
        self.throughput.push_back((now, completed));
        while self.throughput.len() > 2 && self.throughput[1].0 + WINDOW_MS < now {
            self.throughput.pop_front();
        }
        let (since, before) = self.throughput[0];
        let tasks = self.tasks.iter().map(|(id, phase)| TaskView {
            id: id.clone(),
            phase: *phase,
            idle_since: self.calls.idle_since(id),
            running: self.calls.running_on(id),
        });
        AutoscalerView {
            now,
            load: self.calls.load(),
            completed_recently: RecentCompletions { count: completed - before, window_ms: now - since },
            tasks: tasks.collect(),
            settings: self.scenario.settings,
            startup_estimate_ms: self.startup_estimate_ms,
            cores: 2,
            app_active: true,
            starts_blocked_until: self.blocked_until,
        }
    }
}
