//! Records to store.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
#![allow(dead_code, reason = "each test file uses some of these")]

use bytes::Bytes;
use calls::{CallKind, CallSpec, FinishedOutput, NewInput, Outcome, OutcomeStatus, Payload};
use dorian_metadata_store::{
    AppRecord, AppState, CallRecord, EnvironmentRecord, FunctionRecord, InputRecord, OutputRecord, Write,
};
use types::ids::{AppId, DefinitionId, EnvironmentId, FunctionCallId, FunctionId, InputId, TaskId};

pub fn environment(name: &str) -> EnvironmentRecord {
    EnvironmentRecord { id: EnvironmentId::random(), name: name.to_owned(), created_at_ms: 1 }
}

pub fn app(environment: &EnvironmentId) -> AppRecord {
    AppRecord {
        id: AppId::random(),
        environment: environment.clone(),
        name: Some("hello".to_owned()),
        description: "hello.py".to_owned(),
        state: AppState::Ephemeral,
        created_at_ms: 2,
        deployed_at_ms: None,
        stopped_at_ms: Some(3),
        tags: [("team".to_owned(), "a \"quoted\" one".to_owned())].into(),
        function_ids: [("f".to_owned(), FunctionId::random())].into(),
        class_ids: Default::default(),
        client_version: "1.6.4".to_owned(),
        version: 0,
    }
}

pub fn function(app: &AppId) -> FunctionRecord {
    FunctionRecord {
        id: FunctionId::random(),
        app: app.clone(),
        tag: "f".to_owned(),
        definition_id: DefinitionId::random(),
        definition: Bytes::from_static(b"\x00\xff raw"),
        client_version: "1.6.4".to_owned(),
        created_at_ms: 4,
    }
}

pub fn call(app: &AppId, function: &FunctionId, created_at: u64) -> CallRecord {
    CallRecord {
        spec: CallSpec {
            id: FunctionCallId::random(),
            kind: CallKind::Map,
            durable: true,
            parent_input: Some(InputId::random()),
            created_at,
            invocation_type: 4,
        },
        app: app.clone(),
        function: function.clone(),
        inputs_complete: false,
    }
}

pub fn any_call(created_at: u64) -> CallRecord {
    call(&AppId::random(), &FunctionId::random(), created_at)
}

pub fn input(idx: i32, payload: Payload) -> NewInput {
    NewInput { id: InputId::random(), idx, payload, data_format: 1, method_name: "m".to_owned() }
}

pub fn small_input(idx: i32) -> NewInput {
    input(idx, Payload::Inline(Bytes::from(format!("argument {idx}"))))
}

pub fn inputs(call: &FunctionCallId, inputs: &[NewInput]) -> Write {
    Write::Inputs(inputs.iter().map(|input| InputRecord { call: call.clone(), input: input.clone() }).collect())
}

pub fn result_of(input: &NewInput) -> FinishedOutput {
    let mut outcome = Outcome::of(OutcomeStatus::Success, "");
    outcome.data = Some(Payload::Inline(Bytes::from(format!("result {}", input.idx))));
    FinishedOutput { input: input.id.clone(), idx: input.idx, task: Some(TaskId::at(5)), outcome }
}

pub fn output(call: &FunctionCallId, output: FinishedOutput) -> Write {
    Write::Output(OutputRecord { call: call.clone(), output })
}
