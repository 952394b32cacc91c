//! The worker and what runs in its containers: the runner of the newest client, and a user's code that may do anything.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client_protocol::wire;
use client_protocol::wire::data_chunk::DataOneof as ChunkData;
use client_protocol::wire::function_call_put_data_request::CallInfo as PutInfo;
use client_protocol::wire::generic_result::{DataOneof, GenericStatus};
use parking_lot::Mutex;
use rand::Rng;
use tokio::sync::{Notify, mpsc, watch};
use tonic::Status;
use types::ids::TaskId;
use worker_protocol::{TaskExit, TaskSpec, WorkerCommand, WorkerEvent};

use super::ledger::{Ended, NO_START, Subject};
use super::network::ask_from;
use super::scenario::millis;
use super::world::World;
use crate::rpc::Api;

/// A stop that a container was told of.
#[derive(Debug, Clone, Copy, Default)]
struct Stop {
    asked: bool,
    interrupt: bool,
    grace_ms: u64,
}

pub async fn work(
    world: Arc<World>,
    api: Api,
    mut commands: mpsc::Receiver<WorkerCommand>,
    events: mpsc::Sender<WorkerEvent>,
) {
    let mut stops: HashMap<TaskId, watch::Sender<Stop>> = HashMap::new();
    while let Some(command) = commands.recv().await {
        match command {
            WorkerCommand::Start(spec) => {
                let (stop, told) = watch::channel(Stop::default());
                stops.insert(spec.task.clone(), stop);
                tokio::spawn(container(world.clone(), api.clone(), *spec, told, events.clone()));
            }
            WorkerCommand::Stop { task, interrupt, grace_ms } => {
                if let Some(stop) = stops.get(&task) {
                    world.ledger.lock().told_to_stop(&task);
                    let _ = stop.send(Stop { asked: true, interrupt, grace_ms });
                }
            }
            WorkerCommand::Volume(_) => {}
        }
    }
}

/// How a container's program came to its end.
enum Exit {
    Code(i32),
    Killed,
}

async fn container(
    world: Arc<World>,
    api: Api,
    spec: TaskSpec,
    stop: watch::Receiver<Stop>,
    events: mpsc::Sender<WorkerEvent>,
) {
    let task = spec.task;
    world.ledger.lock().container_began(&task);
    world.say(&format!("{task} begins"));
    if world.happens(|faults| faults.failing_start) {
        world.say(&format!("{task} cannot be made"));
        {
            let mut ledger = world.ledger.lock();
            ledger.start_failed();
            ledger.container_ended(&task, Ended::Lost);
        }
        let end = TaskExit { start_error: Some("simulated".to_owned()), ..TaskExit::default() };
        let _ = events.send(WorkerEvent::Ended { task, end }).await;
        return;
    }
    let started = WorkerEvent::Started { task: task.clone(), create_us: 1 };
    let _ = events.send(started).await;
    let (exit, how) = tokio::select! {
        exit = program(&world, &api, &task, stop.clone()) => match exit {
            Exit::Code(0) => (Exit::Code(0), Ended::Lost),
            other => (other, Ended::Failed),
        },
        () = kill(stop) => (Exit::Killed, Ended::Lost),
    };
    let (code, signal) = match exit {
        Exit::Code(code) => (Some(code), None),
        Exit::Killed => (None, Some(9)),
    };
    // What it ran has not ended before its last writes are taken: another attempt begins with them.
    tokio::time::sleep(world.draw(|random| millis(random, world.scenario.last_commit_ms))).await;
    world.say(&format!("{task} ends: code {code:?}, signal {signal:?}"));
    world.ledger.lock().container_ended(&task, how);
    let end = TaskExit { code, signal, requested: signal.is_some(), ..TaskExit::default() };
    let _ = events.send(WorkerEvent::Ended { task, end }).await;
}

/// Returns when the container is out of time.
async fn kill(mut stop: watch::Receiver<Stop>) {
    let Ok(asked) = stop.wait_for(|stop| stop.asked).await.map(|stop| *stop) else {
        return std::future::pending().await;
    };
    tokio::time::sleep(Duration::from_millis(asked.grace_ms)).await;
}

/// One container's runner.
struct Runner {
    world: Arc<World>,
    api: Api,
    task: TaskId,
    /// Inputs that run, with what cancels each.
    running: Mutex<HashMap<String, Arc<Notify>>>,
    attempts: Mutex<HashMap<String, u32>>,
    crashed: Notify,
}

async fn program(world: &Arc<World>, api: &Api, task: &TaskId, mut stop: watch::Receiver<Stop>) -> Exit {
    tokio::time::sleep(world.draw(|random| millis(random, 3_000))).await;
    if world.happens(|faults| faults.failing_import) {
        let result = wire::GenericResult {
            status: GenericStatus::Failure as i32,
            exception: format!("ImportError: {NO_START}"),
            ..Default::default()
        };
        let told = wire::TaskResultRequest { result: Some(result), ..Default::default() };
        let _ = ask_from(world, task, told, |request| std::future::ready(api.task_result(request))).await;
        world.say(&format!("{task} fails to import"));
        world.ledger.lock().start_failed();
        return Exit::Code(1);
    }
    let runner = Arc::new(Runner {
        world: world.clone(),
        api: api.clone(),
        task: task.clone(),
        running: Mutex::default(),
        attempts: Mutex::default(),
        crashed: Notify::new(),
    });
    let slots = (0..world.scenario.slots).map(|_| runner.clone().take_inputs());
    let all = futures::future::join_all(slots);
    let interrupt = async {
        let asked = stop.wait_for(|stop| stop.asked && stop.interrupt).await.is_ok();
        if !asked {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        _ = all => Exit::Code(0),
        () = runner.crashed.notified() => Exit::Code(3),
        () = runner.hear_cancellations() => Exit::Code(1),
        // Breaks off what runs, says so, and leaves.
        () = interrupt => {
            let running: Vec<String> = runner.running.lock().keys().cloned().collect();
            for input in running {
                if world.draw(|random| random.random_bool(0.7)) {
                    let _ = runner.report(&input, GenericStatus::Terminated, "interrupted").await;
                }
            }
            Exit::Code(0)
        }
    }
}

impl Runner {
    /// One slot: an input, its output, and the next.
    async fn take_inputs(self: Arc<Self>) {
        loop {
            self.world.ledger.lock().container_ready(&self.task);
            let ask = wire::FunctionGetInputsRequest { max_values: 1, batch_max_size: 1, ..Default::default() };
            let reply = ask_from(&self.world, &self.task, ask, |request| self.api.function_get_inputs(request)).await;
            let Ok(reply) = reply else { return };
            for item in reply.inputs {
                if item.kill_switch {
                    self.world.ledger.lock().sent_away(&self.task);
                    return;
                }
                self.run(item).await;
            }
        }
    }

    async fn run(&self, item: wire::FunctionGetInputsItem) {
        let subject = subject(&item);
        let cancel = Arc::new(Notify::new());
        self.running.lock().insert(item.input_id.clone(), cancel.clone());
        self.attempts.lock().insert(item.input_id.clone(), item.retry_count);
        self.world.ledger.lock().run_began(subject, &self.task);
        self.world.say(&format!("{} runs {subject:?}, attempt {}", self.task, item.retry_count));
        let (status, how) = tokio::select! {
            () = cancel.notified() => (GenericStatus::Terminated, Ended::Lost),
            done = self.user_code(subject, &item.function_call_id) => done,
        };
        if status != GenericStatus::Unspecified {
            self.world.ledger.lock().run_ended(subject, &self.task, how);
            let data = format!("{}/{}", subject.0, subject.1);
            let _ = self.report(&item.input_id, status, &data).await;
        }
        self.running.lock().remove(&item.input_id);
    }

    async fn user_code(&self, subject: Subject, call: &str) -> (GenericStatus, Ended) {
        let world = &self.world;
        for index in 1..=world.scenario.items.unwrap_or(0) {
            tokio::time::sleep(world.draw(|random| millis(random, 100))).await;
            if !self.yield_item(subject, call, index).await {
                // Nobody wants it any more, and the runner is told in a moment.
                std::future::pending::<()>().await;
            }
        }
        if world.happens(|faults| faults.hanging_input) {
            tokio::time::sleep(Duration::from_secs(100_000)).await;
        }
        tokio::time::sleep(world.draw(|random| millis(random, 1_500))).await;
        if world.happens(|faults| faults.crashing_input) {
            self.crashed.notify_one();
            std::future::pending::<()>().await;
        }
        match world.happens(|faults| faults.failing_input) {
            true => (GenericStatus::Failure, Ended::Failed),
            false => (GenericStatus::Success, Ended::Succeeded),
        }
    }

    async fn yield_item(&self, subject: Subject, call: &str, index: u64) -> bool {
        let put = wire::FunctionCallPutDataRequest {
            call_info: Some(PutInfo::FunctionCallId(call.to_owned())),
            data_chunks: vec![wire::DataChunk {
                data_format: wire::DataFormat::Pickle as i32,
                data_oneof: Some(ChunkData::Data(item_of(subject, index).into())),
                index,
            }],
        };
        ask_from(&self.world, &self.task, put, |request| self.api.put_data_out(request)).await.is_ok()
    }

    async fn report(&self, input: &str, status: GenericStatus, data: &str) -> Result<(), Status> {
        let result = wire::GenericResult {
            status: status as i32,
            exception: data.to_owned(),
            data_oneof: Some(DataOneof::Data(data.as_bytes().to_vec().into())),
            ..Default::default()
        };
        let retry_count = self.attempts.lock().get(input).copied().unwrap_or(0);
        let item = wire::FunctionPutOutputsItem {
            input_id: input.to_owned(),
            result: Some(result),
            retry_count,
            data_format: wire::DataFormat::Pickle as i32,
            ..Default::default()
        };
        let put = wire::FunctionPutOutputsRequest { outputs: vec![item], ..Default::default() };
        ask_from(&self.world, &self.task, put, |request| std::future::ready(self.api.function_put_outputs(request)))
            .await
    }

    async fn hear_cancellations(&self) {
        loop {
            let ask = wire::ContainerHeartbeatRequest::default();
            let reply = ask_from(&self.world, &self.task, ask, |request| self.api.container_heartbeat(request)).await;
            let Ok(reply) = reply else { return std::future::pending().await };
            for input in reply.cancel_input_event.unwrap_or_default().input_ids {
                if let Some(cancel) = self.running.lock().get(&input) {
                    cancel.notify_one();
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// What a generator yields.
pub fn item_of((call, input): Subject, index: u64) -> Vec<u8> {
    format!("{call}/{input}/{index}").into_bytes()
}

/// Which input of the day it is: arguments say so.
fn subject(item: &wire::FunctionGetInputsItem) -> Subject {
    let input = item.input.clone().unwrap_or_default();
    let Some(wire::function_input::ArgsOneof::Args(args)) = input.args_oneof else {
        panic!("an input without arguments")
    };
    let text = String::from_utf8(args.to_vec()).unwrap();
    let (call, index) = text.split_once('/').unwrap();
    (call.parse().unwrap(), index.parse().unwrap())
}
