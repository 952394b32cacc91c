//! Limits and accounts of one container, on cgroup v2 and on the older layout with one tree per controller.
//!
//! A container's cgroup is made, and joined, by the container's own first process before it does anything else, so
//! that nothing it ever does escapes its account. (Joining can cost the kernel a 20 ms grace period; that is one reason
//! why containers are prepared ahead.)

mod v1;
mod v2;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::spec::Limits;
use crate::sys::{At, Doing, Failure};

/// What a container's account says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    pub memory_bytes: u64,
    pub memory_peak_bytes: u64,
    pub cpu_usec: u64,
    pub oom_kills: u64,
}

/// A folder of a container's group, for the container to read.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown {
    /// What programs look for in a tree of controllers; none in the unified layout, whose one folder has them all.
    pub controllers: Vec<&'static str>,
    pub folder: PathBuf,
}

/// One way of laying out cgroups. `group` is a path below the mount, such as `dorian-1f2e3d4c/7`.
pub trait Hierarchy: Send + Sync {
    /// Folders of `group`, one per tree.
    fn folders(&self, group: &str) -> Vec<PathBuf>;
    /// The same folders, as the group's own processes are to find them.
    fn shown(&self, group: &str) -> Vec<Shown>;
    /// Makes the runtime's own `parent` group, below which containers get theirs. What the machine lets no group have is
    /// left out from then on.
    fn make_parent(&mut self, parent: &str) -> Doing<()>;
    fn apply(&self, group: &str, limits: &Limits) -> Doing<()>;
    /// Missing figures are zero: an account is read while its container may be going away.
    fn account(&self, group: &str) -> Account;
}

/// Finds the layout of this machine.
pub fn detect() -> Doing<Box<dyn Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").at("read `/proc/self/mountinfo`")?;
    from_mounts(&mounts).ok_or_else(|| {
        Failure(
            "no cgroup filesystem with the memory controller is mounted; mount cgroup2 on `/sys/fs/cgroup` with \
             `mount -t cgroup2 none /sys/fs/cgroup`"
                .into(),
        )
    })
}

/// The older layout wins where both exist, because in a hybrid system the controllers live there.
fn from_mounts(mountinfo: &str) -> Option<Box<dyn Hierarchy>> {
    let mounts = mountinfo.lines().filter_map(CgroupMount::parse);
    let (mut v1, mut unified) = (v1::Trees::default(), None);
    for mount in mounts {
        match mount.kind {
            "cgroup2" => unified = unified.or(Some(mount.at)),
            _ => v1.add(mount.at, mount.options),
        }
    }
    if v1.has_memory() {
        return Some(Box::new(v1));
    }
    unified.map(|root| Box::new(v2::Unified::new(root)) as Box<dyn Hierarchy>)
}

struct CgroupMount<'a> {
    kind: &'a str,
    at: PathBuf,
    options: &'a str,
}

impl<'a> CgroupMount<'a> {
    /// `36 25 0:32 / /sys/fs/cgroup/memory rw shared:15 - cgroup cgroup rw,memory`
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let at = PathBuf::from(left.split(' ').nth(4)?);
        let mut right = right.split(' ');
        let kind = right.next().filter(|kind| kind.starts_with("cgroup"))?;
        Some(Self { kind, at, options: right.nth(1).unwrap_or_default() })
    }
}

/// Makes `group` and puts the calling process into it.
pub fn enter(hierarchy: &dyn Hierarchy, group: &str) -> Doing<()> {
    for folder in hierarchy.folders(group) {
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).at(format_args!("make cgroup `{}`", folder.display()));
            }
            _ => {}
        }
        fs::write(folder.join("cgroup.procs"), "0").at(format_args!("join cgroup `{}`", folder.display()))?;
    }
    Ok(())
}

/// Removes `group` and what lies below it; false while a process that is just ending still holds it.
pub fn remove(hierarchy: &dyn Hierarchy, group: &str) -> bool {
    hierarchy.folders(group).iter().all(|folder| remove_tree(folder))
}

fn remove_tree(folder: &Path) -> bool {
    match fs::remove_dir(folder) {
        Ok(()) => return true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return true,
        Err(_) => {}
    }
    for child in children(folder) {
        remove_tree(&child);
    }
    match fs::remove_dir(folder) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Every process in `group` and below.
pub fn processes(hierarchy: &dyn Hierarchy, group: &str) -> Vec<i32> {
    let mut found = Vec::new();
    let mut todo = hierarchy.folders(group);
    while let Some(folder) = todo.pop() {
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
        todo.extend(children(&folder));
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()).collect()
}

fn write(folder: &Path, file: &str, value: impl std::fmt::Display) -> Doing<()> {
    let path = folder.join(file);
    fs::write(&path, value.to_string()).at(format_args!("set `{}` to `{value}`", path.display()))
}

fn read_number(folder: &Path, file: &str) -> u64 {
    fs::read_to_string(folder.join(file)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The number after `key` in a file of `key number` lines.
fn read_field(folder: &Path, file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
    field(&text, key).unwrap_or(0)
}

fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The kernel's scheduler counts in periods; 100 ms is its default.
const CPU_PERIOD_USEC: u64 = 100_000;

/// CPU time per period for a ceiling in thousandths of a core; the kernel refuses less than 1 ms.
fn cpu_quota_usec(milli: u32) -> u64 {
    (u64::from(milli) * CPU_PERIOD_USEC / 1000).max(1000)
}

/// All cores of the machine, in thousandths. The group that holds every container gets this weight: with the default,
/// all containers together would count as much as one ordinary process beside them.
fn machine_milli_cpu() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    u32::try_from(cores).unwrap_or(u32::MAX).saturating_mul(1000)
}

/// 1024 shares are one core.
fn cpu_shares(milli: u32) -> u64 {
    (u64::from(milli) * 1024 / 1000).clamp(2, 262_144)
}

/// The same share on v2's scale from 1 to 10000.
fn cpu_weight(milli: u32) -> u64 {
    1 + (cpu_shares(milli) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 25 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 30 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";

    #[test]
    fn the_hybrid_layout_uses_the_trees_that_hold_controllers_and_each_once() {
        let found = from_mounts(HYBRID).unwrap();
        let folders = found.folders("p/1");
        assert_eq!(folders, [Path::new("/sys/fs/cgroup/cpu,cpuacct/p/1"), Path::new("/sys/fs/cgroup/memory/p/1")]);
        let both = Shown { controllers: vec!["cpu", "cpuacct"], folder: folders[0].clone() };
        let memory = Shown { controllers: vec!["memory"], folder: folders[1].clone() };
        assert_eq!(found.shown("p/1"), [both, memory]);
    }

    #[test]
    fn the_unified_layout_has_one_folder() {
        let found = from_mounts("30 25 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate").unwrap();
        assert_eq!(found.folders("p/1"), [Path::new("/sys/fs/cgroup/p/1")]);
        let own = Shown { controllers: vec![], folder: "/sys/fs/cgroup/p/1".into() };
        assert_eq!(found.shown("p/1"), [own]);
    }

    #[test]
    fn no_memory_controller_is_no_layout() {
        assert!(from_mounts("30 25 0:27 / /sys rw - sysfs sysfs rw").is_none());
    }

    #[test]
    fn a_core_is_the_same_share_on_both_scales() {
        assert_eq!((cpu_shares(1000), cpu_weight(1000)), (1024, 39));
        assert_eq!((cpu_shares(0), cpu_weight(0)), (2, 1));
        assert_eq!(cpu_weight(u32::MAX), 10_000);
    }

    #[test]
    fn the_smallest_ceiling_is_one_that_the_kernel_takes() {
        assert_eq!(cpu_quota_usec(1), 1000);
        assert_eq!(cpu_quota_usec(2500), 250_000);
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        assert_eq!(field("oom 1\noom_kill 3\n", "oom_kill"), Some(3));
        assert_eq!(field("oom_kill_disable 1\n", "oom_kill"), None);
    }
}
