//! Mounts by descriptor: made or copied detached, changed while nobody can see them, then put in place.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::{c_path, c_string, check, check_long, dirfd, owned};

pub const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
pub const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
pub const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
pub const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// A detached copy of the mount at `path`, showing the tree from there down without mounts below it.
pub fn clone_tree(dir: Option<BorrowedFd<'_>>, path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    // SAFETY: `path` is a zero-terminated string that outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dirfd(dir), path.as_ptr(), flags) })
}

/// Makes a detached mount show its files' owners as mapped by `userns`: what is 0 on disk appears as the container's
/// root, and what the container writes is stored as 0 again.
pub fn idmap(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> io::Result<()> {
    set_attributes(mount, libc::MOUNT_ATTR_IDMAP, Some(userns))
}

pub fn set_read_only(mount: BorrowedFd<'_>) -> io::Result<()> {
    set_attributes(mount, RDONLY, None)
}

pub fn set_flags(mount: BorrowedFd<'_>, flags: u64) -> io::Result<()> {
    set_attributes(mount, flags, None)
}

fn set_attributes(mount: BorrowedFd<'_>, set: u64, userns: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let userns_fd = userns.map_or(0, |fd| fd.as_raw_fd() as u64);
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd };
    // SAFETY: the empty path is a constant, `attributes` outlives the call, and the size passed is its own.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Puts a detached mount at `target` (relative to `dir`).
pub fn attach(mount: BorrowedFd<'_>, dir: Option<BorrowedFd<'_>>, target: impl AsRef<Path>) -> io::Result<()> {
    let target = c_path(target)?;
    // `move_mount`'s flags for empty paths; libc has no names for them yet.
    const FROM_EMPTY_PATH: u32 = 0x04;
    const TO_EMPTY_PATH: u32 = 0x40;
    let flags = FROM_EMPTY_PATH | if target.is_empty() { TO_EMPTY_PATH } else { 0 };
    // SAFETY: both strings are zero-terminated and outlive the call.
    check_long(unsafe {
        libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), c"".as_ptr(), dirfd(dir), target.as_ptr(), flags)
    })
    .map(drop)
}

/// A new detached mount. An option without a value is a flag.
pub fn new_mount(kind: &CStr, options: &[(&str, &str)], flags: u64) -> io::Result<OwnedFd> {
    // SAFETY: `kind` is zero-terminated.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) })?;
    for (key, value) in options {
        let command = if value.is_empty() { libc::FSCONFIG_SET_FLAG } else { libc::FSCONFIG_SET_STRING };
        configure(context.as_fd(), command, Some((key, value)))?;
    }
    configure(context.as_fd(), libc::FSCONFIG_CMD_CREATE, None)?;
    // SAFETY: takes only an open descriptor and flags.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), libc::FSMOUNT_CLOEXEC, flags as u32) })
}

fn configure(context: BorrowedFd<'_>, command: libc::c_uint, pair: Option<(&str, &str)>) -> io::Result<()> {
    let pair = match pair {
        Some((key, value)) => Some((c_string(key.as_bytes())?, c_string(value.as_bytes())?)),
        None => None,
    };
    let key = pair.as_ref().map_or(std::ptr::null(), |(key, _)| key.as_ptr());
    let value = pair.as_ref().filter(|(_, value)| !value.is_empty()).map_or(std::ptr::null(), |(_, v)| v.as_ptr());
    // SAFETY: `key` and `value` are null or zero-terminated strings kept alive by `pair`.
    check_long(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) }).map(drop)
}

/// The classic call, for what the new interface cannot say: overlayfs with hundreds of layers takes its list in one
/// page here, but as one path per call (and only since Linux 6.7) there.
pub fn mount(kind: &CStr, source: &CStr, target: &str, flags: u64, options: &str) -> io::Result<()> {
    let (target, options) = (c_path(target)?, c_string(options.as_bytes())?);
    // SAFETY: all strings are zero-terminated and outlive the call.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) })
        .map(drop)
}

/// Cuts this mount namespace off: nothing mounted here shows up elsewhere, and the other way round.
pub fn make_everything_private() -> io::Result<()> {
    // SAFETY: constant zero-terminated strings; null is allowed for the unused arguments.
    check(unsafe {
        libc::mount(
            std::ptr::null(),
            c"/".as_ptr(),
            std::ptr::null(),
            libc::MS_REC | libc::MS_PRIVATE,
            std::ptr::null(),
        )
    })
    .map(drop)
}

/// Takes a mount out of sight at once; it ends when its last user does.
pub fn detach(target: impl AsRef<Path>) -> io::Result<()> {
    let target = c_path(target)?;
    // SAFETY: `target` is a zero-terminated string that outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

/// Takes a mount away, unless it is in use (`EBUSY`). A symbolic link as the last name is not followed.
pub fn unmount(target: impl AsRef<Path>) -> io::Result<()> {
    let target = c_path(target)?;
    // SAFETY: `target` is a zero-terminated string that outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), libc::UMOUNT_NOFOLLOW) }).map(drop)
}

/// Makes the current folder (a mount) the root of this mount namespace and drops the old root with all below it.
pub fn pivot_into_current() -> io::Result<()> {
    // SAFETY: constant zero-terminated strings.
    check_long(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    // The old root now lies on top of the new one at the same place, so `.` names it.
    detach(".")?;
    // SAFETY: constant zero-terminated string.
    check(unsafe { libc::chdir(c"/".as_ptr()) }).map(drop)
}
