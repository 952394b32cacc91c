//! The state machine of one function's calls. See the crate's header for the picture and the invariants.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use types::ids::{FunctionCallId, InputId, TaskId};

use crate::input::{Assignment, CallSpec, FinishedOutput, NewInput, Outcome, OutcomeStatus, Payload, Restored};
use crate::policy::{MAX_SYSTEM_RETRIES, Policy};
use crate::{CallKind, Millis};

/// A cancelled input may clean up this long before its container is stopped under it.
const CANCEL_GRACE_MS: Millis = 10_000;

/// One thing for the shell to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Answer the container's waiting request `poll` with these inputs.
    Deliver { task: TaskId, poll: u64, inputs: Vec<Assignment> },
    /// Answer the container's waiting request with the word to finish what it runs and exit.
    Drain { task: TaskId, poll: u64 },
    /// The call has news: wake who waits for its outputs.
    OutputReady { call: FunctionCallId },
    /// Write this output of a durable call down, then say [`FunctionCalls::on_recorded`].
    Record { call: FunctionCallId, output: FinishedOutput },
    /// Tell the container to stop working on these inputs.
    CancelInputs { task: TaskId, inputs: Vec<InputId> },
    /// End the container: what it runs can no longer be used.
    StopTask { task: TaskId, why: String },
}

/// Why a container is gone.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskEnd {
    /// It ended by itself, by what user code did (exit, segfault, memory limit): counts against the user's retries.
    Crashed(String),
    /// It was taken away: the machine was lost, the server restarted, or it was stopped for another input's sake.
    Lost(String),
    /// It had been told to leave, and left.
    Left,
}

/// Answer to new inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    Yes,
    /// The function's queue is full; nothing was taken.
    QueueFull,
    /// The call is not here (any more).
    NoSuchCall,
}

/// Which outputs a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    /// Outputs already seen by this cursor; 0 is the start.
    pub after: usize,
    /// Inclusive range of positions, when only these are wanted.
    pub range: Option<(i32, i32)>,
    pub limit: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct OutputPage {
    pub outputs: Vec<FinishedOutput>,
    /// Cursor after these.
    pub next: usize,
    pub unfinished: usize,
}

#[derive(Debug)]
struct Call {
    spec: CallSpec,
    inputs: usize,
    /// In order of publication; a cursor is an index into it.
    published: Vec<FinishedOutput>,
    /// No more inputs will come (unary, or the caller said so).
    inputs_complete: bool,
    cancelled: bool,
    unfinished: BTreeSet<InputId>,
}

#[derive(Debug)]
enum Stage {
    Ready,
    Delayed(Millis, u64),
    Running {
        task: TaskId,
        deadline: Millis,
    },
    /// Decided, waiting for the disk.
    Recording(Box<FinishedOutput>),
}

#[derive(Debug)]
struct InputState {
    input: NewInput,
    call: FunctionCallId,
    stage: Stage,
    /// Number of the current attempt, from 0.
    attempt: u32,
    user_failures: u32,
    system_retries: u32,
}

#[derive(Debug, Default)]
struct Task {
    running: BTreeSet<InputId>,
    /// Inputs whose caller has gone: the container may still work on them.
    abandoned: BTreeMap<InputId, Millis>,
    polls: VecDeque<(u64, usize)>,
    /// It gets no more inputs.
    draining: bool,
    /// When it last became idle, for the autoscaler.
    idle_since: Option<Millis>,
    served: u64,
}

/// Facts for the autoscaler.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    pub ready: usize,
    pub delayed: usize,
    pub running: usize,
    pub oldest_ready_at: Option<Millis>,
}

/// Every call of one function.
#[derive(Debug)]
pub struct FunctionCalls {
    policy: Policy,
    calls: HashMap<FunctionCallId, Call>,
    inputs: HashMap<InputId, InputState>,
    ready: VecDeque<(InputId, Millis)>,
    /// Entries of `ready` whose input has moved on (cancelled); skipped when met.
    ready_count: usize,
    delayed: BTreeSet<(Millis, u64, InputId)>,
    deadlines: BTreeSet<(Millis, TaskId, InputId)>,
    tasks: HashMap<TaskId, Task>,
    /// Tasks with a waiting poll, the most recently busy last: it is taken first, so that surplus containers stay
    /// idle long enough to be scaled down.
    idle: Vec<TaskId>,
    resident_bytes: usize,
    running_count: usize,
    sequence: u64,
    completed: u64,
}

impl FunctionCalls {
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            calls: HashMap::new(),
            inputs: HashMap::new(),
            ready: VecDeque::new(),
            ready_count: 0,
            delayed: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            tasks: HashMap::new(),
            idle: Vec::new(),
            resident_bytes: 0,
            running_count: 0,
            sequence: 0,
            completed: 0,
        }
    }

    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    // ------------------------------------------------------------------------------------------------ calls

    /// A new call without inputs. The shell chose the id, so a repeated request is recognised before it comes here.
    pub fn create_call(&mut self, spec: CallSpec) {
        let inputs_complete = spec.kind == CallKind::Unary;
        self.calls.insert(
            spec.id.clone(),
            Call {
                spec,
                inputs: 0,
                published: Vec::new(),
                inputs_complete,
                cancelled: false,
                unfinished: BTreeSet::new(),
            },
        );
    }

    /// Whether `count` more inputs with `bytes` of arguments fit. Asked before they are written to disk.
    pub fn has_room(&self, count: usize, bytes: usize) -> bool {
        self.inputs.len() + count <= self.policy.max_inputs
            && self.resident_bytes + bytes <= self.policy.max_input_bytes
    }

    /// Takes inputs of an existing call; all of them or none.
    pub fn add_inputs(
        &mut self,
        call: &FunctionCallId,
        inputs: Vec<NewInput>,
        now: Millis,
        effects: &mut Vec<Effect>,
    ) -> Accepted {
        let bytes = inputs.iter().map(|i| i.payload.resident_bytes()).sum();
        if !self.calls.contains_key(call) {
            return Accepted::NoSuchCall;
        }
        if !self.has_room(inputs.len(), bytes) {
            return Accepted::QueueFull;
        }
        for input in inputs {
            self.add_input(call, input, now);
        }
        self.dispatch(now, effects);
        Accepted::Yes
    }

    fn add_input(&mut self, call_id: &FunctionCallId, input: NewInput, now: Millis) {
        let Some(call) = self.calls.get_mut(call_id) else { return };
        if self.inputs.contains_key(&input.id) {
            return;
        }
        let id = input.id.clone();
        call.inputs += 1;
        call.unfinished.insert(id.clone());
        self.resident_bytes += input.payload.resident_bytes();
        self.inputs.insert(
            id.clone(),
            InputState {
                input,
                call: call_id.clone(),
                stage: Stage::Ready,
                attempt: 0,
                user_failures: 0,
                system_retries: 0,
            },
        );
        self.ready.push_back((id, now));
        self.ready_count += 1;
    }

    /// The caller will send no more inputs to this call.
    pub fn finish_inputs(&mut self, call: &FunctionCallId) {
        if let Some(call) = self.calls.get_mut(call) {
            call.inputs_complete = true;
        }
    }

    /// Brings back what the store had of a durable call. Inputs that were running when the server died run again;
    /// their containers died with it.
    pub fn restore(&mut self, restored: Restored, now: Millis) {
        let id = restored.spec.id.clone();
        self.create_call(restored.spec);
        for input in restored.pending {
            self.add_input(&id, input, now);
        }
        if let Some(call) = self.calls.get_mut(&id) {
            call.inputs += restored.finished.len();
            call.inputs_complete |= restored.inputs_complete;
            call.published = restored.finished;
        }
    }

    /// Outputs after a cursor. `None` when the call is unknown.
    pub fn outputs(&self, call: &FunctionCallId, request: PageRequest) -> Option<OutputPage> {
        let call = self.calls.get(call)?;
        let mut outputs = Vec::new();
        let mut next = request.after.min(call.published.len());
        for output in &call.published[next..] {
            if outputs.len() >= request.limit {
                break;
            }
            next += 1;
            if request.range.is_none_or(|(from, to)| (from..=to).contains(&output.idx)) {
                outputs.push(output.clone());
            }
        }
        let open = usize::from(!call.inputs_complete && !call.cancelled && call.inputs == 0);
        Some(OutputPage { outputs, next, unfinished: call.unfinished.len() + open })
    }

    pub fn call_spec(&self, call: &FunctionCallId) -> Option<&CallSpec> {
        self.calls.get(call).map(|c| &c.spec)
    }

    pub fn input_count(&self, call: &FunctionCallId) -> Option<usize> {
        self.calls.get(call).map(|c| c.inputs)
    }

    /// Inputs of a call with their status (`None` while unfinished) and task, for the call graph.
    pub fn call_inputs(&self, call: &FunctionCallId) -> Vec<(InputId, Option<OutcomeStatus>, Option<TaskId>)> {
        let Some(call) = self.calls.get(call) else { return Vec::new() };
        let done = call.published.iter().map(|o| (o.input.clone(), Some(o.outcome.status), o.task.clone()));
        let open = call.unfinished.iter().map(|id| {
            let task = match self.inputs.get(id).map(|i| &i.stage) {
                Some(Stage::Running { task, .. }) => Some(task.clone()),
                _ => None,
            };
            (id.clone(), None, task)
        });
        done.chain(open).collect()
    }

    pub fn call_ids(&self) -> impl Iterator<Item = &FunctionCallId> {
        self.calls.keys()
    }

    pub fn is_finished(&self, call: &FunctionCallId) -> bool {
        self.calls.get(call).is_none_or(|c| c.unfinished.is_empty() && c.inputs_complete)
    }

    pub fn has_unfinished_calls(&self) -> bool {
        !self.inputs.is_empty()
    }

    /// Forgets a call and everything of it. Inputs that still run are abandoned: nobody can ask for their outputs.
    pub fn forget_call(&mut self, id: &FunctionCallId, now: Millis, effects: &mut Vec<Effect>) {
        self.cancel_call(id, now, effects);
        self.calls.remove(id);
    }

    /// Cancels a call: what waits ends now, what runs is told to stop and ends now for the caller. A container that
    /// goes on all the same is stopped after a grace.
    pub fn cancel_call(&mut self, id: &FunctionCallId, now: Millis, effects: &mut Vec<Effect>) {
        let Some(call) = self.calls.get_mut(id) else { return };
        call.cancelled = true;
        let unfinished: Vec<InputId> = call.unfinished.iter().cloned().collect();
        let mut by_task: BTreeMap<TaskId, Vec<InputId>> = BTreeMap::new();
        for input in unfinished {
            if let Some(InputState { stage: Stage::Running { task, .. }, .. }) = self.inputs.get(&input) {
                by_task.entry(task.clone()).or_default().push(input.clone());
            }
            let outcome = Outcome::of(OutcomeStatus::Terminated, "the function call was cancelled");
            self.finish(&input, outcome, now, effects);
        }
        for (task, inputs) in by_task {
            effects.push(Effect::CancelInputs { task, inputs });
        }
    }

    // ------------------------------------------------------------------------------------------------ containers

    /// A container asks for up to `max` inputs; `poll` names the request.
    pub fn poll(&mut self, task_id: &TaskId, poll: u64, max: usize, now: Millis, effects: &mut Vec<Effect>) {
        let task = self.tasks.entry(task_id.clone()).or_default();
        if task.draining {
            effects.push(Effect::Drain { task: task_id.clone(), poll });
            return;
        }
        task.polls.push_back((poll, max.max(1)));
        if task.running.is_empty() && task.idle_since.is_none() {
            task.idle_since = Some(now);
        }
        if !self.idle.contains(task_id) {
            self.idle.push(task_id.clone());
        }
        self.dispatch(now, effects);
    }

    /// The container's request was answered empty or its connection broke.
    pub fn cancel_poll(&mut self, task_id: &TaskId, poll: u64) {
        let Some(task) = self.tasks.get_mut(task_id) else { return };
        task.polls.retain(|(p, _)| *p != poll);
        if task.polls.is_empty() {
            self.idle.retain(|t| t != task_id);
        }
    }

    /// A delivery did not reach the container (its connection broke between decision and reply): take it back.
    pub fn on_undelivered(&mut self, task_id: &TaskId, inputs: &[InputId], now: Millis, effects: &mut Vec<Effect>) {
        for id in inputs {
            if self.is_running_on(id, task_id) {
                self.release(id, now);
                self.requeue(id, now);
            }
        }
        self.dispatch(now, effects);
    }

    fn dispatch(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        while self.ready_count > 0 {
            let Some(task_id) = self.idle.last().cloned() else { return };
            let Some((poll, max)) = self.tasks.get_mut(&task_id).and_then(|t| t.polls.pop_front()) else {
                self.idle.pop();
                continue;
            };
            let mut inputs = Vec::new();
            while inputs.len() < max {
                let Some(id) = self.next_ready() else { break };
                if let Some(assignment) = self.assign(&id, &task_id, now) {
                    inputs.push(assignment);
                }
            }
            let task = self.tasks.entry(task_id.clone()).or_default();
            if inputs.is_empty() {
                task.polls.push_front((poll, max));
                return;
            }
            task.idle_since = None;
            if task.polls.is_empty() {
                self.idle.pop();
            }
            effects.push(Effect::Deliver { task: task_id, poll, inputs });
        }
    }

    fn next_ready(&mut self) -> Option<InputId> {
        while let Some((id, _)) = self.ready.pop_front() {
            if self.inputs.get(&id).is_some_and(|i| matches!(i.stage, Stage::Ready)) {
                self.ready_count -= 1;
                return Some(id);
            }
        }
        None
    }

    fn assign(&mut self, id: &InputId, task_id: &TaskId, now: Millis) -> Option<Assignment> {
        let state = self.inputs.get_mut(id)?;
        let deadline = now + self.policy.timeout_ms;
        state.stage = Stage::Running { task: task_id.clone(), deadline };
        self.deadlines.insert((deadline, task_id.clone(), id.clone()));
        self.running_count += 1;
        self.tasks.entry(task_id.clone()).or_default().running.insert(id.clone());
        Some(Assignment {
            input: id.clone(),
            call: state.call.clone(),
            idx: state.input.idx,
            payload: state.input.payload.clone(),
            data_format: state.input.data_format,
            method_name: state.input.method_name.clone(),
            invocation_type: self.calls.get(&state.call).map_or(0, |c| c.spec.invocation_type),
            attempt: state.attempt,
        })
    }

    fn is_running_on(&self, id: &InputId, task_id: &TaskId) -> bool {
        matches!(self.inputs.get(id), Some(InputState { stage: Stage::Running { task, .. }, .. }) if task == task_id)
    }

    /// Takes a running input off its task; its stage is set by the caller.
    fn release(&mut self, id: &InputId, now: Millis) {
        let Some(InputState { stage: Stage::Running { task, deadline }, .. }) = self.inputs.get(id) else { return };
        self.deadlines.remove(&(*deadline, task.clone(), id.clone()));
        self.running_count -= 1;
        if let Some(task) = self.tasks.get_mut(task) {
            task.running.remove(id);
            if task.running.is_empty() {
                task.idle_since = Some(now);
            }
        }
    }

    fn requeue(&mut self, id: &InputId, now: Millis) {
        let Some(state) = self.inputs.get_mut(id) else { return };
        state.stage = Stage::Ready;
        self.ready.push_front((id.clone(), now));
        self.ready_count += 1;
    }

    /// A container reports how an attempt ended. `attempt` is `None` from clients that do not send it. Returns false
    /// for a report that is refused: of an older attempt, of another task, or of a finished input.
    pub fn on_output(
        &mut self,
        task_id: &TaskId,
        input: &InputId,
        attempt: Option<u32>,
        outcome: Outcome,
        now: Millis,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if let Some(task) = self.tasks.get_mut(task_id) {
            task.served += 1;
            if let Some(deadline) = task.abandoned.remove(input) {
                self.deadlines.remove(&(deadline, task_id.clone(), input.clone()));
                return false;
            }
        }
        let current = self.inputs.get(input).map(|i| i.attempt);
        if !self.is_running_on(input, task_id) || attempt.is_some_and(|a| Some(a) != current) {
            return false;
        }
        self.settle(input, outcome, now, effects);
        true
    }

    /// An attempt that the user's code answers for has ended: final, or another attempt.
    fn settle(&mut self, id: &InputId, outcome: Outcome, now: Millis, effects: &mut Vec<Effect>) {
        let Some(state) = self.inputs.get_mut(id) else { return };
        let may_retry = matches!(outcome.status, OutcomeStatus::Failure | OutcomeStatus::Timeout);
        if !may_retry || state.user_failures >= self.policy.retry.retries {
            self.finish(id, outcome, now, effects);
            return;
        }
        state.user_failures += 1;
        state.attempt += 1;
        let delay = self.policy.retry.delay_ms(state.user_failures);
        self.release(id, now);
        self.sequence += 1;
        let (due, sequence) = (now + delay, self.sequence);
        if let Some(state) = self.inputs.get_mut(id) {
            state.stage = Stage::Delayed(due, sequence);
        }
        self.delayed.insert((due, sequence, id.clone()));
        self.tick(now, effects);
    }

    /// The platform lost an attempt: again, unless that has happened too often.
    fn retry_lost(&mut self, id: &InputId, why: &str, now: Millis, effects: &mut Vec<Effect>) {
        let Some(state) = self.inputs.get_mut(id) else { return };
        if state.system_retries >= MAX_SYSTEM_RETRIES {
            let text =
                format!("the container was lost {} times while it ran this input; last: {why}", state.attempt + 1);
            self.finish(id, Outcome::of(OutcomeStatus::InternalFailure, text), now, effects);
            return;
        }
        state.system_retries += 1;
        state.attempt += 1;
        self.release(id, now);
        self.requeue(id, now);
    }

    /// Makes an outcome final. A durable call's output is recorded before anybody sees it.
    fn finish(&mut self, id: &InputId, outcome: Outcome, now: Millis, effects: &mut Vec<Effect>) {
        let Some(state) = self.inputs.get(id) else { return };
        let task = match &state.stage {
            Stage::Recording(_) => return,
            Stage::Running { task, .. } => Some(task.clone()),
            Stage::Ready => {
                self.ready_count -= 1;
                None
            }
            Stage::Delayed(due, sequence) => {
                self.delayed.remove(&(*due, *sequence, id.clone()));
                None
            }
        };
        let cancelled = outcome.status == OutcomeStatus::Terminated;
        self.release(id, now);
        if let Some(task_id) = task.as_ref().filter(|_| cancelled) {
            let deadline = now + CANCEL_GRACE_MS;
            if let Some(task) = self.tasks.get_mut(task_id) {
                task.abandoned.insert(id.clone(), deadline);
                self.deadlines.insert((deadline, task_id.clone(), id.clone()));
            }
        }
        let Some(state) = self.inputs.get_mut(id) else { return };
        let output = FinishedOutput { input: id.clone(), idx: state.input.idx, task, outcome };
        let call = state.call.clone();
        let durable = self.calls.get(&call).is_some_and(|c| c.spec.durable);
        if durable {
            state.stage = Stage::Recording(Box::new(output.clone()));
            effects.push(Effect::Record { call, output });
        } else {
            self.publish(id, output, effects);
        }
    }

    /// The store has the output: publish it.
    pub fn on_recorded(&mut self, id: &InputId, effects: &mut Vec<Effect>) {
        let Some(InputState { stage: Stage::Recording(output), .. }) = self.inputs.get(id) else { return };
        let output = output.as_ref().clone();
        self.publish(id, output, effects);
    }

    fn publish(&mut self, id: &InputId, output: FinishedOutput, effects: &mut Vec<Effect>) {
        let Some(state) = self.inputs.remove(id) else { return };
        self.resident_bytes -= state.input.payload.resident_bytes();
        self.completed += 1;
        if let Some(call) = self.calls.get_mut(&state.call) {
            call.unfinished.remove(id);
            call.published.push(output);
            effects.push(Effect::OutputReady { call: state.call });
        }
    }

    /// A container is gone. Its inputs are settled by the cause.
    pub fn on_task_end(&mut self, task_id: &TaskId, end: &TaskEnd, now: Millis, effects: &mut Vec<Effect>) {
        let Some(task) = self.tasks.get_mut(task_id) else { return };
        // Nothing may be handed to it while its inputs are settled.
        task.polls.clear();
        self.idle.retain(|t| t != task_id);
        let Some(task) = self.tasks.get(task_id) else { return };
        let running: Vec<InputId> = task.running.iter().cloned().collect();
        for (input, deadline) in &task.abandoned {
            self.deadlines.remove(&(*deadline, task_id.clone(), input.clone()));
        }
        for input in running {
            match end {
                TaskEnd::Crashed(text) => {
                    let outcome = Outcome::of(OutcomeStatus::Failure, text.clone());
                    self.settle(&input, outcome, now, effects);
                }
                TaskEnd::Lost(why) => self.retry_lost(&input, why, now, effects),
                TaskEnd::Left => self.retry_lost(&input, "the container left before it answered", now, effects),
            }
        }
        self.tasks.remove(task_id);
        self.dispatch(now, effects);
    }

    /// Starting is pointless: every input that is not running ends with this outcome.
    pub fn fail_waiting(&mut self, outcome: &Outcome, now: Millis, effects: &mut Vec<Effect>) {
        let waiting: Vec<InputId> = self
            .inputs
            .iter()
            .filter(|(_, i)| matches!(i.stage, Stage::Ready | Stage::Delayed(..)))
            .map(|(id, _)| id.clone())
            .collect();
        for id in waiting {
            self.finish(&id, outcome.clone(), now, effects);
        }
        self.ready.clear();
        self.ready_count = 0;
    }

    /// The container gets no more inputs; a waiting request is answered at once.
    pub fn drain(&mut self, task_id: &TaskId, effects: &mut Vec<Effect>) {
        let task = self.tasks.entry(task_id.clone()).or_default();
        task.draining = true;
        for (poll, _) in task.polls.drain(..) {
            effects.push(Effect::Drain { task: task_id.clone(), poll });
        }
        self.idle.retain(|t| t != task_id);
    }

    // ------------------------------------------------------------------------------------------------ time

    /// What time has made due: retries, deadlines.
    pub fn tick(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        while let Some((due, sequence, id)) = self.delayed.first().cloned().filter(|(due, ..)| *due <= now) {
            self.delayed.remove(&(due, sequence, id.clone()));
            if let Some(state) = self.inputs.get_mut(&id) {
                state.stage = Stage::Ready;
                self.ready.push_back((id, now));
                self.ready_count += 1;
            }
        }
        while let Some((deadline, task, input)) = self.deadlines.first().cloned().filter(|(due, ..)| *due <= now) {
            self.deadlines.remove(&(deadline, task.clone(), input.clone()));
            self.on_deadline(&task, &input, now, effects);
        }
        self.dispatch(now, effects);
    }

    fn on_deadline(&mut self, task_id: &TaskId, input: &InputId, now: Millis, effects: &mut Vec<Effect>) {
        let abandoned = self.tasks.get_mut(task_id).is_some_and(|t| t.abandoned.remove(input).is_some());
        self.drain(task_id, effects);
        let why = if abandoned {
            format!("input `{input}` went on {} s after it was cancelled", CANCEL_GRACE_MS / 1000)
        } else {
            let seconds = self.policy.timeout_ms as f64 / 1000.0;
            let text = format!("the input ran longer than its timeout of {seconds} s; its container was stopped");
            self.settle(input, Outcome::of(OutcomeStatus::Timeout, text), now, effects);
            format!("input `{input}` exceeded its timeout of {seconds} s")
        };
        effects.push(Effect::StopTask { task: task_id.clone(), why });
    }

    /// When [`Self::tick`] has something to do next.
    pub fn next_due(&self) -> Option<Millis> {
        let retry = self.delayed.first().map(|(due, ..)| *due);
        let deadline = self.deadlines.first().map(|(due, ..)| *due);
        [retry, deadline].into_iter().flatten().min()
    }

    // ------------------------------------------------------------------------------------------------ facts

    pub fn load(&self) -> Load {
        let oldest_ready_at = (self.ready_count > 0)
            .then(|| {
                let alive = |id: &InputId| self.inputs.get(id).is_some_and(|i| matches!(i.stage, Stage::Ready));
                self.ready.iter().find(|(id, _)| alive(id)).map(|(_, at)| *at)
            })
            .flatten();
        Load { ready: self.ready_count, delayed: self.delayed.len(), running: self.running_count, oldest_ready_at }
    }

    /// Since when a task has had nothing to do; `None` while it works or before it first asked.
    pub fn idle_since(&self, task: &TaskId) -> Option<Millis> {
        let task = self.tasks.get(task)?;
        (task.running.is_empty() && task.abandoned.is_empty()).then_some(task.idle_since).flatten()
    }

    pub fn running_on(&self, task: &TaskId) -> usize {
        self.tasks.get(task).map_or(0, |t| t.running.len())
    }

    /// Inputs finished since the start.
    pub fn completed(&self) -> u64 {
        self.completed
    }

    /// The payload of an input that is not yet finished.
    pub fn payload(&self, input: &InputId) -> Option<&Payload> {
        self.inputs.get(input).map(|i| &i.input.payload)
    }
}
