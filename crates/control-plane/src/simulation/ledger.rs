//! What really happened, and what must never happen.

use std::collections::{BTreeMap, BTreeSet};

use calls::MAX_SYSTEM_RETRIES;
use types::ids::TaskId;

use crate::clock::steady_ms;

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
    runs: BTreeMap<Subject, Vec<Run>>,
    published: BTreeMap<Subject, bool>,
    live: BTreeSet<TaskId>,
    /// Of these, the ones of the live version that have asked for inputs.
    ready: BTreeSet<TaskId>,
    /// Begun before the version that is live.
    outdated: BTreeSet<TaskId>,
    /// When each last had something to do.
    worked_ms: BTreeMap<TaskId, u64>,
    /// Told to leave.
    leaving: BTreeSet<TaskId>,
    app_stops: bool,
    /// What is live changes at some moment of this time.
    is_publishing: bool,
    deaths: usize,
    rules: Rules,
    starts: Starts,
}

/// What the user asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    /// A run that lasts longer is its user's failure, however it ends.
    pub timeout_ms: u64,
    /// A container without work stays this long.
    pub idle_ms: u64,
    pub single_use: bool,
    pub retries: u32,
}

/// What the clocks of the shell and of this may differ in.
const SLACK_MS: u64 = 100;

/// How containers of the version that is live have started.
#[derive(Debug, Default)]
struct Starts {
    proven: bool,
    failed_in_a_row: u32,
    /// There was a time at which what waited could be given up.
    may_give_up: bool,
}

impl Ledger {
    pub fn new(rules: Rules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// From here on calls may end, and containers leave, because the app does.
    pub fn app_stops(&mut self) {
        self.app_stops = true;
    }

    /// How often the server has died until now.
    pub fn deaths(&self) -> usize {
        self.deaths
    }

    pub fn container_began(&mut self, task: &TaskId) {
        self.live.insert(task.clone());
    }

    /// It asks for inputs.
    pub fn container_ready(&mut self, task: &TaskId) {
        self.worked_ms.entry(task.clone()).or_insert_with(steady_ms);
        // What an older version can says nothing of this one.
        if !self.outdated.contains(task) && self.ready.insert(task.clone()) {
            self.starts = Starts { proven: true, failed_in_a_row: 0, ..self.starts };
        }
    }

    /// It is asked to leave by itself.
    pub fn sent_away(&mut self, task: &TaskId) {
        let idle_ms = self.worked_ms.get(task).map_or(0, |since| steady_ms().saturating_sub(*since));
        let runs = self.runs.values().flatten().any(|run| run.task == *task && run.ended.is_none());
        let was_idle = !runs && idle_ms + SLACK_MS >= self.rules.idle_ms;
        assert!(was_idle || self.may_end(task), "{task} was sent away though it was needed {idle_ms} ms ago");
        self.leaving.insert(task.clone());
    }

    /// It is ended by the platform.
    pub fn told_to_stop(&mut self, task: &TaskId) {
        let may_end = !self.ready.contains(task) || self.leaving.contains(task) || self.may_end(task);
        assert!(may_end, "{task} was warm and was stopped");
    }

    fn may_end(&self, task: &TaskId) -> bool {
        let is_late = |run: &Run| run.began_ms + self.rules.timeout_ms <= steady_ms() + SLACK_MS;
        let hangs = self.runs.values().flatten().any(|run| run.task == *task && is_late(run));
        hangs || self.app_stops || self.is_publishing || self.rules.single_use || self.outdated.contains(task)
    }

    pub fn start_failed(&mut self) {
        self.starts.failed_in_a_row += 1;
        let enough = if self.starts.proven { TRIES_OF_PROVEN_CODE } else { 1 };
        self.starts.may_give_up |= self.ready.is_empty() && self.starts.failed_in_a_row >= enough;
    }

    /// Another version may be live from here on.
    pub fn version_may_change(&mut self) {
        self.is_publishing = true;
        self.forget_version();
    }

    pub fn version_changed(&mut self) {
        self.is_publishing = false;
        self.forget_version();
    }

    fn forget_version(&mut self) {
        self.starts.proven = false;
        self.ready.clear();
        self.outdated.extend(self.live.iter().cloned());
    }

    /// What it ran ends with it, as `how`.
    pub fn container_ended(&mut self, task: &TaskId, how: Ended) {
        self.live.remove(task);
        self.ready.remove(task);
        self.outdated.remove(task);
        self.worked_ms.remove(task);
        self.leaving.remove(task);
        let timeout_ms = self.rules.timeout_ms;
        for run in self.runs.values_mut().flatten().filter(|run| run.task == *task && run.ended.is_none()) {
            let timed_out = steady_ms().saturating_sub(run.began_ms) >= timeout_ms;
            run.ended = Some(if timed_out { Ended::Failed } else { how });
        }
    }

    pub fn server_died(&mut self) {
        self.deaths += 1;
        for task in std::mem::take(&mut self.live) {
            self.container_ended(&task, Ended::Lost);
        }
    }

    pub fn run_began(&mut self, subject: Subject, task: &TaskId) {
        let runs = self.runs.entry(subject).or_default();
        let open = runs.iter().find(|run| run.ended.is_none());
        assert!(open.is_none(), "input {subject:?} runs on {task} while it runs on {}", open.unwrap().task);
        self.worked_ms.insert(task.clone(), steady_ms());
        runs.push(Run { task: task.clone(), began_ms: steady_ms(), ended: None });
    }

    pub fn run_ended(&mut self, subject: Subject, task: &TaskId, how: Ended) {
        let run = self.runs.get_mut(&subject).and_then(|runs| runs.iter_mut().rfind(|run| run.task == *task));
        run.expect("a run that ends has begun").ended.get_or_insert(how);
        self.worked_ms.insert(task.clone(), steady_ms());
    }

    /// A caller was told.
    pub fn told(&mut self, subject: Subject, success: bool, what: &str) {
        let retries = self.rules.retries;
        let before = self.published.insert(subject, success);
        assert!(before.is_none_or(|before| before == success), "input {subject:?} was told in two ways, now: {what}");
        let empty = Vec::new();
        let runs = self.runs.get(&subject).unwrap_or(&empty);
        let count = |how| runs.iter().filter(|run| run.ended == Some(how)).count();
        if success {
            assert!(count(Ended::Succeeded) > 0, "input {subject:?} succeeded without a run: {runs:?}");
        } else if self.app_stops {
            // Calls of a stopped app have ended.
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
