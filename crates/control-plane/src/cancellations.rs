//! Inputs whose cancellation a container has yet to hear of. It asks by heartbeat, which is held until there is one.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use types::ids::InputId;

/// One container asks, with one heartbeat at a time.
#[derive(Default)]
pub struct Cancellations {
    inputs: Mutex<Vec<InputId>>,
    news: Notify,
}

impl Cancellations {
    pub fn add(&self, inputs: Vec<InputId>) {
        self.inputs.lock().extend(inputs);
        self.news.notify_one();
    }

    /// The inputs that were cancelled since the last answer; none when `hold` passes without any.
    pub async fn next(&self, hold: Duration) -> Vec<InputId> {
        let deadline = Instant::now() + hold;
        loop {
            let cancelled = std::mem::take(&mut *self.inputs.lock());
            if !cancelled.is_empty() {
                return cancelled;
            }
            // A permit may be left over from inputs that an earlier look has taken: being woken means to look, not that there
            // is something.
            if tokio::time::timeout_at(deadline, self.news.notified()).await.is_err() {
                return Vec::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const HOLD: Duration = Duration::from_secs(12);

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_is_held_until_a_cancellation_also_after_one_that_was_answered_at_once() {
        let cancellations = Arc::new(Cancellations::default());
        let [first, second] = [InputId::random(), InputId::random()];
        cancellations.add(vec![first.clone()]);
        assert_eq!(cancellations.next(HOLD).await, [first]);
        let held = tokio::spawn({
            let cancellations = cancellations.clone();
            async move { cancellations.next(HOLD).await }
        });
        tokio::time::sleep(HOLD / 2).await;
        cancellations.add(vec![second.clone()]);
        assert_eq!(held.await.unwrap(), [second]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_without_a_cancellation_is_answered_after_the_hold() {
        let begun = Instant::now();
        assert_eq!(Cancellations::default().next(HOLD).await, []);
        assert_eq!(begun.elapsed(), HOLD);
    }
}
