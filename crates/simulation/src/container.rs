//! A container: asks for inputs while it has a free slot, works on them, reports; crashes, hangs, and does not listen.

use std::collections::BTreeMap;

use calls::{Assignment, Millis, Outcome};
use types::ids::InputId;

/// How an input will end in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InputEnd {
    Success,
    Failure,
    /// Its own code cancels it: reported as an interruption, or not at all.
    OwnCancellation,
    /// It takes the container with it.
    Crash,
}

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) worker: usize,
    /// It runs; before, it is being started.
    pub(crate) up: bool,
    /// Its request under way.
    pub(crate) poll: Option<u64>,
    pub(crate) running: BTreeMap<InputId, u32>,
    /// Reports that were not yet acknowledged.
    pub(crate) unsent: BTreeMap<(InputId, u32), Outcome>,
    pub(crate) leaving: bool,
    /// The server believes it lost; it does not know that.
    pub(crate) zombie: bool,
    pub(crate) started_at: Millis,
}

impl Container {
    pub(crate) fn new(worker: usize, now: Millis) -> Self {
        Self {
            worker,
            up: false,
            poll: None,
            running: BTreeMap::new(),
            unsent: BTreeMap::new(),
            leaving: false,
            zombie: false,
            started_at: now,
        }
    }

    fn held(&self) -> usize {
        self.running.len() + self.unsent.len()
    }

    /// A batch takes one slot.
    fn has_free_slot(&self, slots: usize) -> bool {
        self.held() < slots
    }

    pub(crate) fn wants_to_poll(&self, slots: usize) -> bool {
        self.up && !self.leaving && self.poll.is_none() && self.has_free_slot(slots)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.up && self.leaving && self.held() == 0
    }

    /// Takes in what it was handed; what it already runs is passed over. Answers with what is new.
    pub(crate) fn take_in(&mut self, inputs: Vec<Assignment>, slots: usize, batch: usize) -> Vec<Assignment> {
        assert!(inputs.len() <= batch, "{} inputs for a request that takes {batch}", inputs.len());
        assert!(self.has_free_slot(slots), "a container is given more inputs than it has slots");
        let methods: Vec<&str> = inputs.iter().map(|i| i.method_name.as_str()).collect();
        assert!(methods.windows(2).all(|pair| pair[0] == pair[1]), "a batch of several methods");
        let fresh: Vec<Assignment> =
            inputs.into_iter().filter(|i| self.running.get(&i.input) != Some(&i.attempt)).collect();
        for assignment in &fresh {
            self.running.insert(assignment.input.clone(), assignment.attempt);
        }
        fresh
    }
}
