//! Containers that fail before they take an input: how often to try again, and when to give up what waits for one.
//!
//! A failed start says something about the containers of a version, not about the inputs. So inputs are given up only when
//! nothing of the live version is ready or on its way, and after enough rounds of failures ([`decide_failed_start`]).
//! While the last start has failed, one container at a time tries, ever more seldom.
//!
//! Containers that were under way when the first one failed say nothing new: they count as the same round.
//!
//! Rejected: believing every failure. An `@enter` that fails now and then would answer the whole backlog with the error of
//! one start, while other containers work.

use crate::Millis;

/// The first trial comes at once, the second after this, each further one after twice the time of the one before.
const FIRST_PAUSE_MS: Millis = 500;
/// No function waits longer than this for a trial: whoever mends what was broken should see it soon.
const LONGEST_PAUSE_MS: Millis = 30_000;

/// Code that has never started is believed at its first failure: people want their import error at once.
const ROUNDS_OF_NEW_CODE: u32 = 1;
/// Code that has started before meets something that passes (a service that is away): pauses of 31.5 s in sum.
const ROUNDS_OF_PROVEN_CODE: u32 = 8;
/// A mount or a secret that is wrong from the beginning stays wrong.
const ROUNDS_OF_A_NEW_VERSION: u32 = 3;
/// A full disk waits for somebody to make room, and what waits is not to blame: pauses of 9.5 minutes in sum.
const ROUNDS_OF_A_PROVEN_VERSION: u32 = 26;

/// Rounds of starts that failed since a container of the live version last became ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FailedStarts {
    rounds: u32,
    last_at: Millis,
    /// A container of this version was ready once.
    proven: bool,
}

impl FailedStarts {
    /// A container that was begun at `begun_at` has failed. True when that makes another round.
    pub fn on_failure(&mut self, begun_at: Millis, now: Millis) -> bool {
        let same_round = self.rounds > 0 && begun_at < self.last_at;
        if !same_round {
            self.rounds = self.rounds.saturating_add(1);
        }
        self.last_at = self.last_at.max(now);
        !same_round
    }

    /// A container became ready: nothing is held back any more.
    pub fn on_ready(&mut self) {
        *self = Self { proven: true, ..Self::default() };
    }

    /// The version has started before, as far as anybody knows: it comes back with a new server.
    pub fn presume_proven(&mut self) {
        self.proven = true;
    }

    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    pub fn is_proven(&self) -> bool {
        self.proven
    }

    /// When one container may try again; `None` while nothing has failed.
    pub fn next_trial_at(&self) -> Option<Millis> {
        let doublings = match self.rounds {
            0 => return None,
            1 => return Some(self.last_at),
            // Above ten doublings the pause is the longest anyway.
            rounds => (rounds - 2).min(10),
        };
        Some(self.last_at.saturating_add((FIRST_PAUSE_MS << doublings).min(LONGEST_PAUSE_MS)))
    }
}

/// What kept a container from starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFault {
    /// An import, an enter hook, or what they did to their process: also its memory limit and `startup_timeout=`.
    UserCode,
    /// What the platform should have made: its root, its mounts, its processes.
    Platform,
}

/// A container has failed to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedStartView {
    pub fault: StartFault,
    /// It was of the live version, and had not been told to leave.
    pub counts: bool,
    /// Other containers of the live version, not counting those that leave.
    pub ready: usize,
    pub starting: usize,
    /// A container of the live version was ready once.
    pub proven: bool,
    /// Rounds of failed starts of the live version, this one included.
    pub rounds: u32,
}

/// What becomes of the inputs that wait when a container has failed to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedStartVerdict {
    /// It was on its way out: that says nothing about what comes after it.
    Ignore,
    /// They wait for another container.
    TryAgain,
    /// They fail with its error.
    GiveUp,
}

pub fn decide_failed_start(view: &FailedStartView) -> FailedStartVerdict {
    if !view.counts {
        return FailedStartVerdict::Ignore;
    }
    if view.ready > 0 || view.starting > 0 {
        return FailedStartVerdict::TryAgain;
    }
    let patience = match (view.fault, view.proven) {
        (StartFault::UserCode, false) => ROUNDS_OF_NEW_CODE,
        (StartFault::UserCode, true) => ROUNDS_OF_PROVEN_CODE,
        (StartFault::Platform, false) => ROUNDS_OF_A_NEW_VERSION,
        (StartFault::Platform, true) => ROUNDS_OF_A_PROVEN_VERSION,
    };
    if view.rounds >= patience { FailedStartVerdict::GiveUp } else { FailedStartVerdict::TryAgain }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn trials_come_at_once_then_ever_more_seldom_up_to_thirty_seconds() {
        let mut failed = FailedStarts::default();
        assert_eq!(failed.next_trial_at(), None);
        let mut pauses = Vec::new();
        let mut now = 10_000;
        for _ in 0..10 {
            assert!(failed.on_failure(now, now + 700));
            now = failed.next_trial_at().unwrap();
            pauses.push(now - failed.last_at);
        }
        assert_eq!(pauses, [0, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        failed.on_ready();
        assert_eq!((failed.next_trial_at(), failed.is_proven()), (None, true));
    }

    #[test]
    fn containers_that_were_under_way_when_the_first_failed_are_the_same_round() {
        let mut failed = FailedStarts::default();
        assert!(failed.on_failure(1_000, 2_000));
        assert!(!failed.on_failure(1_000, 2_300));
        assert!(!failed.on_failure(1_100, 2_400));
        assert_eq!((failed.rounds(), failed.next_trial_at()), (1, Some(2_400)));
    }

    const IMPORT_ERROR: FailedStartView =
        FailedStartView { fault: StartFault::UserCode, counts: true, ready: 0, starting: 0, proven: false, rounds: 1 };

    #[test]
    fn code_that_has_never_started_is_believed_at_once_and_code_that_has_is_given_more_tries() {
        assert_eq!(decide_failed_start(&IMPORT_ERROR), FailedStartVerdict::GiveUp);
        let verdicts = |fault, proven, rounds: [u32; 2]| {
            rounds.map(|rounds| decide_failed_start(&FailedStartView { fault, proven, rounds, ..IMPORT_ERROR }))
        };
        let one_more = [FailedStartVerdict::TryAgain, FailedStartVerdict::GiveUp];
        assert_eq!(verdicts(StartFault::UserCode, true, [7, 8]), one_more);
        assert_eq!(verdicts(StartFault::Platform, false, [2, 3]), one_more);
        assert_eq!(verdicts(StartFault::Platform, true, [25, 26]), one_more);
    }

    fn any_view() -> impl Strategy<Value = FailedStartView> {
        let fault = prop_oneof![Just(StartFault::UserCode), Just(StartFault::Platform)];
        (fault, any::<bool>(), 0usize..3, 0usize..3, any::<bool>(), 1u32..60).prop_map(
            |(fault, counts, ready, starting, proven, rounds)| FailedStartView {
                fault,
                counts,
                ready,
                starting,
                proven,
                rounds,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_is_given_up_while_a_container_of_the_live_version_is_ready_or_on_its_way(view in any_view()) {
            let gives_up = decide_failed_start(&view) == FailedStartVerdict::GiveUp;
            prop_assert!(!gives_up || (view.counts && view.ready == 0 && view.starting == 0));
        }

        #[test]
        fn a_container_that_leaves_or_is_of_an_older_version_counts_for_nothing(view in any_view()) {
            prop_assert_eq!(decide_failed_start(&view) == FailedStartVerdict::Ignore, !view.counts);
        }

        #[test]
        fn what_waits_for_a_version_that_never_starts_is_given_up_in_the_end(view in any_view()) {
            let alone = FailedStartView { counts: true, ready: 0, starting: 0, ..view };
            let after = |rounds| decide_failed_start(&FailedStartView { rounds, ..alone });
            prop_assert_eq!(after(ROUNDS_OF_A_PROVEN_VERSION), FailedStartVerdict::GiveUp);
            if after(view.rounds) == FailedStartVerdict::GiveUp {
                prop_assert_eq!(after(view.rounds + 1), FailedStartVerdict::GiveUp);
            }
        }

        #[test]
        fn a_proven_version_and_a_fault_of_the_platform_get_no_fewer_tries(view in any_view()) {
            let gives_up = |view| decide_failed_start(&view) == FailedStartVerdict::GiveUp;
            let [new, proven] = [false, true].map(|proven| gives_up(FailedStartView { proven, ..view }));
            prop_assert!(new || !proven);
            let [code, platform] = [StartFault::UserCode, StartFault::Platform]
                .map(|fault| gives_up(FailedStartView { fault, ..view }));
            prop_assert!(code || !platform);
        }
    }
}
