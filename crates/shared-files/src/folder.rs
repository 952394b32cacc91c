//! The folders themselves, and files put into them, read and removed.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::find::{self, Entry, WITHIN, io};
use crate::{FilesError, path};

/// Files on their way in; on the same disk, and in no container.
const INCOMING: &str = ".incoming";
/// Folders on their way out.
const OUTGOING: &str = ".outgoing";
/// Bytes that are copied at once.
const PIECE: usize = 1 << 20;

/// All network file systems of this machine.
#[derive(Debug, Clone)]
pub struct SharedFiles {
    root: Arc<PathBuf>,
}

/// What a file gets.
#[derive(Debug)]
pub enum Content {
    Bytes(Bytes),
    /// Copied.
    File(PathBuf),
}

impl SharedFiles {
    /// Opens or makes the folder of all, and removes what a killed server left half-done.
    pub fn open(root: PathBuf) -> std::io::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        for name in [INCOMING, OUTGOING] {
            let folder = root.join(name);
            let _ = trees::remove(&folder);
            std::fs::create_dir_all(&folder)?;
        }
        // Programs in containers may leave set-user files there: nobody else comes in.
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o700))?;
        Ok(Self { root: Arc::new(root) })
    }

    fn folder(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// Makes the file system's folder if it is not there.
    pub fn ensure(&self, id: &str) -> Result<(), FilesError> {
        let folder = self.folder(id);
        std::fs::create_dir_all(&folder).map_err(|source| FilesError::Io { doing: "make", path: folder, source })
    }

    /// Takes it away with all that is in it. Containers that have it mounted see an empty folder that takes no file.
    pub fn remove_all(&self, id: &str) -> Result<(), FilesError> {
        let (from, to) = (self.folder(id), self.root.join(OUTGOING).join(id));
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(|source| FilesError::Io { doing: "remove", path: from, source })?,
        }
        trees::remove(&to).map_err(|source| FilesError::Io { doing: "remove", path: to, source })
    }

    /// Folders of file systems that `is_known` does not know: their end was interrupted.
    pub fn sweep(&self, is_known: impl Fn(&str) -> bool) {
        for entry in std::fs::read_dir(&*self.root).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
            if !is_known(name)
                && let Err(error) = self.remove_all(name)
            {
                tracing::warn!(name, %error, "a network file system that was deleted is still on the disk");
            }
        }
    }

    fn open_root(&self, id: &str) -> Result<OwnedFd, FilesError> {
        let folder = self.folder(id);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&folder, flags, Mode::empty());
        opened.map_err(|error| FilesError::Io { doing: "open", path: folder, source: error.into() })
    }

    /// Makes or replaces a file, and the folders on the way to it. Whoever reads it meanwhile sees the old one or the new
    /// one, also after a crash of the machine. With `sha256_hex`, another content is refused.
    pub fn put(&self, id: &str, at: &str, content: Content, sha256_hex: Option<&str>) -> Result<(), FilesError> {
        let parts = path::parts(at)?;
        let Some((name, folders)) = parts.split_last() else { return Err(FilesError::FolderInTheWay("/".to_owned())) };
        let root = self.open_root(id)?;
        let folder = make_folders(root.as_fd(), folders).map_err(|error| io("make folders for", at, error))?;
        let incoming = self.root.join(INCOMING).join(format!("{:032x}", rand::random::<u128>()));
        let result = receive(&incoming, content, sha256_hex, at).and_then(|()| {
            let renamed = rustix::fs::renameat(rustix::fs::CWD, &incoming, &folder, *name);
            renamed.map_err(|error| io("write", at, error))
        });
        if result.is_err() {
            let _ = std::fs::remove_file(&incoming);
            return result;
        }
        rustix::fs::fsync(&folder).map_err(|error| io("write", at, error))
    }

    /// A regular file to be read, and its length.
    pub fn get(&self, id: &str, at: &str) -> Result<(File, u64), FilesError> {
        let whole = path::parts(at)?.join("/");
        if whole.is_empty() {
            return Err(FilesError::FolderInTheWay(at.to_owned()));
        }
        // A pipe would wait for somebody to write.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let root = self.open_root(id)?;
        let opened = rustix::fs::openat2(&root, whole.as_str(), flags, Mode::empty(), WITHIN);
        let file = opened.map_err(|error| io("read", at, error))?;
        let stat = rustix::fs::fstat(&file).map_err(|error| io("read", at, error))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok((File::from(file), stat.st_size.unsigned_abs())),
            FileType::Directory => Err(FilesError::FolderInTheWay(at.to_owned())),
            _ => Err(FilesError::NoFile(at.to_owned())),
        }
    }

    /// See [`find::find`].
    pub fn find(&self, id: &str, at: &str, found: &mut dyn FnMut(Entry) -> bool) -> Result<(), FilesError> {
        find::find(self.open_root(id)?.as_fd(), at, find::MAX_HELD, found)
    }

    /// Removes a file, a link, or with `recursive` a folder with all that is in it.
    pub fn remove(&self, id: &str, at: &str, recursive: bool) -> Result<(), FilesError> {
        let parts = path::parts(at)?;
        let root = self.open_root(id)?;
        let Some((name, folders)) = parts.split_last() else {
            return match recursive {
                true => trees::empty(root.as_fd()).map_err(|error| io("remove", at, error)),
                false => Err(FilesError::IsFolder("/".to_owned())),
            };
        };
        let folder = find::open_folder(root.as_fd(), &folders.join("/")).map_err(|error| io("remove", at, error))?;
        match rustix::fs::unlinkat(&folder, *name, AtFlags::empty()) {
            Err(Errno::ISDIR) if recursive => {
                trees::remove_at(folder.as_fd(), *name).map_err(|error| io("remove", at, error))
            }
            Err(Errno::ISDIR) => Err(FilesError::IsFolder(at.to_owned())),
            removed => removed.map_err(|error| io("remove", at, error)),
        }
    }
}

/// Each folder on the way, made if it is not there. Links on the way are followed within the root.
fn make_folders(root: BorrowedFd<'_>, parts: &[&str]) -> rustix::io::Result<OwnedFd> {
    let mut folder = find::open_folder(root, "")?;
    for (index, part) in parts.iter().enumerate() {
        let path = parts[..=index].join("/");
        folder = match find::open_folder(root, &path) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&folder, *part, Mode::from_raw_mode(0o755)) {
                    // Somebody else was faster.
                    Err(Errno::EXIST) => {}
                    made => made?,
                }
                find::open_folder(root, &path)?
            }
            opened => opened?,
        };
    }
    Ok(folder)
}

fn receive(to: &Path, content: Content, sha256_hex: Option<&str>, at: &str) -> Result<(), FilesError> {
    let failed = |source: std::io::Error| match source.raw_os_error() {
        Some(number) => io("write", at, Errno::from_raw_os_error(number)),
        None => FilesError::Io { doing: "write", path: at.into(), source },
    };
    let mut file = File::create_new(to).map_err(failed)?;
    let mut hasher = Sha256::new();
    match content {
        Content::Bytes(bytes) => {
            hasher.update(&bytes);
            file.write_all(&bytes).map_err(failed)?;
        }
        Content::File(path) => {
            let mut from = File::open(path).map_err(failed)?;
            let mut piece = vec![0; PIECE];
            loop {
                let read = from.read(&mut piece).map_err(failed)?;
                if read == 0 {
                    break;
                }
                hasher.update(&piece[..read]);
                file.write_all(&piece[..read]).map_err(failed)?;
            }
        }
    }
    let got = hex::encode(hasher.finalize());
    if let Some(wanted) = sha256_hex.filter(|wanted| !wanted.eq_ignore_ascii_case(&got)) {
        return Err(FilesError::WrongDigest { path: at.to_owned(), wanted: wanted.to_owned(), got });
    }
    file.sync_all().map_err(failed)
}
