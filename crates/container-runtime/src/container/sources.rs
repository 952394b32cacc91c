//! Copies of host folders as the container will see them: detached, with owners mapped.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::{Common, disk};
use crate::spec::Bind;
use crate::sys::{At, Doing, mount};
use crate::wire::Job;

pub struct Sources {
    /// Lowest first, as in the job.
    pub layers: Vec<OwnedFd>,
    pub scratch: OwnedFd,
    pub binds: Vec<OwnedFd>,
}

impl Sources {
    pub fn open(common: &Common, job: &Job) -> Doing<Self> {
        let layers = job.layers.iter().map(|layer| copy_mapped(common, layer)).collect::<Doing<_>>()?;
        let binds = job.binds.iter().map(|bind| copy_bind(common, bind)).collect::<Doing<_>>()?;
        Ok(Self { layers, scratch: open_scratch(common, job)?, binds })
    }
}

fn open_scratch(common: &Common, job: &Job) -> Doing<OwnedFd> {
    let scratch = &job.scratch;
    make_folder(scratch)?;
    if let Some(limit) = job.limits.disk_bytes {
        return disk::make(common, scratch, limit);
    }
    make_folder(&scratch.join("diff"))?;
    let work = scratch.join("work");
    // What an earlier container left there; overlayfs refuses to go on after a `volatile` mount.
    if work.exists() {
        fs::remove_dir_all(&work).at(format_args!("clear `{}`", work.display()))?;
    }
    make_folder(&work)?;
    copy_mapped(common, scratch)
}

fn make_folder(path: &Path) -> Doing<()> {
    fs::create_dir_all(path).at(format_args!("make `{}`", path.display()))
}

pub fn copy_mapped(common: &Common, path: &Path) -> Doing<OwnedFd> {
    let copy = mount::clone_tree(None, path).at(format_args!("open `{}`", path.display()))?;
    map_owners(common, copy.as_fd()).at(format_args!(
        "map the owners of files in `{}` (its filesystem must support id-mapped mounts)",
        path.display()
    ))?;
    Ok(copy)
}

/// No mapping is needed where containers have no user namespace.
pub fn map_owners(common: &Common, mount: BorrowedFd<'_>) -> io::Result<()> {
    common.userns.as_ref().map_or(Ok(()), |userns| mount::idmap(mount, userns.as_fd()))
}

/// Binds are mapped where their filesystem can do it; elsewhere (FUSE, network filesystems) files keep their owners
/// and root inside is nobody in particular to them.
fn copy_bind(common: &Common, bind: &Bind) -> Doing<OwnedFd> {
    let copy = mount::clone_tree(None, &bind.source).at(format_args!("open `{}`", bind.source.display()))?;
    match map_owners(common, copy.as_fd()) {
        Err(error) if error.kind() != io::ErrorKind::InvalidInput => {
            return Err(error).at(format_args!("map the owners of files in `{}`", bind.source.display()));
        }
        _ => {}
    }
    mount::set_flags(copy.as_fd(), mount::NOSUID | mount::NODEV).at("restrict a bind")?;
    if bind.read_only {
        mount::set_read_only(copy.as_fd()).at(format_args!("make `{}` read-only", bind.source.display()))?;
    }
    Ok(copy)
}
