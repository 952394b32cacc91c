//! What really happened, and what must never happen.

use std::collections::{BTreeMap, BTreeSet};

use calls::MAX_SYSTEM_RETRIES;
use types::ids::TaskId;

use crate::clock::now_ms;

/// What the user's code says that fails before it takes an input; the platform's own failures contain it, too.
pub const NO_START: &str = "could not be started";
/// Once a container has been ready, so many failures in a row are needed before what waits is given up.
const TRIES_OF_PROVEN_CODE: u32 = 8;

/// One input of the day: the number of its call in the plan, and its index there.
pub type Subject = (usize, i32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Succeeded,
    /// What the user's code answers for: it raised, took its container with it, or ran into its timeout.
    Failed,
    /// What the platform answers for.
    Lost,
}

#[derive(Debug)]
struct Run {
    task: TaskId,
    began_ms: u64,
    ended: Option<Ended>,
}

#[derive(Debug, Default)]
pub struct Ledger {
    /// A run that lasts longer is its user's failure, however it ends.
    timeout_ms: u64,
    runs: BTreeMap<Subject, Vec<Run>>,
    published: BTreeMap<Subject, bool>,
    live: BTreeSet<TaskId>,
    /// Of these, the ones of the live version that have asked for inputs.
    ready: BTreeSet<TaskId>,
    /// Begun before the version that is live.
    outdated: BTreeSet<TaskId>,
    starts: Starts,
}

/// How containers of the version that is live have started.
#[derive(Debug, Default)]
struct Starts {
    proven: bool,
    failed_in_a_row: u32,
    /// There was a time at which what waited could be given up.
    may_give_up: bool,
}

impl Ledger {
    pub fn new(timeout_ms: u64) -> Self {
        Self { timeout_ms, ..Self::default() }
    }

    pub fn container_began(&mut self, task: &TaskId) {
        self.live.insert(task.clone());
    }

    /// It asks for inputs.
    pub fn container_ready(&mut self, task: &TaskId) {
        // What an older version can says nothing of this one.
        if !self.outdated.contains(task) && self.ready.insert(task.clone()) {
            self.starts = Starts { proven: true, failed_in_a_row: 0, ..self.starts };
        }
    }

    pub fn start_failed(&mut self) {
        self.starts.failed_in_a_row += 1;
        let enough = if self.starts.proven { TRIES_OF_PROVEN_CODE } else { 1 };
        self.starts.may_give_up |= self.ready.is_empty() && self.starts.failed_in_a_row >= enough;
    }

    /// Another version may be live from here on.
    pub fn version_changes(&mut self) {
        self.starts.proven = false;
        self.ready.clear();
        self.outdated.extend(self.live.iter().cloned());
    }

    /// What it ran ends with it, as `how`.
    pub fn container_ended(&mut self, task: &TaskId, how: Ended) {
        self.live.remove(task);
        self.ready.remove(task);
        self.outdated.remove(task);
        let timeout_ms = self.timeout_ms;
        for run in self.runs.values_mut().flatten().filter(|run| run.task == *task && run.ended.is_none()) {
            let timed_out = now_ms().saturating_sub(run.began_ms) >= timeout_ms;
            run.ended = Some(if timed_out { Ended::Failed } else { how });
        }
    }

    pub fn server_died(&mut self) {
        for task in std::mem::take(&mut self.live) {
            self.container_ended(&task, Ended::Lost);
        }
    }

    pub fn run_began(&mut self, subject: Subject, task: &TaskId) {
        let runs = self.runs.entry(subject).or_default();
        let open = runs.iter().find(|run| run.ended.is_none());
        assert!(open.is_none(), "input {subject:?} runs on {task} while it runs on {}", open.unwrap().task);
        runs.push(Run { task: task.clone(), began_ms: now_ms(), ended: None });
    }

    pub fn run_ended(&mut self, subject: Subject, task: &TaskId, how: Ended) {
        let run = self.runs.get_mut(&subject).and_then(|runs| runs.iter_mut().rfind(|run| run.task == *task));
        run.expect("a run that ends has begun").ended.get_or_insert(how);
    }

    /// A caller was told. `retries` is what the user asked for.
    pub fn told(&mut self, subject: Subject, success: bool, what: &str, retries: u32) {
        let before = self.published.insert(subject, success);
        assert!(before.is_none_or(|before| before == success), "input {subject:?} was told in two ways, now: {what}");
        let empty = Vec::new();
        let runs = self.runs.get(&subject).unwrap_or(&empty);
        let count = |how| runs.iter().filter(|run| run.ended == Some(how)).count();
        if success {
            assert!(count(Ended::Succeeded) > 0, "input {subject:?} succeeded without a run: {runs:?}");
        } else if what.contains(NO_START) {
            assert!(self.starts.may_give_up, "input {subject:?} was given up for failed starts: {:?}", self.starts);
        } else {
            let allowed = 1 + retries as usize;
            let lost_too_often = count(Ended::Lost) > MAX_SYSTEM_RETRIES as usize;
            // What waits is given up with an attempt less, and `retries` say whether it then waits again.
            let given_up = if self.starts.may_give_up { retries as usize } else { 0 };
            assert!(
                count(Ended::Failed) + given_up >= allowed || lost_too_often,
                "input {subject:?} was given up early: {what}; {runs:?}"
            );
        }
        let most = 1 + retries as usize + MAX_SYSTEM_RETRIES as usize;
        assert!(runs.len() <= most + 3, "input {subject:?} ran {} times", runs.len());
    }
}
