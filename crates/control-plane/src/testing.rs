//! A control plane with a simulated worker, for tests of the shell: requests come in as clients make them, containers are
//! names that are noted.

use std::sync::Arc;
use std::time::Duration;

use blob_store::{DiskBlobs, DiskConfig};
use client_protocol::{Passthrough, wire};
use container_runtime::{Runtime, RuntimeConfig};
use image_builder::{BuilderConfig, BuiltImage, ImageBuilder};
use metadata_store::{ImageRecord, MetadataStore, Write};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};
use types::ids::{AppId, FunctionCallId, ImageId, TaskId};
use worker_protocol::{Capacity, TaskExit, WorkerCommand, WorkerEvent, WorkerHandle};

use crate::apps::App;
use crate::caller::{Caller, ClientVersion, Principal, Sdk};
use crate::rpc::Api;
use crate::rpc::calls::parse_call;
use crate::shared::Shared;
use crate::{Config, ControlPlane, Parts};

/// An image without layers, which is there.
pub const IMAGE: &str = "im-test";
const CAPACITY: Capacity = Capacity { milli_cpu: 1_000_000, memory_mib: 1 << 20, disk_mib: 1 << 20 };
/// How long anything may take on a busy machine.
const BOUND: Duration = Duration::from_secs(60);

pub struct Site {
    folder: TempDir,
    control: ControlPlane,
    pub api: Api,
    started: Arc<Mutex<Vec<TaskId>>>,
}

/// The database is not to be written to while this lives.
pub struct HeldDisk(#[expect(dead_code)] rusqlite::Connection);

impl Site {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = MetadataStore::open(&folder.path().join("metadata.sqlite")).unwrap();
        store.write(vec![Write::Image(image())]).await.unwrap();
        Self::begin(folder, store).await
    }

    /// Another server takes up what this one has on disk.
    pub async fn restart(self) -> Self {
        self.control.begin_shut_down();
        self.control.shut_down().await;
        let store = MetadataStore::open(&self.folder.path().join("metadata.sqlite")).unwrap();
        Self::begin(self.folder, store).await
    }

    async fn begin(folder: TempDir, store: MetadataStore) -> Self {
        let data = folder.path();
        let runtime = Runtime::without_launcher(RuntimeConfig::new(data.join("runtime"))).unwrap();
        let (events, inbox) = mpsc::channel(256);
        let started = Arc::new(Mutex::new(Vec::new()));
        let parts = Parts {
            config: Config {
                data_dir: data.to_owned(),
                token_id: "ak-test".to_owned(),
                token_secret: "as-test".to_owned(),
                salt: "test".to_owned(),
                host_env: Vec::new(),
                log_limits: Default::default(),
                cpu_overcommit: true,
            },
            store,
            blobs: DiskBlobs::open(&data.join("blobs"), DiskConfig::default()).unwrap(),
            blob_key: blob_store::load_or_create_key(&data.join("blob-url.key")).unwrap(),
            secret_key: blob_store::load_or_create_key_bytes(&data.join("secrets.key")).unwrap(),
            builder: ImageBuilder::new(BuilderConfig::new(data.join("images")), runtime).unwrap(),
            volumes: volume_fs::Volumes::open(&data.join("volumes")).unwrap(),
            worker: start_worker(started.clone(), events),
            events: inbox,
        };
        let control = ControlPlane::start(parts).await.unwrap();
        let api = Api { shared: control.shared.clone() };
        Self { folder, control, api, started }
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.api.shared
    }

    /// Tasks that the worker was told to start.
    pub fn started(&self) -> usize {
        self.started.lock().len()
    }

    /// Writes wait until the result is dropped, at most for the store's patience of 5 s.
    pub fn hold_the_disk(&self) -> HeldDisk {
        let connection = rusqlite::Connection::open(self.folder.path().join("metadata.sqlite")).unwrap();
        connection.busy_timeout(BOUND).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        HeldDisk(connection)
    }

    pub async fn app(&self, state: wire::AppState) -> Arc<App> {
        let create = wire::AppCreateRequest { app_state: state as i32, ..Default::default() };
        let created = self.api.app_create(request(create)).await.unwrap().into_inner();
        self.find_app(&AppId::parse(&created.app_id).unwrap())
    }

    pub fn find_app(&self, id: &AppId) -> Arc<App> {
        self.shared().apps.get(id).unwrap().clone()
    }

    /// Defines the function `work`, and publishes it with the app in this state; its id.
    pub async fn publish(&self, app: &App, state: wire::AppState, image: &str) -> Result<String, Status> {
        let function = wire::Function {
            module_name: "test".to_owned(),
            function_name: "work".to_owned(),
            image_id: image.to_owned(),
            function_type: wire::function::FunctionType::Function as i32,
            definition_type: wire::function::DefinitionType::File as i32,
            timeout_secs: 600,
            startup_timeout_secs: 600,
            ..Default::default()
        };
        let create = wire::FunctionCreateRequest {
            function: Some(Passthrough::from_message(&function)),
            app_id: app.id.to_string(),
            ..Default::default()
        };
        let function = self.api.function_create(request(create)).await?.into_inner().function_id;
        let publish = wire::AppPublishRequest {
            app_id: app.id.to_string(),
            name: "test".to_owned(),
            app_state: state as i32,
            function_ids: [("work".to_owned(), function.clone())].into(),
            ..Default::default()
        };
        self.api.app_publish(request(publish)).await.map(|_| function)
    }

    /// A call with one input that its caller waits for, or walks away from.
    pub async fn call(&self, function: &str, waits: bool) -> Result<FunctionCallId, Status> {
        use wire::FunctionCallInvocationType as Invocation;
        let input = wire::FunctionInput {
            args_oneof: Some(wire::function_input::ArgsOneof::Args(b"\x80\x04)}\x86.".as_slice().into())),
            data_format: wire::DataFormat::Pickle as i32,
            ..Default::default()
        };
        let invocation = if waits { Invocation::Sync } else { Invocation::Async };
        let map = wire::FunctionMapRequest {
            function_id: function.to_owned(),
            function_call_type: wire::FunctionCallType::Unary as i32,
            function_call_invocation_type: invocation as i32,
            pipelined_inputs: vec![wire::FunctionPutInputsItem { input: Some(input), ..Default::default() }],
            ..Default::default()
        };
        let made = self.api.function_map(request(map)).await?.into_inner();
        parse_call(&made.function_call_id)
    }

    /// Asks for a call's outputs, waiting for so long.
    pub async fn outputs(&self, call: &FunctionCallId, timeout: f32) -> wire::FunctionGetOutputsResponse {
        let ask = wire::FunctionGetOutputsRequest { function_call_id: call.to_string(), timeout, ..Default::default() };
        self.api.function_get_outputs(ask).await.map(Response::into_inner).unwrap()
    }

    /// Inputs that the disk has without a result.
    pub async fn pending(&self) -> usize {
        self.shared().store.load().await.unwrap().calls.iter().map(|call| call.pending.len()).sum()
    }
}

/// As a client's request comes from the layer that identifies it.
pub fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Caller {
        principal: Principal::Client,
        version: ClientVersion(1, 6, 4),
        sdk: Sdk::Python,
        authority: "localhost".to_owned(),
        idempotency_key: None,
        is_repeated: false,
        python_minor: None,
    });
    request
}

/// Waits until it is so.
#[track_caller]
pub fn eventually(what: &'static str, condition: impl AsyncFn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = std::time::Instant::now() + BOUND;
        while !condition().await {
            assert!(std::time::Instant::now() < deadline, "{caller}: {what} did not come to be");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// See [`IMAGE`].
pub fn image() -> ImageRecord {
    let built = BuiltImage { layers: Vec::new(), config: Default::default(), metadata: Default::default() };
    ImageRecord {
        id: ImageId::parse(IMAGE).unwrap(),
        key: "test".to_owned(),
        built_json: serde_json::to_string(&built).unwrap(),
        builder_version: "2025.06".to_owned(),
        created_at_ms: 0,
        finished_at_ms: 0,
        last_used_ms: 0,
        bases: Vec::new(),
        build_task: None,
        app: None,
    }
}

/// Containers that do nothing until they are stopped.
fn start_worker(started: Arc<Mutex<Vec<TaskId>>>, events: mpsc::Sender<WorkerEvent>) -> WorkerHandle {
    let (commands, mut inbox) = mpsc::channel(1024);
    tokio::spawn(async move {
        while let Some(command) = inbox.recv().await {
            let event = match command {
                WorkerCommand::Start(spec) => {
                    started.lock().push(spec.task.clone());
                    WorkerEvent::Started { task: spec.task, create_us: 0 }
                }
                WorkerCommand::Stop { task, .. } if started.lock().contains(&task) => {
                    WorkerEvent::Ended { task, end: TaskExit { code: Some(0), requested: true, ..TaskExit::default() } }
                }
                WorkerCommand::Stop { .. } | WorkerCommand::Volume(_) => continue,
            };
            if events.send(event).await.is_err() {
                return;
            }
        }
    });
    WorkerHandle { commands, capacity: CAPACITY }
}
