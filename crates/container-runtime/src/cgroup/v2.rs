//! The unified layout.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{
    Account, CPU_PERIOD_USEC, Hierarchy, Shown, cpu_quota_usec, cpu_weight, machine_milli_cpu, read_field, read_number,
    write,
};
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

    fn shown(&self, group: &str) -> Vec<Shown> {
        vec![Shown { controllers: Vec::new(), folder: self.root.join(group) }]
    }

    fn make_parent(&mut self, parent: &str) -> Doing<()> {
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
        enable(&folder).at(format_args!("pass controllers on in `{}`", folder.display()))?;
        // Absent where the root could not pass the controller on to us.
        if folder.join("cpu.weight").exists() {
            write(&folder, "cpu.weight", cpu_weight(machine_milli_cpu()))?;
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of a group as the kernel would show them.
    fn group(files: &[(&str, &str)]) -> (tempfile::TempDir, Unified) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("p/1")).unwrap();
        for (name, content) in files {
            fs::write(dir.path().join("p/1").join(name), content).unwrap();
        }
        let unified = Unified::new(dir.path().to_path_buf());
        (dir, unified)
    }

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        let (dir, unified) = group(&[("memory.swap.max", "max")]);
        let limits = Limits {
            memory_bytes: Some(1 << 30),
            cpu_request_milli: Some(1000),
            cpu_limit_milli: Some(500),
            pids: Some(100),
            disk_bytes: None,
        };
        unified.apply("p/1", &limits).unwrap();
        let read = |file: &str| fs::read_to_string(dir.path().join("p/1").join(file)).unwrap();
        assert_eq!(read("memory.max"), "1073741824");
        assert_eq!(read("memory.swap.max"), "0");
        assert_eq!(read("cpu.weight"), "39");
        assert_eq!(read("cpu.max"), "50000 100000");
        assert_eq!(read("pids.max"), "100");
    }

    #[test]
    fn the_account_is_read_from_four_files_and_missing_ones_are_zero() {
        let (_dir, unified) = group(&[
            ("memory.current", "10\n"),
            ("memory.peak", "20\n"),
            ("cpu.stat", "usage_usec 30\nuser_usec 1\n"),
            ("memory.events", "low 0\noom 9\noom_kill 2\noom_group_kill 0\n"),
        ]);
        let expected = Account { memory_bytes: 10, memory_peak_bytes: 20, cpu_usec: 30, oom_kills: 2 };
        assert_eq!(unified.account("p/1"), expected);
        assert_eq!(unified.account("p/2"), Account::default());
    }
}
