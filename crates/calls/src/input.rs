//! The plain data of a call: what goes in, what is handed to a container, what comes out.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use types::ids::{BlobId, FunctionCallId, InputId, TaskId};

use crate::Millis;

/// Bytes in the message itself, or the name of a blob that holds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    Inline(Bytes),
    Blob(BlobId),
}

impl Payload {
    /// Bytes held in memory for it.
    pub fn resident_bytes(&self) -> usize {
        match self {
            Self::Inline(bytes) => bytes.len(),
            Self::Blob(_) => 0,
        }
    }
}

/// One call or one map; a fact about the call that never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallSpec {
    pub id: FunctionCallId,
    pub kind: CallKind,
    /// The caller may go away (spawn): inputs and outputs are recorded on disk before they are acknowledged. Other
    /// calls are recorded when they last ([`crate::Policy::durable_after_ms`]), and from then on treated the same.
    pub durable: bool,
    /// The input whose code made this call, if a container made it.
    pub parent_input: Option<InputId>,
    /// By the wall clock; for records and people, and nothing is measured from it.
    pub created_at: Millis,
    /// The protocol's number for how the call was made; the runner picks the size from which results go to blobs by it.
    pub invocation_type: i32,
}

/// Whether the store has a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDisk {
    No,
    /// It was asked to; what comes to the call now must be stored after it.
    Begun,
    Yes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallKind {
    Unary,
    Map,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInput {
    pub id: InputId,
    /// Position in the call, from the caller.
    pub idx: i32,
    pub payload: Payload,
    /// The protocol's number of the payload's format; passed through.
    pub data_format: i32,
    pub method_name: String,
}

/// An attempt handed to a container.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    pub input: InputId,
    pub call: FunctionCallId,
    pub idx: i32,
    pub payload: Payload,
    pub data_format: i32,
    pub method_name: String,
    pub invocation_type: i32,
    /// 0 for the first attempt; what the container sends back must carry it.
    pub attempt: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutcomeStatus {
    Success,
    Failure,
    /// Cancelled.
    Terminated,
    Timeout,
    /// The container could not start: import error, failing `@enter`.
    InitFailure,
    /// The platform lost the attempt.
    InternalFailure,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub status: OutcomeStatus,
    pub data: Option<Payload>,
    pub data_format: i32,
    /// One line; what the caller shows when there is nothing better.
    pub exception: String,
    pub traceback: String,
    pub serialized_traceback: Bytes,
    pub traceback_line_cache: Bytes,
    /// Seconds since the epoch, as the container said; 0 when it said nothing.
    pub started_at: f64,
    pub created_at: f64,
}

impl Outcome {
    /// An outcome that the platform makes: a status and a sentence.
    pub fn of(status: OutcomeStatus, exception: impl Into<String>) -> Self {
        Self {
            status,
            data: None,
            data_format: 0,
            exception: exception.into(),
            traceback: String::new(),
            serialized_traceback: Bytes::new(),
            traceback_line_cache: Bytes::new(),
            started_at: 0.0,
            created_at: 0.0,
        }
    }
}

/// A final output, as callers get it.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedOutput {
    pub input: InputId,
    pub idx: i32,
    pub task: Option<TaskId>,
    pub outcome: Outcome,
}

/// All there is of a call: what the store knew of it when the server started, or what the store is to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    pub spec: CallSpec,
    pub pending: Vec<NewInput>,
    pub finished: Vec<FinishedOutput>,
    pub inputs_complete: bool,
}
