//! The way of a function's calls and outputs to the disk.
//!
//! One loop per function, running only while there is something to write, takes what waits in its order and writes it
//! in one transaction. The order is what the state machine relies on: a call is there before its outputs, and an output
//! before anybody sees it (`calls/src/function/durability.rs`).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use calls::{CallKind, CallSpec, FinishedOutput, NewInput, Restored};
use metadata_store::{CallRecord, InputRecord, OutputRecord, Write};
use types::ids::FunctionCallId;

use crate::owner::Owner;
use crate::shared::Shared;

/// Records written in one transaction; more only make the first of them wait longer.
const BATCH: usize = 256;

#[derive(Debug, Clone)]
pub enum Record {
    /// A call that has lasted long enough to be worth it.
    Call(Box<Restored>),
    Output(FunctionCallId, Box<FinishedOutput>),
    Deletion(FunctionCallId),
}

impl Record {
    fn call(&self) -> &FunctionCallId {
        match self {
            Self::Call(call) => &call.spec.id,
            Self::Output(call, _) | Self::Deletion(call) => call,
        }
    }

    fn writes(&self, owner: &Owner) -> Vec<Write> {
        match self {
            Self::Call(call) => call_writes(owner, call),
            Self::Output(call, output) => vec![output_write(call, output)],
            Self::Deletion(call) => vec![Write::DeleteCall(call.clone())],
        }
    }
}

/// What makes a call durable from its beginning.
pub fn new_call_writes(owner: &Owner, spec: &CallSpec, inputs: &[NewInput]) -> Vec<Write> {
    let call = Restored {
        spec: spec.clone(),
        pending: inputs.to_vec(),
        finished: Vec::new(),
        inputs_complete: spec.kind == CallKind::Unary,
    };
    call_writes(owner, &call)
}

fn call_writes(owner: &Owner, call: &Restored) -> Vec<Write> {
    let id = &call.spec.id;
    let mut writes = vec![Write::Call(CallRecord {
        spec: call.spec.clone(),
        app: owner.app.id.clone(),
        function: owner.id.clone(),
        inputs_complete: call.inputs_complete,
    })];
    let input = |input: &NewInput| InputRecord { call: id.clone(), input: input.clone() };
    writes.push(Write::Inputs(call.pending.iter().map(input).collect()));
    writes.extend(call.finished.iter().map(|output| output_write(id, output)));
    writes
}

fn output_write(call: &FunctionCallId, output: &FinishedOutput) -> Write {
    Write::Output(OutputRecord { call: call.clone(), output: output.clone() })
}

/// What waits to be written, oldest first.
#[derive(Default)]
pub struct Unrecorded {
    queue: VecDeque<Record>,
    loop_runs: bool,
}

impl Unrecorded {
    /// True when the loop has to be started for it.
    pub fn push(&mut self, record: Record) -> bool {
        self.queue.push_back(record);
        !std::mem::replace(&mut self.loop_runs, true)
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The call is on its way out of the store.
    pub fn deletes(&self, call: &FunctionCallId) -> bool {
        self.queue.iter().any(|record| matches!(record, Record::Deletion(deleted) if deleted == call))
    }

    /// What to write next; when there is nothing, the loop ends.
    fn next_batch(&mut self) -> Vec<Record> {
        self.loop_runs = !self.queue.is_empty();
        self.queue.iter().take(BATCH).cloned().collect()
    }

    fn on_batch_written(&mut self, records: usize) {
        self.queue.drain(..records).for_each(drop);
        // A burst is over.
        if self.queue.capacity() / 4 > self.queue.len().max(BATCH) {
            self.queue.shrink_to(BATCH);
        }
    }

    /// Takes out everything of these calls.
    fn give_up(&mut self, calls: &BTreeSet<FunctionCallId>) {
        self.queue.retain(|record| !calls.contains(record.call()));
    }
}

/// Writes until nothing waits. A full disk delays what was durable from the beginning; nothing is lost meanwhile, since
/// the inputs stay unfinished in the store. Calls that were only to become durable go on in memory.
pub async fn record_loop(owner: Arc<Owner>, shared: Arc<Shared>) {
    let mut delay = Duration::from_millis(100);
    loop {
        let batch = owner.unrecorded(Unrecorded::next_batch);
        if batch.is_empty() {
            return;
        }
        let writes = batch.iter().flat_map(|record| record.writes(&owner)).collect();
        if let Err(error) = shared.store.write(writes).await {
            tracing::error!(function = %owner.id, %error, "could not record calls and outputs");
            if !keep_in_memory(&owner, &shared, &batch) {
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(Duration::from_secs(10));
            }
            continue;
        }
        delay = Duration::from_millis(100);
        owner.unrecorded(|u| u.on_batch_written(batch.len()));
        for record in &batch {
            on_written(&owner, &shared, record);
        }
    }
}

/// True if there were such calls among what could not be written: the rest may go through without them.
fn keep_in_memory(owner: &Arc<Owner>, shared: &Arc<Shared>, batch: &[Record]) -> bool {
    let lasting = batch.iter().filter(|record| matches!(record, Record::Call(_)));
    let calls: BTreeSet<FunctionCallId> = lasting.map(|record| record.call().clone()).collect();
    owner.unrecorded(|u| u.give_up(&calls));
    for call in &calls {
        owner.apply(shared, |state, now, effects| state.on_call_not_recorded(call, now, effects));
    }
    !calls.is_empty()
}

fn on_written(owner: &Arc<Owner>, shared: &Arc<Shared>, record: &Record) {
    match record {
        Record::Call(call) => {
            owner.apply(shared, |calls, _, effects| calls.on_call_recorded(&call.spec.id, effects));
        }
        Record::Output(_, output) => {
            owner.apply(shared, |calls, _, effects| calls.on_recorded(&output.input, effects));
        }
        Record::Deletion(_) => {}
    }
}
