//! Takes away folders that programs filled, and measures them.
//!
//! A program nests folders as deep as it likes (`mkdir` and `chdir`, again and again), far beyond what fits into a path,
//! into a thread's stack or into a process's table of open files. `std::fs::remove_dir_all` goes down by recursion, and a
//! server that cleans up with it ends with its stack. So [`remove`] goes down a bounded number of folders at a time, below
//! open folders (a link that is put in the way is removed, not followed), and moves up what lies deeper.
//!
//! Other file systems are never entered: what is mounted somewhere inside is not ours to delete.

pub mod usage;

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

/// Folders that are open at once.
const DEPTH: usize = 128;
/// Times that folders are moved up. A program that goes on nesting them meanwhile would keep us here for ever.
const PASSES: usize = 10_000;

/// Removes a file, or a folder with all that is in it. It is no error if nothing is there.
///
/// # Errors
/// When something cannot be removed: a mount is inside, or somebody goes on writing there. Part of it is gone then.
pub fn remove(path: &Path) -> io::Result<()> {
    Ok(remove_at(CWD, path)?)
}

/// As [`remove`], below an open folder.
///
/// # Errors
/// As [`remove`].
pub fn remove_at<P: Arg + Copy>(parent: BorrowedFd<'_>, name: P) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        Err(Errno::NOENT) => return Ok(()),
        removed => return removed,
    }
    empty(rustix::fs::openat(parent, name, FOLDER, Mode::empty())?.as_fd())?;
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

/// Removes what is in a folder.
///
/// # Errors
/// As [`remove`].
pub fn empty(folder: BorrowedFd<'_>) -> rustix::io::Result<()> {
    for _ in 0..PASSES {
        if !pass(folder)? {
            break;
        }
    }
    Ok(())
}

/// How folders are opened.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder that is being emptied.
struct Open {
    folder: OwnedFd,
    entries: Dir,
    /// In the folder above.
    name: CString,
}

impl Open {
    fn child(parent: BorrowedFd<'_>, name: CString) -> rustix::io::Result<Self> {
        let folder = rustix::fs::openat2(parent, &name, FOLDER, Mode::empty(), ResolveFlags::NO_XDEV)?;
        Ok(Self { entries: Dir::read_from(&folder)?, folder, name })
    }

    /// Removes entries up to the next folder that holds something.
    fn next_folder(&mut self) -> rustix::io::Result<Option<CString>> {
        for entry in self.entries.by_ref() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if entry.file_type() != FileType::Directory {
                match rustix::fs::unlinkat(&self.folder, name, AtFlags::empty()) {
                    // Some file systems do not tell what an entry is.
                    Err(Errno::ISDIR) => {}
                    removed => {
                        is_gone(removed)?;
                        continue;
                    }
                }
            }
            if !is_gone(rustix::fs::unlinkat(&self.folder, name, AtFlags::REMOVEDIR))? {
                return Ok(Some(name.to_owned()));
            }
        }
        Ok(None)
    }
}

/// Removes what is up to [`DEPTH`] folders below, and moves deeper ones into `root`; true if something is left.
fn pass(root: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let (mut left, mut taken_names) = (false, 0);
    let mut open = vec![Open::child(root, c".".to_owned())?];
    loop {
        let depth = open.len();
        let Some(here) = open.last_mut() else { return Ok(left) };
        match here.next_folder()? {
            Some(name) if depth < DEPTH => {
                match Open::child(here.folder.as_fd(), name) {
                    Ok(child) => open.push(child),
                    // Somebody else removes it, too.
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                }
            }
            Some(name) => {
                move_up(here.folder.as_fd(), &name, root, &mut taken_names)?;
                left = true;
            }
            None => {
                let done = open.pop().map(|done| done.name).unwrap_or_default();
                if let Some(above) = open.last() {
                    left |= !is_gone(rustix::fs::unlinkat(&above.folder, &done, AtFlags::REMOVEDIR))?;
                }
            }
        }
    }
}

/// Under the next name that is free.
fn move_up(from: BorrowedFd<'_>, name: &CStr, root: BorrowedFd<'_>, taken_names: &mut u64) -> rustix::io::Result<()> {
    loop {
        *taken_names += 1;
        let free = format!("moved-up-{taken_names}");
        match rustix::fs::renameat_with(from, name, root, free, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            Err(Errno::NOENT) => return Ok(()),
            renamed => return renamed,
        }
    }
}

/// True for what somebody else has removed meanwhile, too; false for a folder that is not empty.
fn is_gone(removed: rustix::io::Result<()>) -> rustix::io::Result<bool> {
    match removed {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Nests folders below `path` as a program can: each made in the one before.
    fn nest(path: &Path, depth: usize) {
        let mut here = rustix::fs::openat(CWD, path, FOLDER, Mode::empty()).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&here, "deep", Mode::RWXU).unwrap();
            here = rustix::fs::openat(&here, "deep", FOLDER, Mode::empty()).unwrap();
        }
        rustix::fs::openat(&here, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap();
    }

    #[test]
    fn no_depth_is_too_deep() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        fs::create_dir_all(top.join("moved-up-1/with")).unwrap();
        nest(&top, 30_000);
        nest(&top.join("moved-up-1"), 300);
        let removed = std::thread::Builder::new().stack_size(128 << 10).spawn({
            let top = top.clone();
            move || remove(&top)
        });
        removed.unwrap().join().unwrap().unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn links_go_and_what_they_lead_to_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (top, other) = (folder.path().join("top"), folder.path().join("other"));
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::create_dir_all(&other).unwrap();
        fs::write(other.join("kept"), "x").unwrap();
        std::os::unix::fs::symlink(&other, top.join("a/link")).unwrap();
        std::os::unix::fs::symlink("nowhere", top.join("dangling")).unwrap();
        remove(&top).unwrap();
        assert!(!top.exists() && other.join("kept").exists());
        std::os::unix::fs::symlink(&other, &top).unwrap();
        remove(&top).unwrap();
        assert!(fs::symlink_metadata(&top).is_err() && other.join("kept").exists());
    }

    #[test]
    fn many_entries_go_and_nothing_there_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().join("top");
        for number in 0..3_000 {
            fs::create_dir_all(top.join(format!("{number}/x"))).unwrap();
            fs::write(top.join(format!("{number}/x/file")), "").unwrap();
            fs::write(top.join(format!("file-{number}")), "").unwrap();
        }
        remove(&top).unwrap();
        assert!(!top.exists());
        remove(&top).unwrap();
        fs::write(&top, "").unwrap();
        remove(&top).unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn a_mount_inside_is_not_entered() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mounted = folder.path().join("top/mounted");
        fs::create_dir_all(&mounted).unwrap();
        rustix::mount::mount("tmpfs", &mounted, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        fs::write(mounted.join("kept"), "x").unwrap();
        let refused = remove(&folder.path().join("top"));
        let kept = mounted.join("kept").exists();
        rustix::mount::unmount(&mounted, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(refused.is_err() && kept);
    }
}
