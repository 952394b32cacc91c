//! Giving back the space of files that volumes do not refer to any more. What may go is decided in `manifest` and done by
//! `volume_fs`; here is when: after each commit, when a reader has gone, and once in a while.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use blob_store::Sha256Digest;
use manifest::keeping::LEFT_KEPT;
use types::errors::with_causes;
use volume_fs::{Need, VolumeError, Volumes};

use crate::clock::steady_ms;
use crate::sent_contents::KEPT_AFTER_USE;
use crate::shared::Shared;

/// What was kept for clients that have fallen silent is looked at so often, and so is how full the disk is.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Between two sweeps: containers that end together let go of many layers.
const PAUSE: Duration = Duration::from_millis(200);
/// Sweeping takes at most one part in so many of the time; on a full disk it looks at everything.
const SHARE: u32 = 10;
/// So many uploads are deleted before a mount may be made again.
const DELETED_AT_ONCE: usize = 1024;

impl Shared {
    /// Merges layers of a volume in its own time, if that is worth it.
    pub fn tidy_volume(self: &Arc<Self>, volume: String) {
        let shared = self.clone();
        tokio::spawn(async move {
            let id = volume.clone();
            if let Err(error) = shared.volumes.with(move |store| store.merge(&id, store.need())).await
                && !matches!(error, VolumeError::Deleted)
            {
                tracing::warn!(volume, error = with_causes(&error), "layers of a volume could not be merged");
            }
        });
    }

    /// Gives back space as it becomes free, and at once what was kept for a while when there is little left.
    pub async fn volume_space_loop(self: Arc<Self>) {
        let swept = self.volumes.with(tidy_all).await;
        self.warn_of(swept);
        let clients_have_come_again = tokio::time::sleep(LEFT_KEPT);
        tokio::pin!(clients_have_come_again);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut looks_at_all = false;
            tokio::select! {
                () = self.volumes.store.loosened() => {}
                () = &mut clients_have_come_again, if !clients_have_come_again.is_elapsed() => looks_at_all = true,
                _ = looks.tick() => self.forget_passing().await,
            }
            let begun = Instant::now();
            let swept = self.volumes.with(move |store| sweep(store, looks_at_all)).await;
            self.warn_of(swept);
            tokio::time::sleep(PAUSE.max(begun.elapsed() * SHARE)).await;
        }
    }

    fn warn_of(&self, swept: Result<u64, VolumeError>) {
        match swept {
            Err(VolumeError::Stopping) => {}
            Err(error) => tracing::warn!(error = with_causes(&error), "space of volumes could not be given back"),
            Ok(bytes) => tracing::debug!(bytes, "swept what no volume refers to"),
        }
    }

    /// Gives back everything that volumes do not refer to and that nobody reads; answers with the bytes.
    ///
    /// # Errors
    /// A sentence, when the disk refuses.
    pub async fn give_back_volume_space(self: &Arc<Self>) -> Result<u64, String> {
        self.delete_passing_contents(self.passing_contents.take_all(), Need::Space).await;
        self.delete_passing_blobs().await?;
        let freed = self.volumes.with(|store| store.give_back(SystemTime::now())).await;
        freed.map_err(|error| format!("cannot give back the space of volumes: {}", with_causes(&error)))
    }

    /// Gives back what can be given, for a commit for which there was no room: it may be larger than what counts as little
    /// space, and what it wrote until then is gone again. False when the disk refuses that, too. How much was given back
    /// says nothing: the sweep that goes on anyway may have been quicker.
    pub async fn has_made_room_for_a_commit(self: &Arc<Self>) -> bool {
        let given = self.give_back_volume_space().await;
        given.inspect_err(|error| tracing::warn!(error, "no room could be made for a commit")).is_ok()
    }

    /// Blobs and contents that were needed for a while only, and whose time is over.
    async fn forget_passing(&self) {
        let need = self.volumes.store.need();
        let contents = match need {
            Need::Usual => self.passing_contents.take_over(steady_ms()),
            Need::Space => self.passing_contents.take_all(),
        };
        if !contents.is_empty() {
            self.delete_passing_contents(contents, need).await;
            // Their files may be those of contents that no layer refers to.
            let swept = self.volumes.with(move |store| store.sweep_all(SystemTime::now(), need)).await;
            self.warn_of(swept);
        }
        self.sent_contents.forget_silent(SystemTime::now()).await;
        if let Err(error) = self.delete_passing_blobs().await {
            tracing::warn!(error, "could not delete blobs that are not needed any more");
        }
    }

    /// Files that clients sent for volumes, which have them now. Those that another client waits for are looked at again.
    async fn delete_passing_contents(&self, contents: Vec<Sha256Digest>, need: Need) {
        let until = steady_ms() + KEPT_AFTER_USE.as_millis() as u64;
        for content in self.delete_sent_contents(&contents, need).await {
            self.passing_contents.note(content, until);
        }
    }

    /// Deletes files that clients sent, except those that mounts have; answers with those for which a client waits.
    pub async fn delete_sent_contents(&self, contents: &[Sha256Digest], need: Need) -> Vec<Sha256Digest> {
        let (now, mut awaited) = (SystemTime::now(), Vec::new());
        for some in contents.chunks(DELETED_AT_ONCE) {
            // One that is just being made has looked whether its files are here, and is not among the others yet.
            let _creating = self.mounts.creating.lock().await;
            let mounted = self.mounts.contents();
            for content in some.iter().filter(|content| !mounted.contains(&content.to_string())) {
                match self.sent_contents.delete_unless_awaited(content, now, need).await {
                    Ok(true) => {}
                    Ok(false) => awaited.push(*content),
                    Err(error) => tracing::warn!(%content, %error, "a file that a client sent could not be deleted"),
                }
            }
        }
        awaited
    }
}

/// What an earlier server may have left.
fn tidy_all(store: &Volumes) -> Result<u64, VolumeError> {
    let need = store.need();
    for id in store.open_all()? {
        if let Err(error) = store.merge(&id, need) {
            tracing::warn!(volume = id, error = with_causes(&error), "layers of a volume could not be merged");
        }
    }
    store.sweep_all(SystemTime::now(), need)
}

fn sweep(store: &Volumes, looks_at_all: bool) -> Result<u64, VolumeError> {
    match store.need() {
        Need::Space => store.give_back(SystemTime::now()),
        Need::Usual if looks_at_all => store.sweep_all(SystemTime::now(), Need::Usual),
        Need::Usual => store.sweep(SystemTime::now(), Need::Usual),
    }
}
