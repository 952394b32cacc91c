//! The server's process: a whole control plane, and a worker whose containers are the generator's.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use blob_store::{DiskBlobs, DiskConfig};
use container_runtime::{Runtime, RuntimeConfig};
use control_plane::{Config, ContainerEndpoint, ControlPlane, Parts};
use image_builder::{BuilderConfig, BuiltImage, ImageBuilder};
use metadata_store::{ImageRecord, MetadataStore, Write};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::mpsc;
use types::ids::{ImageId, TaskId};
use worker_protocol::{Capacity, ContainerApi, TaskExit, WorkerCommand, WorkerEvent, WorkerHandle};

/// What the generator's callers present.
pub const TOKEN_ID: &str = "ak-load";
pub const TOKEN_SECRET: &str = "as-load";
/// The one image there is. It has no layers, since nobody looks into it.
pub const IMAGE: &str = "im-load";
/// Below the data folder: where the generator waits for its containers' sockets.
pub const CONTAINERS_SOCKET: &str = "containers.sock";
const EVENT_QUEUE: usize = 256;
/// Room for every container that a measurement asks for.
const CAPACITY: Capacity = Capacity { milli_cpu: 1_000_000, memory_mib: 1 << 20, disk_mib: 1 << 20 };

pub fn run(data: &Path) -> Result<()> {
    // The image builder wants one, and it forks, so it comes before any thread.
    let runtime = Runtime::start(RuntimeConfig::new(data.join("runtime"))).context("cannot start the launcher")?;
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get()).max(2);
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    tokio.block_on(serve(data, runtime))
}

async fn serve(data: &Path, runtime: Runtime) -> Result<()> {
    let store = MetadataStore::open(&data.join("metadata.sqlite"))?;
    store.write(vec![Write::Image(image()?)]).await?;
    let endpoint = Arc::new(ContainerEndpoint::default());
    let (events, inbox) = mpsc::channel(EVENT_QUEUE);
    let parts = Parts {
        config: Config {
            data_dir: data.to_owned(),
            token_id: TOKEN_ID.to_owned(),
            token_secret: TOKEN_SECRET.to_owned(),
            salt: "load".to_owned(),
            host_env: Vec::new(),
            log_limits: Default::default(),
            cpu_overcommit: false,
        },
        store,
        blobs: DiskBlobs::open(&data.join("blobs"), DiskConfig::default())?,
        blob_key: blob_store::load_or_create_key(&data.join("blob-url.key"))?,
        secret_key: blob_store::load_or_create_key_bytes(&data.join("secrets.key"))?,
        builder: ImageBuilder::new(BuilderConfig::new(data.join("images")), runtime.clone())?,
        volumes: volume_fs::Volumes::open(&data.join("volumes"))?,
        worker: start_worker(data.join(CONTAINERS_SOCKET), endpoint.clone(), events),
        events: inbox,
    };
    let control = ControlPlane::start(parts).await?;
    endpoint.open(control.server.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("ready {}", listener.local_addr()?);
    std::io::stdout().flush()?;
    control.server.clone().serve_clients(listener).await;
    Ok(())
}

fn image() -> Result<ImageRecord> {
    let built = BuiltImage { layers: Vec::new(), config: Default::default(), metadata: Default::default() };
    Ok(ImageRecord {
        id: ImageId::parse(IMAGE).context("the image's id is not one")?,
        key: "load".to_owned(),
        built_json: serde_json::to_string(&built)?,
        builder_version: "2025.06".to_owned(),
        created_at_ms: 0,
        finished_at_ms: 0,
        last_used_ms: 0,
        bases: Vec::new(),
        build_task: None,
        app: None,
    })
}

/// A worker that has its containers made by the generator.
fn start_worker(
    containers: PathBuf,
    endpoint: Arc<ContainerEndpoint>,
    events: mpsc::Sender<WorkerEvent>,
) -> WorkerHandle {
    let (commands, mut inbox) = mpsc::channel(1024);
    tokio::spawn(async move {
        while let Some(command) = inbox.recv().await {
            let event = match command {
                WorkerCommand::Start(spec) => match UnixStream::connect(&containers).await {
                    Ok(stream) => {
                        endpoint.serve(spec.task.clone(), Box::new(stream));
                        WorkerEvent::Started { task: spec.task, create_us: 0 }
                    }
                    Err(error) => ended(spec.task, Some(format!("the generator does not listen: {error}"))),
                },
                WorkerCommand::Stop { task, .. } => ended(task, None),
                // Its functions mount nothing.
                WorkerCommand::Volume(_) => continue,
            };
            if events.send(event).await.is_err() {
                return;
            }
        }
    });
    WorkerHandle { commands, capacity: CAPACITY }
}

fn ended(task: TaskId, start_error: Option<String>) -> WorkerEvent {
    let end = TaskExit {
        code: Some(0),
        signal: None,
        oom_killed: false,
        memory_peak_bytes: 0,
        memory_limit_bytes: None,
        cpu_us: 0,
        requested: start_error.is_none(),
        start_error,
        changes: None,
        volumes: Vec::new(),
    };
    WorkerEvent::Ended { task, end }
}
