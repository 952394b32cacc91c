//! Between the wire's payloads and results and ours.

use bytes::Bytes;
use calls::{FinishedOutput, Outcome, OutcomeStatus, Payload};
use client_protocol::wire;
use tonic::Status;
use types::ids::BlobId;
use wire::function_input::ArgsOneof;
use wire::generic_result::{DataOneof, GenericStatus};

/// Larger fields than this are most of the buffer that their message was read into.
const MOST_OF_A_BUFFER: usize = 64 << 10;

/// A small field in memory of its own. As it comes it is a slice of the buffer that its message was read into, and
/// would keep those 8 KiB or more for as long as it waits: five times what an input needs.
pub(crate) fn apart(bytes: Bytes) -> Bytes {
    if bytes.len() < MOST_OF_A_BUFFER { Bytes::copy_from_slice(&bytes) } else { bytes }
}

pub fn payload(args: Option<ArgsOneof>) -> Result<Payload, Status> {
    match args {
        None => Ok(Payload::Inline(Bytes::new())),
        Some(ArgsOneof::Args(bytes)) => Ok(Payload::Inline(apart(bytes))),
        Some(ArgsOneof::ArgsBlobId(id)) => Ok(Payload::Blob(blob_id(&id)?)),
    }
}

pub fn args(payload: Payload) -> ArgsOneof {
    match payload {
        Payload::Inline(bytes) => ArgsOneof::Args(bytes),
        Payload::Blob(id) => ArgsOneof::ArgsBlobId(id.into()),
    }
}

pub fn blob_id(text: &str) -> Result<BlobId, Status> {
    BlobId::parse(text).ok_or_else(|| Status::invalid_argument(format!("`{text}` is not the id of a blob")))
}

pub fn status_of(status: GenericStatus) -> OutcomeStatus {
    match status {
        GenericStatus::Success => OutcomeStatus::Success,
        GenericStatus::Terminated => OutcomeStatus::Terminated,
        GenericStatus::Timeout => OutcomeStatus::Timeout,
        GenericStatus::InitFailure => OutcomeStatus::InitFailure,
        GenericStatus::InternalFailure => OutcomeStatus::InternalFailure,
        _ => OutcomeStatus::Failure,
    }
}

pub fn generic_status(status: OutcomeStatus) -> GenericStatus {
    match status {
        OutcomeStatus::Success => GenericStatus::Success,
        OutcomeStatus::Failure => GenericStatus::Failure,
        OutcomeStatus::Terminated => GenericStatus::Terminated,
        OutcomeStatus::Timeout => GenericStatus::Timeout,
        OutcomeStatus::InitFailure => GenericStatus::InitFailure,
        OutcomeStatus::InternalFailure => GenericStatus::InternalFailure,
    }
}

pub fn outcome(result: wire::GenericResult, data_format: i32, times: (f64, f64)) -> Result<Outcome, Status> {
    let data = match result.data_oneof {
        None => None,
        Some(DataOneof::Data(bytes)) => Some(Payload::Inline(apart(bytes))),
        Some(DataOneof::DataBlobId(ref id)) => Some(Payload::Blob(blob_id(id)?)),
    };
    Ok(Outcome {
        status: status_of(GenericStatus::try_from(result.status).unwrap_or(GenericStatus::Failure)),
        data,
        data_format,
        exception: result.exception,
        traceback: result.traceback,
        serialized_traceback: apart(result.serialized_tb),
        traceback_line_cache: apart(result.tb_line_cache),
        started_at: times.0,
        created_at: times.1,
    })
}

pub fn generic_result(outcome: Outcome) -> wire::GenericResult {
    wire::GenericResult {
        status: generic_status(outcome.status) as i32,
        exception: outcome.exception,
        traceback: outcome.traceback,
        serialized_tb: outcome.serialized_traceback,
        tb_line_cache: outcome.traceback_line_cache,
        data_oneof: outcome.data.map(|data| match data {
            Payload::Inline(bytes) => DataOneof::Data(bytes),
            Payload::Blob(id) => DataOneof::DataBlobId(id.into()),
        }),
        ..Default::default()
    }
}

/// A final output for its caller. `retry_count` stays 0: the caller counts only the retries it asked for itself.
pub fn output_item(output: FinishedOutput) -> wire::FunctionGetOutputsItem {
    wire::FunctionGetOutputsItem {
        idx: output.idx,
        input_id: output.input.into(),
        data_format: output.outcome.data_format,
        task_id: output.task.map(String::from).unwrap_or_default(),
        input_started_at: output.outcome.started_at,
        output_created_at: output.outcome.created_at,
        result: Some(generic_result(output.outcome)),
        ..Default::default()
    }
}
