//! Housekeeping of dicts and queues: what has expired goes, and so does what belongs to nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use calls::Millis;
use contents_store::ContentsError;
use metadata_store::ObjectRecord;
use types::objects::ObjectKind;

use crate::clock::wall_ms;
use crate::shared::Shared;

/// How long a request that happened is known, for when it is repeated; counted in time in which the server was there to
/// hear of it. Clients repeat within seconds, and some of their requests without end: whoever waits with a put for a server
/// that is down asks again when it is back, however long that took.
const REPLIES_KEPT: Duration = Duration::from_secs(120);
/// What a get took is on disk for so much longer than it must be. Nothing waits for this.
const TIDY_EVERY: Duration = Duration::from_secs(30);
/// Entries and partitions last for days, or for as long as nobody asks for them; both are looked for on disk.
const LOOK_THROUGH_EVERY: u32 = 120;
/// Rounds that [`REPLIES_KEPT`] takes.
const ROUNDS_KEPT: usize = REPLIES_KEPT.as_secs().div_ceil(TIDY_EVERY.as_secs()) as usize;

/// The times of the last rounds by the clock that replies are dated with. That clock runs on while the machine sleeps or the
/// server is down, and may jump; rounds do not.
#[derive(Default)]
struct Rounds(VecDeque<Millis>);

impl Rounds {
    /// Notes a round. What is dated before the answer was there for as long as [`REPLIES_KEPT`]; nothing is, in the first
    /// rounds. The smallest of all times since then, as what came after the clock was set back has small ones.
    fn next(&mut self, now: Millis) -> Option<Millis> {
        self.0.push_back(now);
        if self.0.len() <= ROUNDS_KEPT {
            return None;
        }
        let oldest = self.0.iter().min().copied();
        self.0.pop_front();
        oldest
    }
}

impl Shared {
    pub async fn contents_loop(self: Arc<Self>) {
        let mut rounds = Rounds::default();
        for round in (0..LOOK_THROUGH_EVERY).cycle() {
            let replies_before = rounds.next(wall_ms());
            if let Err(error) = self.tidy_contents(replies_before, round == 0).await {
                tracing::error!(%error, "dicts and queues were not tidied; the next round tries again");
            }
            tokio::time::sleep(TIDY_EVERY).await;
        }
    }

    async fn tidy_contents(
        self: &Arc<Self>,
        replies_before: Option<Millis>,
        thoroughly: bool,
    ) -> Result<(), ContentsError> {
        let now = wall_ms();
        if let Some(before) = replies_before {
            self.contents.sweep(before).await?;
        }
        if thoroughly {
            self.contents.expire_entries(now).await?;
            for id in self.contents.owners().await? {
                self.look_through(&id, now).await?;
            }
            self.contents.give_back_room().await?;
        }
        for queue in self.queues.all() {
            queue.act(|state, now, effects, _| state.queue.expire(now, effects));
        }
        Ok(())
    }

    /// Loads a queue of which something has expired, so that it goes. What was in an object goes after its record; a server
    /// that died in between left it.
    async fn look_through(&self, id: &str, now: Millis) -> Result<(), ContentsError> {
        if self.objects.get(ObjectKind::Dict, id).is_some() {
            return Ok(());
        }
        if self.objects.get(ObjectKind::Queue, id).is_none() {
            return self.contents.delete_contents(id).await;
        }
        if !self.contents.has_expired_items(id, now).await? {
            return Ok(());
        }
        if let Err(error) = self.queues.open(id).await {
            tracing::error!(%error, queue = id, "a queue was not loaded");
        }
        Ok(())
    }

    /// Deletes what was in a dict or a queue that is gone.
    pub fn forget_contents(self: &Arc<Self>, record: &ObjectRecord) {
        self.queues.close(&record.id);
        let (shared, id) = (self.clone(), record.id.clone());
        tokio::spawn(async move {
            if let Err(error) = shared.contents.delete_contents(&id).await {
                tracing::error!(%error, object = id, "contents were not deleted; it is tried again within the hour");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_kept_for_as_long_as_the_server_was_there_to_be_asked_again() {
        let mut rounds = Rounds::default();
        let hour = 3_600_000;
        // What is left of an earlier server has not been asked for yet.
        for round in 0..4 {
            assert_eq!(rounds.next(hour + round * 30_000), None);
        }
        assert_eq!(rounds.next(hour + 120_000), Some(hour));
        // The machine slept for a day, or the clock was set.
        for round in 0..4 {
            assert!(rounds.next(25 * hour + round * 30_000).unwrap() <= hour + 120_000);
        }
        assert_eq!(rounds.next(25 * hour + 120_000), Some(25 * hour));
        // It was set back: what has come since is younger than what was there, and has smaller times.
        for round in 0..8 {
            assert!(rounds.next(hour + round * 30_000).unwrap() <= hour + round.saturating_sub(4) * 30_000, "{round}");
        }
    }
}
