//! Calls of the kernel that the standard library has no name for.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, SeekFrom, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

pub const OPAQUE: &str = "trusted.overlay.opaque";
pub const METACOPY: &str = "trusted.overlay.metacopy";
pub const REDIRECT: &str = "trusted.overlay.redirect";
pub const ORIGIN: &str = "trusted.overlay.origin";

/// Attributes that programs set are below this; the rest is the system's.
const USER_PREFIX: &str = "user.";
/// The largest value that Linux allows.
const MAX_XATTR: usize = 64 << 10;

/// `None` where there is no such attribute, or the file system has none at all.
pub fn xattr(path: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; 256];
    loop {
        match rustix::fs::lgetxattr(path, name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(Errno::RANGE) if value.len() < MAX_XATTR => value.resize(MAX_XATTR, 0),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())?)
}

/// Without such an attribute there is nothing to do.
pub fn remove_xattr(path: &Path, name: &str) -> io::Result<()> {
    match rustix::fs::lremovexattr(path, name) {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The attributes that programs have set on a file.
pub fn user_xattrs(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut list = vec![0; 1024];
    let length = loop {
        match rustix::fs::llistxattr(path, &mut list[..]) {
            Ok(length) => break length,
            Err(Errno::RANGE) if list.len() < MAX_XATTR => list.resize(MAX_XATTR, 0),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
    };
    let mut found = Vec::new();
    for name in list[..length].split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok()) {
        if !name.starts_with(USER_PREFIX) {
            continue;
        }
        if let Some(value) = xattr(path, name)? {
            found.push((name.to_owned(), value));
        }
    }
    Ok(found)
}

pub fn redirect(path: &Path) -> io::Result<Option<PathBuf>> {
    Ok(xattr(path, REDIRECT)?.map(|value| PathBuf::from(OsString::from_vec(value))))
}

pub fn is_opaque(path: &Path) -> io::Result<bool> {
    Ok(xattr(path, OPAQUE)?.is_some_and(|value| value == b"y"))
}

/// Overlayfs's mark of a deleted name.
pub fn is_whiteout(metadata: &Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

/// Where a symbolic link leads. What has become something else in the meantime is not found.
pub fn read_link(path: &Path) -> io::Result<PathBuf> {
    match std::fs::read_link(path) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(io::ErrorKind::NotFound.into()),
        read => read,
    }
}

pub fn make_whiteout(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0)?)
}

pub fn make_fifo(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?)
}

/// Of the name itself, not of what a link leads to.
pub fn set_modified(path: &Path, seconds: i64, nanoseconds: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?)
}

/// The next stretch of data at or after `at`; `None` when only a hole follows.
pub fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => Ok(Some(start)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A plain file, for reading. What has become a link, a pipe or something else in the meantime is not found; nothing of that
/// is followed or waited for.
pub fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::LOOP | Errno::NXIO | Errno::NODEV) => return Err(io::ErrorKind::NotFound.into()),
        opened => File::from(opened?),
    };
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(file)
}

/// The kernel tells the holder of a lease by this signal that somebody wants the file, which ends a process that has not
/// said otherwise. Ours are given back at once.
pub fn ignore_broken_leases() {
    // SAFETY: changes what a signal does that nobody else here uses.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
}

/// From here on a change of the file changes its stamp again. As long as a page that is mapped for writing has not been
/// written to disk, the kernel notes the first store to it only.
pub fn settle_writes(file: &File) -> io::Result<()> {
    if is_being_written(file) { file.sync_data() } else { Ok(()) }
}

/// Whether some process has the file open for writing, or mapped: then nobody gets a read lease on it. The lease is given
/// back at once; root may take leases on anybody's files.
pub fn is_being_written(file: &File) -> bool {
    // SAFETY: `fcntl` with these commands takes an open descriptor and a number.
    let taken = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    if taken == 0 {
        // SAFETY: as above.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
        return false;
    }
    io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
}

/// Makes `target` share the blocks of `source` where the file system can do that.
pub fn clone_blocks(source: &File, target: &File) -> bool {
    rustix::fs::ioctl_ficlone(target, source).is_ok()
}

/// Waits until everything written to the file system of this folder is on disk.
pub fn sync_file_system(folder: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(folder)?)?)
}

/// Waits until the names in a folder are on disk.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Layers of overlayfs that only give data, which stubs need, exist since Linux 6.5.
pub fn kernel_has_data_layers() -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_programs_set_are_read_back_and_others_are_not() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = folder.path().join("file");
        File::create(&path).unwrap();
        assert_eq!(user_xattrs(&path).unwrap(), []);
        set_xattr(&path, "user.colour", b"blue").unwrap();
        assert_eq!(user_xattrs(&path).unwrap(), [("user.colour".to_owned(), b"blue".to_vec())]);
        set_xattr(&path, "user.long", &[7; 2000]).unwrap();
        assert_eq!(user_xattrs(&path).unwrap().len(), 2);
    }
}
