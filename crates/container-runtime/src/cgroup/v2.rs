//! The unified layout.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Account, CPU_PERIOD_USEC, Hierarchy, cpu_quota_usec, cpu_weight, read_field, read_number, write};
use crate::spec::Limits;
use crate::sys::{At, Doing};

/// The controllers that limits need.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

pub struct Unified {
    root: PathBuf,
}

impl Unified {
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }
}

impl Hierarchy for Unified {
    fn folders(&self, group: &str) -> Vec<PathBuf> {
        vec![self.root.join(group)]
    }

    fn make_parent(&self, parent: &str) -> Doing<()> {
        let folder = self.root.join(parent);
        fs::create_dir_all(&folder).at(format_args!("make cgroup `{}`", folder.display()))?;
        if let Err(error) = enable(&self.root) {
            // Inside another container our root is an ordinary group, which may not hold processes and pass
            // controllers on at the same time. Its processes move one step down.
            if error.raw_os_error() != Some(libc::EBUSY) {
                return Err(error).at(format_args!("pass controllers on in `{}`", self.root.display()));
            }
            move_processes(&self.root, &self.root.join("init"))?;
            enable(&self.root).at(format_args!("pass controllers on in `{}`", self.root.display()))?;
        }
        enable(&folder).at(format_args!("pass controllers on in `{}`", folder.display()))
    }

    fn apply(&self, group: &str, limits: &Limits) -> Doing<()> {
        let folder = self.root.join(group);
        if let Some(bytes) = limits.memory_bytes {
            write(&folder, "memory.max", bytes)?;
            // Absent where the kernel does not account for swap.
            if folder.join("memory.swap.max").exists() {
                write(&folder, "memory.swap.max", 0)?;
            }
        }
        if let Some(milli) = limits.cpu_request_milli {
            write(&folder, "cpu.weight", cpu_weight(milli))?;
        }
        if let Some(milli) = limits.cpu_limit_milli {
            write(&folder, "cpu.max", format_args!("{} {CPU_PERIOD_USEC}", cpu_quota_usec(milli)))?;
        }
        if let Some(pids) = limits.pids {
            write(&folder, "pids.max", pids)?;
        }
        Ok(())
    }

    fn account(&self, group: &str) -> Account {
        let folder = self.root.join(group);
        Account {
            memory_bytes: read_number(&folder, "memory.current"),
            memory_peak_bytes: read_number(&folder, "memory.peak"),
            cpu_usec: read_field(&folder, "cpu.stat", "usage_usec"),
            oom_kills: read_field(&folder, "memory.events", "oom_kill"),
        }
    }
}

fn enable(folder: &Path) -> io::Result<()> {
    let list = CONTROLLERS.map(|name| format!("+{name}")).join(" ");
    fs::write(folder.join("cgroup.subtree_control"), list)
}

fn move_processes(from: &Path, to: &Path) -> Doing<()> {
    fs::create_dir_all(to).at(format_args!("make cgroup `{}`", to.display()))?;
    let list = fs::read_to_string(from.join("cgroup.procs")).at(format_args!("list `{}`", from.display()))?;
    for pid in list.lines() {
        // A process that has ended meanwhile, or a kernel thread, stays where it is; the next write tells.
        let _ = fs::write(to.join("cgroup.procs"), pid);
    }
    Ok(())
}
