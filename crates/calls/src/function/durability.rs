//! Calls that their callers wait for live in memory. Those that last are written down, once, as they are, and are treated
//! as durable from then on: a server that dies takes only calls with it that had hardly begun.
//!
//! The order of writes is what makes that sound. The store gets the call first, then each later input before it is
//! taken, and each later output before it is published; so what a caller has seen is always there after a restart, at
//! the same place in its order. Rejected: making every call durable at once (a wait for the disk in each short call),
//! and writing in the background without order (an output seen before the restart could be another one after it).

use types::ids::{FunctionCallId, InputId};

use super::{FunctionCalls, Stage};
use crate::Millis;
use crate::effect::Effect;
use crate::input::{OnDisk, Restored};

/// A call that could not be written down (the disk is full, say) stays in memory, and is tried again this much later.
const TRY_AGAIN_MS: Millis = 10_000;

impl FunctionCalls {
    /// `None` when the call is unknown.
    pub fn on_disk(&self, call: &FunctionCallId) -> Option<OnDisk> {
        self.calls.get(call).map(|c| c.on_disk)
    }

    /// The caller wants nothing more of this call: it need not survive anything.
    pub fn on_collected(&mut self, call: &FunctionCallId) {
        if let Some(call) = self.calls.get_mut(call) {
            call.collected = true;
        }
        self.note_change(call);
    }

    /// The store has a call that it need not keep: one that a caller waited for, and has collected.
    pub fn leaves_a_record(&self, call: &FunctionCallId) -> bool {
        self.calls.get(call).is_some_and(|c| c.collected && c.on_disk != OnDisk::No && !c.spec.durable)
    }

    /// The server is about to end: whatever somebody may still ask for is written down.
    pub fn record_open_calls(&mut self, effects: &mut Vec<Effect>) {
        let in_memory = self.calls.values().filter(|c| c.on_disk == OnDisk::No && !c.collected);
        let ids: Vec<FunctionCallId> = in_memory.map(|c| c.spec.id.clone()).collect();
        for id in ids {
            self.record_call(&id, effects);
        }
    }

    /// Has a call written down unless it is, or nobody needs it.
    pub(super) fn record_call(&mut self, id: &FunctionCallId, effects: &mut Vec<Effect>) {
        let Some(call) = self.calls.get_mut(id).filter(|c| c.on_disk == OnDisk::No && !c.collected) else { return };
        call.on_disk = OnDisk::Begun;
        let pending = call.unfinished.values().filter_map(|input| self.inputs.get(input));
        effects.push(Effect::RecordCall(Box::new(Restored {
            spec: call.spec.clone(),
            pending: pending.map(|state| state.input.clone()).collect(),
            finished: call.published.clone(),
            inputs_complete: call.inputs_complete,
        })));
    }

    /// The store has the call as it was.
    pub fn on_call_recorded(&mut self, id: &FunctionCallId, effects: &mut Vec<Effect>) {
        let Some(call) = self.calls.get_mut(id).filter(|c| c.on_disk == OnDisk::Begun) else { return };
        call.on_disk = OnDisk::Yes;
        self.note_change(id);
        effects.push(Effect::OutputReady { call: id.clone() });
    }

    /// The store could not take the call: it goes on in memory, and what waited for the store is published.
    pub fn on_call_not_recorded(&mut self, id: &FunctionCallId, now: Millis, effects: &mut Vec<Effect>) {
        let Some(call) = self.calls.get_mut(id).filter(|c| c.on_disk == OnDisk::Begun) else { return };
        call.on_disk = OnDisk::No;
        self.note_change(id);
        let Some(call) = self.calls.get(id) else { return };
        let unfinished: Vec<InputId> = call.unfinished.values().cloned().collect();
        self.young.push_back((now.saturating_add(TRY_AGAIN_MS), id.clone()));
        effects.push(Effect::OutputReady { call: id.clone() });
        for input in unfinished {
            let Some(Stage::Recording(output)) = self.inputs.get(&input).map(|i| &i.stage) else { continue };
            let output = output.as_ref().clone();
            self.publish(&input, output, effects);
        }
    }
}
