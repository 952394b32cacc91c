//! What server, launcher and containers say to each other, over sockets that keep message boundaries.
//!
//! JSON, because the messages are few and small and both ends are the same program; a container's description, which
//! may be large, travels beside its message as a memory file.

use std::io;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use types::variables::Variables;

use crate::spec::{Bind, LayeredMount, Limits, Network, Profile, Tmpfs};
use crate::sys::{process::Status, socket};

/// Names a container between server and launcher; never used twice.
pub type Ticket = u64;

/// Server to launcher.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// With three descriptors: the `Job`, standard output, standard error.
    Create {
        ticket: Ticket,
    },
    Signal {
        ticket: Ticket,
        signal: i32,
    },
    Kill {
        ticket: Ticket,
    },
    /// With one descriptor: the `LayeredMount` that replaces the one at its place.
    Remount {
        ticket: Ticket,
        request: Ticket,
    },
    /// Kill everything, remove everything, end.
    Shutdown,
}

/// Launcher to server.
#[derive(Debug, Serialize, Deserialize)]
pub enum News {
    /// First message ever: what could not be had, or why the runtime cannot work at all.
    Up {
        warnings: Vec<String>,
        /// Host id of root inside containers.
        root_user: u32,
        error: Option<String>,
    },
    /// With a descriptor when the job asked for a listener.
    Started {
        ticket: Ticket,
        pid: u32,
        cgroup: String,
        phases: Phases,
    },
    Failed {
        ticket: Ticket,
        failure: StartFailure,
    },
    Ended {
        ticket: Ticket,
        status: Option<Status>,
        oom_killed: bool,
        memory_peak_bytes: u64,
        cpu_usec: u64,
    },
    Remounted {
        request: Ticket,
        outcome: RemountOutcome,
    },
    Log {
        message: String,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum RemountOutcome {
    Done,
    /// Something in it is open, or some process's working folder; nothing was changed.
    Busy,
    Failed(String),
}

/// Container to launcher.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// Prepared as far as possible without a job.
    Ready,
    /// With the main process's descriptor, then the listener if one was asked for.
    Started {
        phases: Phases,
    },
    Failed(StartFailure),
    MainEnded {
        status: Status,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub enum StartFailure {
    /// A step of ours failed.
    Setup(String),
    /// Everything was ready, but the program could not be run.
    Exec { program: String, message: String },
}

/// Microseconds of each step, for the benchmark and for slow-start reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases {
    /// From the request until the container's process took the job.
    pub taken: u64,
    /// Copying layers, scratch and binds into the container's view.
    pub sources: u64,
    /// Mounting the root filesystem.
    pub overlay: u64,
    /// `/proc`, `/dev`, binds, and making it all the root.
    pub assemble: u64,
    /// From there until the program's own code runs.
    pub exec: u64,
}

/// `ContainerSpec` without its descriptors.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    pub id: String,
    pub layers: Vec<PathBuf>,
    pub scratch: PathBuf,
    pub argv: Vec<String>,
    pub env: Variables,
    pub cwd: String,
    pub hostname: String,
    pub tmpfs: Vec<Tmpfs>,
    pub binds: Vec<Bind>,
    pub volumes: Vec<LayeredMount>,
    pub network: Network,
    pub limits: Limits,
    pub profile: Profile,
    pub loopback_port: Option<u16>,
    pub resolvers: Vec<IpAddr>,
    /// Clock reading (monotonic, microseconds) when the request was made.
    pub asked_at: u64,
}

pub fn send<T: Serialize>(socket: BorrowedFd<'_>, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    socket::send(socket, &serde_json::to_vec(message)?, fds)
}

/// `None` when the other end is closed.
pub fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>, wait: bool) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let Some((bytes, fds)) = socket::receive(socket, wait)? else { return Ok(None) };
    Ok(Some((serde_json::from_slice(&bytes)?, fds)))
}
