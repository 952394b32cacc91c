//! `dorian up`: the whole platform in one process.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use blob_store::{DiskBlobs, DiskConfig};
use clap::Args;
use container_runtime::Runtime;
use control_plane::{Config, ContainerEndpoint, ControlPlane, Parts};
use image_builder::ImageBuilder;
use metadata_store::MetadataStore;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;
use volume_fs::Volumes;
use worker::WorkerConfig;

use crate::config;
use crate::data_dir::{self, DataDir};
use crate::greeting::greeting;
use crate::{memory, open_files};

/// Events from the worker that may wait. Output comes in chunks of up to 64 KiB, so this bounds it to a few MiB; a
/// full queue slows the printing containers.
const EVENT_QUEUE: usize = 256;

/// Folders that programs nest are walked by recursion, as deep as a path can name them: 2,048 folders, of which each takes
/// 1 to 4 KB. Only what is used of it takes memory.
const THREAD_STACK: usize = 16 << 20;

/// Work on blocking threads may go on so long after everything that counts is on disk.
const LAST_WORK: Duration = Duration::from_secs(1);

#[derive(Args, Clone)]
#[command(after_help = "Examples:\n  dorian up\n  dorian up --data ~/dorian --listen 0.0.0.0:9900")]
pub struct UpArgs {
    /// Folder for state, images and blobs
    #[arg(long, value_name = "DIR", default_value = data_dir::DEFAULT, env = "DORIAN_DATA")]
    pub data: PathBuf,
    /// Where clients reach the server; beyond loopback only behind a network that you trust, since it is not encrypted
    #[arg(long, value_name = "ADDR:PORT", default_value = data_dir::DEFAULT_LISTEN, env = "DORIAN_LISTEN")]
    pub listen: String,
}

pub fn run(args: &UpArgs) -> Result<()> {
    start_logging();
    // SAFETY: geteuid reads a property of the process and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        bail!("cannot serve without root's rights, since `dorian up` makes containers; try again with `sudo`");
    }
    let listen: SocketAddr = args.listen.parse().map_err(|_| {
        anyhow::anyhow!("cannot listen on `{}`: --listen takes an address and a port, like 127.0.0.1:9900", args.listen)
    })?;
    let data = DataDir::open(&args.data)?;
    let chosen = config::Config::read(&data.path)?;
    // Bound before the rest is started, so that a taken port costs nothing.
    let listener = std::net::TcpListener::bind(listen).map_err(|error| bind_error(listen, error))?;
    let state_dir = data.path.join("runtime");
    // The launcher forks here, while this process has one thread.
    let runtime = Runtime::start(chosen.runtime(state_dir)?).context("cannot prepare for running containers")?;
    for warning in runtime.warnings() {
        tracing::warn!("{warning}");
    }
    // After the launcher, which sets its own limit and those of containers.
    open_files::raise_limit();
    memory::give_back_when_idle();
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get()).max(2);
    let mut executor = tokio::runtime::Builder::new_multi_thread();
    let tokio = executor.worker_threads(threads).thread_stack_size(THREAD_STACK).enable_all().build()?;
    let served = tokio.block_on(serve(&data, chosen, listener, runtime));
    // What still works on the disk, such as merging layers of volumes, is begun anew by the next server.
    tokio.shutdown_timeout(LAST_WORK);
    // Only now may that one begin.
    drop(data);
    served
}

fn bind_error(listen: SocketAddr, error: std::io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "something listens there already; stop it, or choose another port with --listen"
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "no network of this machine has that address; choose another with --listen"
        }
        _ => "choose another address with --listen",
    };
    anyhow::anyhow!("cannot listen on {listen}: {error}; {hint}")
}

/// Logs go to standard error; standard output has the line that others wait for.
fn start_logging() {
    let filter = EnvFilter::try_from_env("DORIAN_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

async fn serve(
    data: &DataDir,
    chosen: config::Config,
    listener: std::net::TcpListener,
    runtime: Runtime,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let address = listener.local_addr()?;

    let store = MetadataStore::open(&data.path.join("metadata.sqlite")).context("cannot open the metadata store")?;
    let blobs =
        DiskBlobs::open(&data.path.join("blobs"), DiskConfig::default()).context("cannot open the blob store")?;
    let blob_key = blob_store::load_or_create_key(&data.path.join("blob-url.key"))?;
    let secret_key = blob_store::load_or_create_key_bytes(&data.path.join("secrets.key"))?;
    let (log_limits, cpu_overcommit) = (chosen.log_limits(), chosen.cpu_overcommit());
    let builder_config = chosen.builder(&data.path.join("images"))?;
    let builder = ImageBuilder::new(builder_config, runtime.clone()).context("cannot open the image store")?;
    let (host_env, ca_bundle) = control_plane::host_environment(std::env::vars());

    let volumes = Volumes::open(&data.path.join("volumes")).context("cannot open the folder of volumes")?;
    let endpoint = Arc::new(ContainerEndpoint::default());
    let (event_sender, events) = mpsc::channel(EVENT_QUEUE);
    let worker_config = WorkerConfig {
        layers: data.path.join("images/layers"),
        tasks: data.path.join("tasks"),
        mounts: data.path.join("mounts"),
        shared_folders: data.path.join("nfs"),
        ca_bundle: ca_bundle.map(PathBuf::from),
        volume_contents: volumes.contents().clone(),
        unsaved: volumes.unsaved().clone(),
    };
    // What containers write is not always on the volumes' disk.
    volumes.unsaved().add(data.path.join("unsaved")).context("cannot make a folder for what could not be committed")?;
    let worker = worker::start(worker_config, runtime.clone(), endpoint.clone(), event_sender)?;
    let config = Config {
        data_dir: data.path.clone(),
        token_id: data.identity.token_id.clone(),
        token_secret: data.identity.token_secret.clone(),
        salt: data.identity.salt.clone(),
        host_env,
        log_limits,
        cpu_overcommit,
    };
    let control =
        ControlPlane::start(Parts { config, store, blobs, blob_key, secret_key, builder, volumes, worker, events })
            .await?;
    endpoint.open(control.server.clone());
    data.close_to_others()?;
    let admin = control.serve_admin().context("cannot make the socket for the operator's commands")?;
    data.write_address(&address.to_string())?;
    print!("{}", greeting(&address, &data.path));
    std::io::stdout().flush()?;

    tokio::select! {
        () = control.server.clone().serve_clients(listener) => {}
        _ = terminate.recv() => tracing::info!("asked to stop"),
        _ = interrupt.recv() => tracing::info!("interrupted"),
    }
    drop(admin);
    let interrupted = control.begin_shut_down();
    tracing::info!("stopping: {interrupted}");
    control.commit_volumes().await;
    runtime.shutdown().await;
    control.shut_down().await;
    Ok(())
}
