//! Containers as the server sees them: programs that ask for an input, answer it, and ask again.

use anyhow::Result;
use client_protocol::wire;
use tokio::net::UnixListener;
use tokio::sync::watch;

use crate::connection::{self, Client};

/// `None`, pickled: what a function without a result sends.
const NONE: &[u8] = b"\x80\x04N.";

/// Plays every container that the server starts, from the moment when `open` says so.
pub async fn play(listener: UnixListener, slots: usize, open: watch::Receiver<bool>) {
    while let Ok((stream, _)) = listener.accept().await {
        let mut open = open.clone();
        tokio::spawn(async move {
            let client = connection::connect(stream, false).await?;
            open.wait_for(|open| *open).await?;
            for _ in 0..slots {
                tokio::spawn(work(client.clone()));
            }
            anyhow::Ok(())
        });
    }
}

async fn work(mut client: Client) -> Result<()> {
    loop {
        let request = wire::FunctionGetInputsRequest { max_values: 1, ..Default::default() };
        for item in client.function_get_inputs(request).await?.into_inner().inputs {
            if item.kill_switch {
                return Ok(());
            }
            client.function_put_outputs(output(item)).await?;
        }
    }
}

fn output(item: wire::FunctionGetInputsItem) -> wire::FunctionPutOutputsRequest {
    let result = wire::GenericResult {
        status: wire::generic_result::GenericStatus::Success as i32,
        data_oneof: Some(wire::generic_result::DataOneof::Data(NONE.into())),
        ..Default::default()
    };
    let output = wire::FunctionPutOutputsItem {
        input_id: item.input_id,
        result: Some(result),
        data_format: wire::DataFormat::Pickle as i32,
        retry_count: item.retry_count,
        function_call_id: item.function_call_id,
        function_map_idx: item.function_map_idx,
        ..Default::default()
    };
    wire::FunctionPutOutputsRequest { outputs: vec![output], ..Default::default() }
}
