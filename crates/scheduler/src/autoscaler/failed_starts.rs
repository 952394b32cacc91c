//! Containers that fail before they take an input, and how often to try again.
//!
//! A function whose import fails will mostly fail again, once for each container and for each input that comes: so
//! while the last start has failed, one container at a time tries, ever more seldom. What waits when a trial fails is
//! answered with the failure by the caller, so nobody waits for the trial after the next.
//!
//! Containers that were under way when the first one failed say nothing new: they count as the same round.

use crate::Millis;

/// The first trial comes at once, the second after this, each further one after twice the time of the one before.
const FIRST_PAUSE_MS: Millis = 500;
/// No function waits longer than this for a trial: whoever mends what was broken should see it soon.
const LONGEST_PAUSE_MS: Millis = 30_000;

/// Rounds of starts that failed since a container last became ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FailedStarts {
    rounds: u32,
    last_at: Millis,
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

    /// A container became ready, or there is a new definition: nothing is held back any more.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    pub fn rounds(&self) -> u32 {
        self.rounds
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

#[cfg(test)]
mod tests {
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
        failed.forget();
        assert_eq!(failed.next_trial_at(), None);
    }

    #[test]
    fn containers_that_were_under_way_when_the_first_failed_are_the_same_round() {
        let mut failed = FailedStarts::default();
        assert!(failed.on_failure(1_000, 2_000));
        assert!(!failed.on_failure(1_000, 2_300));
        assert!(!failed.on_failure(1_100, 2_400));
        assert_eq!((failed.rounds(), failed.next_trial_at()), (1, Some(2_400)));
    }
}
