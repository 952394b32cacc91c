//! Who runs the command: root or not, and under `sudo` on whose behalf.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// True when this process may do everything.
pub fn is_root() -> bool {
    // SAFETY: geteuid reads a property of the process and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// The home of the person at the keyboard: behind `sudo`, theirs and not root's.
pub fn home() -> Option<PathBuf> {
    let behind_sudo = if is_root() { std::env::var("SUDO_UID").ok() } else { None };
    let behind_sudo = behind_sudo.and_then(|uid| uid.parse().ok()).and_then(home_of);
    behind_sudo.or_else(|| std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from))
}

fn home_of(uid: libc::uid_t) -> Option<PathBuf> {
    // SAFETY: getpwuid returns null or a record that stays valid until the next such call, and this process makes no
    // other, here or on another thread.
    unsafe {
        let record = libc::getpwuid(uid).as_ref()?;
        let home = record.pw_dir.as_ref()?;
        Some(OsStr::from_bytes(CStr::from_ptr(home).to_bytes()).into())
    }
}
