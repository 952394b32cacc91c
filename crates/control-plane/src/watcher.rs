//! Who waits for a call's outputs, and how often they are answered.
//!
//! A map's client asks for outputs, gets those that are there, and asks again. Answering with each output as it comes
//! made it ask more than once for every two of them, and asking costs the client more than all else it does for an
//! output: it was the client that bounded a map. So the first output is passed on at once, and while outputs keep
//! coming they are passed on in small heaps.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

/// The least time between two answers of a call that goes on. Long enough for a heap of a dozen outputs at a rate at
/// which asking is what costs, and too short to be noticed by a person or to leave containers without inputs.
const BETWEEN_ANSWERS: Duration = Duration::from_millis(10);

#[derive(Default)]
pub struct Watcher {
    news: Notify,
    answered_at: Mutex<Option<Instant>>,
}

impl Watcher {
    pub fn notified(&self) -> Notified<'_> {
        self.news.notified()
    }

    pub fn notify_waiters(&self) {
        self.news.notify_waiters();
    }

    /// Until when to gather more outputs before the next answer; `None` when it is due.
    pub fn gather_until(&self, now: Instant) -> Option<Instant> {
        let due = (*self.answered_at.lock())? + BETWEEN_ANSWERS;
        (due > now).then_some(due)
    }

    pub fn on_answer(&self, now: Instant) {
        *self.answered_at.lock() = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_output_and_one_after_a_pause_are_passed_on_at_once() {
        let (watcher, now) = (Watcher::default(), Instant::now());
        assert_eq!(watcher.gather_until(now), None);
        watcher.on_answer(now);
        assert_eq!(watcher.gather_until(now + BETWEEN_ANSWERS), None);
    }

    #[test]
    fn outputs_in_quick_succession_are_gathered() {
        let (watcher, now) = (Watcher::default(), Instant::now());
        watcher.on_answer(now);
        assert_eq!(watcher.gather_until(now + Duration::from_millis(3)), Some(now + BETWEEN_ANSWERS));
    }
}
