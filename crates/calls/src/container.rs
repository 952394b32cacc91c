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
    /// Waiting requests: name, and how many inputs each takes.
    pub(crate) polls: VecDeque<(u64, usize)>,
    /// It gets no more inputs.
    pub(crate) draining: bool,
    /// [`crate::Effect::StopTask`] was said.
    pub(crate) stopping: bool,
    /// When it last became idle, for the autoscaler.
    pub(crate) idle_since: Option<Millis>,
    /// Grows with each input it finishes; the container with the highest gets the next input.
    pub(crate) rank: u64,
}
