//! What the launcher does once: look at the machine, clear away a predecessor's leftovers, make the common things.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::sweep;
use crate::cgroup;
use crate::config::RuntimeConfig;
use crate::container::Common;
use crate::id_map;
use crate::network::{self, Bridge, resolvers};
use crate::sys::process::{self, Forked};
use crate::sys::{self, At, Doing, Failure, mount};

pub struct Started {
    pub config: RuntimeConfig,
    pub common: Common,
    /// The network, or why there is none.
    pub network: Result<Bridge, String>,
    pub warnings: Vec<String>,
    /// Held as long as this process lives: one launcher per state folder.
    pub _lock: fs::File,
}

pub fn start(config: RuntimeConfig) -> Doing<Started> {
    make_private_folder(&config.state_dir)?;
    let lock = lock(&config.state_dir)?;
    let mut hierarchy = cgroup::detect()?;
    sweep::leftovers(&config, hierarchy.as_ref())?;
    hierarchy.make_parent(&config.cgroup_name())?;
    let stage = config.state_dir.join("stage");
    make_private_folder(&stage)?;

    let mut warnings = Vec::new();
    let userns = user_namespace(&config, &mut warnings);
    let network = network::set_up(&config).map_err(|failure| failure.0);
    match &network {
        Ok(_) => warnings.extend(resolvers::warning(&config.resolvers, &config.settings_file)),
        Err(reason) => warnings.push(format!("containers have no network: {reason}")),
    }
    let templates = config.state_dir.join("disks");
    let common = Common { hierarchy, userns, stage, templates };
    Ok(Started { config, common, network, warnings, _lock: lock })
}

fn make_private_folder(path: &Path) -> Doing<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.at(format_args!("make folder `{}`", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).at(format_args!("protect `{}`", path.display()))
}

/// A predecessor may still be killing its containers.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

fn lock(state_dir: &Path) -> Doing<fs::File> {
    let path = state_dir.join("lock");
    let mut file =
        fs::File::options().create(true).append(true).open(&path).at(format_args!("open `{}`", path.display()))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match sys::try_lock(file.as_fd()) {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(Failure(format!(
                    "state folder `{}` is used by another running server; give this one its own data folder",
                    state_dir.display()
                )));
            }
            Err(error) => return Err(error).at(format_args!("lock `{}`", path.display())),
        }
    }
    // For a person who wonders; nothing reads it.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

fn user_namespace(config: &RuntimeConfig, warnings: &mut Vec<String>) -> Option<OwnedFd> {
    let made = match config.user_namespaces {
        true => mapped_namespace().and_then(|userns| try_mapping(&config.state_dir, userns)),
        false => Err(Failure("the configuration says so".into())),
    };
    if let Err(failure) = &made {
        warnings.push(format!("containers run without user namespaces, root inside is root outside: {failure}"));
    }
    made.ok()
}

/// A user namespace with the containers' id mapping, kept open for mounts to refer to.
fn mapped_namespace() -> Doing<OwnedFd> {
    let (wait, release) = sys::close_on_exec_pipe().at("make a pipe")?;
    match process::fork(process::NEW_USER).at("make a user namespace")? {
        Forked::Child => {
            drop(release);
            let _ = io::copy(&mut fs::File::from(wait), &mut io::sink());
            process::exit_now(0)
        }
        Forked::Parent { pid, .. } => {
            let result = id_map::give_to(pid)
                .and_then(|()| sys::openat(None, format!("/proc/{pid}/ns/user"), libc::O_RDONLY).at("open it"));
            drop(release);
            while process::reap(true).is_some_and(|(ended, _)| ended != pid) {}
            result
        }
    }
}

/// Without id-mapped mounts a user namespace would only make every file belong to nobody.
fn try_mapping(state_dir: &Path, userns: OwnedFd) -> Doing<OwnedFd> {
    let copy = mount::clone_tree(None, state_dir).at(format_args!("copy the mount of `{}`", state_dir.display()))?;
    mount::idmap(copy.as_fd(), userns.as_fd())
        .at(format_args!("map file owners on the filesystem of `{}`", state_dir.display()))?;
    Ok(userns)
}
