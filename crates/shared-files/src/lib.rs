//! Network file systems: one folder of the machine each, which containers share by a plain bind, so that what one writes
//! the others see at once. Here is what the server itself does in those folders.
//!
//! Containers may put anything there: links to `/etc`, links that change while somebody follows them, pipes that never
//! answer. So every path is resolved by the kernel below the folder (`openat2` with `RESOLVE_IN_ROOT`), as if the folder
//! were the root of the machine, and only regular files are read. A file that is put appears whole, by a rename from a
//! folder that no container sees.
//!
//! Rejected: checking paths before use, which a container can outrun; a file system of our own, which would be slower
//! than the disk's and keep no promise more.
//!
//! All of it blocks on the disk: call it from a thread that may.

mod find;
mod folder;
mod glob;
mod path;

use std::io;
use std::path::PathBuf;

pub use find::{Entry, EntryKind};
pub use folder::{Content, SharedFiles};

#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("`{0}` is not a path in a network file system: it has a `..` or a zero byte, or is too long")]
    BadPath(String),
    #[error("`{0}` does not exist")]
    NotFound(String),
    #[error("`{0}` is a directory; say `recursive` to remove it with all that is in it")]
    IsFolder(String),
    #[error("`{0}` is a directory")]
    FolderInTheWay(String),
    #[error("`{0}` is neither a file nor a directory")]
    NoFile(String),
    #[error("`{0}` passes through something that is not a directory")]
    NoFolder(String),
    #[error(
        "`{path}` cannot be listed: there are more than {most} files in one directory, or in directories within each \
         other; list a directory further down"
    )]
    TooMany { path: String, most: usize },
    #[error("the content of `{path}` has the digest `{got}`, not the announced `{wanted}`")]
    WrongDigest { path: String, wanted: String, got: String },
    #[error("no space is left on the machine's disk for `{0}`")]
    NoSpace(String),
    #[error("could not {doing} `{}`", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}
