//! What a place for blobs must be able to do.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use types::ids::BlobId;

use crate::digest::{Md5Digest, Sha256Digest};
use crate::error::BlobError;
use crate::parts::Parts;

/// Bytes on their way, a piece at a time: what is in memory at once does not depend on the length.
pub type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// A blob that waits for its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    pub blob: BlobId,
    pub parts: Parts,
}

#[async_trait]
pub trait BlobStore: Send + Sync + 'static {
    /// A new blob of exactly `length` bytes, to be uploaded. A digest given here is checked on completion.
    async fn create(&self, length: u64, sha256: Option<Sha256Digest>) -> Result<Upload, BlobError>;

    /// Takes one part; a part that comes again replaces what came before. The answer is the part's ETag.
    async fn put_part(&self, blob: &BlobId, part: u32, content: ByteStream) -> Result<Md5Digest, BlobError>;

    /// Takes all of it at once, and completes the blob.
    async fn put_whole(&self, blob: &BlobId, content: ByteStream) -> Result<Md5Digest, BlobError>;

    /// All parts are there: from now on the blob can be read, survives a crash, and never changes. May be repeated.
    /// The answer is the ETag of the whole.
    async fn complete(&self, blob: &BlobId) -> Result<String, BlobError>;

    /// A complete blob from bytes in memory.
    async fn put(&self, bytes: Bytes) -> Result<BlobId, BlobError>;

    /// The length of a complete blob.
    async fn length(&self, blob: &BlobId) -> Result<u64, BlobError>;

    /// The length of a complete blob and its bytes.
    async fn open(&self, blob: &BlobId) -> Result<(u64, ByteStream), BlobError>;

    /// Some bytes of a complete blob; the range ends where the blob does, or before.
    async fn open_range(&self, blob: &BlobId, range: Range<u64>) -> Result<ByteStream, BlobError>;

    /// A whole blob, refused when it is larger than `limit`.
    async fn read(&self, blob: &BlobId, limit: u64) -> Result<Bytes, BlobError>;

    /// Deletes a blob, complete or not. May be repeated.
    async fn delete(&self, blob: &BlobId) -> Result<(), BlobError>;

    /// Complete blobs that are older than this, for whoever knows which of them are needed.
    async fn blobs_before(&self, before: SystemTime) -> Result<Vec<BlobId>, BlobError>;

    /// Deletes uploads that were never completed and have not moved since `before`. The answer is their number.
    async fn sweep_uploads(&self, before: SystemTime) -> Result<usize, BlobError>;

    async fn has_content(&self, sha256: &Sha256Digest) -> Result<bool, BlobError>;

    /// Keeps these bytes under their digest, after checking it. May be repeated.
    async fn put_content(&self, sha256: &Sha256Digest, bytes: Bytes) -> Result<(), BlobError>;

    /// Keeps a complete blob's bytes under their digest, after checking it. The blob stays.
    async fn put_content_from_blob(&self, sha256: &Sha256Digest, blob: &BlobId) -> Result<(), BlobError>;

    /// Contents that nobody has asked for since `before`, for whoever knows which of them are needed.
    async fn contents_before(&self, before: SystemTime) -> Result<Vec<Sha256Digest>, BlobError>;

    /// May be repeated.
    async fn delete_content(&self, sha256: &Sha256Digest) -> Result<(), BlobError>;

    /// A file on this machine with that content. It must not be written to.
    async fn content_path(&self, sha256: &Sha256Digest) -> Result<PathBuf, BlobError>;
}
