//! `/sys/fs/cgroup`: the container's own limits and accounts, for runtimes that size themselves by them.
//!
//! The container sees the folders of its own group and nothing above or beside them. Its cgroup namespace begins at that
//! group, so `/proc/self/cgroup` and `/proc/self/mountinfo` call it `/`, and a program that puts the two together comes to
//! the right files. All of it is read-only: a group whose limits its processes could change would be none.
//!
//! Rejected: mounting the cgroup filesystem anew in the namespace. It would show the same, but the trees of controllers
//! that the container is not in would have to be left out one by one.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::Common;
use crate::cgroup::Shown;
use crate::sys::mount::{self, NODEV, NOEXEC, NOSUID};
use crate::sys::{self, At, Doing};

const PLACE: &str = "/sys/fs/cgroup";

/// A mount of the container's group, and where it belongs; a mount inside another comes after it.
pub struct GroupMount {
    pub target: String,
    pub mount: OwnedFd,
}

pub fn make(common: &Common, group: &str) -> Doing<Vec<GroupMount>> {
    let shown = common.hierarchy.shown(group);
    let mut made = Vec::new();
    if shown.iter().any(|part| !part.controllers.is_empty()) {
        made.push(GroupMount { target: PLACE.to_owned(), mount: trees(common.host_id(0), &shown)? });
    }
    for part in &shown {
        made.push(GroupMount { target: target(part), mount: read_only(&part.folder)? });
    }
    Ok(made)
}

/// `cpu,cpuacct` where two controllers share a tree, as distributions mount them.
fn name(part: &Shown) -> String {
    part.controllers.join(",")
}

fn target(part: &Shown) -> String {
    format!("{PLACE}/{}", name(part)).trim_end_matches('/').to_owned()
}

/// The folder in which each tree of controllers has its place, and each controller its name.
fn trees(owner: u32, shown: &[Shown]) -> Doing<OwnedFd> {
    let make = "make the folder of cgroups";
    let folder = mount::new_mount(c"tmpfs", &[("mode", "755"), ("size", "65536")], NOSUID | NODEV | NOEXEC).at(make)?;
    for part in shown {
        let name = name(part);
        sys::mkdirat(Some(folder.as_fd()), &name, 0o755).at(make)?;
        for controller in part.controllers.iter().filter(|controller| **controller != name) {
            sys::symlinkat(&name, folder.as_fd(), controller).at(make)?;
            sys::chownat(Some(folder.as_fd()), controller, owner, owner).at(make)?;
        }
    }
    sys::chownat(Some(folder.as_fd()), "", owner, owner).at(make)?;
    mount::set_read_only(folder.as_fd()).at(make)?;
    Ok(folder)
}

fn read_only(folder: &Path) -> Doing<OwnedFd> {
    let copy = mount::clone_tree(None, folder).at(format_args!("open cgroup `{}`", folder.display()))?;
    let restricted = mount::set_flags(copy.as_fd(), NOSUID | NODEV | NOEXEC);
    restricted.and_then(|()| mount::set_read_only(copy.as_fd())).at("make the container's cgroup read-only")?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::sys::process;

    #[test]
    fn trees_lie_side_by_side_and_the_unified_group_is_the_folder_itself() {
        let part = |controllers: &[&'static str]| Shown { controllers: controllers.to_vec(), folder: "/g".into() };
        assert_eq!(target(&part(&[])), "/sys/fs/cgroup");
        assert_eq!(target(&part(&["memory"])), "/sys/fs/cgroup/memory");
        assert_eq!(target(&part(&["cpu", "cpuacct"])), "/sys/fs/cgroup/cpu,cpuacct");
    }

    #[test]
    fn controllers_that_share_a_tree_are_found_under_each_name() {
        if process::effective_uid() != 0 {
            return;
        }
        let part = |controllers: &[&'static str]| Shown { controllers: controllers.to_vec(), folder: "/g".into() };
        let made = trees(0, &[part(&["cpu", "cpuacct"]), part(&["memory"])]).unwrap();
        let folder = Path::new("/proc/self/fd").join(made.as_raw_fd().to_string());
        let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["cpu", "cpu,cpuacct", "cpuacct", "memory"]);
        for name in ["cpu", "cpuacct"] {
            assert_eq!(fs::read_link(folder.join(name)).unwrap(), Path::new("cpu,cpuacct"));
        }
        assert!(fs::create_dir(folder.join("new")).is_err());
    }
}
