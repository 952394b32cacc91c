//! The shell around the state machine, as a model: the same events as the real one, with a disk that answers later.
//! Everything in here is lost when the server dies. It acts by [`Out`], which the world carries out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use calls::{Assignment, CallSpec, Effect, FunctionCalls, Millis, NewInput, OutputPage, PageRequest};
use scheduler::{FunctionTasks, InputTimes};
use types::ids::{FunctionCallId, InputId, TaskId};

use crate::disk::{Disk, Write};
use crate::scenario::Scenario;

mod containers;
mod requests;

/// Over this span the throughput is measured.
const WINDOW_MS: Millis = 2_000;

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
    CallRecorded(FunctionCallId),
    Recorded(InputId),
    Nothing,
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) epoch: usize,
    pub(crate) calls: FunctionCalls,
    pub(crate) tasks: FunctionTasks,
    polls: BTreeMap<u64, TaskId>,
    waiters: Vec<(Address, FunctionCallId, PageRequest)>,
    after_writes: VecDeque<AfterWrite>,
    throughput: VecDeque<(Millis, u64)>,
    startup_estimate_ms: Millis,
    input_times: InputTimes,
    started: usize,
    scenario: Scenario,
}

impl Server {
    /// A server that has read the disk.
    pub(crate) fn begin(epoch: usize, scenario: &Scenario, disk: &Disk, now: Millis, out: &mut Vec<Out>) -> Self {
        let mut server = Self {
            epoch,
            calls: FunctionCalls::new(scenario.policy),
            tasks: FunctionTasks::default(),
            polls: BTreeMap::new(),
            waiters: Vec::new(),
            after_writes: VecDeque::new(),
            throughput: VecDeque::new(),
            startup_estimate_ms: 1_000,
            input_times: InputTimes::default(),
            started: 0,
            scenario: scenario.clone(),
        };
        if epoch > 0 {
            server.tasks.presume_proven();
        }
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
                self.perform(effect, &mut effects, &mut news, out);
            }
        }
        self.answer_waiters(&news, out);
        self.plan(now, out);
        result
    }

    fn perform(
        &mut self,
        effect: Effect,
        more: &mut Vec<Effect>,
        news: &mut BTreeSet<FunctionCallId>,
        out: &mut Vec<Out>,
    ) {
        match effect {
            Effect::Deliver { task, poll, inputs } => {
                assert!(self.polls.remove(&poll).is_some(), "an answer to request {poll}, which does not wait");
                assert!(self.tasks.contains(&task), "inputs for `{task}`, which ended");
                out.push(Out::Hand { task, poll, inputs });
            }
            Effect::Drain { task, poll } => {
                self.polls.remove(&poll);
                out.push(Out::Leave { task, poll });
            }
            Effect::OutputReady { call } => _ = news.insert(call),
            Effect::RecordCall(restored) => {
                let after = AfterWrite::CallRecorded(restored.spec.id.clone());
                self.write(Write::Lasting(restored), after, out);
            }
            Effect::Record { call, output } => {
                self.write(Write::Output(call, output.clone()), AfterWrite::Recorded(output.input), out);
            }
            Effect::Tell { .. } => {}
            Effect::CancelInputs { task, inputs } => out.push(Out::Interrupt { task, inputs }),
            Effect::StopTask { task, .. } => {
                self.tasks.drain(&task);
                self.calls.drain(&task, more);
                out.push(Out::Kill { task });
            }
        }
    }

    fn write(&mut self, write: Write, after: AfterWrite, out: &mut Vec<Out>) {
        self.after_writes.push_back(after);
        out.push(Out::Write(write));
    }
}
