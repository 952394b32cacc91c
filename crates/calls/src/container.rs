//! What is known of one container.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use types::ids::{FunctionCallId, InputId};

use crate::Millis;

#[derive(Debug, Default)]
pub(crate) struct Container {
    pub(crate) running: BTreeSet<InputId>,
    /// The last input it got, if it ran nothing else beside it.
    pub(crate) last_alone: Option<(FunctionCallId, InputId)>,
    /// Inputs that ended for their caller by cancellation, with the time at which the container is stopped if it
    /// still works on them.
    pub(crate) abandoned: BTreeMap<InputId, Millis>,
    /// Running inputs that a cancellation told to this container may have interrupted along with its own, with the time by
    /// which that would have shown.
    pub(crate) disturbed: BTreeMap<InputId, Millis>,
    /// Until then, a cancellation may still reach whatever the container is handed next.
    pub(crate) disturbed_until: Millis,
    /// Running inputs of which `silent` have ended without a report, and whether a cancellation may have ended them. Which
    /// ones shows as the others report.
    pub(crate) suspects: BTreeMap<InputId, bool>,
    pub(crate) silent: usize,
    /// Waiting requests: name, and how many inputs each takes.
    pub(crate) polls: VecDeque<(u64, usize)>,
    /// It gets no more inputs.
    pub(crate) draining: bool,
    /// It was told to stop: by [`crate::Effect::StopTask`], or by the shell for reasons of its own.
    pub(crate) stopping: bool,
    /// When it last became idle, for the autoscaler.
    pub(crate) idle_since: Option<Millis>,
    /// Grows with each input it finishes; the container with the highest gets the next input.
    pub(crate) rank: u64,
}

impl Container {
    /// Whether the end of an input may be the work of a cancellation that was meant for another.
    pub(crate) fn is_disturbed(&self, id: &InputId, now: Millis) -> bool {
        self.disturbed.get(id).is_some_and(|until| now < *until)
    }

    /// A suspect is gone without having spoken: it may have been one that ended silently.
    pub(crate) fn drop_suspect(&mut self, id: &InputId) {
        if self.suspects.remove(id).is_some() {
            self.silent -= 1;
        }
        if self.silent == 0 {
            self.suspects.clear();
        }
    }
}
