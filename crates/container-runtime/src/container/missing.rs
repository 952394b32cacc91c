//! Where things get mounted, and what to do about places that the image does not have.
//!
//! What a container writes becomes an image layer, so nothing of ours may be created in it: not even the empty files
//! that mounts need to sit on. Missing places are therefore put into a small layer of their own, on top of the image's.
//! It repeats the owner and mode of each existing folder on the way, because in overlayfs the top folder's attributes
//! are the ones that count.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use super::Common;
use crate::sys::{self, At, Doing};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
}

/// A place that has to exist, as an absolute path inside.
#[derive(Debug, Clone)]
pub struct Place {
    pub path: String,
    pub kind: Kind,
    /// Permission bits when it has to be made.
    pub mode: u32,
}

/// A place that does not exist: its path with every symbolic link on the way followed, relative to the root.
#[derive(Debug, PartialEq, Eq)]
pub struct Missing {
    pub path: PathBuf,
    pub kind: Kind,
    pub mode: u32,
}

/// Those of `places` that are not in the tree at `root`.
pub fn find(root: BorrowedFd<'_>, places: &[Place]) -> Doing<Vec<Missing>> {
    let mut missing = Vec::new();
    for place in places {
        match sys::open_in_root(root, &place.path, libc::O_PATH) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let path = real_path(root, Path::new(&place.path)).at(format_args!("look for `{}`", place.path))?;
                missing.push(Missing { path, kind: place.kind, mode: place.mode });
            }
            Err(error) => return Err(error).at(format_args!("look for `{}` in the image", place.path)),
        }
    }
    Ok(missing)
}

/// As many links in a row as the kernel would follow.
const MAX_LINKS: usize = 40;

/// Follows links as the kernel would inside `root`, but goes on past the first name that does not exist.
fn real_path(root: BorrowedFd<'_>, path: &Path) -> io::Result<PathBuf> {
    let mut todo: Vec<PathBuf> = parts(path);
    let mut done = PathBuf::new();
    let mut links = 0;
    while let Some(part) = todo.pop() {
        if part.as_os_str() == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&part);
        match read_link(root, &next) {
            Some(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                if target.is_absolute() {
                    done = PathBuf::new();
                }
                todo.extend(parts(&target));
            }
            None => done = next,
        }
    }
    Ok(done)
}

/// Components from last to first, ready to be popped.
fn parts(path: &Path) -> Vec<PathBuf> {
    let kept = path.components().filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir));
    let mut parts: Vec<PathBuf> = kept.map(|c| PathBuf::from(c.as_os_str())).collect();
    parts.reverse();
    parts
}

/// Where the link at `path` (whose folders are free of links) points, if it is one.
fn read_link(root: BorrowedFd<'_>, path: &Path) -> Option<PathBuf> {
    let fd = sys::open_in_root(root, path, libc::O_PATH | libc::O_NOFOLLOW).ok()?;
    sys::read_link_of(fd.as_fd()).ok()
}

/// Makes the missing places under `layer`, an empty folder.
pub fn make(common: &Common, root: BorrowedFd<'_>, missing: &[Missing], layer: &Path) -> Doing<()> {
    let own = common.host_id(0);
    for place in missing {
        let mut made = PathBuf::new();
        for part in place.path.parent().into_iter().flat_map(Path::components) {
            made.push(part);
            let here = layer.join(&made);
            if !here.exists() {
                fs::create_dir(&here).at(format_args!("make `{}`", here.display()))?;
                let (mode, uid, gid) = attributes(root, &made).unwrap_or((0o755, own, own));
                set(&here, mode, uid, gid)?;
            }
        }
        let here = layer.join(&place.path);
        let result = match place.kind {
            Kind::Folder => fs::create_dir(&here),
            Kind::File => fs::write(&here, ""),
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            other => other.at(format_args!("make `{}`", here.display()))?,
        }
        set(&here, place.mode, own, own)?;
    }
    // The layer's own root becomes the container's.
    let (mode, uid, gid) = attributes(root, Path::new("")).unwrap_or((0o755, own, own));
    set(layer, mode, uid, gid)
}

fn attributes(root: BorrowedFd<'_>, path: &Path) -> Option<(u32, u32, u32)> {
    let fd =
        sys::open_in_root(root, if path.as_os_str().is_empty() { Path::new(".") } else { path }, libc::O_PATH).ok()?;
    let meta = fs::metadata(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()?;
    Some((meta.mode() & 0o7777, meta.uid(), meta.gid()))
}

fn set(path: &Path, mode: u32, uid: u32, gid: u32) -> Doing<()> {
    sys::chownat(None, path, uid, gid).at(format_args!("give `{}` its owner", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).at(format_args!("give `{}` its mode", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("run")).unwrap();
        fs::create_dir_all(dir.path().join("etc")).unwrap();
        fs::create_dir_all(dir.path().join("var")).unwrap();
        symlink("/run", dir.path().join("var/run")).unwrap();
        symlink("../run/systemd/resolve/stub.conf", dir.path().join("etc/resolv.conf")).unwrap();
        symlink("/../../../etc", dir.path().join("out")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        dir
    }

    fn missing(path: &str) -> Doing<Vec<PathBuf>> {
        let dir = tree();
        let root = sys::openat(None, dir.path(), libc::O_PATH).unwrap();
        let place = Place { path: path.into(), kind: Kind::File, mode: 0o644 };
        Ok(find(root.as_fd(), &[place])?.into_iter().map(|missing| missing.path).collect())
    }

    #[test]
    fn what_exists_is_not_missing() {
        assert!(missing("/etc").unwrap().is_empty());
        assert!(missing("/var/run").unwrap().is_empty());
    }

    #[test]
    fn a_missing_place_behind_a_link_is_made_where_the_link_leads() {
        assert_eq!(missing("/var/run/sock").unwrap(), [Path::new("run/sock")]);
    }

    #[test]
    fn a_dangling_link_is_followed_to_its_end() {
        assert_eq!(missing("/etc/resolv.conf").unwrap(), [Path::new("run/systemd/resolve/stub.conf")]);
    }

    #[test]
    fn no_link_leads_out_of_the_root() {
        assert_eq!(missing("/out/new").unwrap(), [Path::new("etc/new")]);
        assert_eq!(missing("/../../new").unwrap(), [Path::new("new")]);
    }

    #[test]
    fn a_loop_of_links_is_an_error() {
        assert!(missing("/loop/new").is_err());
    }
}
