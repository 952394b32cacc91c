//! What a caller asks of the runtime, as plain data.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use types::variables::Variables;

/// One container to be made. Everything that a container is, is in here; the runtime adds nothing that depends on
/// functions, images or users.
#[derive(Debug)]
pub struct ContainerSpec {
    /// Names the container in errors and logs; letters, digits and dashes.
    pub id: String,
    /// Read-only layer folders in overlayfs's own format (whiteouts as 0/0 devices, opaque xattrs), lowest first.
    /// Any number up to 400.
    pub layers: Vec<PathBuf>,
    /// Folder on a filesystem that overlayfs accepts; the runtime makes `diff` (what the container writes, in layer
    /// format, owners as seen inside) and `work` below it. The caller keeps or removes it after the container has ended.
    /// Writes are not forced to disk: a caller that keeps `diff` as a layer flushes it first (`syncfs`).
    pub scratch: PathBuf,
    pub argv: Vec<String>,
    /// The whole environment; nothing is inherited. `PATH` from here also resolves `argv[0]`.
    pub env: Variables,
    /// Working directory, made when missing.
    pub cwd: String,
    pub hostname: String,
    /// Mounted before `binds`, which may lie inside.
    pub tmpfs: Vec<Tmpfs>,
    pub binds: Vec<Bind>,
    pub volumes: Vec<LayeredMount>,
    pub network: Network,
    pub limits: Limits,
    pub profile: Profile,
    /// Ends of pipes (or any descriptor) that become file descriptors 1 and 2. Descriptor 0 is `/dev/null`.
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// A TCP port on 127.0.0.1 inside the container's network namespace that the *caller* serves: the runtime binds
    /// it there before the container's first process runs and hands the listening socket out
    /// (`Container::take_listener`). Works without any network.
    pub loopback_port: Option<u16>,
}

/// A host file, folder or socket made visible inside. A missing target is created (folder for folder, else file), but
/// never in `diff`. Owners are mapped like those of layers (0 on the host is root inside, and the other way round) where
/// the source's filesystem can do that; on others (FUSE, network filesystems) they stay as they are, and root inside is an
/// ordinary user to them. Mounts below the source are not shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bind {
    pub source: PathBuf,
    pub target: String,
    pub read_only: bool,
}

/// A tree of layers somewhere inside, like the root: what the container writes goes into a folder of the caller's. It can be
/// replaced while the container runs ([`crate::Container::remount`]).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LayeredMount {
    /// Where; an absolute path without symbolic links. Made as for a bind where it is missing.
    pub target: String,
    /// As a container's own layers, lowest first; none for an empty tree.
    pub layers: Vec<PathBuf>,
    /// A folder of files that stubs in the layers refer to (overlayfs's data-only layer; Linux 6.5).
    pub data: Option<PathBuf>,
    /// A folder for `diff`, in layer format, and `work`. Without one nothing can be written.
    pub upper: Option<PathBuf>,
    /// Only this folder of the tree is shown; it must exist.
    pub sub_path: Option<String>,
    pub read_only: bool,
}

/// An empty folder in memory. Where its target is missing, that is made as for a bind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tmpfs {
    pub target: String,
    /// Writing more fails; none means half of the machine's memory.
    pub size_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// Loopback only.
    None,
    /// A private address behind the machine's bridge, with network address translation to the outside. Containers
    /// cannot reach each other, nor the machine's own loopback services.
    Nat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// User code: no capability beyond what a root-looking Python program needs inside its user namespace.
    Task,
    /// An image build step: package managers need chown, setuid, mknod-free root powers inside the user namespace.
    Build,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Hard memory limit in bytes; beyond it the kernel kills inside this container only.
    pub memory_bytes: Option<u64>,
    /// Relative share of CPU under contention, in thousandths of a core.
    pub cpu_request_milli: Option<u32>,
    /// Hard CPU ceiling in thousandths of a core.
    pub cpu_limit_milli: Option<u32>,
    /// Processes and threads together.
    pub pids: Option<u32>,
    /// Bytes that the container may write to its root filesystem; beyond it writes fail with ENOSPC. Such a container's
    /// writes live on a disk of their own that ends with it, so `diff` stays empty. Costs a few milliseconds at start
    /// and end, more for disks of hundreds of gigabytes.
    pub disk_bytes: Option<u64>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Exit code of the first process, when it exited by itself.
    pub code: Option<i32>,
    /// Signal that ended it otherwise.
    pub signal: Option<i32>,
    /// The kernel killed something in this container for exceeding its memory limit.
    pub oom_killed: bool,
    pub memory_peak_bytes: u64,
    pub cpu_usec: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_spec_shows_no_value_of_the_environment() {
        let (stdout, stderr) = std::io::pipe().unwrap();
        let spec = ContainerSpec {
            id: "ta-1".to_owned(),
            layers: Vec::new(),
            scratch: PathBuf::new(),
            argv: vec!["python".to_owned()],
            env: vec![("TOKEN".to_owned(), "hush".to_owned())].into(),
            cwd: "/root".to_owned(),
            hostname: "it".to_owned(),
            tmpfs: Vec::new(),
            binds: Vec::new(),
            volumes: Vec::new(),
            network: Network::None,
            limits: Limits::default(),
            profile: Profile::Task,
            stdout: stdout.into(),
            stderr: stderr.into(),
            loopback_port: None,
        };
        let printed = format!("{spec:?}");
        assert!(printed.contains("TOKEN") && !printed.contains("hush"), "{printed}");
    }
}
