//! Buckets and shared folders that a task's container sees.

use types::ids::SharedVolumeId;
use types::variables::Variables;

/// A bucket of an S3-compatible store, shown as a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketMount {
    /// Absolute path in the container.
    pub mount_path: String,
    pub bucket: String,
    /// None means Amazon's own.
    pub endpoint: Option<String>,
    /// Empty, or ends in `/`.
    pub prefix: String,
    /// `AWS_ACCESS_KEY_ID` and so on, of which `Debug` shows the names only; empty for public buckets.
    pub credentials: Variables,
    pub read_only: bool,
    pub requester_pays: bool,
    pub force_path_style: bool,
    /// How long what is known of a file may be told again without asking the store.
    pub metadata_ttl_ms: u64,
}

/// A network file system: a folder of the machine that all containers share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedFolder {
    /// Absolute path in the container.
    pub mount_path: String,
    pub shared_volume: SharedVolumeId,
}
