//! A bucket of an S3-compatible store as a folder: a FUSE file system that this process serves.
//!
//! It behaves as Mountpoint for Amazon S3 does, on which the published platform's bucket mounts are built: files are read
//! anywhere, and written from their beginning to their end, whole; what cannot be done well with objects (renaming,
//! appending, changing a part) fails at once instead of being imitated. Where it differs, it says so: existing files may
//! be replaced and removed, setting the mode that a file has is no error, and a writer that is killed publishes nothing.
//!
//! What decides is pure and lies apart: which key is which path (`keys`), what a listing shows (`tree/listing.rs`),
//! what is known for how long (`tree/known.rs`), what to fetch ahead of a reader (`files/window.rs`).
//!
//! Rejected: the `object_store` crate, whose paths cannot name all keys that buckets have (markers that end in a slash,
//! empty segments) and whose listing fails as a whole when it meets one; clients that sign URLs, whose errors carry
//! signatures into logs; Mountpoint itself, a second program with a C runtime of its own.
//!
//! Mistakes still possible: nothing coordinates two writers of one key (the last to finish wins, as in the store itself);
//! after a crash of this process, parts of unfinished uploads stay in the bucket until its own rules remove them.

mod files;
mod keys;
mod mount;
mod operations;
mod s3;
mod serve;
#[cfg(test)]
mod testing;
mod tree;

use std::path::PathBuf;
use std::time::Duration;

use types::variables::Variables;

pub use mount::{Mounted, mount, sweep};
pub use operations::Notice;

/// One bucket to be shown.
#[derive(Debug, Clone)]
pub struct BucketSpec {
    pub bucket: String,
    /// Where the store is, `https://host[:port]`; none means Amazon's own.
    pub endpoint: Option<String>,
    /// Shown instead of the whole bucket: empty, or a part of keys that ends in `/`.
    pub prefix: String,
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, perhaps `AWS_SESSION_TOKEN` and `AWS_REGION`. Without the first two,
    /// requests are not signed, and only public buckets answer.
    pub credentials: Variables,
    pub read_only: bool,
    /// Who asks pays for requests.
    pub requester_pays: bool,
    /// The bucket is a part of the path, not of the host's name.
    pub force_path_style: bool,
    /// How long what is known of a file may be told again without asking.
    pub metadata_ttl: Duration,
}

/// Where and for whom a bucket is shown.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// An existing folder.
    pub place: PathBuf,
    /// Owner of all files, as this machine numbers users.
    pub owner: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    #[error("bucket `{bucket}` at {endpoint}: {reason}")]
    Store { bucket: String, endpoint: String, reason: String },
    #[error("the endpoint `{0}` of a bucket is not a URL such as `https://storage.example.com`")]
    Endpoint(String),
    #[error("no HTTP client for buckets could be made")]
    Http(#[source] reqwest::Error),
    #[error("bucket `{bucket}` could not be mounted on `{place}`; FUSE must be there (`modprobe fuse`)")]
    Mount { bucket: String, place: PathBuf, source: std::io::Error },
}
