//! Statuses that carry more than a code: the client obeys a retry hint in the details.

use client_protocol::wire;
use prost::Message;
use tonic::{Code, Status};

/// An error after which the client waits `seconds` and tries again by itself, without a limit.
pub fn retry_later(code: Code, message: String, seconds: f32) -> Status {
    let policy = wire::RpcRetryPolicy { retry_after_secs: seconds };
    let detail = prost_types::Any {
        type_url: "type.googleapis.com/modal.client.RPCRetryPolicy".to_owned(),
        value: policy.encode_to_vec(),
    };
    let details = wire::RpcStatus { code: code as i32, message: message.clone(), details: vec![detail] };
    Status::with_details(code, message, details.encode_to_vec().into())
}
