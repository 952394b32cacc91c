//! The owner of one function: its state machine, who waits on it, and its containers.
//!
//! The state machine is pure (`calls`); this is the shell that gives it the time, performs its effects and runs the
//! autoscaler when something changed. A small lock per function, held for microseconds and never across an await,
//! replaces a task with a mailbox: a call then passes through without waking another thread, which is most of the
//! latency there is. No lock is shared between functions.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use calls::{
    Accepted, Assignment, CallSpec, Effect, FunctionCalls, InputReport, Millis, NewInput, Outcome, OutcomeStatus,
    TaskEnd,
};
use metadata_store::Write;
use parking_lot::{Mutex, RwLock};
use scheduler::autoscaler::{
    AutoscalerPlan, AutoscalerView, FailedStarts, InputTimes, RecentCompletions, TaskPhase, TaskView, plan_autoscale,
};
use scheduler::{Held, RoomWait};
use tokio::sync::{Notify, oneshot};
use types::ids::{FunctionCallId, FunctionId, InputId, TaskId};

use crate::apps::App;
use crate::builds::FunctionBuild;
use crate::clock::now_ms;
use crate::definition::Definition;
use crate::logs::Origin;
use crate::parameters::needs_parameters;
use crate::recorder::{Record, Unrecorded};
use crate::scaling::Scaling;
use crate::shared::Shared;
use crate::tasks::{EXIT_GRACE_MS, STOP_GRACE_MS};
use crate::variants::Variant;
use crate::watcher::Watcher;

/// Over this span the autoscaler measures how fast inputs complete.
const THROUGHPUT_WINDOW_MS: Millis = 2_000;
/// Before a function's first start has been measured: an interpreter and the client's imports on a slow machine.
const FIRST_STARTUP_ESTIMATE_MS: u64 = 1_000;
/// Rounds of containers that fail to start before the waiting inputs are given up.
const MAX_START_FAILURES: u32 = 3;
/// A function that waits for room looks again after this: what others have may have become idle for long enough.
const ROOM_RECHECK_MS: u64 = 2_000;

/// Inputs that can be looked at after their call was forgotten.
const PAST_KEPT: usize = 500;

pub struct Owner {
    pub id: FunctionId,
    /// Its name in the app.
    pub tag: String,
    pub app: Arc<App>,
    pub created_at: Millis,
    /// Set for a function that only makes an image (`run_function`).
    pub build: Option<Arc<FunctionBuild>>,
    /// Set for a function with parameters or options of its own.
    pub variant: Option<Variant>,
    definition: RwLock<Arc<Definition>>,
    state: Mutex<State>,
    wake: Notify,
    /// When the loop looks again by itself; events that make something due earlier wake it.
    sleeping_until: AtomicU64,
    loop_runs: AtomicBool,
    /// It is in the version of its app that is live. If not, it only finishes what it has accepted.
    published: AtomicBool,
}

struct State {
    calls: FunctionCalls,
    polls: HashMap<u64, oneshot::Sender<PollReply>>,
    next_poll: u64,
    watchers: HashMap<FunctionCallId, Arc<Watcher>>,
    tasks: BTreeMap<TaskId, TaskPhase>,
    failed_starts: FailedStarts,
    startup_estimate_ms: u64,
    input_times: InputTimes,
    /// Inputs of calls that were forgotten, oldest first.
    past: VecDeque<InputReport>,
    unrecorded: Unrecorded,
    /// (time, inputs completed until then), oldest first.
    throughput: VecDeque<(Millis, u64)>,
    /// Set by `update_autoscaler` until the next deployment.
    scaling_override: Option<Scaling>,
    /// The app is stopped: nothing starts any more.
    closed: bool,
    room_wait: RoomWait,
    refused: Option<Refusal>,
}

/// Why there was no room at `at`, when the pool had seen so many `changes`.
struct Refusal {
    changes: u64,
    at: Millis,
    reason: String,
}

/// What became of a new call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    Yes,
    QueueFull,
    /// Its app was stopped before the call was there.
    AppStopped,
}

/// What a container's request for inputs is answered with.
#[derive(Debug)]
pub enum PollReply {
    Inputs(Vec<Assignment>),
    /// Finish what runs and exit.
    Leave,
}

/// What an event asks of the world outside the lock.
#[derive(Default)]
struct Outside {
    begin_recording: bool,
    cancels: Vec<(TaskId, Vec<InputId>)>,
    stops: Vec<(TaskId, String)>,
    /// Lines for the app's log, each about an input on a container.
    told: Vec<(TaskId, (FunctionCallId, InputId), String)>,
    /// A container has stopped taking inputs: another may be due.
    look: bool,
}

impl Owner {
    pub fn new(id: FunctionId, tag: String, app: Arc<App>, definition: Arc<Definition>, created_at: Millis) -> Self {
        let calls = FunctionCalls::new(definition.policy());
        let build = definition.view.is_builder_function.then(Arc::default);
        Self {
            id,
            tag,
            app,
            created_at,
            build,
            variant: None,
            definition: RwLock::new(definition),
            state: Mutex::new(State {
                calls,
                polls: HashMap::new(),
                next_poll: 0,
                watchers: HashMap::new(),
                tasks: BTreeMap::new(),
                failed_starts: FailedStarts::default(),
                startup_estimate_ms: FIRST_STARTUP_ESTIMATE_MS,
                input_times: InputTimes::default(),
                past: VecDeque::new(),
                unrecorded: Unrecorded::default(),
                throughput: VecDeque::new(),
                scaling_override: None,
                closed: false,
                room_wait: RoomWait::default(),
                refused: None,
            }),
            wake: Notify::new(),
            sleeping_until: AtomicU64::new(u64::MAX),
            loop_runs: AtomicBool::new(false),
            published: AtomicBool::new(true),
        }
    }

    /// Makes it a variant of another function.
    #[must_use]
    pub fn with_variant(self, variant: Variant) -> Self {
        Self { variant: Some(variant), ..self }
    }

    /// The function that this one is a variant of, or itself.
    pub fn base_id(&self) -> &FunctionId {
        self.variant.as_ref().map_or(&self.id, |variant| &variant.base)
    }

    /// Where its output comes from; its containers add themselves.
    pub fn origin(&self) -> Origin {
        let variant = self.variant.is_some().then(|| self.id.clone());
        Origin { function: Some(self.base_id().clone()), variant, ..Origin::default() }
    }

    /// A function that an app's layout may name.
    pub fn is_of_layout(&self) -> bool {
        self.build.is_none() && self.variant.is_none()
    }

    pub fn definition(&self) -> Arc<Definition> {
        self.definition.read().clone()
    }

    pub fn is_published(&self) -> bool {
        self.published.load(Ordering::Acquire)
    }

    pub fn set_published(&self, published: bool) {
        self.published.store(published, Ordering::Release);
    }

    /// Switches to another definition, or to fresh containers of the same. Those that run finish what they have and
    /// leave.
    pub fn set_definition(self: &Arc<Self>, shared: &Arc<Shared>, definition: Arc<Definition>) {
        let policy = definition.policy();
        *self.definition.write() = definition;
        let tasks: Vec<TaskId> = {
            let mut state = self.state.lock();
            state.calls.set_policy(policy);
            state.scaling_override = None;
            state.refused = None;
            state.failed_starts.forget();
            state.input_times.forget_estimate();
            state.tasks.keys().cloned().collect()
        };
        for task in tasks {
            self.drain_task(shared, &task);
        }
    }

    /// Runs an event through the state machine and performs what follows from it.
    pub fn apply<R>(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        event: impl FnOnce(&mut FunctionCalls, Millis, &mut Vec<Effect>) -> R,
    ) -> R {
        let (result, look_again) = self.apply_quietly(shared, event);
        if look_again {
            self.wake(shared);
        }
        result
    }

    /// As `apply`, for the owner's loop, which looks anyway: it must not wake itself. Returns whether to look.
    fn apply_quietly<R>(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        event: impl FnOnce(&mut FunctionCalls, Millis, &mut Vec<Effect>) -> R,
    ) -> (R, bool) {
        let mut outside = Outside::default();
        let mut effects = Vec::new();
        let now = now_ms();
        let (result, look_again) = {
            let mut state = self.state.lock();
            let result = event(&mut state.calls, now, &mut effects);
            if shared.shutting_down.load(Ordering::Relaxed) {
                state.calls.record_open_calls(&mut effects);
            }
            // A delivery that finds its container gone makes new effects: until there are none.
            while !effects.is_empty() {
                for effect in std::mem::take(&mut effects) {
                    state.perform(effect, now, &mut effects, &mut outside);
                }
            }
            let due = state.calls.next_due().unwrap_or(u64::MAX);
            (result, state.calls.load().ready > 0 || due < self.sleeping_until.load(Ordering::Relaxed))
        };
        self.perform_outside(shared, outside);
        (result, look_again)
    }

    fn perform_outside(self: &Arc<Self>, shared: &Arc<Shared>, outside: Outside) {
        if outside.begin_recording {
            tokio::spawn(crate::recorder::record_loop(self.clone(), shared.clone()));
        }
        if outside.look {
            self.wake(shared);
        }
        for (task, inputs) in outside.cancels {
            shared.tasks.cancel_inputs(&task, inputs);
        }
        for (task, call, text) in outside.told {
            let origin = Origin { task: Some(task), call: Some(call), ..self.origin() };
            shared.say_from(self, origin, &text);
        }
        for (task, why) in outside.stops {
            shared.stop_task(&task, self.stop_grace_ms(), why);
        }
    }

    // ------------------------------------------------------------------------------------------- containers

    /// Registers a container's request; the reply comes through the receiver, maybe at once.
    pub fn poll(self: &Arc<Self>, shared: &Arc<Shared>, task: &TaskId, max: usize) -> PendingPoll {
        let (sender, receiver) = oneshot::channel();
        let number = {
            let mut state = self.state.lock();
            state.next_poll += 1;
            let number = state.next_poll;
            state.polls.insert(number, sender);
            let phase = state.tasks.entry(task.clone()).or_insert(TaskPhase::Active { since: now_ms() });
            if matches!(phase, TaskPhase::Starting { .. }) {
                *phase = TaskPhase::Active { since: now_ms() };
                state.failed_starts.forget();
            }
            number
        };
        self.apply(shared, |calls, now, effects| calls.poll(task, number, max, now, effects));
        self.look_when_idle_for_long(shared, task);
        PendingPoll { owner: self.clone(), shared: shared.clone(), task: task.clone(), number, receiver }
    }

    /// The loop sleeps until something is due; a container that became idle is due for scale-down one window later.
    fn look_when_idle_for_long(self: &Arc<Self>, shared: &Arc<Shared>, task: &TaskId) {
        let is_idle = self.read(|c| c.idle_since(task).is_some());
        if is_idle && now_ms() + self.scaling().scaledown_ms < self.sleeping_until.load(Ordering::Relaxed) {
            self.wake(shared);
        }
        if is_idle {
            shared.capacity.on_idle(shared);
        }
    }

    /// A container was told to start.
    pub fn add_task(&self, task: TaskId) {
        self.state.lock().tasks.insert(task, TaskPhase::Starting { since: now_ms() });
    }

    /// How long a start took; recent ones count more.
    pub fn on_task_ready(&self, took_ms: u64) {
        let mut state = self.state.lock();
        state.startup_estimate_ms = (state.startup_estimate_ms + took_ms) / 2;
    }

    pub fn drain_task(self: &Arc<Self>, shared: &Arc<Shared>, task: &TaskId) {
        let before = self.state.lock().tasks.insert(task.clone(), TaskPhase::Draining);
        self.apply(shared, |calls, _, effects| calls.drain(task, effects));
        if !matches!(before, Some(TaskPhase::Draining)) {
            tokio::spawn(see_out(self.clone(), shared.clone(), task.clone()));
        }
    }

    /// From here on the container is on its way to its end, whatever it still says.
    pub fn on_stop(self: &Arc<Self>, shared: &Arc<Shared>, task: &TaskId) {
        self.apply(shared, |calls, _, effects| calls.stop(task, effects));
    }

    pub fn on_task_end(self: &Arc<Self>, shared: &Arc<Shared>, task: &TaskId, end: &TaskEnd) {
        self.state.lock().tasks.remove(task);
        self.apply(shared, |calls, now, effects| calls.on_task_end(task, end, now, effects));
        self.wake(shared);
    }

    /// User code of a container begun at `begun_at` failed before it could take an input. Trying again would fail
    /// again, once for each container: the failure is the answer to everything that waits.
    pub fn on_init_failure(self: &Arc<Self>, shared: &Arc<Shared>, begun_at: Millis, outcome: &Outcome) {
        self.state.lock().failed_starts.on_failure(begun_at, now_ms());
        self.fail_waiting(shared, outcome);
    }

    /// Answers everything that waits for a container.
    pub fn fail_waiting(self: &Arc<Self>, shared: &Arc<Shared>, outcome: &Outcome) {
        self.apply(shared, |calls, now, effects| calls.fail_waiting(outcome, now, effects));
    }

    /// Inputs that were accepted before a deployment made the function one that is not served yet, or on their way then.
    fn fail_what_is_refused(self: &Arc<Self>, shared: &Arc<Shared>) {
        let definition = self.definition();
        if !definition.refusals.is_total() {
            return;
        }
        if let Some(sentence) = definition.refusal("") {
            let outcome = Outcome::of(OutcomeStatus::InitFailure, sentence);
            self.apply_quietly(shared, |calls, now, effects| calls.fail_waiting(&outcome, now, effects));
        }
    }

    /// The platform could not start a container. That may pass, so it is tried again, a little later each time.
    pub fn on_start_failure(self: &Arc<Self>, shared: &Arc<Shared>, begun_at: Millis, outcome: &Outcome) {
        let rounds = {
            let mut state = self.state.lock();
            state.failed_starts.on_failure(begun_at, now_ms());
            state.failed_starts.rounds()
        };
        if rounds >= MAX_START_FAILURES {
            self.fail_waiting(shared, outcome);
        }
        self.wake(shared);
    }

    /// How long a container of this function may go on after it was told to stop at once.
    pub fn stop_grace_ms(&self) -> u64 {
        if self.definition.read().view.is_class { EXIT_GRACE_MS } else { STOP_GRACE_MS }
    }

    pub fn is_draining(&self, task: &TaskId) -> bool {
        matches!(self.state.lock().tasks.get(task), Some(TaskPhase::Draining))
    }

    pub fn task_ids(&self) -> Vec<TaskId> {
        self.state.lock().tasks.keys().cloned().collect()
    }

    // ------------------------------------------------------------------------------------------- callers

    /// Wakes when the call has news. Ask before reading, so that nothing falls between.
    pub fn watcher(&self, call: &FunctionCallId) -> Arc<Watcher> {
        self.state.lock().watchers.entry(call.clone()).or_default().clone()
    }

    /// Inputs of calls made in a time (both ends included), for a person to look at: those that are known, and the
    /// latest of those that were forgotten. At least `limit` of the newest calls, if there are so many.
    pub fn report_inputs(&self, times: (Millis, Millis), limit: usize) -> Vec<InputReport> {
        let state = self.state.lock();
        let mut reports = state.calls.report(times, limit);
        let in_time = |report: &&InputReport| (times.0..=times.1).contains(&report.enqueued_at);
        reports.extend(state.past.iter().filter(in_time).cloned());
        reports
    }

    /// Reads the state machine.
    pub fn read<R>(&self, look: impl FnOnce(&FunctionCalls) -> R) -> R {
        look(&self.state.lock().calls)
    }

    /// Makes a call with its first inputs; from here on it is found by its id. `written`: the store has them, and then
    /// they are always taken, unless the app was stopped meanwhile. Of a call whose inputs are not taken nothing is left.
    pub fn begin_call(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        spec: CallSpec,
        inputs: Vec<NewInput>,
        written: bool,
    ) -> Begun {
        let call = spec.id.clone();
        shared.calls.insert(call.clone(), self.clone());
        let accepted = self.apply(shared, |calls, now, effects| {
            // Under the function's lock: a stop changes the app's state before it takes this lock to close the function.
            let is_taken = self.app.is_running();
            is_taken.then(|| {
                calls.create_call(spec);
                calls.add_inputs(&call, inputs, written, now, effects)
            })
        });
        match accepted {
            Some(Accepted::Yes) => Begun::Yes,
            Some(_) => {
                self.forget_call(shared, &call);
                Begun::QueueFull
            }
            None => {
                // A repeated request may come after the stop has ended the call that the first one made.
                if self.read(|calls| calls.call_spec(&call).is_none()) {
                    shared.calls.remove(&call);
                    if written {
                        shared.store.write_later(vec![Write::DeleteCall(call)]);
                    }
                }
                Begun::AppStopped
            }
        }
    }

    pub fn forget_call(self: &Arc<Self>, shared: &Arc<Shared>, call: &FunctionCallId) {
        let inputs = self.state.lock().put_away(call);
        if self.read(|c| c.leaves_a_record(call)) {
            // After what of it is still on its way to the disk.
            let begin_recording = self.state.lock().unrecorded.push(Record::Deletion(call.clone()));
            self.perform_outside(shared, Outside { begin_recording, ..Outside::default() });
        }
        self.apply(shared, |calls, now, effects| calls.forget_call(call, now, effects));
        if let Some(watcher) = self.state.lock().watchers.remove(call) {
            watcher.notify_waiters();
        }
        shared.calls.remove(call);
        shared.generators.forget(call);
        for input in inputs {
            shared.children.remove(&input);
        }
    }

    /// The app is stopped: what waits ends, nothing starts.
    pub fn close(self: &Arc<Self>, shared: &Arc<Shared>) {
        self.state.lock().closed = true;
        let open: Vec<FunctionCallId> = self.read(|c| c.call_ids().cloned().collect());
        for call in open {
            self.apply(shared, |calls, now, effects| calls.cancel_call(&call, now, effects));
        }
        self.wake(shared);
    }

    /// The caller wants nothing more of the call. True if it may be forgotten then: nobody else will ask for it.
    pub fn on_collected(&self, call: &FunctionCallId) -> bool {
        let mut state = self.state.lock();
        state.calls.on_collected(call);
        state.calls.call_spec(call).is_some_and(|spec| !spec.durable)
    }

    /// Has everything that somebody may still ask for written down.
    pub fn record_open_calls(self: &Arc<Self>, shared: &Arc<Shared>) {
        self.apply(shared, |calls, _, effects| calls.record_open_calls(effects));
    }

    /// What is on its way to the disk.
    pub(crate) fn unrecorded<R>(&self, act: impl FnOnce(&mut Unrecorded) -> R) -> R {
        act(&mut self.state.lock().unrecorded)
    }

    pub fn is_idle(&self) -> bool {
        !self.read(FunctionCalls::has_unfinished_calls)
    }

    pub fn scaling(&self) -> Scaling {
        let chosen = self.state.lock().scaling_override;
        let mut scaling = chosen.unwrap_or_else(|| self.definition.read().scaling());
        if self.variant.is_none() && needs_parameters(self.definition.read().view.class_parameter_info.as_ref()) {
            // Nothing can be made of the class itself: its variants do all the work.
            scaling.min = 0;
        }
        scaling
    }

    /// Changes the settings until the next deployment, and answers with the new ones.
    ///
    /// # Errors
    /// A sentence for the user when the new settings contradict themselves; then the old ones stay.
    pub fn update_scaling(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        change: impl FnOnce(Scaling) -> Scaling,
    ) -> Result<Scaling, String> {
        let scaling = {
            let mut state = self.state.lock();
            let scaling = change(state.scaling_override.unwrap_or_else(|| self.definition.read().scaling()));
            scaling.validate()?;
            state.scaling_override = Some(scaling);
            scaling
        };
        self.wake(shared);
        Ok(scaling)
    }

    pub fn scaling_override(&self) -> Option<Scaling> {
        self.state.lock().scaling_override
    }

    /// A container as another function's need for room sees it; `None` for one that is gone.
    pub fn held(&self, task: &TaskId) -> Option<Held> {
        let state = self.state.lock();
        let phase = *state.tasks.get(task)?;
        Some(Held { task: task.clone(), phase, idle_since: state.calls.idle_since(task) })
    }

    /// Containers that exist or are on their way, and those of them that ask for inputs; not those that leave.
    pub fn count_tasks(&self) -> (usize, usize) {
        let state = self.state.lock();
        let active = state.tasks.values().filter(|t| matches!(t, TaskPhase::Active { .. })).count();
        (state.tasks.values().filter(|t| !matches!(t, TaskPhase::Draining)).count(), active)
    }

    // ------------------------------------------------------------------------------------------- autoscaling

    /// Makes the owner's loop look at the function; starts the loop with the first need for it.
    pub fn wake(self: &Arc<Self>, shared: &Arc<Shared>) {
        if !self.loop_runs.swap(true, Ordering::AcqRel) {
            tokio::spawn(owner_loop(self.clone(), shared.clone()));
        }
        self.wake.notify_one();
    }

    /// The last refusal of room, while it stands.
    pub fn refusal(&self, changes: u64, now: Millis) -> Option<String> {
        let state = self.state.lock();
        let refused = state.refused.as_ref()?;
        (refused.changes == changes && now < refused.at + ROOM_RECHECK_MS).then(|| refused.reason.clone())
    }

    pub fn note_refusal(&self, changes: u64, now: Millis, reason: String) {
        self.state.lock().refused = Some(Refusal { changes, at: now, reason });
    }

    /// Tells in the app's log why the function waits for room, once that lasts. Answers with when to look again.
    fn note_room(&self, shared: &Shared, waits_because: Option<&str>) -> Option<Millis> {
        let has_containers = self.count_tasks().0 > 0;
        let (tell, look_at) = {
            let wait = &mut self.state.lock().room_wait;
            (wait.look(waits_because.is_some(), has_containers, now_ms()), wait.tell_at(has_containers))
        };
        if let Some(reason) = waits_because.filter(|_| tell) {
            tracing::info!(function = %self.id, reason, "no room for a container");
            shared.say_of_function(self, None, reason);
        }
        let recheck_at = waits_because.map(|_| now_ms() + ROOM_RECHECK_MS);
        look_at.into_iter().chain(recheck_at).min()
    }

    fn plan(&self, shared: &Shared) -> (AutoscalerPlan, bool) {
        let scaling = self.scaling();
        let never_runs = self.definition.read().refusals.is_total();
        let now = now_ms();
        let mut state = self.state.lock();
        let tasks = state.task_views();
        let completed_recently = state.measure_throughput(now);
        let view = AutoscalerView {
            now,
            load: state.calls.load(),
            completed_recently,
            tasks,
            settings: scaling.settings(),
            startup_estimate_ms: state.startup_estimate_ms,
            input_ms: state.input_times.estimate_ms(),
            cores: shared.worker.capacity.milli_cpu.div_ceil(1000),
            app_active: !state.closed && self.app.is_running() && self.is_published() && !never_runs,
            failed_starts: state.failed_starts,
        };
        let closed = state.closed;
        drop(state);
        (plan_autoscale(&view), closed)
    }
}

impl State {
    /// Keeps what a person may still ask of a call that is about to be forgotten. Answers with its inputs.
    fn put_away(&mut self, call: &FunctionCallId) -> Vec<InputId> {
        let reports = self.calls.report_call(call);
        let inputs = reports.iter().map(|report| report.input.clone()).collect();
        let too_many = reports.len().saturating_sub(PAST_KEPT);
        self.past.extend(reports.into_iter().skip(too_many));
        let over = self.past.len().saturating_sub(PAST_KEPT);
        self.past.drain(..over);
        inputs
    }

    fn perform(&mut self, effect: Effect, now: Millis, more: &mut Vec<Effect>, outside: &mut Outside) {
        match effect {
            Effect::Deliver { task, poll, inputs } => {
                let attempts = attempts_of(&inputs);
                let sent = self.polls.remove(&poll).is_some_and(|p| p.send(PollReply::Inputs(inputs)).is_ok());
                if self.calls.policy().single_use {
                    self.tasks.insert(task.clone(), TaskPhase::Draining);
                    outside.look = true;
                }
                if !sent {
                    self.calls.on_undelivered(&task, &attempts, now, more);
                }
            }
            Effect::Drain { poll, .. } => {
                if let Some(poll) = self.polls.remove(&poll) {
                    let _ = poll.send(PollReply::Leave);
                }
            }
            Effect::OutputReady { call } => {
                if let Some(watcher) = self.watchers.get(&call) {
                    watcher.notify_waiters();
                }
            }
            Effect::RecordCall(call) => outside.begin_recording |= self.unrecorded.push(Record::Call(call)),
            Effect::Record { call, output } => {
                outside.begin_recording |= self.unrecorded.push(Record::Output(call, Box::new(output)));
            }
            // The app's end interrupts its containers anyway. A cancellation that met the interrupt inside the runner
            // would break it off before its exit hooks.
            Effect::CancelInputs { .. } if self.closed => {}
            Effect::CancelInputs { task, inputs } => outside.cancels.push((task, inputs)),
            Effect::Tell { task, call, input, text } => outside.told.push((task, (call, input), text)),
            Effect::StopTask { task, why } => {
                self.tasks.insert(task.clone(), TaskPhase::Draining);
                outside.stops.push((task, why));
            }
        }
    }

    fn task_views(&self) -> Vec<TaskView> {
        let view = |(id, phase): (&TaskId, &TaskPhase)| TaskView {
            id: id.clone(),
            phase: *phase,
            idle_since: self.calls.idle_since(id),
            running: self.calls.running_on(id),
        };
        self.tasks.iter().map(view).collect()
    }

    /// Inputs completed in the recent past, and how long that past is.
    fn measure_throughput(&mut self, now: Millis) -> RecentCompletions {
        let completed = self.calls.completed();
        self.input_times.on_progress(completed, self.calls.completed_run_ms());
        self.throughput.push_back((now, completed));
        while self.throughput.len() > 2 && self.throughput[1].0 + THROUGHPUT_WINDOW_MS < now {
            self.throughput.pop_front();
        }
        let (since, before) = self.throughput[0];
        RecentCompletions { count: completed - before, window_ms: now - since }
    }
}

fn attempts_of(inputs: &[Assignment]) -> Vec<(InputId, u32)> {
    inputs.iter().map(|i| (i.input.clone(), i.attempt)).collect()
}

/// A container's waiting request. Dropping it (the connection broke) takes back what was assigned but not sent.
pub struct PendingPoll {
    owner: Arc<Owner>,
    shared: Arc<Shared>,
    task: TaskId,
    number: u64,
    receiver: oneshot::Receiver<PollReply>,
}

impl PendingPoll {
    /// The reply, or `None` after `patience`.
    pub async fn reply(mut self, patience: Duration) -> Option<PollReply> {
        tokio::time::timeout(patience, &mut self.receiver).await.ok()?.ok()
    }
}

impl Drop for PendingPoll {
    fn drop(&mut self) {
        let Self { owner, shared, task, number, receiver } = self;
        owner.state.lock().polls.remove(number);
        match receiver.try_recv() {
            Ok(PollReply::Inputs(inputs)) => {
                let attempts = attempts_of(&inputs);
                owner.apply(shared, |calls, now, effects| calls.on_undelivered(task, &attempts, now, effects));
            }
            Ok(PollReply::Leave) | Err(oneshot::error::TryRecvError::Closed) => {}
            Err(oneshot::error::TryRecvError::Empty) => owner.state.lock().calls.cancel_poll(task, *number),
        }
    }
}

/// Looks at the function whenever something changed or became due, until its app is stopped.
async fn owner_loop(owner: Arc<Owner>, shared: Arc<Shared>) {
    loop {
        // Whatever becomes due from here on wakes the loop: it may come after the look.
        owner.sleeping_until.store(u64::MAX, Ordering::Relaxed);
        owner.apply_quietly(&shared, |calls, now, effects| calls.tick(now, effects));
        owner.fail_what_is_refused(&shared);
        let (plan, closed) = owner.plan(&shared);
        if plan.start > 0 || !plan.stop.is_empty() {
            tracing::debug!(function = %owner.id, start = plan.start, stop = plan.stop.len(), why = %plan.why, "autoscale");
        }
        let waits = shared.start_tasks(&owner, plan.start);
        let told_at = owner.note_room(&shared, waits.as_deref());
        for (task, reason) in &plan.stop {
            owner.drain_task(&shared, task);
            if shared.tasks.get(task).is_some_and(|t| !t.is_ready()) {
                // It has not asked for inputs yet, so it would not hear that it should leave.
                shared.stop_task(task, 0, format!("not needed any more ({reason:?})"));
            }
        }
        if closed && owner.task_ids().is_empty() && owner.is_idle() {
            owner.loop_runs.store(false, Ordering::Release);
            return;
        }
        let due = owner.read(FunctionCalls::next_due).into_iter().chain(plan.reconsider_at).chain(told_at).min();
        owner.sleeping_until.store(due.unwrap_or(u64::MAX), Ordering::Relaxed);
        let nap = due.map_or(Duration::MAX, |at| Duration::from_millis(at.saturating_sub(now_ms()).max(1)));
        tokio::select! {
            () = owner.wake.notified() => {}
            () = tokio::time::sleep(nap.min(Duration::from_secs(3600))) => {}
        }
    }
}

/// A container that leaves finishes its inputs and runs its exit hooks. One that does neither is not left to hold its
/// memory for ever.
async fn see_out(owner: Arc<Owner>, shared: Arc<Shared>, task: TaskId) {
    loop {
        tokio::time::sleep(Duration::from_millis(EXIT_GRACE_MS)).await;
        let Some(known) = shared.tasks.get(&task) else { return };
        if owner.read(|calls| calls.running_on(&task)) == 0 {
            if known.stop_reason.lock().is_none() {
                let seconds = EXIT_GRACE_MS / 1000;
                shared.say(&owner, &task, &format!("container {task} did not leave within {seconds} s and was killed"));
            }
            return shared.stop_task(&task, 0, "it did not leave when it was not needed any more".to_owned());
        }
    }
}
