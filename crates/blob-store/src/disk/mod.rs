//! Blobs and content in one folder of a local disk.
//!
//! ```text
//! ROOT/uploads/<blob>/meta.json      length, part length, announced digest
//! ROOT/uploads/<blob>/data           the bytes, each part at its place (sparse until all are there)
//! ROOT/uploads/<blob>/part-<n>-<md5> part n is in `data` and on disk
//! ROOT/blobs/<xy>/<blob>             a complete blob
//! ROOT/contents/<xy>/<sha256>        a content file; may share its inode with a blob
//! ROOT/tmp/                          files in the making; emptied at start
//! ```
//!
//! A name under `blobs` or `contents` appears by a rename or a link, after its bytes are on disk: what has the name is
//! whole. All state is in these names, so a restarted server goes on where the killed one was.

mod content;
mod files;
mod layout;
mod part_writer;
mod reading;
mod upload;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use types::ids::BlobId;

use self::layout::Layout;
use self::upload::ActiveUpload;
use crate::digest::{Md5Digest, Sha256Digest};
use crate::error::BlobError;
use crate::store::{BlobStore, ByteStream, Upload};

/// What an operator may set.
#[derive(Debug, Clone, Copy)]
pub struct DiskConfig {
    /// Longest blob. What the disk has room for is looked at as well.
    pub max_blob_bytes: u64,
    /// Parts are at least this long. Longer parts mean fewer requests; shorter ones let more processors share the
    /// checksums of one blob.
    pub part_bytes: u64,
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self { max_blob_bytes: 1 << 40, part_bytes: 64 << 20 }
    }
}

/// Cheap to clone; all clones are one store. One process at a time may have a folder open.
#[derive(Clone)]
pub struct DiskBlobs {
    inner: Arc<Inner>,
}

struct Inner {
    layout: Layout,
    config: DiskConfig,
    /// Uploads that somebody writes to or has written to since the start. Held for look-ups only.
    uploads: Mutex<HashMap<BlobId, Arc<ActiveUpload>>>,
}

impl DiskBlobs {
    /// Opens or creates the folder, and deletes what a killed server left half-made.
    pub fn open(root: &Path, config: DiskConfig) -> Result<Self, BlobError> {
        let layout = Layout::create(root)?;
        Ok(Self { inner: Arc::new(Inner { layout, config, uploads: Mutex::new(HashMap::new()) }) })
    }

    /// Where a complete blob is, for those on the same machine. It must not be written to.
    pub fn path(&self, blob: &BlobId) -> PathBuf {
        self.inner.layout.blob(blob)
    }

    /// Runs on a thread that may wait for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Inner) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        let inner = self.inner.clone();
        // The closures neither panic nor are aborted, unless the runtime itself is going down.
        tokio::task::spawn_blocking(move || act(&inner))
            .await
            .unwrap_or_else(|_| Err(BlobError::BrokenOff("the server is shutting down".to_owned())))
    }
}

#[async_trait]
impl BlobStore for DiskBlobs {
    async fn create(&self, length: u64, sha256: Option<Sha256Digest>) -> Result<Upload, BlobError> {
        self.blocking(move |inner| inner.create(length, sha256)).await
    }

    async fn put_part(&self, blob: &BlobId, part: u32, content: ByteStream) -> Result<Md5Digest, BlobError> {
        self.receive(blob, Some(part), content).await
    }

    async fn put_whole(&self, blob: &BlobId, content: ByteStream) -> Result<Md5Digest, BlobError> {
        let md5 = self.receive(blob, None, content).await?;
        let blob = blob.clone();
        self.blocking(move |inner| inner.complete_whole(&blob)).await?;
        Ok(md5)
    }

    async fn complete(&self, blob: &BlobId) -> Result<String, BlobError> {
        let blob = blob.clone();
        self.blocking(move |inner| inner.complete(&blob)).await
    }

    async fn put(&self, bytes: Bytes) -> Result<BlobId, BlobError> {
        self.blocking(move |inner| inner.put(&bytes)).await
    }

    async fn length(&self, blob: &BlobId) -> Result<u64, BlobError> {
        let blob = blob.clone();
        self.blocking(move |inner| Ok(inner.open_blob(&blob)?.1)).await
    }

    async fn open(&self, blob: &BlobId) -> Result<(u64, ByteStream), BlobError> {
        let blob = blob.clone();
        let (file, length) = self.blocking(move |inner| inner.open_blob(&blob)).await?;
        Ok((length, reading::stream(file, 0..length)))
    }

    async fn open_range(&self, blob: &BlobId, range: Range<u64>) -> Result<ByteStream, BlobError> {
        let blob = blob.clone();
        let (file, length) = self.blocking(move |inner| inner.open_blob(&blob)).await?;
        Ok(reading::stream(file, range.start..range.end.min(length)))
    }

    async fn read(&self, blob: &BlobId, limit: u64) -> Result<Bytes, BlobError> {
        let blob = blob.clone();
        self.blocking(move |inner| inner.read(&blob, limit)).await
    }

    async fn delete(&self, blob: &BlobId) -> Result<(), BlobError> {
        let blob = blob.clone();
        self.blocking(move |inner| inner.delete(&blob)).await
    }

    async fn blobs_before(&self, before: SystemTime) -> Result<Vec<BlobId>, BlobError> {
        self.blocking(move |inner| inner.layout.blobs_before(before)).await
    }

    async fn sweep_uploads(&self, before: SystemTime) -> Result<usize, BlobError> {
        self.blocking(move |inner| inner.sweep(before)).await
    }

    async fn has_content(&self, sha256: &Sha256Digest) -> Result<bool, BlobError> {
        let sha256 = *sha256;
        self.blocking(move |inner| Ok(inner.has_content(&sha256, SystemTime::now()))).await
    }

    async fn put_content(&self, sha256: &Sha256Digest, bytes: Bytes) -> Result<(), BlobError> {
        let sha256 = *sha256;
        self.blocking(move |inner| inner.put_content(&sha256, &bytes)).await
    }

    async fn put_content_from_blob(&self, sha256: &Sha256Digest, blob: &BlobId) -> Result<(), BlobError> {
        let (sha256, blob) = (*sha256, blob.clone());
        self.blocking(move |inner| inner.put_content_from_blob(&sha256, &blob)).await
    }

    async fn contents_before(&self, before: SystemTime) -> Result<Vec<Sha256Digest>, BlobError> {
        self.blocking(move |inner| inner.layout.contents_before(before)).await
    }

    async fn delete_content(&self, sha256: &Sha256Digest) -> Result<(), BlobError> {
        let sha256 = *sha256;
        self.blocking(move |inner| inner.delete_content(&sha256)).await
    }

    async fn content_path(&self, sha256: &Sha256Digest) -> Result<PathBuf, BlobError> {
        if !self.has_content(sha256).await? {
            return Err(BlobError::NoContent(*sha256));
        }
        Ok(self.inner.layout.content(sha256))
    }
}
