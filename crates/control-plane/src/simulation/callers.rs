//! The program that makes the app, and its callers. Each remembers over the server's lives what the real client would.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client_protocol::wire;
use client_protocol::wire::data_chunk::DataOneof as ChunkData;
use client_protocol::wire::function_call_get_data_request::CallInfo as GetInfo;
use client_protocol::wire::generic_result::{DataOneof, GenericStatus};
use futures::StreamExt;
use parking_lot::Mutex;
use tonic::Code;

use super::machine::item_of;
use super::network::{ask, ask_with};
use super::scenario::millis;
use super::world::World;
use crate::rpc::Api;
use crate::testing::IMAGE;

/// The client's own interval.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Calls are made with so many inputs; the rest follows.
const PIPELINED: i32 = 8;

#[derive(Debug, Default)]
pub struct Program {
    pub app: String,
    function: String,
    /// How often it was published.
    versions: usize,
    stop: Stop,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stop {
    #[default]
    NotYet,
    Asked,
    /// At this time of the day.
    Answered(u64),
}

/// What a stop ends has ended by then: containers have had their grace and their last commit, and callers ask again within a
/// minute.
const ENDED_AFTER_STOP_MS: u64 = 900_000;

impl Program {
    pub fn is_new(&self) -> bool {
        self.app.is_empty()
    }

    pub fn is_stopped(&self) -> bool {
        matches!(self.stop, Stop::Answered(_))
    }

    /// Requests may be refused from here on.
    fn stops(&self) -> bool {
        self.stop != Stop::NotYet
    }
}

#[derive(Debug, Default)]
pub struct CallMemory {
    /// The same over all tries.
    key: String,
    id: String,
    put: i32,
    is_complete: bool,
    cursor: String,
    outputs: BTreeMap<i32, bool>,
    /// The last item of its generator that was read.
    items: u64,
    /// How often the server had died when the call began.
    deaths: usize,
    is_over: bool,
}

/// The day as the callers see it; returns when all of them have what they came for.
pub async fn live(world: &Arc<World>, api: &Api) {
    define(world, api).await;
    let calls = (0..world.calls.len()).map(|number| call(world, api, number));
    let all = futures::future::join_all(calls);
    tokio::spawn(heartbeats(world.clone(), api.clone()));
    futures::future::join3(all, redeploy(world, api), stop_early(world, api)).await;
    if let Stop::Answered(at) = world.program.lock().stop {
        let took = world.day_ms() - at;
        assert!(took < ENDED_AFTER_STOP_MS, "calls of a stopped app ended {took} ms after the stop: {:?}", world.calls);
    }
}

/// As long as its program runs.
async fn heartbeats(world: Arc<World>, api: Api) {
    let app_id = world.program.lock().app.clone();
    loop {
        let beat = wire::AppHeartbeatRequest { app_id: app_id.clone() };
        let _ = ask(&world, beat, |request| std::future::ready(api.app_heartbeat(&request.get_ref().app_id))).await;
        tokio::time::sleep(HEARTBEAT).await;
    }
}

/// Stops the app while all is going on, if the day wants it.
async fn stop_early(world: &Arc<World>, api: &Api) {
    let Some(at) = world.scenario.stop_ms else { return };
    tokio::time::sleep(Duration::from_millis(at.saturating_sub(world.day_ms()))).await;
    if !world.program.lock().is_stopped() {
        stop(world, api).await;
    }
}

pub async fn stop(world: &Arc<World>, api: &Api) {
    let app = world.program.lock().app.clone();
    world.say("the app is stopped");
    world.program.lock().stop = Stop::Asked;
    world.ledger.lock().app_stops();
    let stop = wire::AppStopRequest { app_id: app, ..Default::default() };
    let stopped = ask(world, stop, |request| async move { api.app_stop(&request.get_ref().app_id).await }).await;
    world.say(&format!("the stop was answered: {stopped:?}"));
    stopped.unwrap();
    world.program.lock().stop = Stop::Answered(world.day_ms());
}

/// Makes the app and its function, once in the day.
async fn define(world: &Arc<World>, api: &Api) {
    if world.program.lock().versions > 0 {
        return;
    }
    let state = if world.scenario.deployed { wire::AppState::Initializing } else { wire::AppState::Ephemeral };
    let create = wire::AppCreateRequest { app_state: state as i32, ..Default::default() };
    let made = ask_with(world, create, "app", |request| api.app_create(request)).await.unwrap();
    world.program.lock().app = made.app_id;
    publish(world, api).await;
}

/// Deploys the app anew, as often as the day wants.
async fn redeploy(world: &Arc<World>, api: &Api) {
    for (number, at) in world.scenario.redeploys_ms.iter().enumerate() {
        tokio::time::sleep(Duration::from_millis(at.saturating_sub(world.day_ms()))).await;
        let is_next = world.program.lock().versions == number + 1;
        if is_next && !world.program.lock().stops() {
            publish(world, api).await;
        }
    }
}

async fn publish(world: &Arc<World>, api: &Api) {
    let (app_id, version) = {
        let program = world.program.lock();
        (program.app.clone(), program.versions)
    };
    let function = wire::FunctionCreateRequest {
        app_id: app_id.clone(),
        function: Some(client_protocol::Passthrough::from_message(&definition(world))),
        ..Default::default()
    };
    let key = format!("function-{version}");
    let created = ask_with(world, function, &key, |request| api.function_create(request)).await;
    let Some(created) = unless_stopped(world, created) else { return };
    let definition = created.handle_metadata.map(|metadata| metadata.definition_id).unwrap_or_default();
    world.program.lock().function.clone_from(&created.function_id);
    let state = if world.scenario.deployed { wire::AppState::Deployed } else { wire::AppState::Ephemeral };
    let publish = wire::AppPublishRequest {
        app_id,
        name: if world.scenario.deployed { "simulated".to_owned() } else { String::new() },
        app_state: state as i32,
        function_ids: [("f".to_owned(), created.function_id.clone())].into(),
        definition_ids: [(created.function_id, definition)].into(),
        client_version: "1.6.4".to_owned(),
        ..Default::default()
    };
    world.ledger.lock().version_may_change();
    let published = ask_with(world, publish, &format!("publish-{version}"), |request| api.app_publish(request)).await;
    if unless_stopped(world, published).is_none() {
        return;
    }
    world.ledger.lock().version_changed();
    world.say(&format!("version {} is live", version + 1));
    world.program.lock().versions = version + 1;
}

/// The answer, unless the app was stopped meanwhile.
fn unless_stopped<T>(world: &World, answer: Result<T, tonic::Status>) -> Option<T> {
    match answer {
        Err(_) if world.program.lock().stops() => None,
        answer => Some(answer.unwrap()),
    }
}

fn definition(world: &World) -> wire::Function {
    let scenario = &world.scenario;
    let kind = match scenario.items {
        Some(_) => wire::function::FunctionType::Generator,
        None => wire::function::FunctionType::Function,
    };
    wire::Function {
        module_name: "simulated".to_owned(),
        function_name: "f".to_owned(),
        image_id: IMAGE.to_owned(),
        function_type: kind as i32,
        definition_type: wire::function::DefinitionType::File as i32,
        retry_policy: Some(wire::FunctionRetryPolicy {
            retries: scenario.retries,
            initial_delay_ms: 100,
            backoff_coefficient: 1.0,
            max_delay_ms: 10_000,
        }),
        timeout_secs: scenario.timeout_secs,
        startup_timeout_secs: 60,
        concurrency_limit: scenario.max_containers,
        task_idle_timeout_secs: scenario.idle_secs,
        max_concurrent_inputs: scenario.slots,
        target_concurrent_inputs: scenario.slots,
        single_use_containers: scenario.single_use,
        ..Default::default()
    }
}

async fn call(world: &Arc<World>, api: &Api, number: usize) {
    let plan = world.scenario.calls[number].clone();
    let memory = &world.calls[number];
    let wait = plan.begins_ms.saturating_sub(world.day_ms());
    tokio::time::sleep(Duration::from_millis(wait)).await;
    if memory.lock().is_over {
        return;
    }
    if !begin(world, api, number).await {
        return;
    }
    if !plan.vanishes {
        futures::future::join(collect(world, api, number), read_items(world, api, number)).await;
    }
    memory.lock().is_over = true;
}

fn item(number: usize, idx: i32) -> wire::FunctionPutInputsItem {
    let args = wire::function_input::ArgsOneof::Args(format!("{number}/{idx}").into_bytes().into());
    let input = wire::FunctionInput {
        args_oneof: Some(args),
        data_format: wire::DataFormat::Pickle as i32,
        ..Default::default()
    };
    wire::FunctionPutInputsItem { idx, input: Some(input), ..Default::default() }
}

/// Has all inputs accepted. False when that cannot be: the caller was told.
async fn begin(world: &Arc<World>, api: &Api, number: usize) -> bool {
    let plan = world.scenario.calls[number].clone();
    let memory = &world.calls[number];
    if memory.lock().id.is_empty() {
        let first = if plan.is_map { plan.inputs.min(PIPELINED) } else { 1 };
        let kind = if plan.is_map { wire::FunctionCallType::Map } else { wire::FunctionCallType::Unary };
        let invocation =
            if plan.spawned { wire::FunctionCallInvocationType::Async } else { wire::FunctionCallInvocationType::Sync };
        let map = wire::FunctionMapRequest {
            function_id: world.program.lock().function.clone(),
            function_call_type: kind as i32,
            function_call_invocation_type: invocation as i32,
            pipelined_inputs: (0..first).map(|idx| item(number, idx)).collect(),
            ..Default::default()
        };
        memory.lock().key = format!("call-{number}");
        memory.lock().deaths = world.ledger.lock().deaths();
        let reply = ask_with(world, map, &format!("call-{number}"), |request| api.function_map(request)).await;
        let Some(reply) = unless_stopped(world, reply) else {
            memory.lock().is_over = true;
            return false;
        };
        world.say(&format!("call {number} is {}", reply.function_call_id));
        let mut memory = memory.lock();
        memory.id = reply.function_call_id;
        memory.put = first;
        memory.is_complete = !plan.is_map;
    }
    let id = memory.lock().id.clone();
    loop {
        let put = memory.lock().put;
        if put >= plan.inputs {
            break;
        }
        let upto = plan.inputs.min(put + PIPELINED);
        let more = wire::FunctionPutInputsRequest {
            function_id: world.program.lock().function.clone(),
            function_call_id: id.clone(),
            inputs: (put..upto).map(|idx| item(number, idx)).collect(),
        };
        match ask(world, more, |request| api.function_put_inputs(request.into_inner())).await {
            Ok(_) => memory.lock().put = upto,
            Err(status) => return gone(world, number, &status),
        }
    }
    if !memory.lock().is_complete {
        let finish = wire::FunctionFinishInputsRequest { function_call_id: id, ..Default::default() };
        match ask(world, finish, |request| api.function_finish_inputs(request.into_inner())).await {
            Ok(()) => memory.lock().is_complete = true,
            Err(status) => return gone(world, number, &status),
        }
    }
    true
}

/// A call that nobody knows any more: so may end what was not spawned, and nothing else.
fn gone(world: &World, number: usize, status: &tonic::Status) -> bool {
    let plan = &world.scenario.calls[number];
    let may_be = (status.code() == Code::NotFound && !plan.spawned) || world.program.lock().stops();
    assert!(may_be, "call {number} ended with {status}");
    world.say(&format!("call {number} is lost, and its caller was told"));
    world.calls[number].lock().is_over = true;
    false
}

async fn collect(world: &Arc<World>, api: &Api, number: usize) {
    let plan = &world.scenario.calls[number];
    let memory = &world.calls[number];
    loop {
        if memory.lock().outputs.len() as i32 >= plan.inputs {
            break;
        }
        let (id, cursor) = at(memory);
        let ask_for = wire::FunctionGetOutputsRequest {
            function_call_id: id,
            max_values: if plan.is_map { 100 } else { 1 },
            timeout: 50.0,
            last_entry_id: cursor,
            clear_on_success: !plan.is_map,
            ..Default::default()
        };
        let reply = ask(world, ask_for, |request| api.function_get_outputs(request.into_inner())).await;
        let reply = match reply {
            Ok(reply) => reply,
            Err(status) => {
                gone(world, number, &status);
                return;
            }
        };
        for output in reply.outputs {
            let result = output.result.unwrap_or_default();
            let success = result.status == GenericStatus::Success as i32;
            if success {
                let data = Some(DataOneof::Data(format!("{number}/{}", output.idx).into_bytes().into()));
                assert_eq!(result.data_oneof, data, "call {number} got another's output");
            }
            world.ledger.lock().told((number, output.idx), success, &result.exception);
            memory.lock().outputs.insert(output.idx, success);
        }
        memory.lock().cursor = reply.last_entry_id;
    }
    world.say(&format!("call {number} has its outputs"));
    if plan.is_map {
        let (id, cursor) = at(memory);
        let last = wire::FunctionGetOutputsRequest {
            function_call_id: id,
            max_values: 0,
            timeout: 0.0,
            last_entry_id: cursor,
            clear_on_success: true,
            ..Default::default()
        };
        let _ = ask(world, last, |request| api.function_get_outputs(request.into_inner())).await;
    }
}

/// Reads what a generator yields, each item once and in order, until the call fails or all are there.
async fn read_items(world: &Arc<World>, api: &Api, number: usize) {
    let Some(items) = world.scenario.items else { return };
    let memory = &world.calls[number];
    let has_failed = || {
        let memory = memory.lock();
        memory.is_over || memory.outputs.values().any(|success| !success)
    };
    loop {
        if has_failed() || memory.lock().items >= items {
            return;
        }
        let (call_id, last_index) = {
            let memory = memory.lock();
            (memory.id.clone(), memory.items)
        };
        let get = wire::FunctionCallGetDataRequest { call_info: Some(GetInfo::FunctionCallId(call_id)), last_index };
        let ended = read_stream(world, api, number, get).await;
        if let Err(status) = ended {
            // Items are in memory only, and a call that nobody waits for any more is over.
            let is_lost = world.ledger.lock().deaths() > memory.lock().deaths || has_failed();
            assert!(is_lost || world.program.lock().stops(), "reading call {number} ended with {status}");
            world.say(&format!("the items of call {number} are lost, and its caller was told: {status}"));
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One answer to a reader, as far as the connection holds.
async fn read_stream(
    world: &Arc<World>,
    api: &Api,
    number: usize,
    get: wire::FunctionCallGetDataRequest,
) -> Result<(), tonic::Status> {
    let mut items = api.get_data_out(&get)?;
    let breaks_after = match world.happens(|faults| faults.broken_wait) {
        true => world.draw(|random| millis(random, 500)),
        // The client's own patience.
        false => Duration::from_secs(55),
    };
    let read = async {
        while let Some(item) = items.next().await {
            let (item, mut memory) = (item?, world.calls[number].lock());
            assert_eq!(item.index, memory.items + 1, "call {number} misses items or has them twice");
            let wanted = ChunkData::Data(item_of((number, 0), item.index).into());
            assert_eq!(item.data_oneof, Some(wanted), "call {number} reads another's item");
            memory.items = item.index;
        }
        Ok(())
    };
    tokio::time::timeout(breaks_after, read).await.unwrap_or(Ok(()))
}

/// Its id, and what it has seen.
fn at(memory: &Mutex<CallMemory>) -> (String, String) {
    let memory = memory.lock();
    (memory.id.clone(), memory.cursor.clone())
}
