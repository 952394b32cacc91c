//! The containers of one function: which there are, in which phase each is, and of which version.
//!
//! This is the one place that knows whether a container is there. Only [`FunctionTasks::begin`] adds one, and nothing
//! brings one back after [`FunctionTasks::end`]: a request or an order that was still on its way finds it gone. Rejected:
//! adding an unknown container when it asks for inputs or is told to leave. Such an entry never ends, and counts against
//! `max_containers` for ever.
//!
//! A version is what containers are started with. Each definition begins one, and so does the wish for fresh containers of
//! the same. Nothing that happens to containers of an older version is held against the live one.

use std::collections::BTreeMap;

use types::ids::TaskId;

use crate::Millis;
use crate::autoscaler::{
    FailedStartVerdict, FailedStartView, FailedStarts, StartFault, TaskPhase, decide_failed_start,
};

#[derive(Debug, Default)]
pub struct FunctionTasks {
    version: u64,
    failed_starts: FailedStarts,
    tasks: BTreeMap<TaskId, Task>,
}

#[derive(Debug, Clone, Copy)]
struct Task {
    phase: TaskPhase,
    version: u64,
    begun_at: Millis,
    /// It has asked for inputs.
    was_ready: bool,
}

/// What there was of a container that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedTask {
    pub was_ready: bool,
    begun_at: Millis,
    version: u64,
    was_leaving: bool,
}

/// The answer to a container that asks for inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// How long it took to start.
    First(Millis),
    Again,
}

impl FunctionTasks {
    /// The version that containers are started with now.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A container was told to start, with what `version` is. False, and nothing is added, when that is not live any more.
    #[must_use]
    pub fn begin(&mut self, task: TaskId, version: u64, now: Millis) -> bool {
        if version != self.version {
            return false;
        }
        let phase = TaskPhase::Starting { since: now };
        self.tasks.insert(task, Task { phase, version, begun_at: now, was_ready: false });
        true
    }

    /// A container asks for inputs; `None` when it has ended.
    pub fn on_poll(&mut self, id: &TaskId, now: Millis) -> Option<Asked> {
        let task = self.tasks.get_mut(id)?;
        if std::mem::replace(&mut task.was_ready, true) {
            return Some(Asked::Again);
        }
        if matches!(task.phase, TaskPhase::Starting { .. }) {
            task.phase = TaskPhase::Active { since: now };
        }
        if task.version == self.version {
            self.failed_starts.on_ready();
        }
        Some(Asked::First(now.saturating_sub(task.begun_at)))
    }

    /// A container is to leave. Answers with the phase that it was in; `None` when it has ended.
    pub fn drain(&mut self, id: &TaskId) -> Option<TaskPhase> {
        let task = self.tasks.get_mut(id)?;
        Some(std::mem::replace(&mut task.phase, TaskPhase::Draining))
    }

    /// `None` when its end is known already.
    pub fn end(&mut self, id: &TaskId) -> Option<EndedTask> {
        let Task { phase, version, begun_at, was_ready } = self.tasks.remove(id)?;
        Some(EndedTask { was_ready, begun_at, version, was_leaving: phase == TaskPhase::Draining })
    }

    /// The container that has ended had failed to start. Says what becomes of what waits.
    pub fn on_failed_start(&mut self, ended: &EndedTask, fault: StartFault, now: Millis) -> FailedStartVerdict {
        let counts = ended.version == self.version && !ended.was_leaving;
        if counts {
            self.failed_starts.on_failure(ended.begun_at, now);
        }
        let live = |is: fn(&TaskPhase) -> bool| {
            self.tasks.values().filter(|task| task.version == self.version && is(&task.phase)).count()
        };
        decide_failed_start(&FailedStartView {
            fault,
            counts,
            ready: live(|phase| matches!(phase, TaskPhase::Active { .. })),
            starting: live(|phase| matches!(phase, TaskPhase::Starting { .. })),
            proven: self.failed_starts.is_proven(),
            rounds: self.failed_starts.rounds(),
        })
    }

    /// From here on containers are started with something else, of which nothing is known.
    pub fn begin_version(&mut self) {
        self.version += 1;
        self.failed_starts = FailedStarts::default();
    }

    /// The version has started before, as far as anybody knows.
    pub fn presume_proven(&mut self) {
        self.failed_starts.presume_proven();
    }

    pub fn failed_starts(&self) -> FailedStarts {
        self.failed_starts
    }

    pub fn contains(&self, id: &TaskId) -> bool {
        self.tasks.contains_key(id)
    }

    pub fn phase(&self, id: &TaskId) -> Option<TaskPhase> {
        self.tasks.get(id).map(|task| task.phase)
    }

    /// Whether it is there and has asked for inputs.
    pub fn is_ready(&self, id: &TaskId) -> bool {
        self.tasks.get(id).is_some_and(|task| task.was_ready)
    }

    pub fn phases(&self) -> impl Iterator<Item = (&TaskId, TaskPhase)> {
        self.tasks.iter().map(|(id, task)| (id, task.phase))
    }

    pub fn ids(&self) -> impl Iterator<Item = &TaskId> {
        self.tasks.keys()
    }

    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn id(n: usize) -> TaskId {
        TaskId::parse(&format!("ta-{n:026}")).unwrap()
    }

    fn with(numbers: std::ops::Range<usize>) -> FunctionTasks {
        let mut tasks = FunctionTasks::default();
        numbers.for_each(|n| assert!(tasks.begin(id(n), 0, 1_000)));
        tasks
    }

    fn fail(tasks: &mut FunctionTasks, n: usize, now: Millis) -> FailedStartVerdict {
        let ended = tasks.end(&id(n)).unwrap();
        tasks.on_failed_start(&ended, StartFault::UserCode, now)
    }

    #[test]
    fn what_comes_after_the_end_of_a_container_does_not_bring_it_back() {
        let mut tasks = with(1..2);
        assert_eq!(tasks.on_poll(&id(1), 1_700), Some(Asked::First(700)));
        assert_eq!(tasks.on_poll(&id(1), 1_800), Some(Asked::Again));
        assert!(tasks.end(&id(1)).is_some_and(|ended| ended.was_ready));
        assert_eq!((tasks.on_poll(&id(1), 2_000), tasks.drain(&id(1)), tasks.end(&id(1))), (None, None, None));
        assert!(tasks.is_empty());
    }

    #[test]
    fn of_containers_that_start_side_by_side_the_last_to_fail_decides() {
        let mut tasks = with(1..4);
        assert_eq!(fail(&mut tasks, 1, 2_000), FailedStartVerdict::TryAgain);
        assert_eq!(fail(&mut tasks, 2, 2_100), FailedStartVerdict::TryAgain);
        assert_eq!(fail(&mut tasks, 3, 2_200), FailedStartVerdict::GiveUp);
    }

    #[test]
    fn a_start_that_fails_beside_one_that_works_gives_nothing_up() {
        let mut tasks = with(1..4);
        tasks.on_poll(&id(2), 1_900);
        assert_eq!(fail(&mut tasks, 1, 2_000), FailedStartVerdict::TryAgain);
        assert_eq!(fail(&mut tasks, 3, 2_100), FailedStartVerdict::TryAgain);
        // Nor does one that comes when that is gone: the version has worked.
        tasks.end(&id(2));
        assert!(tasks.begin(id(4), 0, 3_000));
        assert_eq!(fail(&mut tasks, 4, 3_500), FailedStartVerdict::TryAgain);
    }

    #[test]
    fn a_container_of_the_version_before_fails_nobody_and_none_is_begun_with_it() {
        let mut tasks = with(1..3);
        tasks.begin_version();
        tasks.drain(&id(1));
        assert_eq!(fail(&mut tasks, 1, 2_000), FailedStartVerdict::Ignore);
        // One that nobody has told to leave yet.
        assert_eq!(fail(&mut tasks, 2, 2_000), FailedStartVerdict::Ignore);
        assert_eq!(tasks.failed_starts(), FailedStarts::default());
        assert!(!tasks.begin(id(3), 0, 3_000) && tasks.begin(id(4), 1, 3_000));
        assert_eq!(fail(&mut tasks, 4, 3_500), FailedStartVerdict::GiveUp);
    }

    #[test]
    fn a_container_of_the_version_before_that_becomes_ready_proves_nothing() {
        let mut tasks = with(1..2);
        tasks.begin_version();
        tasks.on_poll(&id(1), 2_000);
        assert!(tasks.begin(id(2), 1, 3_000));
        assert_eq!(fail(&mut tasks, 2, 3_500), FailedStartVerdict::GiveUp);
    }

    #[test]
    fn what_waits_when_a_server_begins_is_not_given_up_for_one_start_that_fails() {
        let mut tasks = with(1..2);
        tasks.presume_proven();
        assert_eq!(fail(&mut tasks, 1, 2_000), FailedStartVerdict::TryAgain);
        tasks.begin_version();
        assert!(tasks.begin(id(2), 1, 3_000));
        assert_eq!(fail(&mut tasks, 2, 3_500), FailedStartVerdict::GiveUp);
    }

    #[derive(Debug, Clone)]
    enum Event {
        Begin(usize, u64),
        Poll(usize),
        Drain(usize),
        End(usize),
        Fail(usize, StartFault),
        Version,
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let fault = prop_oneof![Just(StartFault::UserCode), Just(StartFault::Platform)];
        prop_oneof![
            4 => (0usize..6, 0u64..3).prop_map(|(n, behind)| Event::Begin(n, behind)),
            4 => (0usize..6).prop_map(Event::Poll),
            2 => (0usize..6).prop_map(Event::Drain),
            2 => (0usize..6).prop_map(Event::End),
            4 => (0usize..6, fault).prop_map(|(n, fault)| Event::Fail(n, fault)),
            1 => Just(Event::Version),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_container_is_there_from_its_beginning_to_its_end(events in prop::collection::vec(any_event(), 0..60)) {
            let mut tasks = FunctionTasks::default();
            let mut there = BTreeSet::new();
            for (now, event) in events.into_iter().enumerate() {
                let now = now as Millis * 100;
                let rounds = tasks.failed_starts().rounds();
                match event {
                    Event::Begin(n, behind) => {
                        let version = tasks.version().saturating_sub(behind);
                        let begun = !there.contains(&id(n)) && tasks.begin(id(n), version, now);
                        prop_assert!(!begun || version == tasks.version());
                        if begun {
                            there.insert(id(n));
                        }
                    }
                    Event::Poll(n) => prop_assert_eq!(tasks.on_poll(&id(n), now).is_some(), there.contains(&id(n))),
                    Event::Drain(n) => prop_assert_eq!(tasks.drain(&id(n)).is_some(), there.contains(&id(n))),
                    Event::End(n) => prop_assert_eq!(tasks.end(&id(n)).is_some(), there.remove(&id(n))),
                    Event::Fail(n, fault) => {
                        there.remove(&id(n));
                        if let Some(ended) = tasks.end(&id(n)) {
                            let verdict = tasks.on_failed_start(&ended, fault, now);
                            let counted = ended.version == tasks.version() && !ended.was_leaving;
                            prop_assert_eq!(verdict == FailedStartVerdict::Ignore, !counted);
                            prop_assert!(counted || tasks.failed_starts().rounds() == rounds);
                            let remain = tasks.tasks.values().any(|task| {
                                task.version == tasks.version() && task.phase != TaskPhase::Draining
                            });
                            prop_assert!(verdict != FailedStartVerdict::GiveUp || !remain);
                        }
                    }
                    Event::Version => tasks.begin_version(),
                }
                prop_assert!(tasks.ids().eq(there.iter()));
            }
        }
    }
}
