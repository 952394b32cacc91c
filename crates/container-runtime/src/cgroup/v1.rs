//! The older layout: one tree per controller (some may share a tree).

use std::fs;
use std::io;
use std::path::PathBuf;

use super::{
    Account, CPU_PERIOD_USEC, Hierarchy, cpu_quota_usec, cpu_shares, machine_milli_cpu, read_field, read_number, write,
};
use crate::spec::Limits;
use crate::sys::{At, Doing};

#[derive(Default)]
pub struct Trees {
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
    cpuacct: Option<PathBuf>,
    pids: Option<PathBuf>,
}

impl Trees {
    pub fn add(&mut self, at: PathBuf, options: &str) {
        for option in options.split(',') {
            let slot = match option {
                "memory" => &mut self.memory,
                "cpu" => &mut self.cpu,
                "cpuacct" => &mut self.cpuacct,
                "pids" => &mut self.pids,
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
}

impl Hierarchy for Trees {
    fn folders(&self, group: &str) -> Vec<PathBuf> {
        let mut roots: Vec<_> = [&self.memory, &self.cpu, &self.cpuacct, &self.pids].into_iter().flatten().collect();
        roots.sort_unstable();
        roots.dedup();
        roots.into_iter().map(|root| root.join(group)).collect()
    }

    fn make_parent(&self, parent: &str) -> Doing<()> {
        for folder in self.folders(parent) {
            fs::create_dir_all(&folder).at(format_args!("make cgroup `{}`", folder.display()))?;
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
