//! The life of one container, as seen by its own first process.
//!
//! The launcher forks this process into a fresh pid namespace, usually long before anybody needs it. It first prepares
//! whatever does not depend on the job (cgroup, network namespace and link, `/proc`, `/dev`), reports `Ready` and
//! sleeps. When a job comes it builds the root filesystem, makes it the root, starts the program in a user namespace,
//! gives up every right, and from then on only collects ended processes until the program ends.
//!
//! All namespaces except the user namespace belong to the machine's root, on purpose: root inside the container then
//! has no power over the container's own mounts, network and host name, whatever the system-call filter may miss.
//!
//! Mistakes still possible here: anything opened before `pivot_into_current` and kept open is a way out of the
//! container; `close_others` at the start and close-on-exec everywhere are what prevents that.

mod disk;
mod filesystem;
mod filter;
mod missing;
mod own_group;
mod program;
mod rights;
mod sources;
mod volumes;

pub use volumes::remount;

use std::fs;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use crate::cgroup::{self, Hierarchy};
use crate::id_map;
use crate::network::{self, Link, netlink::Netlink};
use crate::spec::Network;
use crate::sys::process::{self, Status};
use crate::sys::{self, At, Doing, Failure};
use crate::wire::{self, Job, Phases, Report, StartFailure};

/// The same for every container of a runtime.
pub struct Common {
    pub hierarchy: Box<dyn Hierarchy>,
    /// A user namespace with the containers' mapping, for mounts; none where the platform refuses user namespaces.
    pub userns: Option<OwnedFd>,
    /// An empty folder to build root filesystems on; what is mounted there is seen by nobody else.
    pub stage: PathBuf,
    /// Formatted but empty disk images, by size.
    pub templates: PathBuf,
}

impl Common {
    /// The host's id for one of a container's ordinary ids.
    pub fn host_id(&self, id: u16) -> u32 {
        if self.userns.is_some() { id_map::outside(id) } else { u32::from(id) }
    }
}

/// What the launcher chose for this container.
pub struct Place {
    pub group: String,
    /// The network link, or why there is none.
    pub link: Result<Link, String>,
    /// Where reports go and the job comes from.
    pub launcher: OwnedFd,
}

/// Runs in the forked process and never returns.
pub fn live(common: &Common, place: &Place) -> ! {
    let code = match lead(common, place) {
        Ok(status) => {
            let _ = wire::send(place.launcher.as_fd(), &Report::MainEnded { status }, &[]);
            0
        }
        Err(failure) => {
            let _ = wire::send(place.launcher.as_fd(), &Report::Failed(failure), &[]);
            1
        }
    };
    process::exit_now(code)
}

impl From<Failure> for StartFailure {
    fn from(failure: Failure) -> Self {
        StartFailure::Setup(failure.0)
    }
}

fn lead(common: &Common, place: &Place) -> Result<Status, StartFailure> {
    let mut ready = Prepared::make(common, place)?;
    wire::send(place.launcher.as_fd(), &Report::Ready, &[]).at("report to the launcher")?;
    let Some((job, stdout, stderr)) = take_job(place.launcher.as_fd())? else {
        process::exit_now(0);
    };
    let mut watch = Stopwatch::since(job.asked_at);
    let mut phases = Phases { taken: watch.lap(), ..Phases::default() };
    common.hierarchy.apply(&place.group, &job.limits)?;
    join_network(job.network, place, &mut ready)?;
    let listener = job.loopback_port.map(network::listen_on_loopback).transpose()?;
    filesystem::become_root(common, &job, ready.mounts, &mut watch, &mut phases)?;
    process::set_hostname(&job.hostname).at(format_args!("set host name `{}`", job.hostname))?;

    for output in [&stdout, &stderr] {
        sys::give_pipe_to(output.as_fd(), common.host_id(0)).at("hand over the output pipes")?;
    }
    let main = program::start(common, &job, [stdout, stderr])?;
    process::become_nobody(common.host_id(NOBODY)).at("give up the first process's rights")?;
    process::die_with_parent().at("tie the container to the launcher")?;
    let failed = main.wait_until_running()?;
    phases.exec = watch.lap();
    if let Some(failure) = failed {
        return Err(failure);
    }
    report_start(place, phases, &main.pidfd, listener)?;
    let pid = main.pid;
    // Nothing may stay open in a process that will live as long as the container.
    drop(main);
    process::close_others(&[place.launcher.as_raw_fd()]);
    Ok(collect_until_ended(pid))
}

/// The id that traditionally owns nothing.
const NOBODY: u16 = 65_534;

/// What does not depend on the job.
struct Prepared {
    mounts: filesystem::KernelMounts,
}

impl Prepared {
    fn make(common: &Common, place: &Place) -> Doing<Self> {
        process::set_name("dorian-init");
        process::reset_signals();
        process::die_with_parent().at("tie the container to the launcher")?;
        let mut keep = vec![place.launcher.as_raw_fd()];
        keep.extend(common.userns.as_ref().map(AsRawFd::as_raw_fd));
        process::close_others(&keep);
        cgroup::enter(common.hierarchy.as_ref(), &place.group)?;
        let mut host = Netlink::open().at("open a netlink socket")?;
        process::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP)
            .at("make namespaces")?;
        network::loopback_up()?;
        if let Ok(link) = &place.link {
            network::connect(&mut host, link)?;
        }
        Ok(Self { mounts: filesystem::KernelMounts::make(common, &place.group)? })
    }
}

/// Containers are prepared with a network; those that must not have one move to an empty namespace.
fn join_network(wanted: Network, place: &Place, ready: &mut Prepared) -> Doing<()> {
    match (wanted, &place.link) {
        (Network::Nat, Err(reason)) => Err(Failure(format!("there is no network: {reason}"))),
        (Network::None, Ok(_)) => {
            process::unshare(libc::CLONE_NEWNET).at("leave the prepared network namespace")?;
            network::loopback_up()?;
            ready.mounts.follow_network_namespace()
        }
        (Network::Nat, Ok(_)) | (Network::None, Err(_)) => Ok(()),
    }
}

fn take_job(launcher: BorrowedFd<'_>) -> Doing<Option<(Job, OwnedFd, OwnedFd)>> {
    let Some(((), fds)) = wire::receive::<()>(launcher, true).at("receive the job")? else { return Ok(None) };
    let mut fds = fds.into_iter();
    let (Some(job), Some(stdout), Some(stderr)) = (fds.next(), fds.next(), fds.next()) else {
        return Err(Failure("the job came without its descriptors".into()));
    };
    let bytes = sys::read_memfd(job).at("read the job")?;
    let job = serde_json::from_slice(&bytes).map_err(|error| Failure(format!("cannot understand the job: {error}")))?;
    Ok(Some((job, stdout, stderr)))
}

fn report_start(place: &Place, phases: Phases, main: &OwnedFd, listener: Option<TcpListener>) -> Doing<()> {
    let mut fds = vec![main.as_fd()];
    fds.extend(listener.as_ref().map(AsFd::as_fd));
    wire::send(place.launcher.as_fd(), &Report::Started { phases }, &fds).at("report to the launcher")
}

/// Everything else that ends in this container becomes a child of this process, and would stay a zombie.
fn collect_until_ended(main: i32) -> Status {
    loop {
        match process::reap(true) {
            Some((pid, status)) if pid == main => return status,
            Some(_) => {}
            // Impossible while the main process is uncollected; ending ends the container.
            None => return Status(libc::SIGKILL),
        }
    }
}

/// Microseconds between one step and the next.
pub struct Stopwatch(u64);

impl Stopwatch {
    fn since(start: u64) -> Self {
        Self(start)
    }

    pub fn lap(&mut self) -> u64 {
        let now = sys::clock_micros();
        let lap = now.saturating_sub(self.0);
        self.0 = now;
        lap
    }
}

/// Raises the chance that a machine out of memory kills a container before the server. Lowering needs a right that
/// even root may lack, raising does not.
const OOM_SCORE: &str = "500";

fn prefer_for_oom(pid: i32) {
    let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), OOM_SCORE);
}
