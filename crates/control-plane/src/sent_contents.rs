//! Files that clients send before they make mounts of them, or put them into volumes of version 1.
//!
//! A client is told of each file that it is here, and names all of them when the last one is, maybe hours later. Until then
//! none of them may go, whatever another client has done with the same bytes meanwhile. Who waits is known in memory only:
//! after a restart nothing is deleted for an hour, unless space is short, and clients do not wait that long between two
//! files.
//!
//! Rejected: to go by the time at which a file was last asked for. It does not say whether whoever asked has it by now, so
//! `dorian gc` could give nothing back of what was just put and replaced.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use blob_store::{BlobError, BlobStore, DiskBlobs, Sha256Digest};
use bytes::Bytes;
use manifest::keeping::{Unused, stays};
use manifest::waiting::Waiting;
use tokio::sync::Mutex;
use types::ids::BlobId;
use volume_fs::Need;

/// A file stays so long after a volume got it: the next client may well put the same again.
pub const KEPT_AFTER_USE: Duration = Duration::from_secs(3600);

pub struct SentContents {
    blobs: DiskBlobs,
    /// Held for a moment before a client is told of a file, and while one that nobody waits for is deleted.
    waiting: Mutex<HashMap<Sha256Digest, Waiting<()>>>,
}

impl SentContents {
    pub fn new(blobs: DiskBlobs) -> Self {
        Self { blobs, waiting: Mutex::default() }
    }

    /// Whether it is here. If so, it stays until its client has used it, or is silent for long.
    pub async fn has(&self, content: &Sha256Digest) -> Result<bool, BlobError> {
        self.telling(content, self.blobs.has_content(content)).await
    }

    /// Takes it; it stays as for [`Self::has`].
    pub async fn put(&self, content: &Sha256Digest, bytes: Bytes) -> Result<(), BlobError> {
        let put = async { self.blobs.put_content(content, bytes).await.map(|()| true) };
        self.telling(content, put).await.map(drop)
    }

    pub async fn put_from_blob(&self, content: &Sha256Digest, blob: &BlobId) -> Result<(), BlobError> {
        let put = async { self.blobs.put_content_from_blob(content, blob).await.map(|()| true) };
        self.telling(content, put).await.map(drop)
    }

    /// Where it is, for a client that is about to have it in its volume.
    pub async fn path(&self, content: &Sha256Digest) -> Result<PathBuf, BlobError> {
        self.waiting.lock().await.entry(*content).or_default().renew((), SystemTime::now());
        let path = self.blobs.content_path(content).await;
        if path.is_err() {
            self.were_used([content]).await;
        }
        path
    }

    /// Noted first: what is found, or written, must not go before its client hears of it.
    async fn telling(
        &self,
        content: &Sha256Digest,
        is_here: impl Future<Output = Result<bool, BlobError>>,
    ) -> Result<bool, BlobError> {
        self.waiting.lock().await.entry(*content).or_default().add((), SystemTime::now());
        let is_here = is_here.await;
        if !matches!(is_here, Ok(true)) {
            self.were_used([content]).await;
        }
        is_here
    }

    /// A client has what it wanted of these; of one that comes twice, what it was told twice.
    pub async fn were_used<'a>(&self, contents: impl IntoIterator<Item = &'a Sha256Digest>) {
        let mut all = self.waiting.lock().await;
        for content in contents {
            if let Some(waiting) = all.get_mut(content) {
                waiting.remove(&());
                if waiting.is_empty() {
                    all.remove(content);
                }
            }
        }
    }

    /// False when a client still waits for it.
    pub async fn delete_unless_awaited(
        &self,
        content: &Sha256Digest,
        now: SystemTime,
        need: Need,
    ) -> Result<bool, BlobError> {
        let waiting = self.waiting.lock().await;
        if waiting.get(content).and_then(Waiting::last_told).is_some_and(|told| is_awaited(told, now, need)) {
            return Ok(false);
        }
        self.blobs.delete_content(content).await.map(|()| true)
    }

    /// Clients of which nothing was heard for long.
    pub async fn forget_silent(&self, now: SystemTime) {
        self.waiting.lock().await.retain(|_, waiting| {
            waiting.retain(|told| is_awaited(told, now, Need::Usual));
            !waiting.is_empty()
        });
    }
}

fn is_awaited(told: SystemTime, now: SystemTime, need: Need) -> bool {
    let awaited = Some(now.duration_since(told).unwrap_or_default());
    stays(&Unused { awaited, ..Unused::default() }, need)
}

#[cfg(test)]
mod tests {
    use blob_store::DiskConfig;
    use manifest::keeping::SENT_KEPT;

    use super::*;

    fn store() -> (tempfile::TempDir, DiskBlobs, SentContents) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = DiskBlobs::open(folder.path(), DiskConfig::default()).unwrap();
        let contents = SentContents::new(blobs.clone());
        (folder, blobs, contents)
    }

    #[tokio::test]
    async fn a_file_waits_for_each_client_that_was_told_of_it_and_no_longer() {
        let (_folder, _blobs, contents) = store();
        let (bytes, now) = (Bytes::from_static(b"shared"), SystemTime::now());
        let file = Sha256Digest::of(&bytes);
        assert!(!contents.has(&file).await.unwrap());
        contents.put(&file, bytes).await.unwrap();
        assert!(contents.has(&file).await.unwrap());
        contents.path(&file).await.unwrap();
        contents.were_used([&file]).await;
        assert!(!contents.delete_unless_awaited(&file, now, Need::Space).await.unwrap(), "the second one waits");
        contents.were_used([&file]).await;
        assert!(contents.delete_unless_awaited(&file, now, Need::Space).await.unwrap());
        assert!(!contents.has(&file).await.unwrap());
        assert!(contents.waiting.lock().await.is_empty(), "who was told that it is not here sends it");
    }

    #[tokio::test]
    async fn a_file_does_not_wait_for_ever_for_a_client_that_has_gone() {
        let (_folder, _blobs, contents) = store();
        let bytes = Bytes::from_static(b"left");
        let file = Sha256Digest::of(&bytes);
        contents.put(&file, bytes).await.unwrap();
        let later = SystemTime::now() + SENT_KEPT;
        contents.forget_silent(later - Duration::from_secs(60)).await;
        assert!(!contents.delete_unless_awaited(&file, SystemTime::now(), Need::Usual).await.unwrap());
        contents.forget_silent(later).await;
        assert!(contents.waiting.lock().await.is_empty());
        assert!(contents.delete_unless_awaited(&file, later, Need::Usual).await.unwrap());
    }

    #[tokio::test]
    async fn what_could_not_be_taken_is_not_waited_for() {
        let (_folder, _blobs, contents) = store();
        let file = Sha256Digest::of(b"announced");
        assert!(contents.put(&file, Bytes::from_static(b"another")).await.is_err());
        assert!(contents.put_from_blob(&file, &BlobId::random()).await.is_err());
        assert!(contents.path(&file).await.is_err());
        assert!(contents.waiting.lock().await.is_empty());
    }
}
