//! The control plane: the client's API, and everything that is decided for it.
//!
//! `rpc/` has one file per resource; `owner` is the shell around a function's state machine; `shared` is what the
//! handlers share; decisions live in `calls`, `scheduler` and the small pure functions beside their data here
//! (`apps::decide_departure`, `tasks::decide_ending`).

mod admin;
mod answer_limit;
mod apps;
mod buckets;
mod build_logs;
mod build_volumes;
mod build_waiters;
mod builds;
mod caller;
mod cancellations;
mod capacity;
mod children;
mod clip;
mod clock;
mod collect;
mod convert;
mod definition;
mod deployments;
mod disk;
mod environment_size;
mod garbage;
mod generators;
mod handles;
mod hints;
mod image_names;
mod images;
mod logs;
mod message_limit;
mod mounts;
mod near_matches;
mod objects;
mod options;
mod owner;
mod pages;
mod parameters;
mod passing_blobs;
mod polls;
mod queues;
mod reclaim;
mod recorder;
mod refusals;
mod restore;
mod rpc;
mod running_builds;
mod scaling;
mod schedules;
mod secrets;
mod sent_contents;
mod server;
mod shared;
#[cfg(test)]
mod simulation;
mod start;
mod status;
mod tasks;
#[cfg(test)]
mod testing;
mod unheard;
mod unsaved;
mod unserved;
mod variants;
mod volume_space;
mod volumes;
mod warnings;
mod watcher;

use std::sync::Arc;

use blob_store::DiskBlobs;
use blob_store::sign::UrlKey;
use contents_store::{ContentsError, ContentsStore};
use image_builder::ImageBuilder;
use metadata_store::{MetadataStore, StoreError};
use shared_files::SharedFiles;
use tokio::sync::mpsc;
use types::words::counted;
use volume_fs::Volumes;
use worker_protocol::{WorkerEvent, WorkerHandle};

pub use admin::{ADMIN_SOCKET, Admin, KEEP_DAYS};
pub use collect::Reason;
pub use disk::{DiskReport, DiskRow, disk_report_offline};
pub use garbage::{GarbageEvent, GarbageReport, LayerList, LayerRow};
pub use logs::LogLimits;
pub use running_builds::{BuildList, BuildRow};
pub use schedules::{ScheduleList, ScheduleRow};
pub use server::{ContainerEndpoint, Server};
pub use shared::Config;
pub use start::host_environment;
pub use unsaved::{RecoveredFiles, UnsavedList, UnsavedRow};

/// What a control plane is made of.
pub struct Parts {
    pub config: Config,
    pub store: MetadataStore,
    pub blobs: DiskBlobs,
    pub blob_key: UrlKey,
    /// Encrypts secrets at rest.
    pub secret_key: [u8; 32],
    pub builder: ImageBuilder,
    pub volumes: Volumes,
    pub worker: WorkerHandle,
    pub events: mpsc::Receiver<WorkerEvent>,
}

/// Why a control plane cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Contents(#[from] ContentsError),
    #[error("cannot start the writer of the apps' logs")]
    Logs { source: std::io::Error },
    #[error("cannot open the folder of network file systems")]
    SharedFiles { source: std::io::Error },
}
/// A server that ends waits so long for the disk.
const RECORD_PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// What a server that stops breaks off: calls without all of their results, and inputs that run for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupted {
    pub calls: usize,
    pub running: usize,
}

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.calls == 0 {
            return f.write_str("no call is interrupted");
        }
        write!(
            f,
            "interrupting {} ({} running); results so far are kept, and the rest runs again when the server is started",
            counted(self.calls, "function call"),
            counted(self.running, "input")
        )
    }
}

/// What a control plane keeps below its data directory beside the parts.
struct Opened {
    logs: Arc<logs::LogKeeper>,
    shared_files: SharedFiles,
    contents: ContentsStore,
}

impl Opened {
    fn of(config: &Config) -> Result<Self, StartError> {
        let data = &config.data_dir;
        Ok(Self {
            logs: logs::LogKeeper::open(data.join("logs"), config.log_limits)
                .map_err(|source| StartError::Logs { source })?,
            shared_files: SharedFiles::open(data.join("nfs")).map_err(|source| StartError::SharedFiles { source })?,
            contents: ContentsStore::open(&data.join("contents.sqlite"), clock::wall_ms() * 1000)?,
        })
    }
}

/// Takes up what the store knows, and begins the loops.
async fn begin(parts: Parts, opened: Opened) -> Result<Arc<shared::Shared>, StartError> {
    let shared = Arc::new(shared::Shared {
        capacity: capacity::CapacityPool::new(parts.worker.capacity, parts.config.cpu_overcommit),
        config: parts.config,
        store: parts.store,
        blobs: parts.blobs.clone(),
        blob_key: parts.blob_key,
        worker: parts.worker,
        environments: Default::default(),
        apps: Default::default(),
        owners: Default::default(),
        calls: Default::default(),
        children: Default::default(),
        tasks: Default::default(),
        tasks_changed: Default::default(),
        ended_tasks: Default::default(),
        images: images::Images::new(parts.builder),
        logs: opened.logs,
        mounts: Default::default(),
        secrets: secrets::Secrets::new(&parts.secret_key),
        objects: Default::default(),
        passing_blobs: Default::default(),
        passing_contents: Default::default(),
        sent_contents: sent_contents::SentContents::new(parts.blobs.clone()),
        shared_files: opened.shared_files,
        listings: Default::default(),
        queues: queues::Queues::new(opened.contents.clone()),
        contents: opened.contents,
        volumes: volumes::VolumeShell::new(parts.volumes),
        generators: Default::default(),
        schedules: Default::default(),
        publishing: Default::default(),
        collecting: Default::default(),
        shutting_down: Default::default(),
        unheard: Default::default(),
    });
    restore::restore(&shared).await?;
    tokio::spawn(shared.clone().worker_event_loop(parts.events));
    tokio::spawn(shared.clone().reclaim_loop());
    tokio::spawn(shared.clone().app_reaper_loop());
    tokio::spawn(shared.clone().object_reaper_loop());
    tokio::spawn(shared.clone().contents_loop());
    tokio::spawn(shared.clone().expiry_loop());
    tokio::spawn(shared.clone().quiet_logs_loop());
    tokio::spawn(shared.clone().volume_space_loop());
    tokio::spawn(shared.clone().schedule_loop());
    Ok(shared)
}

/// A control plane at work.
pub struct ControlPlane {
    shared: Arc<shared::Shared>,
    pub server: Arc<Server>,
}

impl ControlPlane {
    /// Takes up what the store knows and begins to work.
    ///
    /// # Errors
    /// When the store cannot be read, or there is no thread for the logs' writer.
    pub async fn start(parts: Parts) -> Result<Self, StartError> {
        let opened = Opened::of(&parts.config)?;
        let (blobs, blob_key, volumes) = (parts.blobs.clone(), parts.blob_key.clone(), parts.volumes.clone());
        let shared = begin(parts, opened).await?;
        let http = blob_store::http::router(Arc::new(blobs), blob_key.clone())
            .merge(volume_fs::http::router(volumes, blob_key))
            .merge(pages::router());
        let server = Arc::new(Server::new(rpc::Api { shared: shared.clone() }, http));
        Ok(Self { shared, server })
    }

    /// Serves the operator's commands until the result is dropped.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn serve_admin(&self) -> std::io::Result<Admin> {
        admin::serve(self.shared.clone())
    }

    /// From here on, ends of containers are the server's doing and settle nothing, and clients are asked to come back
    /// later. Say it before containers are killed. Answers with what that interrupts.
    pub fn begin_shut_down(&self) -> Interrupted {
        self.shared.shutting_down.store(true, std::sync::atomic::Ordering::Release);
        let mut interrupted = Interrupted { calls: 0, running: 0 };
        for owner in &self.shared.owners {
            let (calls, load) = owner.read(|calls| (calls.open_calls(), calls.load()));
            interrupted.calls += calls;
            interrupted.running += load.running;
        }
        interrupted
    }

    /// Commits what running containers have written to volumes. Say it before containers are killed.
    pub async fn commit_volumes(&self) {
        let committed = tokio::time::timeout(RECORD_PATIENCE, self.shared.commit_all_volumes()).await;
        if committed.is_err() {
            tracing::error!("volumes are not committed in time; containers' last writes may be lost");
        }
    }

    /// Writes down what is still on its way to the disk.
    pub async fn shut_down(&self) {
        let owners: Vec<_> = self.shared.owners.iter().map(|owner| owner.clone()).collect();
        for owner in &owners {
            owner.record_open_calls(&self.shared);
        }
        let deadline = tokio::time::Instant::now() + RECORD_PATIENCE;
        while owners.iter().any(|owner| !owner.unrecorded(|u| u.is_empty())) {
            if tokio::time::Instant::now() > deadline {
                tracing::error!("the disk does not take what is left; calls that were waited for may be lost");
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let logs = self.shared.logs.clone();
        // The file system may take its time; others use this thread.
        let _ = tokio::task::spawn_blocking(move || logs.close()).await;
        self.shared.contents.close().await;
        if let Err(error) = self.shared.store.close().await {
            tracing::error!(%error, "the metadata store did not close cleanly");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_stops_says_what_becomes_of_the_calls_it_interrupts() {
        let said = Interrupted { calls: 3, running: 7 }.to_string();
        assert!(said.contains("3 function calls (7 inputs running)") && said.contains("runs again"), "{said}");
        assert_eq!(Interrupted { calls: 0, running: 0 }.to_string(), "no call is interrupted");
    }
}
