//! What can go wrong with a blob, in words for whoever asked.

use std::io;
use std::path::{Path, PathBuf};

use types::ids::BlobId;

use crate::digest::Sha256Digest;

#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("blob `{0}` does not exist (any more)")]
    NotFound(BlobId),
    #[error("no content with sha256 `{0}` has been uploaded")]
    NoContent(Sha256Digest),
    #[error("{length} bytes are more than the {limit} that one blob may hold on this server")]
    TooLarge { length: u64, limit: u64 },
    #[error("blob `{blob}` has {parts} parts, so there is no part {part}")]
    NoSuchPart { blob: BlobId, part: u32, parts: u32 },
    #[error("part {part} of blob `{blob}` must have {wanted} bytes, but {got} came")]
    WrongLength { blob: BlobId, part: u32, wanted: u64, got: u64 },
    #[error("blob `{blob}` cannot be completed: part {first} and {others} others have not been uploaded")]
    PartsMissing { blob: BlobId, first: u32, others: usize },
    #[error("blob `{0}` is complete and can no longer be written to")]
    Complete(BlobId),
    #[error("another upload of part {part} of blob `{blob}` has taken this one's place")]
    Superseded { blob: BlobId, part: u32 },
    #[error("the content has sha256 `{got}`, but `{wanted}` was announced; did the file change during the upload?")]
    WrongDigest { wanted: Sha256Digest, got: Sha256Digest },
    #[error("the upload broke off: {0}")]
    BrokenOff(String),
    /// Nothing of the upload is left on the disk.
    #[error("the disk that holds `{}` is full; free some space and try again", .0.display())]
    NoSpace(PathBuf),
    #[error("cannot {doing} `{}`", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl BlobError {
    /// Tells a full disk from other trouble.
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        if is_no_space(&source) {
            return Self::NoSpace(path.parent().unwrap_or(path).to_owned());
        }
        Self::Io { doing, path: path.to_owned(), source }
    }
}

/// A full file system, or a quota that is used up.
fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
