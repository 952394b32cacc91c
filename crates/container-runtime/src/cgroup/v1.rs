//! The older layout: one tree per controller (some may share a tree).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{
    Account, CPU_PERIOD_USEC, Hierarchy, Shown, cpu_quota_usec, cpu_shares, machine_milli_cpu, read_field, read_number,
    write,
};
use crate::spec::Limits;
use crate::sys::{At, Doing};

#[derive(Default)]
pub struct Trees {
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
    cpuacct: Option<PathBuf>,
    pids: Option<PathBuf>,
    /// Nothing is limited by it. A Java machine takes itself to be in a container only where it finds this tree, too.
    cpuset: Option<PathBuf>,
}

impl Trees {
    pub fn add(&mut self, at: PathBuf, options: &str) {
        for option in options.split(',') {
            let slot = match option {
                "memory" => &mut self.memory,
                "cpu" => &mut self.cpu,
                "cpuacct" => &mut self.cpuacct,
                "pids" => &mut self.pids,
                "cpuset" => &mut self.cpuset,
                _ => continue,
            };
            slot.get_or_insert_with(|| at.clone());
        }
    }

    pub fn has_memory(&self) -> bool {
        self.memory.is_some()
    }

    fn of(tree: &Option<PathBuf>, group: &str) -> Option<PathBuf> {
        tree.as_ref().map(|root| root.join(group))
    }

    /// Those that this machine has.
    fn named(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let all = [
            ("cpu", &self.cpu),
            ("cpuacct", &self.cpuacct),
            ("cpuset", &self.cpuset),
            ("memory", &self.memory),
            ("pids", &self.pids),
        ];
        all.into_iter().filter_map(|(name, tree)| tree.as_ref().map(|root| (name, root)))
    }
}

/// A group of this tree takes no process before it has processors and memory nodes. The runtime's has those of the whole
/// tree, and containers' groups inherit them. What is plugged into the machine later is not among them.
fn share_processors(root: &Path, parent: &str) -> Doing<()> {
    let folder = root.join(parent);
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let all = fs::read_to_string(root.join(file)).at(format_args!("read `{}`", root.join(file).display()))?;
        write(&folder, file, all.trim())?;
    }
    write(&folder, "cgroup.clone_children", 1)
}

impl Hierarchy for Trees {
    fn folders(&self, group: &str) -> Vec<PathBuf> {
        let mut roots: Vec<_> = self.named().map(|(_, root)| root).collect();
        roots.sort_unstable();
        roots.dedup();
        roots.into_iter().map(|root| root.join(group)).collect()
    }

    fn shown(&self, group: &str) -> Vec<Shown> {
        let mut shown: Vec<Shown> = Vec::new();
        for (name, root) in self.named() {
            let folder = root.join(group);
            match shown.iter_mut().find(|known| known.folder == folder) {
                Some(known) => known.controllers.push(name),
                None => shown.push(Shown { controllers: vec![name], folder }),
            }
        }
        shown
    }

    fn make_parent(&mut self, parent: &str) -> Doing<()> {
        for folder in self.folders(parent) {
            fs::create_dir_all(&folder).at(format_args!("make cgroup `{}`", folder.display()))?;
        }
        // Containers work without it.
        if let Some(root) = self.cpuset.take_if(|root| share_processors(root, parent).is_err())
            && !self.named().any(|(_, other)| *other == root)
        {
            let _ = fs::remove_dir(root.join(parent));
        }
        if let Some(folder) = Self::of(&self.cpu, parent) {
            write(&folder, "cpu.shares", cpu_shares(machine_milli_cpu()))?;
        }
        Ok(())
    }

    fn apply(&self, group: &str, limits: &Limits) -> Doing<()> {
        if let (Some(bytes), Some(folder)) = (limits.memory_bytes, Self::of(&self.memory, group)) {
            write(&folder, "memory.limit_in_bytes", bytes)?;
            // Memory and swap together: no swap. Absent where the kernel does not account for swap.
            match fs::write(folder.join("memory.memsw.limit_in_bytes"), bytes.to_string()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).at(format_args!("forbid swap in `{}`", folder.display()));
                }
                _ => {}
            }
        }
        if let Some(folder) = Self::of(&self.cpu, group) {
            if let Some(milli) = limits.cpu_request_milli {
                write(&folder, "cpu.shares", cpu_shares(milli))?;
            }
            if let Some(milli) = limits.cpu_limit_milli {
                write(&folder, "cpu.cfs_period_us", CPU_PERIOD_USEC)?;
                write(&folder, "cpu.cfs_quota_us", cpu_quota_usec(milli))?;
            }
        }
        if let (Some(pids), Some(folder)) = (limits.pids, Self::of(&self.pids, group)) {
            write(&folder, "pids.max", pids)?;
        }
        Ok(())
    }

    fn account(&self, group: &str) -> Account {
        let mut account = Account::default();
        if let Some(folder) = Self::of(&self.memory, group) {
            account.memory_bytes = read_number(&folder, "memory.usage_in_bytes");
            account.memory_peak_bytes = read_number(&folder, "memory.max_usage_in_bytes");
            account.oom_kills = read_field(&folder, "memory.oom_control", "oom_kill");
        }
        if let Some(folder) = Self::of(&self.cpuacct, group) {
            account.cpu_usec = read_number(&folder, "cpuacct.usage") / 1000;
        }
        account
    }
}
