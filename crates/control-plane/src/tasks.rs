//! Running tasks as the control plane sees them, and what their ends mean.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use calls::{Millis, Outcome, OutcomeStatus, TaskEnd};
use dashmap::DashMap;
use parking_lot::Mutex;
use scheduler::{Resources, StartFault};
use tokio_util::sync::CancellationToken;
use types::ids::{AppId, InputId, TaskId};
use worker_protocol::TaskExit;

use crate::cancellations::Cancellations;
use crate::definition::Definition;
use crate::owner::Owner;
use crate::volumes::TaskMount;

/// A task that is stopped may run its exit hooks this long. Below the five seconds in which a user who pressed
/// Ctrl-C expects everything gone.
pub const STOP_GRACE_MS: u64 = 3_000;
/// The same for a class, and for any container that leaves because it is not needed: exit hooks save what took long to
/// make, and the client's documentation gives them about this long. Who is not there any more by then hangs.
pub const EXIT_GRACE_MS: u64 = 30_000;

/// Of older ones the logs are still kept; finding them takes a search then.
const MAX_ENDED_TASKS: usize = 10_000;

pub struct Task {
    pub id: TaskId,
    pub owner: Arc<Owner>,
    /// What it is started with; the function may have another by now.
    pub definition: Arc<Definition>,
    /// These two by the wall clock.
    pub enqueued_at: Millis,
    pub started_at: AtomicU64,
    pub printed_bytes: AtomicU64,
    /// What the runner reported with `TaskResult`: user code failed outside of any input.
    pub reported: Mutex<Option<Outcome>>,
    /// Why the platform stopped it, if it did.
    pub stop_reason: Mutex<Option<String>>,
    /// Set with the reason.
    stop: CancellationToken,
    pub cancellations: Cancellations,
    has_hint: AtomicBool,
    pub reserved: Resources,
    /// When it was decided to start it.
    pub begun: Instant,
    /// What its root is made of, once that is known.
    pub layers: Mutex<Option<Vec<String>>>,
    /// Its volumes, once they are known.
    pub mounts: Mutex<Vec<Arc<TaskMount>>>,
}

impl Task {
    pub fn new(
        id: TaskId,
        owner: Arc<Owner>,
        definition: Arc<Definition>,
        enqueued_at: Millis,
        reserved: Resources,
    ) -> Self {
        Self {
            id,
            owner,
            definition,
            enqueued_at,
            started_at: AtomicU64::new(0),
            printed_bytes: AtomicU64::new(0),
            reported: Mutex::new(None),
            stop_reason: Mutex::new(None),
            stop: CancellationToken::new(),
            cancellations: Cancellations::default(),
            has_hint: AtomicBool::new(false),
            reserved,
            begun: Instant::now(),
            layers: Mutex::new(None),
            mounts: Mutex::default(),
        }
    }

    /// Notes that the platform stops it. The first reason counts.
    pub fn stop(&self, why: String) {
        self.stop_reason.lock().get_or_insert(why);
        self.stop.cancel();
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// True the first time that its log is to get a hint.
    pub fn is_first_hint(&self) -> bool {
        !self.has_hint.swap(true, Ordering::Relaxed)
    }
}

#[derive(Default)]
pub struct Tasks {
    by_id: DashMap<TaskId, Arc<Task>>,
}

impl Tasks {
    pub fn insert(&self, task: Arc<Task>) {
        self.by_id.insert(task.id.clone(), task);
    }

    pub fn get(&self, id: &TaskId) -> Option<Arc<Task>> {
        self.by_id.get(id).map(|t| t.clone())
    }

    pub fn remove(&self, id: &TaskId) -> Option<Arc<Task>> {
        self.by_id.remove(id).map(|(_, task)| task)
    }

    pub fn all(&self) -> Vec<Arc<Task>> {
        self.by_id.iter().map(|t| t.clone()).collect()
    }

    /// Lets the container know with its next heartbeat that these inputs are cancelled.
    pub fn cancel_inputs(&self, id: &TaskId, inputs: Vec<InputId>) {
        if let Some(task) = self.get(id) {
            task.cancellations.add(inputs);
        }
    }
}

/// Tasks that have ended, the latest of them: whoever asks for their logs asks by task.
#[derive(Default)]
pub struct EndedTasks {
    /// Oldest first.
    tasks: Mutex<VecDeque<EndedTask>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedTask {
    pub id: TaskId,
    pub app: AppId,
    /// These by the wall clock.
    pub enqueued_at: Millis,
    pub started_at: Millis,
    pub finished_at: Millis,
}

impl EndedTasks {
    pub fn add(&self, task: EndedTask) {
        let mut tasks = self.tasks.lock();
        if tasks.len() >= MAX_ENDED_TASKS {
            tasks.pop_front();
        }
        tasks.push_back(task);
    }

    pub fn get(&self, id: &TaskId) -> Option<EndedTask> {
        self.tasks.lock().iter().rev().find(|task| task.id == *id).cloned()
    }
}

/// What the end of a task means for its function.
#[derive(Debug, PartialEq)]
pub enum Ending {
    /// Its inputs are settled by the cause.
    Inputs(TaskEnd),
    /// It could not start, for the reason in the outcome. What that means for what waits is decided by the function's
    /// other containers ([`scheduler::decide_failed_start`]).
    FailedStart(StartFault, Outcome),
}

/// Decides from how a task ended (`exit`), whether it had ever asked for inputs, what the runner reported and why it
/// was stopped.
pub fn decide_ending(
    exit: &TaskExit,
    was_ready: bool,
    reported: Option<&Outcome>,
    stop_reason: Option<&str>,
) -> Ending {
    if let Some(error) = &exit.start_error {
        let text = format!("the container could not be started: {error}");
        return Ending::FailedStart(StartFault::Platform, Outcome::of(OutcomeStatus::InitFailure, text));
    }
    if !was_ready {
        if let Some(outcome) = reported {
            return Ending::FailedStart(StartFault::UserCode, outcome.clone());
        }
        if stop_reason.is_none() {
            let text = format!("the container ended while it was starting: {}", describe_exit(exit));
            return Ending::FailedStart(StartFault::UserCode, Outcome::of(OutcomeStatus::InitFailure, text));
        }
    }
    match stop_reason {
        Some(why) => Ending::Inputs(TaskEnd::Lost(why.to_owned())),
        None if exit.code == Some(0) && !exit.oom_killed && reported.is_none() => Ending::Inputs(TaskEnd::Left),
        None => Ending::Inputs(TaskEnd::Crashed(describe_exit(exit))),
    }
}

/// One sentence for the person who wrote the function.
pub fn describe_exit(exit: &TaskExit) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    if exit.oom_killed {
        let limit = exit.memory_limit_bytes.map_or(String::new(), |l| format!(" of {} MiB", mib(l)));
        let peak = mib(exit.memory_peak_bytes);
        return format!(
            "the container exceeded its memory limit{limit} (peak {peak} MiB) and was killed; raise it with `memory=`"
        );
    }
    match (exit.code, exit.signal) {
        (_, Some(signal)) => format!("the container's process was killed by signal {signal} ({})", signal_name(signal)),
        (Some(code), None) => format!("the container's process exited with code {code}"),
        (None, None) => "the container ended".to_owned(),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        2 => "SIGINT, interrupt",
        4 => "SIGILL, illegal instruction",
        6 => "SIGABRT, abort",
        7 => "SIGBUS, bus error",
        8 => "SIGFPE, arithmetic error",
        9 => "SIGKILL, kill",
        11 => "SIGSEGV, segmentation fault",
        15 => "SIGTERM, termination",
        31 => "SIGSYS, forbidden system call",
        _ => "see `man 7 signal`",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: Option<i32>, signal: Option<i32>) -> TaskExit {
        TaskExit { code, signal, ..TaskExit::default() }
    }

    #[test]
    fn an_exit_in_the_middle_counts_as_the_users() {
        let ending = decide_ending(&exit(Some(3), None), true, None, None);
        assert_eq!(ending, Ending::Inputs(TaskEnd::Crashed("the container's process exited with code 3".into())));
    }

    #[test]
    fn a_death_before_the_first_request_for_inputs_is_a_failed_start() {
        let ending = decide_ending(&exit(None, Some(11)), false, None, None);
        let Ending::FailedStart(StartFault::UserCode, outcome) = ending else { panic!("{ending:?}") };
        assert!(outcome.exception.contains("segmentation fault"), "{}", outcome.exception);
    }

    #[test]
    fn a_stopped_container_gives_its_inputs_back() {
        let ending = decide_ending(&exit(Some(0), None), true, None, Some("stopped by the user"));
        assert_eq!(ending, Ending::Inputs(TaskEnd::Lost("stopped by the user".into())));
    }

    #[test]
    fn the_memory_limit_is_named_with_limit_and_peak() {
        let exit = TaskExit {
            oom_killed: true,
            memory_peak_bytes: 300 << 20,
            memory_limit_bytes: Some(256 << 20),
            ..exit(None, Some(9))
        };
        let text = describe_exit(&exit);
        assert!(text.contains("256 MiB") && text.contains("300 MiB"), "{text}");
    }
}
