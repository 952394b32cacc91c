//! Our program on one machine: makes a container for each task, gives it its API endpoint, ships its output and
//! reports its end. It knows nothing of functions or calls.

mod disk;
mod mounts;
mod output;
mod task;
mod volumes;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use container_runtime::Runtime;
use tokio::sync::{Mutex, mpsc};
use types::ids::TaskId;
use volume_fs::ContentStore;
use volume_fs::unsaved::UnsavedFolder;
use worker_protocol::{Capacity, ContainerApi, VolumeCommand, WorkerCommand, WorkerEvent, WorkerHandle};

use crate::task::{Stop, TaskControl};

/// Commands that may wait; the control plane awaits room. A start is handed to its own loop at once, so more than a
/// few waiting means that the machine is in trouble.
const COMMAND_QUEUE: usize = 1024;

#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Where layers lie, one folder per key with the files below `diff`.
    pub layers: PathBuf,
    /// Private folder for running tasks. Emptied at start: what is in it belonged to containers that are gone.
    pub tasks: PathBuf,
    /// Where buckets of running tasks are mounted. Not below `tasks`: what is removed there with all that is in it
    /// must never be somebody's bucket.
    pub mounts: PathBuf,
    /// Network file systems, a folder for each.
    pub shared_folders: PathBuf,
    /// The host's bundle of trusted certificates, shown to containers read-only.
    pub ca_bundle: Option<PathBuf>,
    /// Where the large files of volumes are.
    pub volume_contents: ContentStore,
    /// Where what a container could not commit is moved to.
    pub unsaved: UnsavedFolder,
}

struct Worker {
    config: WorkerConfig,
    runtime: Runtime,
    api: Arc<dyn ContainerApi>,
    events: mpsc::Sender<WorkerEvent>,
    running: Mutex<HashMap<TaskId, TaskControl>>,
    disks: disk::GivenDisks,
}

/// Starts the worker; it ends when the handle's last clone is dropped.
///
/// # Errors
/// When its private folder cannot be made.
pub fn start(
    config: WorkerConfig,
    runtime: Runtime,
    api: Arc<dyn ContainerApi>,
    events: mpsc::Sender<WorkerEvent>,
) -> std::io::Result<WorkerHandle> {
    mounts::prepare(&config)?;
    let _ = trees::remove(&config.tasks);
    std::fs::create_dir_all(&config.tasks)?;
    // What a container writes may be a set-user program, and its root's files are root's: nobody else may come here.
    std::fs::set_permissions(&config.tasks, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
    let capacity = capacity(&config.tasks)?;
    let worker =
        Arc::new(Worker { config, runtime, api, events, running: Mutex::default(), disks: Default::default() });
    tokio::spawn(command_loop(worker, inbox));
    Ok(WorkerHandle { commands, capacity })
}

async fn command_loop(worker: Arc<Worker>, mut inbox: mpsc::Receiver<WorkerCommand>) {
    while let Some(command) = inbox.recv().await {
        match command {
            WorkerCommand::Start(spec) => {
                let control = TaskControl::new();
                worker.running.lock().await.insert(spec.task.clone(), control.clone());
                let worker = worker.clone();
                tokio::spawn(async move {
                    let id = spec.task.clone();
                    let end = task::run(&worker, *spec, &control).await;
                    worker.running.lock().await.remove(&id);
                    let _ = worker.events.send(WorkerEvent::Ended { task: id, end }).await;
                });
            }
            WorkerCommand::Volume(command) => {
                let mounted = worker.running.lock().await.get(command.task()).and_then(TaskControl::mounted);
                match command {
                    // Here and now: the next collection must know of it.
                    VolumeCommand::Settle { volume, request, is_taken, .. } => {
                        volumes::settle(mounted.as_deref(), &volume, request, is_taken);
                    }
                    // In its own time: it reads and writes as much as the container has written.
                    command => drop(tokio::spawn(volumes::execute(worker.clone(), mounted, command))),
                }
            }
            WorkerCommand::Stop { task, interrupt, grace_ms } => {
                if let Some(control) = worker.running.lock().await.get(&task) {
                    control.stop(Stop { interrupt, grace_ms });
                }
            }
        }
    }
}

fn capacity(tasks: &Path) -> std::io::Result<Capacity> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    Ok(Capacity {
        milli_cpu: cores as u32 * 1000,
        memory_mib: total_memory_mib().unwrap_or(1024),
        disk_mib: disk::size_bytes(tasks)? >> 20,
    })
}

fn total_memory_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib / 1024)
}
