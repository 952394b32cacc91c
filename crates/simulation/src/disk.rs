//! The store: what survives the server. Writes are done in order, each after a while; a server that dies leaves
//! behind some beginning of what it had asked for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use calls::{CallSpec, FinishedOutput, NewInput, Payload, Restored};
use types::ids::{FunctionCallId, InputId};

#[derive(Debug, Clone)]
pub(crate) enum Write {
    Call(CallSpec, Vec<NewInput>),
    /// A call that has lasted, with what came out of it.
    Lasting(Box<Restored>),
    Delete(FunctionCallId),
    Inputs(FunctionCallId, Vec<NewInput>),
    FinishInputs(FunctionCallId),
    Cancel(FunctionCallId),
    Output(FunctionCallId, FinishedOutput),
}

#[derive(Debug)]
struct Row {
    spec: CallSpec,
    inputs: Vec<NewInput>,
    outputs: Vec<FinishedOutput>,
    inputs_complete: bool,
    cancelled: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Disk {
    rows: BTreeMap<FunctionCallId, Row>,
    pending: VecDeque<Write>,
}

impl Disk {
    pub(crate) fn ask(&mut self, write: Write) {
        self.pending.push_back(write);
    }

    /// The oldest pending write is done.
    pub(crate) fn complete_one(&mut self) -> Option<Write> {
        let write = self.pending.pop_front()?;
        self.apply(write.clone());
        Some(write)
    }

    /// The server is gone; `completed` of its pending writes had reached the disk.
    pub(crate) fn crash(&mut self, completed: usize) {
        for _ in 0..completed {
            self.complete_one();
        }
        self.pending.clear();
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Every call as it stands, with whether it was cancelled.
    pub(crate) fn restore(&self) -> Vec<(Restored, bool)> {
        self.rows.values().map(|row| (row.restored(), row.cancelled)).collect()
    }

    fn apply(&mut self, write: Write) {
        match write {
            Write::Call(spec, inputs) => {
                let id = spec.id.clone();
                let (outputs, inputs_complete) = (Vec::new(), spec.kind == calls::CallKind::Unary);
                let row = Row { spec, inputs: Vec::new(), outputs, inputs_complete, cancelled: false };
                self.rows.entry(id.clone()).or_insert(row);
                self.apply(Write::Inputs(id, inputs));
            }
            Write::Lasting(call) => {
                let Restored { spec, pending, finished, inputs_complete } = *call;
                let done = finished.iter().map(|o| NewInput { id: o.input.clone(), idx: o.idx, ..no_input() });
                let inputs = done.chain(pending).collect();
                let row = Row { spec, inputs, outputs: finished, inputs_complete, cancelled: false };
                let before = self.rows.insert(row.spec.id.clone(), row);
                assert!(before.is_none(), "a call is recorded twice");
            }
            Write::Delete(call) => _ = self.rows.remove(&call),
            Write::Inputs(call, inputs) => {
                let Some(row) = self.rows.get_mut(&call) else { return };
                let known: BTreeSet<InputId> = row.inputs.iter().map(|i| i.id.clone()).collect();
                row.inputs.extend(inputs.into_iter().filter(|i| !known.contains(&i.id)));
            }
            Write::FinishInputs(call) => {
                self.rows.get_mut(&call).into_iter().for_each(|row| row.inputs_complete = true);
            }
            Write::Cancel(call) => {
                self.rows.get_mut(&call).into_iter().for_each(|row| row.cancelled = true);
            }
            Write::Output(call, output) => {
                let row = self.rows.get_mut(&call).expect("an output of a call that was never written");
                assert!(row.inputs.iter().any(|i| i.id == output.input), "an output of an unwritten input");
                assert!(row.outputs.iter().all(|o| o.input != output.input), "`{}` recorded twice", output.input);
                row.outputs.push(output);
            }
        }
    }
}

/// Of an input that is over only its name matters.
fn no_input() -> NewInput {
    NewInput {
        id: InputId::random(),
        idx: 0,
        payload: Payload::Inline(Bytes::new()),
        data_format: 0,
        method_name: String::new(),
    }
}

impl Row {
    fn restored(&self) -> Restored {
        let done: BTreeSet<&InputId> = self.outputs.iter().map(|o| &o.input).collect();
        Restored {
            spec: self.spec.clone(),
            pending: self.inputs.iter().filter(|i| !done.contains(&i.id)).cloned().collect(),
            finished: self.outputs.clone(),
            inputs_complete: self.inputs_complete,
        }
    }
}
