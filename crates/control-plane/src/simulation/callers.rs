//! The program that makes the app, and its callers. Each remembers over the server's lives what the real client would.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client_protocol::wire;
use client_protocol::wire::generic_result::{DataOneof, GenericStatus};
use parking_lot::Mutex;
use tonic::Code;

use super::network::{ask, ask_with};
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
}

impl Program {
    pub fn is_new(&self) -> bool {
        self.app.is_empty()
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
    is_over: bool,
}

/// The day as the callers see it; returns when all of them have what they came for and the app is stopped.
pub async fn live(world: &Arc<World>, api: &Api) {
    define(world, api).await;
    let app = world.program.lock().app.clone();
    let calls = (0..world.calls.len()).map(|number| call(world, api, number));
    let heartbeats = async {
        loop {
            let beat = wire::AppHeartbeatRequest { app_id: app.clone() };
            let _ = ask(world, beat, |request| std::future::ready(api.app_heartbeat(&request.get_ref().app_id))).await;
            tokio::time::sleep(HEARTBEAT).await;
        }
    };
    tokio::select! {
        _ = futures::future::join(futures::future::join_all(calls), redeploy(world, api)) => {}
        () = heartbeats => {}
    }
    world.say("the app is stopped");
    let stop = wire::AppStopRequest { app_id: app, ..Default::default() };
    let stopped = ask(world, stop, |request| async move { api.app_stop(&request.get_ref().app_id).await }).await;
    world.say(&format!("the stop was answered: {stopped:?}"));
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
        if world.program.lock().versions == number + 1 {
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
    let created = ask_with(world, function, &key, |request| api.function_create(request)).await.unwrap();
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
    world.ledger.lock().version_changes();
    ask_with(world, publish, &format!("publish-{version}"), |request| api.app_publish(request)).await.unwrap();
    world.ledger.lock().version_changes();
    world.say(&format!("version {} is live", version + 1));
    world.program.lock().versions = version + 1;
}

fn definition(world: &World) -> wire::Function {
    let scenario = &world.scenario;
    wire::Function {
        module_name: "simulated".to_owned(),
        function_name: "f".to_owned(),
        image_id: IMAGE.to_owned(),
        function_type: wire::function::FunctionType::Function as i32,
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
    collect(world, api, number).await;
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
        let reply = ask_with(world, map, &format!("call-{number}"), |request| api.function_map(request)).await;
        let reply = reply.unwrap_or_else(|status| panic!("call {number} was refused: {status}"));
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
    assert!(status.code() == Code::NotFound && !plan.spawned, "call {number} ended with {status}");
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
            world.ledger.lock().told((number, output.idx), success, &result.exception, world.scenario.retries);
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

/// Its id, and what it has seen.
fn at(memory: &Mutex<CallMemory>) -> (String, String) {
    let memory = memory.lock();
    (memory.id.clone(), memory.cursor.clone())
}
