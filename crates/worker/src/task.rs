//! One task from its spec to its end.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use container_runtime::{Bind, ContainerSpec, Limits, Network, Profile};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use types::errors::with_causes;
use types::ids::TaskId;
use worker_protocol::{ContainerApi, Descriptor, TaskExit, TaskSpec, WorkerEvent};

use crate::mounts::{MountError, Mounts};
use crate::volumes::{Mounted, TaskVolumes};
use crate::{Worker, disk, output};

/// Where the container finds its API endpoint and its arguments.
pub const SOCKET_IN_CONTAINER: &str = "/__modal/api.sock";
pub const ARGUMENTS_IN_CONTAINER: &str = "/__modal/container-arguments";
pub const CA_BUNDLE_IN_CONTAINER: &str = "/__modal/ca-bundle.pem";

/// Port on the container's own loopback where it fetches and stores blobs over HTTP; the API socket cannot serve
/// that, since the client downloads by URL. High, so that users seldom want it themselves.
pub const BLOB_PORT: u16 = 48_999;

/// Processes and threads of one container. Enough for a few hundred workers with thread pools, and a fork bomb is
/// over in a moment.
const PIDS: u32 = 4_096;

/// How long output may still come after the container's processes are gone. All writers are dead then, so the pipes
/// only need to be read empty.
const DRAIN: Duration = Duration::from_secs(10);

/// How a task is to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    pub interrupt: bool,
    pub grace_ms: u64,
}

impl Stop {
    /// The stricter of the two.
    fn and(self, other: Self) -> Self {
        Self { interrupt: self.interrupt || other.interrupt, grace_ms: self.grace_ms.min(other.grace_ms) }
    }
}

#[derive(Clone)]
pub struct TaskControl {
    /// Set once a stop is wanted.
    stop: Arc<watch::Sender<Option<Stop>>>,
    /// Set when the container runs.
    mounted: Arc<OnceLock<Arc<Mounted>>>,
}

impl TaskControl {
    pub fn new() -> Self {
        Self { stop: Arc::new(watch::Sender::new(None)), mounted: Arc::default() }
    }

    pub fn mounted(&self) -> Option<Arc<Mounted>> {
        self.mounted.get().cloned()
    }

    /// A second stop makes the first one stricter.
    pub fn stop(&self, stop: Stop) {
        self.stop.send_modify(|wanted| *wanted = Some(wanted.map_or(stop, |earlier| earlier.and(stop))));
    }
}

pub(crate) async fn run(worker: &Arc<Worker>, spec: TaskSpec, control: &TaskControl) -> TaskExit {
    let folder = worker.config.tasks.join(spec.task.as_str());
    let limit = spec.memory_limit_bytes;
    let volumes = TaskVolumes::new(&spec.volumes, &folder.join("volumes"), &worker.config.volume_contents);
    let mut end = match launch(worker, &spec, &folder, volumes).await {
        Ok(running) => running.finish(worker, &spec.task, control, limit).await,
        Err(error) => failed_to_start(&spec.task, limit, &error),
    };
    if spec.builds_image && end.code == Some(0) && !end.requested {
        end.changes = Some(folder.join("root/diff"));
        return end;
    }
    let removal = remove(spec.task.clone(), folder);
    // A container may leave as many files in its volumes as it likes; nobody waits for their removal.
    if spec.volumes.is_empty() {
        removal.await
    } else {
        drop(tokio::spawn(removal))
    }
    end
}

async fn remove(task: TaskId, folder: PathBuf) {
    let removed = tokio::task::spawn_blocking(move || trees::remove(&folder)).await;
    if let Ok(Err(error)) = removed {
        tracing::warn!(%task, %error, "could not remove the task's folder");
    }
}

fn failed_to_start(task: &TaskId, memory_limit_bytes: Option<u64>, error: &LaunchError) -> TaskExit {
    let text = with_causes(error);
    tracing::error!(%task, error = %text, "a container could not be started");
    TaskExit {
        code: None,
        signal: None,
        oom_killed: false,
        memory_peak_bytes: 0,
        memory_limit_bytes,
        cpu_us: 0,
        start_error: Some(text),
        requested: false,
        changes: None,
        volumes: Vec::new(),
    }
}

#[derive(Debug, thiserror::Error)]
enum LaunchError {
    #[error("could not prepare the task's folder `{0}`")]
    Folder(PathBuf, #[source] std::io::Error),
    #[error("could not make a pipe for the container's output")]
    Pipe(#[source] std::io::Error),
    #[error("the container could not be made")]
    Runtime(#[source] container_runtime::RuntimeError),
    #[error("a mount could not be made")]
    Mount(#[source] MountError),
}

struct Running {
    mounts: Mounts,
    mounted: Arc<Mounted>,
    outputs: tokio::task::JoinSet<()>,
    endpoints: tokio::task::JoinSet<()>,
    /// Given back with the container.
    _disk: Option<Arc<disk::GivenDisk>>,
}

async fn launch(
    worker: &Arc<Worker>,
    spec: &TaskSpec,
    folder: &Path,
    volumes: TaskVolumes,
) -> Result<Running, LaunchError> {
    let started = Instant::now();
    let scratch = folder.join("root");
    let in_folder = |error| LaunchError::Folder(folder.to_owned(), error);
    std::fs::create_dir_all(&scratch).map_err(in_folder)?;
    let arguments = folder.join("arguments");
    std::fs::write(&arguments, &spec.container_arguments).map_err(in_folder)?;
    let socket = folder.join("api.sock");
    let listener = UnixListener::bind(&socket).map_err(in_folder)?;
    open_to_container(&socket, 0o666).map_err(in_folder)?;
    open_to_container(&arguments, 0o644).map_err(in_folder)?;

    let disk = disk_limit(worker, spec, folder).await.map_err(in_folder)?;
    let mounts = Mounts::make(worker, spec).await.map_err(LaunchError::Mount)?;
    let (stdout, stdout_end) = std::io::pipe().map_err(LaunchError::Pipe)?;
    let (stderr, stderr_end) = std::io::pipe().map_err(LaunchError::Pipe)?;
    let container_spec = ContainerSpec {
        id: spec.task.as_str().to_owned(),
        layers: spec.layers.iter().map(|key| worker.config.layers.join(key).join("diff")).collect(),
        scratch,
        argv: spec.argv.clone(),
        env: spec.env.clone(),
        cwd: spec.cwd.clone(),
        hostname: "modal".to_owned(),
        tmpfs: Vec::new(),
        binds: binds(worker, socket, arguments, &mounts),
        volumes: volumes.mounts(),
        network: if spec.block_network { Network::None } else { Network::Nat },
        limits: Limits {
            memory_bytes: spec.memory_limit_bytes,
            cpu_request_milli: Some(spec.cpu_request_milli),
            cpu_limit_milli: spec.cpu_limit_milli,
            pids: Some(PIDS),
            disk_bytes: disk.as_ref().map(|disk| disk.bytes),
        },
        profile: if spec.builds_image { Profile::Build } else { Profile::Task },
        stdout: OwnedFd::from(stdout_end),
        stderr: OwnedFd::from(stderr_end),
        loopback_port: Some(BLOB_PORT),
    };
    let container = worker.runtime.create(container_spec).await.map_err(LaunchError::Runtime)?;
    disk.iter().for_each(|disk| disk.is_used_by(container.pid()));

    let mut outputs = tokio::task::JoinSet::new();
    outputs.spawn(output::ship(spec.task.clone(), Descriptor::Stdout, stdout.into(), worker.events.clone()));
    outputs.spawn(output::ship(spec.task.clone(), Descriptor::Stderr, stderr.into(), worker.events.clone()));
    let mut endpoints = tokio::task::JoinSet::new();
    endpoints.spawn(serve_socket(spec.task.clone(), listener, worker.api.clone()));
    if let Some(listener) = container.take_listener() {
        endpoints.spawn(serve_loopback(spec.task.clone(), listener, worker.api.clone()));
    }
    let create_us = started.elapsed().as_micros() as u64;
    let _ = worker.events.send(WorkerEvent::Started { task: spec.task.clone(), create_us }).await;
    let mounted = Arc::new(Mounted { container, volumes });
    Ok(Running { mounts, mounted, outputs, endpoints, _disk: disk })
}

/// What the task asks for, or less when less is free: its author is told then.
async fn disk_limit(worker: &Worker, spec: &TaskSpec, folder: &Path) -> std::io::Result<Option<Arc<disk::GivenDisk>>> {
    let Some(asked) = spec.disk_limit_bytes else { return Ok(None) };
    let given = worker.disks.give(asked, || disk::free_bytes(folder))?;
    if given.bytes < asked {
        let text = disk::told(asked, given.bytes, given.free);
        let event = WorkerEvent::Output { task: spec.task.clone(), descriptor: Descriptor::System, text };
        let _ = worker.events.send(event).await;
    }
    Ok(Some(given))
}

/// The folder of tasks is closed to everybody; what the container's mapped root must reach is opened singly.
fn open_to_container(path: &Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

fn binds(worker: &Worker, socket: PathBuf, arguments: PathBuf, mounts: &Mounts) -> Vec<Bind> {
    let bind = |source: PathBuf, target: &str, read_only| Bind { source, target: target.to_owned(), read_only };
    let mut binds = vec![bind(socket, SOCKET_IN_CONTAINER, false), bind(arguments, ARGUMENTS_IN_CONTAINER, true)];
    if let Some(bundle) = &worker.config.ca_bundle {
        binds.push(bind(bundle.clone(), CA_BUNDLE_IN_CONTAINER, true));
    }
    binds.extend(mounts.binds.iter().cloned());
    binds
}

async fn serve_socket(task: TaskId, listener: UnixListener, api: Arc<dyn ContainerApi>) {
    while let Ok((stream, _)) = listener.accept().await {
        api.serve(task.clone(), Box::new(stream));
    }
}

async fn serve_loopback(task: TaskId, listener: std::net::TcpListener, api: Arc<dyn ContainerApi>) {
    let prepared = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
    let Ok(listener) = prepared else { return };
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        api.serve(task.clone(), Box::new(stream));
    }
}

impl Running {
    /// Waits for the end, stopping on the way if asked, and until the last output is shipped.
    async fn finish(
        mut self,
        worker: &Worker,
        task: &TaskId,
        control: &TaskControl,
        memory_limit_bytes: Option<u64>,
    ) -> TaskExit {
        let _ = control.mounted.set(self.mounted.clone());
        let mut stop = control.stop.subscribe();
        let ended = tokio::select! {
            exit = self.mounted.container.wait() => Some(exit),
            _ = stop.wait_for(Option::is_some) => None,
        };
        let exit = match ended {
            Some(exit) => exit,
            None => self.interrupt(&mut stop).await,
        };
        let drained = tokio::time::timeout(DRAIN, async { while self.outputs.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            let text = "[dorian] the rest of the output was not read in time and is cut\n".to_owned();
            let event = WorkerEvent::Output { task: task.clone(), descriptor: Descriptor::System, text };
            let _ = worker.events.send(event).await;
        }
        self.endpoints.abort_all();
        let volumes = self.mounted.clone().collect_all(task, &worker.config.unsaved).await;
        self.mounts.end().await;
        TaskExit {
            code: exit.code,
            signal: exit.signal,
            oom_killed: exit.oom_killed,
            memory_peak_bytes: exit.memory_peak_bytes,
            memory_limit_bytes,
            cpu_us: exit.cpu_usec,
            start_error: None,
            requested: control.stop.borrow().is_some(),
            changes: None,
            volumes,
        }
    }

    /// SIGINT is the runner's word for a graceful end; what is left after the grace is killed whole. Without a grace there
    /// is nothing to say: an interpreter that hears a signal on its way to being killed prints a traceback.
    async fn interrupt(&self, stop: &mut watch::Receiver<Option<Stop>>) -> container_runtime::Exit {
        let begun = Instant::now();
        let mut interrupted = false;
        loop {
            let Stop { interrupt, grace_ms } =
                stop.borrow_and_update().unwrap_or(Stop { interrupt: false, grace_ms: 0 });
            let left = Duration::from_millis(grace_ms).saturating_sub(begun.elapsed());
            if left.is_zero() {
                self.mounted.container.kill();
                self.mounts.interrupt();
                return self.mounted.container.wait().await;
            }
            if interrupt && !std::mem::replace(&mut interrupted, true) {
                self.mounted.container.signal(libc::SIGINT);
            }
            tokio::select! {
                exit = self.mounted.container.wait() => return exit,
                () = tokio::time::sleep(left) => {}
                _ = stop.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_stop_makes_the_first_one_stricter() {
        let control = TaskControl::new();
        let wanted = |interrupt, grace_ms| Some(Stop { interrupt, grace_ms });
        control.stop(Stop { interrupt: true, grace_ms: 3_000 });
        control.stop(Stop { interrupt: false, grace_ms: 30_000 });
        assert_eq!(*control.stop.borrow(), wanted(true, 3_000));
        control.stop(Stop { interrupt: false, grace_ms: 0 });
        assert_eq!(*control.stop.borrow(), wanted(true, 0));
    }
}
