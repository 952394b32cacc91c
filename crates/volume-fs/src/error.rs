use std::io;
use std::path::{Path, PathBuf};

/// Why something could not be done with a volume. Paths inside volumes are shown as the user knows them.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("could not {doing} `{path}`")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("the disk under `{0}` is full; free some space there and try again")]
    NoSpace(PathBuf),
    #[error(
        "the path `{0}…` is too long: with the server's own folders it has more than 4,096 bytes; nest fewer folders"
    )]
    LongPath(String),
    #[error("file `{0}` is longer than 1 TiB; volumes keep no longer ones")]
    TooLarge(PathBuf),
    #[error("`{0}` does not exist in the volume")]
    NotFound(PathBuf),
    #[error("`{0}` exists already in the volume")]
    Exists(PathBuf),
    #[error("`{0}` is a directory")]
    IsFolder(PathBuf),
    #[error("`{0}` is not a directory")]
    NotFolder(PathBuf),
    #[error("directory `{0}` is not empty; remove it with `recursive`")]
    NotEmpty(PathBuf),
    #[error("`{0}` cannot be copied into itself")]
    IntoItself(PathBuf),
    #[error("the volume was deleted")]
    Deleted,
    #[error("the server is being stopped; try again when it is back")]
    Stopping,
    #[error("a block came with other bytes than its checksum says; send it again")]
    WrongBlock,
    #[error("nobody has asked for this block; ask the server again which ones are missing")]
    UnknownBlock,
}

/// Characters that are shown of a path which is too long to be read.
const SHOWN: usize = 80;

/// Below a layer's tree, or a container's own.
fn beginning_in_volume(path: &Path) -> String {
    let text = path.to_string_lossy();
    let inside = text.split_once("/diff/").map_or(&*text, |(_, inside)| inside);
    inside.chars().take(SHOWN).collect()
}

/// What was being done when the system refused.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, VolumeError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, VolumeError> {
        self.map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => VolumeError::NoSpace(path.to_owned()),
            io::ErrorKind::InvalidFilename => VolumeError::LongPath(beginning_in_volume(path)),
            _ => VolumeError::Io { doing, path: path.to_owned(), source },
        })
    }
}

impl<T> Doing<T> for rustix::io::Result<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, VolumeError> {
        self.map_err(io::Error::from).doing(doing, path)
    }
}
