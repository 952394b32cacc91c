//! What goes with a call that leaves memory, and the call's way back. When one leaves is decided in `calls::leaving`.

use std::sync::Arc;

use calls::{Accepted, CallSpec, Left, NewInput, PAST_KEPT};
use metadata_store::{StoreError, StoredCall, Write};
use types::ids::FunctionCallId;

use super::{Begun, Outside, Owner, State};
use crate::recorder::Record;
use crate::shared::Shared;
use crate::watcher::Watcher;

/// A request that waits for a call's outputs or items, and keeps it in memory for as long.
pub struct Asking {
    owner: Arc<Owner>,
    shared: Arc<Shared>,
    call: FunctionCallId,
    /// What the caller gets now is all it wants.
    pub wants_no_more: bool,
}

impl Drop for Asking {
    fn drop(&mut self) {
        let (call, wants_no_more) = (&self.call, self.wants_no_more);
        self.owner.apply(&self.shared, |calls, now, _| calls.end_asking(call, wants_no_more, now));
    }
}

impl Owner {
    /// Makes a call with its first inputs; from here on it is found by its id. `written`: the store has them, and then
    /// they are always taken, unless the app was stopped meanwhile. Of a call whose inputs are not taken nothing is left.
    pub fn begin_call(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        spec: CallSpec,
        inputs: Vec<NewInput>,
        written: bool,
    ) -> Begun {
        let (call, created_at, parent) = (spec.id.clone(), spec.created_at, spec.parent_input.clone());
        let accepted = self.apply(shared, |calls, now, effects| {
            // Under the function's lock: a stop changes the app's state before it takes this lock to close the function.
            if !self.app.is_running() {
                return None;
            }
            let accepted = calls.begin_call(spec, inputs, written, now, effects);
            // Under the lock, so that a call that leaves takes this along.
            if accepted == Accepted::Yes {
                shared.calls.insert(call.clone(), self.clone());
                parent.iter().for_each(|parent| shared.children.add(parent, created_at, &call));
            }
            Some(accepted)
        });
        match accepted {
            // A call that has left memory is not made again: the request was a repetition.
            Some(Accepted::Yes | Accepted::NoSuchCall) => Begun::Yes,
            Some(Accepted::QueueFull | Accepted::WriteFirst) => Begun::QueueFull,
            None => {
                // A repeated request may come after the stop has ended the call that the first one made.
                if written && self.read(|calls| calls.call_spec(&call).is_none()) {
                    shared.store.write_later(vec![Write::DeleteCall(call)]);
                }
                Begun::AppStopped
            }
        }
    }

    pub fn forget_call(self: &Arc<Self>, shared: &Arc<Shared>, call: &FunctionCallId) {
        self.change(shared, |state, now, effects, outside| {
            if let Some(left) = state.calls.forget_call(call, now, effects) {
                state.let_go(shared, left, outside);
            }
        });
    }

    /// Registers a request for outputs or items. Ask before reading, so that nothing falls between. `None` when the call is
    /// not here.
    pub fn ask(self: &Arc<Self>, shared: &Arc<Shared>, call: &FunctionCallId) -> Option<(Asking, Arc<Watcher>)> {
        let mut state = self.state.lock();
        if !state.calls.begin_asking(call) {
            return None;
        }
        let watcher = state.watchers.entry(call.clone()).or_default().clone();
        drop(state);
        let (owner, shared, call) = (self.clone(), shared.clone(), call.clone());
        Some((Asking { owner, shared, call, wants_no_more: false }, watcher))
    }

    /// Wakes when the call has news. Ask before reading, so that nothing falls between. Of a call that is not here there
    /// will be none.
    pub fn watcher(&self, call: &FunctionCallId) -> Arc<Watcher> {
        let mut state = self.state.lock();
        match state.calls.call_spec(call) {
            Some(_) => state.watchers.entry(call.clone()).or_default().clone(),
            None => Arc::default(),
        }
    }
}

impl State {
    /// Everything that is known of a call elsewhere goes with it, under the function's lock: whoever brings it back comes
    /// after this.
    pub(super) fn let_go(&mut self, shared: &Shared, left: Left, outside: &mut Outside) {
        let Left { call, created_at, parent_input, delete_record, reports } = left;
        self.past.extend(reports);
        let over = self.past.len().saturating_sub(PAST_KEPT);
        self.past.drain(..over);
        if delete_record {
            // After what of it is still on its way to the disk.
            outside.begin_recording |= self.unrecorded.push(Record::Deletion(call.clone()));
        }
        if let Some(watcher) = self.watchers.remove(&call) {
            watcher.notify_waiters();
        }
        calls::shrink(&mut self.watchers);
        shared.calls.remove(&call);
        shared.generators.forget(&call);
        if let Some(parent) = parent_input {
            shared.children.remove(&parent, created_at, &call);
        }
    }
}

impl Shared {
    /// A call that is in memory, or comes back there because the store has it and it is not over: its caller slept for so
    /// long that it had left. `None` when it is over or nobody knows it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open_call(self: &Arc<Self>, id: &FunctionCallId) -> Result<Option<Arc<Owner>>, StoreError> {
        if let Some(owner) = self.call_owner(id) {
            return Ok(Some(owner));
        }
        let Some(stored) = self.store.call(id).await? else { return Ok(None) };
        Ok(self.bring_back(stored))
    }

    /// Whether this call was made before, and so is not to be made again. One that is not over is in memory afterwards.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn was_made_before(self: &Arc<Self>, id: &FunctionCallId) -> Result<bool, StoreError> {
        if self.call_owner(id).is_some() {
            return Ok(true);
        }
        let Some(stored) = self.store.call(id).await? else { return Ok(false) };
        self.bring_back(stored);
        Ok(true)
    }

    fn bring_back(self: &Arc<Self>, stored: StoredCall) -> Option<Arc<Owner>> {
        let id = stored.record.spec.id.clone();
        if let Some(owner) = self.calls.get(&id) {
            return Some(owner.clone());
        }
        let is_over = stored.record.inputs_complete && stored.pending.is_empty();
        let owner = self.owners.get(&stored.record.function).map(|owner| owner.clone());
        let owner = owner.filter(|owner| !is_over && owner.app.is_running())?;
        let restored = stored.restored();
        let (is_here, _) = owner.change(self, |state, now, _, _| {
            // Its caller is done with it, and the disk does not know that yet.
            if state.closed || state.unrecorded.deletes(&id) {
                return false;
            }
            state.calls.restore_unless_left(restored, now);
            let is_here = state.calls.call_spec(&id).is_some();
            if is_here {
                self.calls.insert(id.clone(), owner.clone());
            }
            is_here
        });
        if is_here {
            owner.wake(self);
        }
        is_here.then_some(owner)
    }
}
