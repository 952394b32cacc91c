//! What is known of one container, and the memory of those that are gone.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use types::ids::{InputId, TaskId};

use crate::Millis;

#[derive(Debug, Default)]
pub(crate) struct Container {
    pub(crate) running: BTreeSet<InputId>,
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

/// Containers that ended lately. A request of theirs that was still on its way must not bring them back to life.
#[derive(Debug, Default)]
pub(crate) struct EndedTasks {
    order: VecDeque<TaskId>,
    known: HashSet<TaskId>,
}

/// Requests on their way arrive within seconds; this many containers of one function do not end in that time.
const REMEMBERED: usize = 1_024;

impl EndedTasks {
    pub(crate) fn remember(&mut self, task: &TaskId) {
        if !self.known.insert(task.clone()) {
            return;
        }
        self.order.push_back(task.clone());
        while self.order.len() > REMEMBERED {
            let Some(oldest) = self.order.pop_front() else { break };
            self.known.remove(&oldest);
        }
    }

    pub(crate) fn contains(&self, task: &TaskId) -> bool {
        self.known.contains(task)
    }
}
