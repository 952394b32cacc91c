//! Trees of layers, like the root, mounted somewhere inside: when the container starts, and again while it runs.
//!
//! A running container's mount is replaced from outside: a process of ours, forked by the launcher, makes the new mount
//! where nobody sees it, then enters the container's mount namespace, unmounts the old one and puts the new one in its
//! place. The kernel refuses to unmount what is in use, which is the very question that has to be asked. Between the two
//! calls (a few microseconds) a program finds the bare folder below.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::sources::copy_mapped;
use super::{Common, filesystem};
use crate::spec::LayeredMount;
use crate::sys::{self, At, Doing, mount, process};
use crate::wire::RemountOutcome;

/// What every mount of this kind has, and those with an upper folder beside it:
///
/// - `volatile`: a program's request to write to disk is not waited for. What is not committed is worth nothing after a
///   crash, and a commit waits for its own copies.
/// - `redirect_dir`, `metacopy`: folders can be renamed, and layers may refer to data layers.
const OPTIONS: &str = "redirect_dir=on,metacopy=on,index=off";
/// An empty folder, for trees without layers.
const EMPTY: &str = "e";

/// Mounts the tree on the stage (the current folder) and gives a detached copy of it, ready to be attached.
pub fn prepare(common: &Common, wanted: &LayeredMount, number: usize) -> Doing<OwnedFd> {
    let name = format!("v{number}");
    let mut lower = Vec::new();
    for (index, layer) in wanted.layers.iter().rev().enumerate() {
        let place = format!("{name}l{index}");
        put_on_stage(common, layer, &place)?;
        lower.push(place);
    }
    // Overlayfs wants a layer to write to, or two to read.
    if lower.is_empty() || (lower.len() == 1 && wanted.upper.is_none()) {
        lower.push(EMPTY.to_owned());
    }
    if wanted.upper.is_none() && lower.len() == 1 {
        let second = format!("{name}e");
        fs::create_dir(&second).at("fill the stage")?;
        lower.push(second);
    }
    let mut options = format!("lowerdir={}", lower.join(":"));
    if let Some(data) = &wanted.data {
        let place = format!("{name}d");
        put_on_stage(common, data, &place)?;
        options += &format!("::{place}");
    }
    if let Some(upper) = &wanted.upper {
        fresh_work(upper)?;
        let place = format!("{name}u");
        put_on_stage(common, upper, &place)?;
        options += &format!(",upperdir={place}/diff,workdir={place}/work,volatile");
    }
    options = format!("{options},{OPTIONS}");
    let place = format!("{name}m");
    fs::create_dir(&place).at("fill the stage")?;
    process::create_files_as(common.host_id(0)).at("take the container's file owner")?;
    let mounted = mount::mount(c"overlay", c"overlay", &place, 0, &options);
    process::create_files_as(0).at("go back to the machine's file owner")?;
    mounted.at(format_args!("mount the {} layers of `{}`", wanted.layers.len(), wanted.target))?;
    let root = sys::openat(None, &place, libc::O_PATH | libc::O_DIRECTORY).at("open the mounted tree")?;
    let shown = match wanted.sub_path.as_deref() {
        None => root,
        Some(path) => sys::open_in_root(root.as_fd(), path, libc::O_PATH | libc::O_DIRECTORY)
            .at(format_args!("open folder `{path}` of what is mounted on `{}`", wanted.target))?,
    };
    let copy = mount::clone_tree(Some(shown.as_fd()), "").at("copy the mounted tree")?;
    mount::set_flags(copy.as_fd(), mount::NOSUID | mount::NODEV).at("restrict the mounted tree")?;
    if wanted.read_only {
        mount::set_read_only(copy.as_fd()).at(format_args!("make `{}` read-only", wanted.target))?;
    }
    Ok(copy)
}

fn put_on_stage(common: &Common, source: &Path, place: &str) -> Doing<()> {
    let copy = copy_mapped(common, source)?;
    fs::create_dir(place).at("fill the stage")?;
    mount::attach(copy.as_fd(), None, place).at(format_args!("place `{}`", source.display()))
}

/// Overlayfs refuses a work folder that a `volatile` mount has used.
fn fresh_work(upper: &Path) -> Doing<()> {
    let (diff, work) = (upper.join("diff"), upper.join("work"));
    if work.exists() {
        fs::remove_dir_all(&work).at(format_args!("clear `{}`", work.display()))?;
    }
    for folder in [&diff, &work] {
        fs::create_dir_all(folder).at(format_args!("make `{}`", folder.display()))?;
    }
    Ok(())
}

/// Runs in a forked process and ends it; what became of the mount goes into `answer`. `container` is its main process.
pub fn remount(common: &Common, wanted: &LayeredMount, container: BorrowedFd<'_>, answer: OwnedFd) -> ! {
    let outcome = try_remount(common, wanted, container).unwrap_or_else(|failure| RemountOutcome::Failed(failure.0));
    let bytes = serde_json::to_vec(&outcome).unwrap_or_default();
    let _ = File::from(answer).write_all(&bytes);
    process::exit_now(0)
}

fn try_remount(common: &Common, wanted: &LayeredMount, container: BorrowedFd<'_>) -> Doing<RemountOutcome> {
    process::unshare(libc::CLONE_NEWNS).at("make a mount namespace")?;
    mount::make_everything_private().at("cut off the mount namespace")?;
    filesystem::enter_stage(&common.stage)?;
    let mounted = prepare(common, wanted, 0)?;
    process::enter_mounts_of(container).at("enter the container's mount namespace")?;
    let name = enter_parent_of(&wanted.target).at(format_args!("find `{}`", wanted.target))?;
    match mount::unmount(name) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(RemountOutcome::Busy),
        Err(error) => return Err(error).at(format_args!("unmount `{}`", wanted.target)),
    }
    mount::attach(mounted.as_fd(), None, name).at(format_args!("mount on `{}`", wanted.target))?;
    Ok(RemountOutcome::Done)
}

/// Makes the folder around a layered mount the current one; answers with the mount's name there. A container that has moved
/// the folders on the way, to have something else of its file system uncovered, is refused: no other mount is of layers.
fn enter_parent_of(target: &str) -> io::Result<&str> {
    let (parent, name) = target.trim_end_matches('/').rsplit_once('/').unwrap_or(("", target));
    let root = sys::openat(None, "/", libc::O_PATH | libc::O_DIRECTORY)?;
    process::enter(sys::open_in_root(root.as_fd(), format!("{parent}/"), libc::O_PATH | libc::O_DIRECTORY)?.as_fd())?;
    let place = sys::open_name(name)?;
    if !sys::is_overlay(place.as_fd())? {
        return Err(io::Error::other("it is not where it was mounted"));
    }
    Ok(name)
}
