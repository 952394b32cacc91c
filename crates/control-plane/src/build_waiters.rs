//! Who waits for a build, and when it ends because nobody does.
//!
//! A client asks for an image, then follows its build in requests of less than a minute, one after the other; an image that
//! is built on it, or a container that needs it, waits as well. So a build has nobody for moments, also while a client
//! reconnects. Only after [`GRACE`] without anybody is it given up. Who comes back in time finds it as it was.
//!
//! Rejected: to end with the app that asked. Others may have asked for the same image meanwhile, and a deployment's app
//! outlives the client that deploys it.

use std::time::{Duration, Instant};

/// Longer than a client takes to connect again, shorter than a person takes to wonder what the machine is doing.
pub const GRACE: Duration = Duration::from_secs(10);

/// Of one build.
#[derive(Debug)]
pub struct Waiters {
    count: usize,
    /// When somebody last asked for the image or stopped waiting.
    last_wanted: Instant,
    given_up: Option<GivenUp>,
}

/// Why a build ends before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenUp {
    Unattended,
    Cancelled,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    Wanted,
    /// Unless somebody comes by then.
    EndsAt(Instant),
    Over(GivenUp),
}

impl Waiters {
    pub fn new(now: Instant) -> Self {
        Self { count: 0, last_wanted: now, given_up: None }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Somebody asks for the image, and will wait; false when its build has been given up.
    pub fn ask(&mut self, now: Instant) -> bool {
        if self.given_up.is_none() {
            self.last_wanted = now;
        }
        self.given_up.is_none()
    }

    pub fn join(&mut self) {
        self.count += 1;
    }

    pub fn leave(&mut self, now: Instant) {
        self.count = self.count.saturating_sub(1);
        self.last_wanted = now;
    }

    /// The operator's word, whoever waits.
    pub fn cancel(&mut self) {
        self.given_up.get_or_insert(GivenUp::Cancelled);
    }

    /// Once it is over it stays so: whoever asks later gets another build.
    pub fn decide(&mut self, now: Instant) -> Standing {
        let ends_at = self.last_wanted + GRACE;
        if self.count == 0 && now >= ends_at {
            self.given_up.get_or_insert(GivenUp::Unattended);
        }
        match (self.given_up, self.count) {
            (Some(why), _) => Standing::Over(why),
            (None, 0) => Standing::EndsAt(ends_at),
            (None, _) => Standing::Wanted,
        }
    }
}

impl GivenUp {
    /// For whoever asks for the result all the same.
    pub fn message(self) -> String {
        match self {
            Self::Unattended => format!(
                "the build was stopped: nobody had waited for it for {} s; ask for the image again, finished steps are kept",
                GRACE.as_secs()
            ),
            Self::Cancelled => "the build was cancelled by the operator".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_build_that_nobody_joins_ends_after_the_grace() {
        let start = Instant::now();
        let mut waiters = Waiters::new(start);
        assert_eq!(waiters.decide(start), Standing::EndsAt(start + GRACE));
        assert_eq!(waiters.decide(start + GRACE), Standing::Over(GivenUp::Unattended));
        assert!(!waiters.ask(start + GRACE), "who asks now needs another build");
    }

    #[test]
    fn it_goes_on_until_the_last_of_several_has_left_and_then_for_the_grace() {
        let start = Instant::now();
        let mut waiters = Waiters::new(start);
        waiters.join();
        waiters.join();
        waiters.leave(start + 100 * SECOND);
        assert_eq!(waiters.decide(start + 1000 * SECOND), Standing::Wanted);
        let left = start + 2000 * SECOND;
        waiters.leave(left);
        assert_eq!(waiters.decide(left), Standing::EndsAt(left + GRACE));
    }

    #[test]
    fn who_asks_or_comes_back_within_the_grace_takes_it_over() {
        let start = Instant::now();
        let mut waiters = Waiters::new(start);
        let late = start + GRACE - SECOND;
        assert!(waiters.ask(late));
        assert_eq!(waiters.decide(start + GRACE), Standing::EndsAt(late + GRACE));
        waiters.join();
        assert_eq!(waiters.decide(start + 5 * GRACE), Standing::Wanted);
    }

    #[test]
    fn what_the_operator_cancels_ends_whoever_waits() {
        let start = Instant::now();
        let mut waiters = Waiters::new(start);
        waiters.join();
        waiters.cancel();
        assert_eq!(waiters.decide(start), Standing::Over(GivenUp::Cancelled));
        assert!(!waiters.ask(start));
    }
}
