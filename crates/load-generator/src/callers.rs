//! Callers: programs that do `.remote()`, which is two requests, one that makes the call and one that waits for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use client_protocol::wire;
use tokio::sync::{Mutex, mpsc};

use crate::connection::Client;

/// `((1,), {})`, pickled: what the client sends for `f.remote(1)`.
const ARGUMENTS: &[u8] = b"\x80\x04\x95\x09\x00\x00\x00\x00\x00\x00\x00K\x01\x85\x94}\x94\x86\x94.";
/// As long as the client waits before it asks again.
const WAIT_SECONDS: f32 = 55.0;

/// Makes a call; its id.
pub async fn call(client: &mut Client, function: &str) -> Result<String> {
    let input = wire::FunctionInput {
        args_oneof: Some(wire::function_input::ArgsOneof::Args(ARGUMENTS.into())),
        data_format: wire::DataFormat::Pickle as i32,
        ..Default::default()
    };
    let request = wire::FunctionMapRequest {
        function_id: function.to_owned(),
        function_call_type: wire::FunctionCallType::Unary as i32,
        function_call_invocation_type: wire::FunctionCallInvocationType::Sync as i32,
        pipelined_inputs: vec![wire::FunctionPutInputsItem { input: Some(input), ..Default::default() }],
        ..Default::default()
    };
    Ok(client.function_map(request).await?.into_inner().function_call_id)
}

/// Waits for a call's result.
pub async fn result(client: &mut Client, call: String) -> Result<()> {
    loop {
        let request = wire::FunctionGetOutputsRequest {
            function_call_id: call.clone(),
            max_values: 1,
            timeout: WAIT_SECONDS,
            last_entry_id: "0-0".to_owned(),
            clear_on_success: true,
            ..Default::default()
        };
        let reply = client.function_get_outputs(request).await?.into_inner();
        let Some(output) = reply.outputs.first() else { continue };
        let status = output.result.as_ref().map(|r| r.status());
        if status != Some(wire::generic_result::GenericStatus::Success) {
            bail!("call `{call}` ended with {:?}", output.result);
        }
        return Ok(());
    }
}

/// Counts what loops have done, and tells them when to end.
#[derive(Default)]
pub struct Progress {
    pub completed: AtomicU64,
    pub ending: AtomicBool,
}

impl Progress {
    fn goes_on(&self) -> bool {
        !self.ending.load(Ordering::Relaxed)
    }
}

/// One call after the other until the end, `waiting` of them open at any time. The oldest is awaited, so with more
/// open calls than containers can run the rest waits in the server's queue.
pub async fn keep_calling(
    mut client: Client,
    function: String,
    mut waiting: VecDeque<String>,
    progress: Arc<Progress>,
) -> Result<()> {
    while progress.goes_on() {
        waiting.push_back(call(&mut client, &function).await?);
        if let Some(oldest) = waiting.pop_front() {
            result(&mut client, oldest).await?;
        }
        progress.completed.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Makes a call at each of the times that arrive; how long after that time each result was there.
pub async fn call_on_time(
    mut client: Client,
    function: String,
    due: Arc<Mutex<mpsc::UnboundedReceiver<Instant>>>,
) -> Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    loop {
        let next = due.lock().await.recv().await;
        let Some(due) = next else { return Ok(latencies) };
        let call = call(&mut client, &function).await?;
        result(&mut client, call).await?;
        latencies.push(due.elapsed());
    }
}

/// Sends the times at which calls are due, evenly spaced. A thread of its own: the runtime's timers tick once in a
/// millisecond, which would bunch the calls together and measure the bunches.
pub fn pace(per_second: f64, seconds: f64, due: mpsc::UnboundedSender<Instant>) {
    std::thread::spawn(move || {
        let begun = Instant::now();
        let calls = (per_second * seconds) as u64;
        for number in 0..calls {
            let at = begun + Duration::from_secs_f64(number as f64 / per_second);
            let early = at.saturating_duration_since(Instant::now());
            if !early.is_zero() {
                std::thread::sleep(early);
            }
            if due.send(at).is_err() {
                return;
            }
        }
    });
}
