//! What can go wrong with contents on disk, in words for whoever asked.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// A disk with less room than this cannot take a commit and its index pages.
const NO_ROOM_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone, thiserror::Error)]
pub enum ContentsError {
    #[error("`{}` is not a database of dorian; move it away or choose another `--data`", .0.display())]
    NotOurs(PathBuf),
    #[error(
        "the contents of dicts and queues were written by a newer dorian (schema {found}, this one knows {known}); \
         use that version or another `--data`"
    )]
    NewerSchema { found: u32, known: u32 },
    /// Nothing of what was asked has been stored.
    #[error("the disk that holds `{}` is full, so nothing of this request was stored; free some space and try again", .0.display())]
    NoSpace(PathBuf),
    #[error("cannot {doing} in the database `{}`: {cause}", path.display())]
    Database { doing: &'static str, path: PathBuf, cause: String },
    #[error("the store is closed: the server is shutting down")]
    Closed,
}

impl ContentsError {
    /// A full disk shows as `SQLITE_FULL` from a write, but as a plain I/O error from growing the shared-memory file or
    /// from a sync; those count when the file system says that it has no room.
    pub(crate) fn new(source: &rusqlite::Error, doing: &'static str, path: &Path) -> Self {
        let is_no_space = match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => return Self::NotOurs(path.to_owned()),
            Some(ErrorCode::DiskFull) => true,
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => file_system_is_full(path),
            _ => false,
        };
        if is_no_space {
            return Self::NoSpace(path.to_owned());
        }
        Self::Database { doing, path: path.to_owned(), cause: source.to_string() }
    }
}

fn file_system_is_full(path: &Path) -> bool {
    let folder = path.parent().unwrap_or(path);
    rustix::fs::statvfs(folder).is_ok_and(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) < NO_ROOM_BYTES)
}
