//! The state machine of one function's calls. See the crate's header for the picture and the invariants.
//!
//! `callers` holds what callers do, `containers` what containers do, `attempts` the life of one input between them,
//! `silence` what follows from what containers do not say, `durability` what becomes of calls that last, `leaving` how they
//! leave memory, and `time` what only the clock brings about.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use types::ids::{FunctionCallId, InputId, TaskId};

use crate::Millis;
use crate::container::Container;
use crate::effect::{Effect, Load};
use crate::input::{CallSpec, FinishedOutput, NewInput, OnDisk, Outcome, Payload};
use crate::policy::Policy;
use crate::ready::{ReadyKey, ReadyQueue};
use crate::recent::Recent;

mod attempts;
mod callers;
mod containers;
mod durability;
mod leaving;
mod silence;
mod time;

pub use leaving::{Left, PAST_KEPT, shrink};

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

/// A request of a container that ended arrives within seconds; this many of one function do not end in that time.
const REMEMBERED_TASKS: usize = 1_024;
/// A repeated request for a call that its caller is done with arrives within a second or so, which is about this many
/// calls at full speed.
const REMEMBERED_CALLS: usize = 16_384;

/// Every call of one function.
#[derive(Debug)]
pub struct FunctionCalls {
    policy: Policy,
    calls: HashMap<FunctionCallId, Call>,
    /// Inputs that are not finished.
    inputs: HashMap<InputId, InputState>,
    ready: ReadyQueue,
    delayed: BTreeSet<(Millis, u64, InputId)>,
    deadlines: BTreeSet<(Millis, TaskId, InputId)>,
    tasks: HashMap<TaskId, Container>,
    ended: Recent<TaskId>,
    forgotten: Recent<FunctionCallId>,
    /// Containers with a waiting request, by rank. The one that was busy last is taken first, so that surplus
    /// containers stay idle long enough to be scaled down.
    idle: BTreeSet<(u64, TaskId)>,
    /// Calls that are only in memory, with the time at which that ends, oldest first.
    young: VecDeque<(Millis, FunctionCallId)>,
    /// Calls of which something has changed since [`Self::leave`] was last called.
    changed: Vec<FunctionCallId>,
    /// Calls that may leave memory, by the time at which to look at them.
    leaving: BTreeSet<(Millis, FunctionCallId)>,
    /// Of the outputs of those.
    leaving_bytes: usize,
    /// The app is over.
    closed_at: Option<Millis>,
    resident_bytes: usize,
    running_count: usize,
    sequence: u64,
    completed: u64,
    /// How long those ran, in sum: their last attempts.
    completed_run_ms: u64,
    /// When the ready queue last became non-empty, and `completed` at that time.
    backlog: Option<(Millis, u64)>,
}

#[derive(Debug)]
struct Call {
    spec: CallSpec,
    /// Inputs accepted so far.
    inputs: usize,
    /// In order of publication; a cursor is an index into it.
    published: Vec<FinishedOutput>,
    /// The inputs in `published`: a repeated request must not run them again.
    finished: HashSet<InputId>,
    /// By order of arrival.
    unfinished: BTreeMap<usize, InputId>,
    /// No more inputs will come (unary, or the caller said so).
    inputs_complete: bool,
    cancelled: bool,
    on_disk: OnDisk,
    /// The caller has everything that it wants.
    collected: bool,
    /// Requests that wait for its outputs or items.
    asking: usize,
    /// When the caller last said or asked something.
    heard_at: Millis,
    /// Since when it has no unfinished input, as far as that was noticed.
    idle_since: Option<Millis>,
    unread_items: bool,
    /// It is in `changed`.
    changed: bool,
    /// Its entry in `leaving`, and the bytes counted for it.
    leaves_at: Option<(Millis, usize)>,
}

#[derive(Debug)]
struct InputState {
    input: NewInput,
    call: FunctionCallId,
    /// Its key in the call's `unfinished`.
    position: usize,
    stage: Stage,
    /// Number of the current attempt, from 0.
    attempt: u32,
    user_failures: u32,
    system_retries: u32,
    /// Since when it has been ready, or was before it ran.
    ready_since: Millis,
}

#[derive(Debug)]
enum Stage {
    Ready(ReadyKey),
    Delayed(Millis, u64),
    Running {
        task: TaskId,
        deadline: Millis,
        /// Its container asked for more without a word on it. Unless one comes by this time, it has failed.
        last_word: Option<Millis>,
        /// Its container is being stopped, and its end is waited for until then.
        stop_limit: Option<Millis>,
    },
    /// The attempt is over, but its container is still being stopped and may write. What becomes of the input is settled
    /// when the container has ended, or at `limit`.
    Stopping {
        task: TaskId,
        limit: Millis,
        ran_ms: Millis,
        /// Its code is over.
        reported: bool,
        /// `None` when the container was interrupted in the middle: then the attempt is lost.
        outcome: Option<Box<Outcome>>,
    },
    /// Decided, waiting for the disk.
    Recording(Box<FinishedOutput>),
}

impl Stage {
    /// The container that has the input, and when time does something about that.
    fn held_by(&self) -> Option<(&TaskId, Millis)> {
        match self {
            Self::Running { task, deadline, last_word, stop_limit } => {
                let due = [*last_word, *stop_limit].into_iter().flatten().fold(*deadline, Millis::min);
                Some((task, due))
            }
            Self::Stopping { task, limit, .. } => Some((task, *limit)),
            Self::Ready(_) | Self::Delayed(..) | Self::Recording(_) => None,
        }
    }
}

impl FunctionCalls {
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            calls: HashMap::new(),
            inputs: HashMap::new(),
            ready: ReadyQueue::default(),
            delayed: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            tasks: HashMap::new(),
            ended: Recent::new(REMEMBERED_TASKS),
            forgotten: Recent::new(REMEMBERED_CALLS),
            idle: BTreeSet::new(),
            young: VecDeque::new(),
            changed: Vec::new(),
            leaving: BTreeSet::new(),
            leaving_bytes: 0,
            closed_at: None,
            resident_bytes: 0,
            running_count: 0,
            sequence: 0,
            completed: 0,
            completed_run_ms: 0,
            backlog: None,
        }
    }

    /// Sets the policy for containers to come. The `old` ones leave, also those that have not asked for inputs yet: what they
    /// run side by side must not be judged by it.
    pub fn set_policy(&mut self, policy: Policy, old: &[TaskId], effects: &mut Vec<Effect>) {
        self.policy = policy;
        for task in old {
            self.drain(task, effects);
        }
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    pub fn load(&self) -> Load {
        Load {
            ready: self.ready.len(),
            delayed: self.delayed.len(),
            running: self.running_count,
            oldest_ready_at: self.ready.front_since(),
            backlog_since: self.backlog.map(|(since, _)| since),
            completed_in_backlog: self.backlog.map_or(0, |(_, before)| self.completed - before),
        }
    }

    /// Since when a task has had nothing to do; `None` while it works or before it first asked.
    pub fn idle_since(&self, task: &TaskId) -> Option<Millis> {
        let task = self.tasks.get(task)?;
        (task.running.is_empty() && task.abandoned.is_empty()).then_some(task.idle_since).flatten()
    }

    /// Whether a task works on something, or on what was cancelled.
    pub fn is_busy(&self, task: &TaskId) -> bool {
        let Some(task) = self.tasks.get(task) else { return false };
        let is_over =
            |id| matches!(self.inputs.get(id).map(|i| &i.stage), Some(Stage::Stopping { reported: true, .. }));
        !task.abandoned.is_empty() || !task.running.iter().all(is_over)
    }

    /// How many inputs' room a task has given away: an incomplete batch takes that of a whole one.
    pub fn running_on(&self, task: &TaskId) -> usize {
        let running = self.tasks.get(task).map_or(0, |t| t.running.len());
        running.next_multiple_of(self.policy.batch_max.max(1))
    }

    /// Which input a task's output is from, when that is certain: the only one that runs there. What was printed just
    /// before an input ended may be seen just after, so within `grace` an idle task's output is from its last one.
    pub fn printing_on(&self, task: &TaskId, now: Millis, grace: Millis) -> Option<(FunctionCallId, InputId)> {
        let task = self.tasks.get(task)?;
        if !task.abandoned.is_empty() {
            return None;
        }
        match (task.running.len(), task.idle_since) {
            (1, _) => {
                let id = task.running.first()?;
                Some((self.inputs.get(id)?.call.clone(), id.clone()))
            }
            (0, None) => task.last_alone.clone(),
            (0, Some(since)) if now <= since.saturating_add(grace) => task.last_alone.clone(),
            _ => None,
        }
    }

    /// Inputs that containers have brought to an end since the start. Cancelled ones do not count: the number is for
    /// measuring what the containers achieve.
    pub fn completed(&self) -> u64 {
        self.completed
    }

    /// How long the completed inputs ran, in sum.
    pub fn completed_run_ms(&self) -> u64 {
        self.completed_run_ms
    }

    /// The payload of an input that is not yet finished.
    pub fn payload(&self, input: &InputId) -> Option<&Payload> {
        self.inputs.get(input).map(|i| &i.input.payload)
    }

    /// Keeps the time of the backlog's beginning right after the ready queue changed.
    fn note_backlog(&mut self, now: Millis) {
        if self.ready.is_empty() {
            self.backlog = None;
        } else if self.backlog.is_none() {
            self.backlog = Some((now, self.completed));
        }
    }
}
