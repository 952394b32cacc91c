//! Housekeeping of dicts and queues: what has expired goes, and so does what belongs to nothing.

use std::sync::Arc;
use std::time::Duration;

use calls::Millis;
use contents_store::ContentsError;
use metadata_store::ObjectRecord;
use types::objects::ObjectKind;

use crate::clock::now_ms;
use crate::shared::Shared;

/// How long a request that happened is known, for when it is repeated. Clients repeat within seconds, and give up after a
/// few tries; a server that starts again takes a while, too.
const REPLIES_KEPT_MS: Millis = 120_000;
/// What a get took is on disk for so much longer than it must be. Nothing waits for this.
const TIDY_EVERY: Duration = Duration::from_secs(30);
/// Entries and partitions last for days, or for as long as nobody asks for them; both are looked for on disk.
const LOOK_THROUGH_EVERY: u32 = 120;

impl Shared {
    pub async fn contents_loop(self: Arc<Self>) {
        for round in (0..LOOK_THROUGH_EVERY).cycle() {
            if let Err(error) = self.tidy_contents(round == 0).await {
                tracing::error!(%error, "dicts and queues were not tidied; the next round tries again");
            }
            tokio::time::sleep(TIDY_EVERY).await;
        }
    }

    async fn tidy_contents(self: &Arc<Self>, thoroughly: bool) -> Result<(), ContentsError> {
        let now = now_ms();
        self.contents.sweep(now.saturating_sub(REPLIES_KEPT_MS)).await?;
        if thoroughly {
            self.contents.expire_entries(now).await?;
            for id in self.contents.owners().await? {
                self.look_through(&id).await?;
            }
        }
        for queue in self.queues.all() {
            queue.act(|state, now, effects, _| state.queue.expire(now, effects));
        }
        Ok(())
    }

    /// Loads a queue, so that what has expired of it goes. What was in an object goes after its record; a server that died
    /// in between left it.
    async fn look_through(&self, id: &str) -> Result<(), ContentsError> {
        if self.objects.get(ObjectKind::Dict, id).is_some() {
            return Ok(());
        }
        if self.objects.get(ObjectKind::Queue, id).is_none() {
            return self.contents.delete_contents(id).await;
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
