//! What can go wrong with the records on disk, in words for whoever asked.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use types::ids::FunctionCallId;

/// A disk with less room than this cannot take a commit and its index pages.
const NO_ROOM_BYTES: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the database `{}`", path.display())]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("`{}` is not a database of dorian; move it away or choose another `--data`", .0.display())]
    NotOurs(PathBuf),
    #[error(
        "the data directory was written by a newer dorian (schema {found}, this one knows {known}); \
         use that version or another `--data`"
    )]
    NewerSchema { found: u32, known: u32 },
    /// Nothing of what was asked has been stored.
    #[error("the disk that holds `{}` is full, so nothing of this request was stored; free some space and try again", .0.display())]
    NoSpace(PathBuf),
    #[error("function call `{0}` is not stored (any more), so it takes no inputs")]
    NoSuchCall(FunctionCallId),
    #[error("cannot {doing} in the database `{}`", path.display())]
    Database { doing: &'static str, path: PathBuf, source: rusqlite::Error },
    #[error("the database holds `{value}` where {wanted} belongs; it was changed by something else")]
    Unreadable { wanted: &'static str, value: String },
    #[error("the store is closed: the server is shutting down")]
    Closed,
}

/// An error inside one statement, before it is known which file it was about.
#[derive(Debug)]
pub(crate) enum RowError {
    Sqlite(rusqlite::Error),
    NoSuchCall(FunctionCallId),
    Unreadable { wanted: &'static str, value: String },
}

impl From<rusqlite::Error> for RowError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl RowError {
    pub(crate) fn at(self, doing: &'static str, path: &Path) -> StoreError {
        match self {
            Self::Sqlite(source) if is_no_space(&source, path) => StoreError::NoSpace(path.to_owned()),
            Self::Sqlite(source) => StoreError::Database { doing, path: path.to_owned(), source },
            Self::NoSuchCall(call) => StoreError::NoSuchCall(call),
            Self::Unreadable { wanted, value } => StoreError::Unreadable { wanted, value },
        }
    }
}

/// A full disk shows as `SQLITE_FULL` from a write, but as a plain I/O error from growing the shared-memory file or
/// from a sync; those count when the file system says that it has no room.
pub(crate) fn is_no_space(error: &rusqlite::Error, path: &Path) -> bool {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => true,
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => file_system_is_full(path),
        _ => false,
    }
}

fn file_system_is_full(path: &Path) -> bool {
    let folder = path.parent().unwrap_or(path);
    rustix::fs::statvfs(folder).is_ok_and(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) < NO_ROOM_BYTES)
}
