//! The owner of one function: its state machine, who waits on it, and its containers.
//!
//! The state machine is pure (`calls`); this is the shell that gives it the time, performs its effects and runs the
//! autoscaler when something changed. A small lock per function, held for microseconds and never across an await,
//! replaces a task with a mailbox: a call then passes through without waking another thread, which is most of the
//! latency there is. No lock is shared between functions.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use calls::{Assignment, Effect, FunctionCalls, InputReport, Millis, Outcome, OutcomeStatus, TaskEnd};
use parking_lot::{Mutex, RwLock};
use scheduler::autoscaler::{
    AutoscalerPlan, AutoscalerView, FailedStartVerdict, InputTimes, RecentCompletions, TaskPhase, TaskView,
    plan_autoscale,
};
use scheduler::{Asked, FunctionTasks, Held, RoomWait, count_held};
use tokio::sync::Notify;
use types::ids::{FunctionCallId, FunctionId, InputId, TaskId};

use crate::apps::App;
use crate::builds::FunctionBuild;
use crate::clock::steady_ms;
use crate::definition::Definition;
use crate::logs::Origin;
use crate::parameters::needs_parameters;
use crate::polls::{PendingPoll, PollKeeper, PollReply, Polls};
use crate::recorder::{Record, Unrecorded};
use crate::scaling::Scaling;
use crate::shared::Shared;
use crate::tasks::{EXIT_GRACE_MS, Ending, STOP_GRACE_MS};
use crate::variants::Variant;
use crate::watcher::Watcher;

mod leaving;

pub use leaving::Asking;

/// Over this span the autoscaler measures how fast inputs complete.
const THROUGHPUT_WINDOW_MS: Millis = 2_000;
/// Before a function's first start has been measured: an interpreter and the client's imports on a slow machine.
const FIRST_STARTUP_ESTIMATE_MS: u64 = 1_000;

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
    /// How often the loop has looked.
    #[cfg(test)]
    pub looks: AtomicU64,
    /// It is in the version of its app that is live. If not, it only finishes what it has accepted.
    published: AtomicBool,
}

struct State {
    calls: FunctionCalls,
    polls: Polls,
    watchers: HashMap<FunctionCallId, Arc<Watcher>>,
    tasks: FunctionTasks,
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
}

/// What became of a new call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    Yes,
    QueueFull,
    /// Its app was stopped before the call was there.
    AppStopped,
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
                polls: Polls::default(),
                watchers: HashMap::new(),
                tasks: FunctionTasks::default(),
                startup_estimate_ms: FIRST_STARTUP_ESTIMATE_MS,
                input_times: InputTimes::default(),
                past: VecDeque::new(),
                unrecorded: Unrecorded::default(),
                throughput: VecDeque::new(),
                scaling_override: None,
                closed: false,
                room_wait: RoomWait::default(),
            }),
            wake: Notify::new(),
            sleeping_until: AtomicU64::new(u64::MAX),
            loop_runs: AtomicBool::new(false),
            #[cfg(test)]
            looks: AtomicU64::new(0),
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

    /// What containers are started with, and which version that is.
    pub fn live_version(&self) -> (u64, Arc<Definition>) {
        let state = self.state.lock();
        (state.tasks.version(), self.definition())
    }

    /// Containers of it have started before, as far as anybody knows: it comes back from the store.
    pub fn presume_proven(&self) {
        self.state.lock().tasks.presume_proven();
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
        let tasks: Vec<TaskId> = self.apply_to_state(shared, |state, _, effects| {
            *self.definition.write() = definition;
            state.tasks.begin_version();
            let tasks: Vec<TaskId> = state.tasks.ids().cloned().collect();
            state.calls.set_policy(policy, &tasks, effects);
            state.scaling_override = None;
            state.input_times.forget_estimate();
            tasks
        });
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
        self.apply_to_state(shared, |state, now, effects| event(&mut state.calls, now, effects))
    }

    /// As `apply`, for what also changes what is known of the containers.
    fn apply_to_state<R>(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        event: impl FnOnce(&mut State, Millis, &mut Vec<Effect>) -> R,
    ) -> R {
        let (result, look_again) = self.apply_quietly(shared, event);
        if look_again {
            self.wake(shared);
        }
        result
    }

    /// The same for the owner's loop, which looks anyway: it must not wake itself. Returns whether to look.
    fn apply_quietly<R>(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        event: impl FnOnce(&mut State, Millis, &mut Vec<Effect>) -> R,
    ) -> (R, bool) {
        self.change(shared, |state, now, effects, _| event(state, now, effects))
    }

    /// The same for what concerns more than the state machine.
    fn change<R>(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        event: impl FnOnce(&mut State, Millis, &mut Vec<Effect>, &mut Outside) -> R,
    ) -> (R, bool) {
        let mut outside = Outside::default();
        let mut effects = Vec::new();
        let now = steady_ms();
        let (result, look_again) = {
            let mut state = self.state.lock();
            let result = event(&mut state, now, &mut effects, &mut outside);
            if shared.shutting_down.load(Ordering::Relaxed) {
                state.calls.record_open_calls(&mut effects);
            }
            // A delivery that finds its container gone makes new effects: until there are none.
            loop {
                for left in state.calls.leave(now, &mut effects) {
                    state.let_go(shared, left, &mut outside);
                }
                if effects.is_empty() {
                    break;
                }
                for effect in std::mem::take(&mut effects) {
                    state.perform(effect, now, &mut effects, &mut outside);
                }
            }
            let due = state.next_due().unwrap_or(u64::MAX);
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

    /// Registers a container's request; the reply comes through the result, maybe at once.
    pub fn poll(self: &Arc<Self>, shared: &Arc<Shared>, task: &TaskId, max: usize) -> PendingPoll<OwnersPoll> {
        let keeper = OwnersPoll { owner: self.clone(), shared: shared.clone(), task: task.clone() };
        let (number, receiver) = self.apply_to_state(shared, |state, now, effects| {
            let (number, receiver) = state.polls.open();
            match state.tasks.on_poll(task, now) {
                Some(asked) => {
                    if let Asked::First(took_ms) = asked {
                        tracing::debug!(%task, took_ms, "container ready");
                        // Recent starts count more.
                        state.startup_estimate_ms = (state.startup_estimate_ms + took_ms) / 2;
                    }
                    state.calls.poll(task, number, max, now, effects);
                }
                // Its end is known already: the request was on its way.
                None => _ = state.polls.answer(number, PollReply::Leave),
            }
            (number, receiver)
        });
        self.look_when_idle_for_long(shared, task);
        PendingPoll { keeper, number, receiver }
    }

    /// The loop sleeps until something is due; a container that became idle is due for scale-down one window later.
    fn look_when_idle_for_long(self: &Arc<Self>, shared: &Arc<Shared>, task: &TaskId) {
        let is_idle = self.read(|c| c.idle_since(task).is_some());
        if is_idle && steady_ms() + self.scaling().scaledown_ms < self.sleeping_until.load(Ordering::Relaxed) {
            self.wake(shared);
        }
        if is_idle {
            shared.capacity.on_idle();
        }
    }

    /// A container is told to start, with what `version` is. False when that is not live any more.
    #[must_use]
    pub fn add_task(&self, task: TaskId, version: u64) -> bool {
        self.state.lock().tasks.begin(task, version, steady_ms())
    }

    pub fn drain_task(self: &Arc<Self>, shared: &Arc<Shared>, task: &TaskId) {
        let before = self.apply_to_state(shared, |state, _, effects| {
            let before = state.tasks.drain(task)?;
            state.calls.drain(task, effects);
            Some(before)
        });
        if before.is_some_and(|phase| phase != TaskPhase::Draining) {
            tokio::spawn(see_out(self.clone(), shared.clone(), task.clone()));
        }
    }

    /// From here on the container is on its way to its end, whatever it still says.
    pub fn on_stop(self: &Arc<Self>, shared: &Arc<Shared>, task: &TaskId) {
        self.apply_to_state(shared, |state, now, effects| {
            if state.tasks.contains(task) {
                state.calls.stop(task, now, effects);
            }
        });
    }

    /// A container is gone. `decide` is told whether it had asked for inputs.
    pub fn on_task_end(self: &Arc<Self>, shared: &Arc<Shared>, task: &TaskId, decide: impl FnOnce(bool) -> Ending) {
        self.apply_to_state(shared, |state, now, effects| {
            let Some(ended) = state.tasks.end(task) else { return };
            let end = match decide(ended.was_ready) {
                Ending::Inputs(end) => end,
                Ending::FailedStart(fault, outcome) => {
                    if state.tasks.on_failed_start(&ended, fault, now) == FailedStartVerdict::GiveUp {
                        state.calls.give_up_waiting(&outcome, now, effects);
                    }
                    TaskEnd::Left
                }
            };
            state.calls.on_task_end(task, &end, now, effects);
        });
        self.wake(shared);
    }

    /// Nothing can ever run here: answers everything that waits for a container.
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
            self.apply_quietly(shared, |state, now, effects| state.calls.fail_waiting(&outcome, now, effects));
        }
    }

    /// How long a container of this function may go on after it was told to stop at once.
    pub fn stop_grace_ms(&self) -> u64 {
        if self.definition.read().view.is_class { EXIT_GRACE_MS } else { STOP_GRACE_MS }
    }

    /// Whether a container is there and has asked for inputs.
    pub fn is_ready(&self, task: &TaskId) -> bool {
        self.state.lock().tasks.is_ready(task)
    }

    pub fn task_ids(&self) -> Vec<TaskId> {
        self.state.lock().tasks.ids().cloned().collect()
    }

    // ------------------------------------------------------------------------------------------- callers

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

    /// The app is stopped: what waits ends, nothing starts.
    pub fn close(self: &Arc<Self>, shared: &Arc<Shared>) {
        self.state.lock().closed = true;
        self.apply(shared, |calls, now, _| calls.close(now));
        let open: Vec<FunctionCallId> = self.read(|c| c.call_ids().cloned().collect());
        for call in open {
            self.apply(shared, |calls, now, effects| calls.cancel_call(&call, now, effects));
        }
        self.wake(shared);
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
        let phase = state.tasks.phase(task)?;
        Some(Held { task: task.clone(), phase, idle_since: state.calls.idle_since(task) })
    }

    /// Containers that exist or are on their way, and those of them that ask for inputs; not those that leave.
    pub fn count_tasks(&self) -> (usize, usize) {
        let state = self.state.lock();
        let active = state.tasks.phases().filter(|(_, phase)| matches!(phase, TaskPhase::Active { .. })).count();
        (state.tasks.phases().filter(|(_, phase)| *phase != TaskPhase::Draining).count(), active)
    }

    /// How many containers it has, for its claims to more.
    pub fn count_held(&self) -> usize {
        let state = self.state.lock();
        let containers = state.tasks.phases().map(|(id, phase)| (phase, state.calls.is_busy(id)));
        count_held(containers, state.calls.policy().single_use)
    }

    // ------------------------------------------------------------------------------------------- autoscaling

    /// Makes the owner's loop look at the function; starts the loop with the first need for it.
    pub fn wake(self: &Arc<Self>, shared: &Arc<Shared>) {
        if !self.loop_runs.swap(true, Ordering::AcqRel) {
            tokio::spawn(owner_loop(self.clone(), shared.clone()));
        }
        self.wake.notify_one();
    }

    /// Tells in the app's log why the function waits for room, once that lasts. Answers with when to look again.
    fn note_room(&self, shared: &Shared, waits: bool) -> Option<Millis> {
        let has_containers = self.count_held() > 0;
        let (tell, look_at) = {
            let wait = &mut self.state.lock().room_wait;
            (wait.look(waits, has_containers, steady_ms()), wait.tell_at(has_containers))
        };
        let reason = tell.then(|| shared.capacity.why_it_waits(&self.id, steady_ms())).flatten();
        if let Some(reason) = reason {
            tracing::info!(function = %self.id, reason, "no room for a container");
            shared.say_of_function(self, None, &reason);
        }
        look_at
    }

    #[cfg(test)]
    pub fn has_told_that_it_waits(&self) -> bool {
        let wait = self.state.lock().room_wait;
        wait != RoomWait::default() && wait.tell_at(false).is_none()
    }

    fn plan(&self, shared: &Shared) -> (AutoscalerPlan, bool) {
        let scaling = self.scaling();
        let never_runs = self.definition.read().refusals.is_total();
        let now = steady_ms();
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
            failed_starts: state.tasks.failed_starts(),
        };
        let closed = state.closed;
        drop(state);
        (plan_autoscale(&view), closed)
    }
}

impl State {
    fn perform(&mut self, effect: Effect, now: Millis, more: &mut Vec<Effect>, outside: &mut Outside) {
        match effect {
            Effect::Deliver { task, poll, inputs } => {
                let attempts = attempts_of(&inputs);
                let sent = self.polls.answer(poll, PollReply::Inputs(inputs));
                if self.calls.policy().single_use {
                    self.tasks.drain(&task);
                    outside.look = true;
                }
                if !sent {
                    self.calls.on_undelivered(&task, &attempts, now, more);
                }
            }
            Effect::Drain { poll, .. } => _ = self.polls.answer(poll, PollReply::Leave),
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
                self.tasks.drain(&task);
                outside.stops.push((task, why));
            }
        }
    }

    /// When time has something to do with the calls.
    fn next_due(&self) -> Option<Millis> {
        self.calls.next_due().into_iter().chain(self.calls.next_leaving()).min()
    }

    fn task_views(&self) -> Vec<TaskView> {
        let view = |(id, phase): (&TaskId, TaskPhase)| TaskView {
            id: id.clone(),
            phase,
            idle_since: self.calls.idle_since(id),
            running: self.calls.running_on(id),
        };
        self.tasks.phases().map(view).collect()
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

/// A container's request that waits with its function.
pub struct OwnersPoll {
    owner: Arc<Owner>,
    shared: Arc<Shared>,
    task: TaskId,
}

impl PollKeeper for OwnersPoll {
    fn withdraw(&self, number: u64) {
        let mut state = self.owner.state.lock();
        if state.polls.close(number) {
            state.calls.cancel_poll(&self.task, number);
        }
    }

    fn give_back(&self, inputs: Vec<Assignment>) {
        let attempts = attempts_of(&inputs);
        self.owner.apply(&self.shared, |calls, now, effects| {
            calls.on_undelivered(&self.task, &attempts, now, effects);
        });
    }
}

/// Looks at the function whenever something changed or became due, until its app is stopped and its calls have left memory.
async fn owner_loop(owner: Arc<Owner>, shared: Arc<Shared>) {
    loop {
        #[cfg(test)]
        owner.looks.fetch_add(1, Ordering::Relaxed);
        // Whatever becomes due from here on wakes the loop: it may come after the look.
        owner.sleeping_until.store(u64::MAX, Ordering::Relaxed);
        owner.apply_quietly(&shared, |state, now, effects| state.calls.tick(now, effects));
        owner.fail_what_is_refused(&shared);
        let (plan, closed) = owner.plan(&shared);
        if plan.start > 0 || !plan.stop.is_empty() {
            tracing::debug!(function = %owner.id, start = plan.start, stop = plan.stop.len(), why = %plan.why, "autoscale");
        }
        let waits = shared.start_tasks(&owner, plan.start);
        let told_at = owner.note_room(&shared, waits);
        for (task, reason) in &plan.stop {
            owner.drain_task(&shared, task);
            if !owner.is_ready(task) {
                // It has not asked for inputs yet, so it would not hear that it should leave.
                shared.stop_task(task, 0, format!("not needed any more ({reason:?})"));
            }
        }
        if closed && owner.task_ids().is_empty() && owner.is_idle() && owner.read(FunctionCalls::is_empty) {
            owner.loop_runs.store(false, Ordering::Release);
            return;
        }
        let due = owner.state.lock().next_due().into_iter().chain(plan.reconsider_at).chain(told_at).min();
        owner.sleeping_until.store(due.unwrap_or(u64::MAX), Ordering::Relaxed);
        let nap = due.map_or(Duration::MAX, |at| Duration::from_millis(at.saturating_sub(steady_ms()).max(1)));
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
