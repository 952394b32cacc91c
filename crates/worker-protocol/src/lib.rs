//! What the control plane and a worker say to each other.
//!
//! Today both run in one process and the messages travel through channels; they are plain data with no handle into
//! either side (the one exception is named below), so that a worker on another machine is a matter of encoding.

mod buckets;
mod volumes;

use std::path::PathBuf;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use types::ids::{AppId, FunctionId, TaskId, VolumeId};
use types::variables::Variables;

pub use buckets::{BucketMount, SharedFolder};
pub use volumes::{RequestId, Uncollected, VolumeAnswer, VolumeCommand, VolumeLayer, VolumeSpec};

/// Names the version of these messages; a worker and a control plane of different versions refuse each other.
pub const VERSION: u32 = 1;

/// Everything needed to run one task.
#[derive(Debug, Clone)]
pub struct TaskSpec {
    pub task: TaskId,
    pub app: AppId,
    pub function: FunctionId,
    /// Keys of the layers that make the root filesystem, lowest first: image, client, the user's files.
    pub layers: Vec<String>,
    pub argv: Vec<String>,
    pub env: Variables,
    pub cwd: String,
    /// Contents of the file that the runner reads at start.
    pub container_arguments: Bytes,
    pub memory_limit_bytes: Option<u64>,
    pub cpu_request_milli: u32,
    pub cpu_limit_milli: Option<u32>,
    pub disk_limit_bytes: Option<u64>,
    pub block_network: bool,
    /// The container makes a part of an image: it may do what builds may, and what it wrote is kept when it succeeds.
    pub builds_image: bool,
    pub buckets: Vec<BucketMount>,
    pub shared_folders: Vec<SharedFolder>,
    pub volumes: Vec<VolumeSpec>,
}

/// From the control plane to a worker.
#[derive(Debug)]
pub enum WorkerCommand {
    Start(Box<TaskSpec>),
    /// Interrupt the task's program, unless it is leaving by itself; kill it if it is still there after the grace. Without a
    /// grace it is killed at once.
    Stop {
        task: TaskId,
        interrupt: bool,
        grace_ms: u64,
    },
    Volume(VolumeCommand),
}

/// From a worker to the control plane.
#[derive(Debug)]
pub enum WorkerEvent {
    /// The container's first process runs. Microseconds that the making took.
    Started {
        task: TaskId,
        create_us: u64,
    },
    /// What the task printed, as it came from the pipe.
    Output {
        task: TaskId,
        descriptor: Descriptor,
        text: String,
    },
    /// Of a request about a volume.
    Volume {
        request: RequestId,
        answer: VolumeAnswer,
    },
    Ended {
        task: TaskId,
        end: TaskExit,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descriptor {
    Stdout,
    Stderr,
    /// Said by the platform about the task.
    System,
}

/// How a task's container ended, all output delivered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskExit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub oom_killed: bool,
    pub memory_peak_bytes: u64,
    pub memory_limit_bytes: Option<u64>,
    pub cpu_us: u64,
    /// The container could not be made at all; why.
    pub start_error: Option<String>,
    /// The exit follows a stop that the control plane asked for.
    pub requested: bool,
    /// The folder with what it wrote, for whoever takes it; only of one that builds an image and succeeded.
    pub changes: Option<PathBuf>,
    /// What it wrote to volumes and did not commit, or why there is no layer of that.
    pub volumes: Vec<(VolumeId, Result<VolumeLayer, Uncollected>)>,
}

/// A connection that a container opened to its API endpoint.
pub trait ContainerStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> ContainerStream for T {}

/// The control plane's side of containers' API endpoints. The socket is the identity: whoever connects through a
/// task's socket is that task. (On one machine the stream is handed over; a remote worker will relay it.)
pub trait ContainerApi: Send + Sync + 'static {
    fn serve(&self, task: TaskId, stream: Box<dyn ContainerStream>);
}

/// The control plane's end of one worker.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    pub commands: mpsc::Sender<WorkerCommand>,
    pub capacity: Capacity,
}

/// What a worker's machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub milli_cpu: u32,
    pub memory_mib: u64,
    /// Of the file system on which containers write.
    pub disk_mib: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_command_shows_no_value_of_the_environment() {
        let command = WorkerCommand::Start(Box::new(TaskSpec {
            task: TaskId::random(),
            app: AppId::random(),
            function: FunctionId::random(),
            layers: Vec::new(),
            argv: vec!["python".to_owned()],
            env: vec![("TOKEN".to_owned(), "hush".to_owned())].into(),
            cwd: "/root".to_owned(),
            container_arguments: Bytes::new(),
            memory_limit_bytes: None,
            cpu_request_milli: 100,
            cpu_limit_milli: None,
            disk_limit_bytes: None,
            block_network: false,
            builds_image: false,
            buckets: vec![BucketMount {
                mount_path: "/b".to_owned(),
                bucket: "b".to_owned(),
                endpoint: None,
                prefix: String::new(),
                credentials: vec![("AWS_SECRET_ACCESS_KEY".to_owned(), "hush".to_owned())].into(),
                read_only: false,
                requester_pays: false,
                force_path_style: false,
                metadata_ttl_ms: 1_000,
            }],
            shared_folders: Vec::new(),
            volumes: Vec::new(),
        }));
        let printed = format!("{command:?}");
        assert!(printed.contains("TOKEN") && !printed.contains("hush"), "{printed}");
    }
}
