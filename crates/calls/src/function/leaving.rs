//! Calls leave memory: who asks, what has changed, and which are due. The rules are in [`crate::leaving`].
//!
//! Nothing is scanned. An event that may let a call go notes it, and [`FunctionCalls::leave`], which the shell calls after
//! every event, enters its time into one sorted set. An entry may come too early (somebody has asked since); then it is
//! entered anew when its time comes. It never comes too late.

use std::collections::HashMap;
use std::hash::Hash;

use types::ids::{FunctionCallId, InputId};

use super::{Call, FunctionCalls};
use crate::Millis;
use crate::effect::Effect;
use crate::leaving::{Standing, decide_leaving};
use crate::report::InputReport;

/// Times are entered in whole seconds, so that the loop of a busy function wakes once a second for them.
const GRAIN_MS: Millis = 1_000;
/// Calls that wait to leave, and bytes of their outputs. Beyond that the first go at once: a function that takes thousands of
/// calls a second would keep hundreds of thousands for the few whose reply was lost.
const MAX_LEAVING: usize = 4_096;
const MAX_LEAVING_BYTES: usize = 256 << 20;
/// An event adds one call, as a rule.
const SURPLUS_AT_ONCE: usize = 4;
/// Inputs of a call that has left which can be looked at afterwards.
pub const PAST_KEPT: usize = 500;

/// A call that has left memory, and what the shell has to let go with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Left {
    pub call: FunctionCallId,
    /// By the wall clock.
    pub created_at: Millis,
    pub parent_input: Option<InputId>,
    /// The store has a record that nobody needs any more.
    pub delete_record: bool,
    /// The last of its inputs, for a person to look at.
    pub reports: Vec<InputReport>,
}

impl Call {
    fn standing(&self, closed_at: Option<Millis>, crowded: bool) -> Standing {
        Standing {
            on_disk: self.on_disk,
            spawned: self.spec.durable,
            collected: self.collected,
            idle_since: self.idle_since.filter(|_| self.unfinished.is_empty()),
            inputs_complete: self.inputs_complete,
            asking: self.asking,
            heard_at: self.heard_at,
            unread_items: self.unread_items,
            closed_at,
            crowded,
        }
    }

    fn output_bytes(&self) -> usize {
        self.published.iter().filter_map(|output| output.outcome.data.as_ref()).map(|data| data.resident_bytes()).sum()
    }
}

impl FunctionCalls {
    /// A caller waits for outputs or items. False when the call is not here.
    pub fn begin_asking(&mut self, id: &FunctionCallId) -> bool {
        let call = self.calls.get_mut(id);
        call.map(|call| call.asking += 1).is_some()
    }

    /// It does not any more; `wants_no_more`: what it got was all it wants.
    pub fn end_asking(&mut self, id: &FunctionCallId, wants_no_more: bool, now: Millis) {
        let Some(call) = self.calls.get_mut(id) else { return };
        call.asking = call.asking.saturating_sub(1);
        call.collected |= wants_no_more;
        let is_last = call.asking == 0;
        self.hear(id, now);
        if is_last {
            self.note_change(id);
        }
    }

    /// The caller is alive.
    pub(super) fn hear(&mut self, id: &FunctionCallId, now: Millis) {
        if let Some(call) = self.calls.get_mut(id) {
            call.heard_at = call.heard_at.max(now);
        }
    }

    /// Since when the caller has been silent; `None` while it asks, or when the call is unknown.
    pub fn silent_since(&self, id: &FunctionCallId) -> Option<Millis> {
        self.calls.get(id).filter(|call| call.asking == 0).map(|call| call.heard_at)
    }

    /// Whether the call has yielded items that nobody has read.
    pub fn set_unread_items(&mut self, id: &FunctionCallId, unread: bool) {
        let Some(call) = self.calls.get_mut(id).filter(|call| call.unread_items != unread) else { return };
        call.unread_items = unread;
        self.note_change(id);
    }

    /// The app is over: calls leave once they have ended, whoever may ask.
    pub fn close(&mut self, now: Millis) {
        self.closed_at.get_or_insert(now);
        let ids: Vec<FunctionCallId> = self.calls.keys().cloned().collect();
        ids.iter().for_each(|id| self.note_change(id));
    }

    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Something happened that may let the call go.
    pub(super) fn note_change(&mut self, id: &FunctionCallId) {
        if let Some(call) = self.calls.get_mut(id).filter(|call| !call.changed) {
            call.changed = true;
            self.changed.push(id.clone());
        }
    }

    /// When [`Self::leave`] has something to do next.
    pub fn next_leaving(&self) -> Option<Millis> {
        self.leaving.first().map(|(due, _)| *due)
    }

    /// Lets go what may go by now. To be called after every event: it costs nothing when nothing has changed.
    pub fn leave(&mut self, now: Millis, effects: &mut Vec<Effect>) -> Vec<Left> {
        while let Some(id) = self.changed.pop() {
            let Some(call) = self.calls.get_mut(&id) else { continue };
            call.changed = false;
            if call.unfinished.is_empty() {
                call.idle_since.get_or_insert(now);
            }
            self.enter(&id);
        }
        // A second in which thousands were written down is over.
        self.changed.shrink_to(1_024);
        let mut left = Vec::new();
        while let Some((_, id)) = self.leaving.first().filter(|(due, _)| *due <= now).cloned() {
            left.extend(self.leave_or_enter(&id, now, false, effects));
        }
        // Some of them may have to stay all the same; those are not asked again and again in one go.
        let mut surplus = self.leaving.len().saturating_sub(MAX_LEAVING);
        if self.leaving_bytes > MAX_LEAVING_BYTES {
            surplus = surplus.max(1);
        }
        let surplus = surplus.min(SURPLUS_AT_ONCE);
        let first: Vec<FunctionCallId> = self.leaving.iter().take(surplus).map(|(_, id)| id.clone()).collect();
        for id in first {
            left.extend(self.leave_or_enter(&id, now, true, effects));
        }
        left
    }

    fn leave_or_enter(
        &mut self,
        id: &FunctionCallId,
        now: Millis,
        crowded: bool,
        effects: &mut Vec<Effect>,
    ) -> Option<Left> {
        let call = self.calls.get(id)?;
        if decide_leaving(&call.standing(self.closed_at, crowded)).is_some_and(|due| due <= now) {
            return self.forget_call(id, now, effects);
        }
        self.withdraw(id);
        self.enter(id);
        None
    }

    /// Enters the time at which the call may leave, unless it is looked at before that anyway.
    fn enter(&mut self, id: &FunctionCallId) {
        let Some(call) = self.calls.get(id) else { return };
        let Some(due) = decide_leaving(&call.standing(self.closed_at, false)) else { return };
        let due = due.div_ceil(GRAIN_MS) * GRAIN_MS;
        if call.leaves_at.is_some_and(|(at, _)| at <= due) {
            return;
        }
        let bytes = call.output_bytes();
        self.withdraw(id);
        if let Some(call) = self.calls.get_mut(id) {
            call.leaves_at = Some((due, bytes));
            self.leaving.insert((due, id.clone()));
            self.leaving_bytes += bytes;
        }
    }

    /// Takes the call's entry out.
    pub(super) fn withdraw(&mut self, id: &FunctionCallId) {
        let entry = self.calls.get_mut(id).and_then(|call| call.leaves_at.take());
        if let Some((due, bytes)) = entry {
            self.leaving.remove(&(due, id.clone()));
            self.leaving_bytes -= bytes;
        }
    }
}

/// Gives back the room of a table that a burst has made large. Each time it is at most a quarter full, so that a table of
/// steady size is left alone.
pub fn shrink<K: Eq + Hash, V>(table: &mut HashMap<K, V>) {
    if table.capacity() > 1_024 && table.capacity() / 4 > table.len() {
        table.shrink_to(table.len() * 2);
    }
}
