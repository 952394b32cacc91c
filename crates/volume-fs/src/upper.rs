//! A container's upper folder, read while the container goes on.
//!
//! The container may put a link in the place of anything at any moment, and we are root: so each name is looked up below an
//! open folder, without following links. What a name leads to in the end is checked by whoever opens it
//! ([`crate::sys::open_file`]).

use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Doing, VolumeError};

/// Times that a look-up is tried again that somebody's rename disturbed.
const TRIES: usize = 100;

#[derive(Debug)]
pub(crate) struct UpperFolder {
    root: OwnedFd,
}

/// A path that leads through an open folder: its last name is all that can change.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    _folder: OwnedFd,
}

impl Deref for Place {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl UpperFolder {
    pub fn open(path: &Path) -> Result<Self, VolumeError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: rustix::fs::openat(CWD, path, flags, Mode::empty()).doing("open", path)? })
    }

    /// A folder in it. One that is none by now is not found.
    pub fn folder(&self, path: &Path) -> Result<Place, VolumeError> {
        let folder = self.look_up(path).doing("open", path)?;
        // The folder itself, not the link of this name to it.
        Ok(Place { path: through(&folder).join("."), _folder: folder })
    }

    /// A name in it, whatever that is.
    pub fn entry(&self, path: &Path) -> Result<Place, VolumeError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return self.folder(path) };
        let folder = self.look_up(parent).doing("open", parent)?;
        Ok(Place { path: through(&folder).join(name), _folder: folder })
    }

    fn look_up(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        for _ in 0..TRIES {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), how) {
                Err(Errno::AGAIN) => {}
                // A link or a file has taken the place of a folder.
                Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => return Err(io::ErrorKind::NotFound.into()),
                opened => return Ok(opened?),
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

fn through(folder: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", folder.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sys;

    fn is_not_found<T>(found: Result<T, VolumeError>) -> bool {
        matches!(found, Err(VolumeError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound)
    }

    #[test]
    fn no_link_that_a_container_puts_in_the_way_is_followed() {
        let (upper, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("file"), b"the machine's").unwrap();
        fs::create_dir_all(upper.path().join("folder/inner")).unwrap();
        fs::write(upper.path().join("folder/file"), b"mine").unwrap();
        symlink(outside.path(), upper.path().join("link")).unwrap();
        symlink(outside.path().join("file"), upper.path().join("folder/to-file")).unwrap();
        symlink("../folder", upper.path().join("folder/inside")).unwrap();
        let folder = UpperFolder::open(upper.path()).unwrap();
        for path in ["link/file", "folder/inside/file", "folder/file/x", "nowhere/x"] {
            assert!(is_not_found(folder.entry(Path::new(path))), "{path}");
        }
        for path in ["link", "folder/inside", "folder/file", "../folder"] {
            assert!(is_not_found(folder.folder(Path::new(path))), "{path}");
        }
        let file = folder.entry(Path::new("folder/file")).unwrap();
        // The place stays where it is, whatever becomes of the names that led to it.
        fs::rename(upper.path().join("folder"), upper.path().join("aside")).unwrap();
        symlink(outside.path(), upper.path().join("folder")).unwrap();
        assert_eq!(fs::read(&*file).unwrap(), b"mine");
        let link = folder.entry(Path::new("aside/to-file")).unwrap();
        assert_eq!(sys::open_file(&link).unwrap_err().kind(), io::ErrorKind::NotFound);
        let names = fs::read_dir(&*folder.folder(Path::new("aside")).unwrap()).unwrap().count();
        assert_eq!(names, 4);
    }

    #[test]
    fn a_pipe_in_the_place_of_a_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        sys::make_fifo(&pipe).unwrap();
        assert_eq!(sys::open_file(&pipe).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(sys::open_file(folder.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
