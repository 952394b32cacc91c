//! The asynchronous side: what the server holds.
//!
//! A thread of our own reads the launcher's messages and wakes whoever waits for them. It is a thread and not a task
//! so that a runtime does not depend on one particular executor, and it sleeps in the kernel between messages.

use std::collections::HashMap;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::cgroup::{self, Hierarchy};
use crate::launcher;
use crate::sys::{self, process, socket};
use crate::wire::{self, Job, News, Order, Phases, RemountOutcome, StartFailure, Ticket};
use crate::{ContainerSpec, Exit, LayeredMount, RuntimeConfig, RuntimeError};

/// Handle to the launcher; cheap to clone. When the last one (containers count too) is dropped, or this process ends in
/// any way, all containers are killed and everything made for them is removed.
#[derive(Clone)]
pub struct Runtime {
    shared: Arc<Shared>,
}

/// A running container. Dropping it kills the container: nothing runs that nobody owns. Share it with `Arc`.
pub struct Container {
    shared: Arc<Shared>,
    ticket: Ticket,
    id: String,
    started: Started,
    listener: Mutex<Option<TcpListener>>,
    exit: watch::Receiver<Option<Exit>>,
}

/// What a container uses now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub memory_bytes: u64,
    pub cpu_usec: u64,
}

struct Shared {
    config: RuntimeConfig,
    warnings: Vec<String>,
    root_user: u32,
    hierarchy: Box<dyn Hierarchy>,
    launcher: OwnedFd,
    tickets: AtomicU64,
    /// Locked only for a map operation, never across an await.
    waiters: Arc<Mutex<Waiters>>,
    /// Closed when the launcher has ended and everything is removed.
    gone: watch::Receiver<()>,
}

#[derive(Default)]
struct Waiters {
    starts: HashMap<Ticket, oneshot::Sender<StartOutcome>>,
    exits: HashMap<Ticket, watch::Sender<Option<Exit>>>,
    remounts: HashMap<Ticket, oneshot::Sender<RemountOutcome>>,
    gone: bool,
}

type StartOutcome = Result<(Started, Option<TcpListener>), StartFailure>;

#[derive(Debug)]
struct Started {
    pid: u32,
    cgroup: String,
    phases: Phases,
}

impl Runtime {
    /// Call first thing in `main`, before any thread (so before tokio) exists: it forks.
    pub fn start(config: RuntimeConfig) -> Result<Runtime, RuntimeError> {
        if process::effective_uid() != 0 {
            return Err(RuntimeError::NotRoot);
        }
        let failed =
            |error: std::io::Error| RuntimeError::Start(format!("cannot start the container launcher: {error}"));
        let (ours, theirs) = socket::pair().map_err(failed)?;
        let Some(pid) = process::fork_launcher().map_err(failed)? else {
            drop(ours);
            launcher::run(config, theirs)
        };
        drop(theirs);
        let (warnings, root_user) = match wire::receive::<News>(ours.as_fd(), true).map_err(failed)? {
            Some((News::Up { error: None, warnings, root_user }, _)) => (warnings, root_user),
            Some((News::Up { error: Some(error), .. }, _)) => return Err(RuntimeError::Start(error)),
            _ => return Err(RuntimeError::LauncherGone),
        };
        let hierarchy = cgroup::detect().map_err(|failure| RuntimeError::Start(failure.0))?;
        let waiters = Arc::new(Mutex::new(Waiters::default()));
        let (gone_sender, gone) = watch::channel(());
        let reader = Reader { socket: ours.try_clone().map_err(failed)?, waiters: waiters.clone(), launcher_pid: pid };
        std::thread::Builder::new()
            .name("containers".into())
            .stack_size(128 * 1024)
            .spawn(move || reader.run(gone_sender))
            .map_err(failed)?;
        let tickets = AtomicU64::new(0);
        let shared = Shared { config, warnings, root_user, hierarchy, launcher: ours, tickets, waiters, gone };
        Ok(Runtime { shared: Arc::new(shared) })
    }

    /// A runtime that makes no container: for tests of services whose worker is simulated.
    ///
    /// # Errors
    /// When this machine has no cgroups.
    pub fn without_launcher(config: RuntimeConfig) -> Result<Runtime, RuntimeError> {
        let failed = |error: std::io::Error| RuntimeError::Start(error.to_string());
        let (launcher, _) = socket::pair().map_err(failed)?;
        let hierarchy = cgroup::detect().map_err(|failure| RuntimeError::Start(failure.0))?;
        let waiters = Arc::new(Mutex::new(Waiters { gone: true, ..Waiters::default() }));
        let (warnings, root_user, tickets, gone) = (Vec::new(), 0, AtomicU64::new(0), watch::channel(()).1);
        let shared = Shared { config, warnings, root_user, hierarchy, launcher, tickets, waiters, gone };
        Ok(Runtime { shared: Arc::new(shared) })
    }

    /// What this machine could not give (no user namespaces, no `nft`, only a loopback resolver), in words.
    pub fn warnings(&self) -> &[String] {
        &self.shared.warnings
    }

    /// This machine's id of the user who is root inside containers: the owner for files on filesystems whose owners
    /// cannot be mapped.
    pub fn root_user(&self) -> u32 {
        self.shared.root_user
    }

    /// Makes a container and returns when its program runs. Dropping the future before then kills the container.
    pub async fn create(&self, spec: ContainerSpec) -> Result<Container, RuntimeError> {
        let ticket = self.shared.tickets.fetch_add(1, Ordering::Relaxed);
        let id = spec.id.clone();
        let (start_sender, start) = oneshot::channel();
        let (exit_sender, exit) = watch::channel(None);
        {
            let mut waiters = self.shared.waiters.lock();
            if waiters.gone {
                return Err(RuntimeError::LauncherGone);
            }
            waiters.starts.insert(ticket, start_sender);
            waiters.exits.insert(ticket, exit_sender);
        }
        let mut unfinished = Unfinished { shared: &self.shared, ticket, armed: true };
        self.shared.order_create(ticket, spec)?;
        let outcome = start.await.map_err(|_| RuntimeError::LauncherGone)?;
        unfinished.armed = false;
        let (started, listener) = outcome.map_err(|failure| match failure {
            StartFailure::Setup(message) => RuntimeError::Create { id: id.clone(), message },
            StartFailure::Exec { program, message } => RuntimeError::Exec { id: id.clone(), program, message },
        })?;
        let shared = self.shared.clone();
        Ok(Container { shared, ticket, id, started, listener: Mutex::new(listener), exit })
    }

    /// Kills every container and removes everything that the runtime made on this machine; returns when that is done.
    pub async fn shutdown(&self) {
        let _ = wire::send(self.shared.launcher.as_fd(), &Order::Shutdown, &[]);
        let mut gone = self.shared.gone.clone();
        while gone.changed().await.is_ok() {}
    }
}

impl Shared {
    /// Sending never blocks for long: messages are small and the launcher does nothing slow.
    fn order_create(&self, ticket: Ticket, spec: ContainerSpec) -> Result<(), RuntimeError> {
        let ContainerSpec { stdout, stderr, .. } = &spec;
        let encode = |error: std::io::Error| RuntimeError::Encode(spec.id.clone(), error);
        let job = Job {
            id: spec.id.clone(),
            layers: spec.layers.clone(),
            scratch: spec.scratch.clone(),
            argv: spec.argv.clone(),
            env: spec.env.clone(),
            cwd: spec.cwd.clone(),
            hostname: spec.hostname.clone(),
            tmpfs: spec.tmpfs.clone(),
            binds: spec.binds.clone(),
            volumes: spec.volumes.clone(),
            network: spec.network,
            limits: spec.limits.clone(),
            profile: spec.profile,
            loopback_port: spec.loopback_port,
            resolvers: self.config.resolvers.clone(),
            asked_at: sys::clock_micros(),
        };
        let bytes = serde_json::to_vec(&job).map_err(|error| encode(error.into()))?;
        let file = sys::memfd(&bytes).map_err(encode)?;
        let fds = [file.as_fd(), stdout.as_fd(), stderr.as_fd()];
        wire::send(self.launcher.as_fd(), &Order::Create { ticket }, &fds).map_err(encode)
    }

    fn kill(&self, ticket: Ticket) {
        // Fails only when the launcher is gone, and every container with it.
        let _ = wire::send(self.launcher.as_fd(), &Order::Kill { ticket }, &[]);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The reading thread holds the socket too, so the launcher has to be told.
        let _ = wire::send(self.launcher.as_fd(), &Order::Shutdown, &[]);
    }
}

/// Kills a container whose creator went away before it ran.
struct Unfinished<'a> {
    shared: &'a Shared,
    ticket: Ticket,
    armed: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.shared.waiters.lock().starts.remove(&self.ticket);
            self.shared.kill(self.ticket);
        }
    }
}

impl Container {
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Process id of the program, as this machine sees it.
    pub fn pid(&self) -> u32 {
        self.started.pid
    }

    /// Microseconds of each step of its creation.
    pub fn phases(&self) -> Phases {
        self.started.phases
    }

    /// Resolves when the program has ended, every other process of the container is gone, and `scratch` is no longer
    /// mounted. Any number of callers may wait, also after the end.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or_else(killed_with_launcher),
            Err(_) => killed_with_launcher(),
        }
    }

    /// Sends a signal to the program itself only.
    pub fn signal(&self, signal: i32) {
        let order = Order::Signal { ticket: self.ticket, signal };
        // Fails only when the launcher is gone, and the program with it.
        let _ = wire::send(self.shared.launcher.as_fd(), &order, &[]);
    }

    /// Kills every process in the container at once.
    pub fn kill(&self) {
        self.shared.kill(self.ticket);
    }

    /// Replaces the tree at `mount`'s place, unless something in it is in use.
    pub async fn remount(&self, mount: &LayeredMount) -> RemountOutcome {
        let failed = |error: std::io::Error| RemountOutcome::Failed(format!("cannot ask the launcher: {error}"));
        let request = self.shared.tickets.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.shared.waiters.lock().remounts.insert(request, sender);
        let sent =
            serde_json::to_vec(mount).map_err(Into::into).and_then(|bytes| sys::memfd(&bytes)).and_then(|file| {
                let order = Order::Remount { ticket: self.ticket, request };
                wire::send(self.shared.launcher.as_fd(), &order, &[file.as_fd()])
            });
        if let Err(error) = sent {
            self.shared.waiters.lock().remounts.remove(&request);
            return failed(error);
        }
        answer.await.unwrap_or_else(|_| RemountOutcome::Failed("the launcher is gone".to_owned()))
    }

    /// The listening socket on the container's loopback, if one was asked for; given once.
    pub fn take_listener(&self) -> Option<TcpListener> {
        self.listener.lock().take()
    }

    /// What the container uses now; zeros once it has ended.
    pub fn usage(&self) -> Usage {
        let account = self.shared.hierarchy.account(&self.started.cgroup);
        Usage { memory_bytes: account.memory_bytes, cpu_usec: account.cpu_usec }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.exit.borrow().is_none() {
            self.kill();
        }
    }
}

/// What is known about a container whose launcher was killed: the kernel killed it too.
fn killed_with_launcher() -> Exit {
    Exit { code: None, signal: Some(libc::SIGKILL), oom_killed: false, memory_peak_bytes: 0, cpu_usec: 0 }
}

struct Reader {
    socket: OwnedFd,
    waiters: Arc<Mutex<Waiters>>,
    launcher_pid: i32,
}

impl Reader {
    /// Ends when the launcher does. `_gone` is dropped last, which tells those who wait for that.
    fn run(self, _gone: watch::Sender<()>) {
        while let Ok(Some((news, fds))) = wire::receive::<News>(self.socket.as_fd(), true) {
            self.deliver(news, fds);
        }
        process::wait_for(self.launcher_pid);
        let mut waiters = self.waiters.lock();
        waiters.gone = true;
        waiters.starts.clear();
        waiters.exits.clear();
        waiters.remounts.clear();
    }

    fn deliver(&self, news: News, fds: Vec<OwnedFd>) {
        let mut waiters = self.waiters.lock();
        match news {
            News::Started { ticket, pid, cgroup, phases } => {
                let listener = fds.into_iter().next().map(TcpListener::from);
                if let Some(start) = waiters.starts.remove(&ticket) {
                    let _ = start.send(Ok((Started { pid, cgroup, phases }, listener)));
                }
            }
            News::Failed { ticket, failure } => {
                waiters.exits.remove(&ticket);
                if let Some(start) = waiters.starts.remove(&ticket) {
                    let _ = start.send(Err(failure));
                }
            }
            News::Ended { ticket, status, oom_killed, memory_peak_bytes, cpu_usec } => {
                // No status: the first process was killed, and with it everything.
                let code = status.and_then(|status| status.code());
                let signal = status.map_or(Some(libc::SIGKILL), |status| status.signal());
                let exit = Exit { code, signal, oom_killed, memory_peak_bytes, cpu_usec };
                if let Some(sender) = waiters.exits.remove(&ticket) {
                    sender.send_replace(Some(exit));
                }
            }
            News::Remounted { request, outcome } => {
                if let Some(sender) = waiters.remounts.remove(&request) {
                    let _ = sender.send(outcome);
                }
            }
            News::Log { message } => tracing::warn!(%message, "container launcher"),
            News::Up { .. } => {}
        }
    }
}
