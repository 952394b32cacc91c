//! The store: what survives the server. Writes are done in order, each after a while; a server that dies leaves
//! behind some beginning of what it had asked for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use calls::{CallSpec, FinishedOutput, NewInput, Restored};
use types::ids::{FunctionCallId, InputId};

#[derive(Debug, Clone)]
pub(crate) enum Write {
    Call(CallSpec, Vec<NewInput>),
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
