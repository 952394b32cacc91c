//! Clearing away what a killed predecessor with the same state folder left behind.
//!
//! Everything is found by name, from the state folder's tag, because a killed process leaves no list. Links and rules
//! are cleared by `network::set_up`, which always starts from nothing.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cgroup::{self, Hierarchy};
use crate::config::RuntimeConfig;
use crate::sys::{Doing, Failure, mount, process};

const PATIENCE: Duration = Duration::from_secs(10);

pub fn leftovers(config: &RuntimeConfig, hierarchy: &dyn Hierarchy) -> Doing<()> {
    let parent = config.cgroup_name();
    kill_all(hierarchy, &parent)?;
    unmount_below(&config.state_dir);
    if !cgroup::remove(hierarchy, &parent) {
        return Err(Failure(format!(
            "cannot remove cgroup `{parent}` that an earlier server left; reboot or remove it"
        )));
    }
    Ok(())
}

fn kill_all(hierarchy: &dyn Hierarchy, parent: &str) -> Doing<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = cgroup::processes(hierarchy, parent);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure(format!(
                "processes {left:?} of an earlier server cannot be killed; see why with `ps`"
            )));
        }
        for pid in left {
            // Gone meanwhile is what we want.
            let _ = process::kill(pid, libc::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Mounts of ours live in namespaces that end with their processes, so there should be none; a caller's own mounts
/// below the state folder would keep its files busy.
fn unmount_below(state_dir: &Path) {
    let Ok(state_dir) = fs::canonicalize(state_dir) else { return };
    let Ok(text) = fs::read_to_string("/proc/self/mountinfo") else { return };
    let below = text.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let mut targets: Vec<&Path> =
        below.filter(|target| target.starts_with(&state_dir) && *target != state_dir).collect();
    targets.sort_unstable_by_key(|target| std::cmp::Reverse(target.components().count()));
    for target in targets {
        let _ = mount::detach(target);
    }
}
