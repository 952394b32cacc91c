//! The kernel calls that containers are made of, as safe functions.
//!
//! This folder is the only place in the crate with `unsafe`: everything above speaks in descriptors that own
//! themselves, paths and `io::Result`. Wrappers add no policy. `rustix` covers only part of what is needed here
//! (no `clone3`, `mount_setattr` or `capset`), and one way of calling the kernel is easier to read than two.

pub mod mount;
pub mod process;
pub mod socket;

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A failed step of making a container: what was attempted, and what the kernel said. It is text because it has to
/// travel from the process that failed to the server.
#[derive(Debug)]
pub struct Failure(pub String);

pub type Doing<T> = Result<T, Failure>;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names the step that an `io::Error` belongs to.
pub trait At<T> {
    fn at(self, step: impl fmt::Display) -> Doing<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, step: impl fmt::Display) -> Doing<T> {
        self.map_err(|error| Failure(format!("cannot {step}: {error}")))
    }
}

pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(crate) fn check_long(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(crate) fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = check_long(fd)? as RawFd;
    // SAFETY: the kernel has just returned this descriptor, so it is open and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn c_path(path: impl AsRef<Path>) -> io::Result<CString> {
    c_string(path.as_ref().as_os_str().as_bytes())
}

pub(crate) fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "text contains a zero byte"))
}

/// `dir` when a descriptor is given, the current folder otherwise.
pub(crate) fn dirfd(dir: Option<BorrowedFd<'_>>) -> RawFd {
    dir.map_or(libc::AT_FDCWD, |dir| dir.as_raw_fd())
}

/// Opens relative to `dir` with `flags`; `O_CLOEXEC` is always added.
pub fn openat(dir: Option<BorrowedFd<'_>>, path: impl AsRef<Path>, flags: i32) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: `path` is a zero-terminated string that outlives the call.
    owned(unsafe { libc::openat(dirfd(dir), path.as_ptr(), flags | libc::O_CLOEXEC, 0o644) }.into())
}

/// Opens a path as if `root` were `/`: symbolic links and `..` cannot lead out of it.
pub fn open_in_root(root: BorrowedFd<'_>, path: impl AsRef<Path>, flags: i32) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: all-zero is a valid `open_how`, a plain struct of integers.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: `path` and `how` outlive the call, and the size passed is that of `how`.
    owned(unsafe {
        libc::syscall(libc::SYS_openat2, root.as_raw_fd(), path.as_ptr(), &raw const how, size_of::<libc::open_how>())
    })
}

pub fn mkdirat(dir: Option<BorrowedFd<'_>>, path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: `path` is a zero-terminated string that outlives the call.
    check(unsafe { libc::mkdirat(dirfd(dir), path.as_ptr(), mode) }).map(drop)
}

/// Makes a character device node, world-writable: the access rules of these few nodes are the device's own.
pub fn mknod_char(dir: BorrowedFd<'_>, name: &str, major: u32, minor: u32) -> io::Result<()> {
    let name = c_path(name)?;
    let device = libc::makedev(major, minor);
    // SAFETY: `name` is a zero-terminated string that outlives the call.
    check(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), libc::S_IFCHR | 0o666, device) }).map(drop)
}

pub fn symlinkat(target: &str, dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let (target, name) = (c_path(target)?, c_path(name)?);
    // SAFETY: both strings are zero-terminated and outlive the call.
    check(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) }).map(drop)
}

pub fn chownat(dir: Option<BorrowedFd<'_>>, path: impl AsRef<Path>, uid: u32, gid: u32) -> io::Result<()> {
    let path = c_path(path)?;
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    // SAFETY: `path` is a zero-terminated string that outlives the call.
    check(unsafe { libc::fchownat(dirfd(dir), path.as_ptr(), uid, gid, flags) }).map(drop)
}

/// An anonymous file holding `bytes`, to hand to another process.
pub fn memfd(bytes: &[u8]) -> io::Result<OwnedFd> {
    use std::io::Write;
    // SAFETY: the name is a constant zero-terminated string.
    let fd = owned(unsafe { libc::memfd_create(c"job".as_ptr(), libc::MFD_CLOEXEC) }.into())?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes)?;
    Ok(file.into())
}

pub fn read_memfd(fd: OwnedFd) -> io::Result<Vec<u8>> {
    use std::io::{Read, Seek};
    let mut file = std::fs::File::from(fd);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub fn close_on_exec_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors that the kernel writes.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    Ok((owned(ends[0].into())?, owned(ends[1].into())?))
}

/// Takes an exclusive lock on an open file, or says that somebody else holds it.
pub fn try_lock(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes only an open descriptor.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).map(drop)
}

/// Waits until one of `fds` has something to read or is closed by its peer; true for each that has.
pub fn poll_readable(fds: &[RawFd], timeout_ms: i32) -> io::Result<Vec<bool>> {
    let mut polls: Vec<libc::pollfd> =
        fds.iter().map(|fd| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 }).collect();
    // SAFETY: the pointer and the length describe `polls`.
    match check(unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, timeout_ms) }) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(vec![false; fds.len()]),
        Err(error) => Err(error),
        Ok(_) => Ok(polls.iter().map(|poll| poll.revents != 0).collect()),
    }
}

pub fn interface_index(name: &str) -> io::Result<u32> {
    let name = c_path(name)?;
    // SAFETY: `name` is a zero-terminated string that outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Monotonic microseconds, comparable between processes of one machine.
pub fn clock_micros() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` outlives the call; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}

/// Where a symbolic link that is open (as a link) points.
pub fn read_link_of(link: BorrowedFd<'_>) -> io::Result<std::path::PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let mut buffer = vec![0u8; 4096];
    // SAFETY: the empty path is a constant; pointer and length describe `buffer`.
    let length = check_long(unsafe {
        libc::readlinkat(link.as_raw_fd(), c"".as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) as libc::c_long
    })?;
    buffer.truncate(length as usize);
    Ok(std::ffi::OsString::from_vec(buffer).into())
}

pub fn chmodat(dir: BorrowedFd<'_>, name: &str, mode: u32) -> io::Result<()> {
    let name = c_path(name)?;
    // SAFETY: `name` is a zero-terminated string that outlives the call.
    check(unsafe { libc::fchmodat(dir.as_raw_fd(), name.as_ptr(), mode, 0) }).map(drop)
}

/// The next stretch of a sparse file, from `at` on, that holds data.
pub fn next_data(file: BorrowedFd<'_>, at: u64) -> io::Result<Option<(u64, u64)>> {
    // SAFETY: takes only an open descriptor and integers.
    let seek = |to: u64, whence| check_long(unsafe { libc::lseek(file.as_raw_fd(), to as i64, whence) });
    match seek(at, libc::SEEK_DATA) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(error) => Err(error),
        Ok(start) => Ok(Some((start as u64, seek(start as u64, libc::SEEK_HOLE)? as u64))),
    }
}

// From the kernel's `loop.h`.
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

pub fn free_loop_device(control: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: this request takes no argument.
    check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) })
}

/// Makes `device` show the file `image`, until its last user closes it. Direct I/O keeps its pages from being cached
/// twice.
pub fn configure_loop_device(device: BorrowedFd<'_>, image: RawFd) -> io::Result<()> {
    // `struct loop_config`: fd, block size, then `struct loop_info64` (whose flags are at byte 52), then reserved.
    let mut config = [0u32; 76];
    config[0] = image as u32;
    config[1] = 4096;
    config[2 + 52 / 4] = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
    // SAFETY: `config` is as large as the kernel's struct (304 bytes) and outlives the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, config.as_ptr()) }).map(drop)
}

/// What a name in the current folder is, a symbolic link as itself.
pub fn open_name(name: &str) -> io::Result<OwnedFd> {
    let name = c_path(name)?;
    // SAFETY: `name` is a zero-terminated string that outlives the call.
    owned(libc::c_long::from(unsafe { libc::open(name.as_ptr(), libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC) }))
}

/// Whether a file is of overlayfs.
pub fn is_overlay(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: all-zero is a valid `statfs`, a plain struct of integers.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: takes an open descriptor and a struct of this type.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut found) })?;
    Ok(found.f_type == libc::OVERLAYFS_SUPER_MAGIC)
}

pub fn is_folder(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(kind(fd)? == libc::S_IFDIR)
}

/// Lets a user open a pipe again by name (`/dev/stdout`). Anything else than a pipe keeps its owner.
pub fn give_pipe_to(fd: BorrowedFd<'_>, uid: u32) -> io::Result<()> {
    if kind(fd)? != libc::S_IFIFO {
        return Ok(());
    }
    // SAFETY: takes only an open descriptor and integers.
    check(unsafe { libc::fchown(fd.as_raw_fd(), uid, uid) }).map(drop)
}

fn kind(fd: BorrowedFd<'_>) -> io::Result<libc::mode_t> {
    // SAFETY: all-zero is a valid `stat`, a plain struct of integers.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` outlives the call.
    check(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) })?;
    Ok(stat.st_mode & libc::S_IFMT)
}
