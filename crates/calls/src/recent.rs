//! A bounded memory of what is gone, so that a message that was still on its way does not bring it back to life.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;

/// The last `capacity` things that were remembered.
#[derive(Debug)]
pub(crate) struct Recent<T> {
    capacity: usize,
    order: VecDeque<T>,
    known: HashSet<T>,
}

impl<T: Clone + Eq + Hash> Recent<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, order: VecDeque::new(), known: HashSet::new() }
    }

    pub(crate) fn remember(&mut self, thing: &T) {
        if !self.known.insert(thing.clone()) {
            return;
        }
        self.order.push_back(thing.clone());
        while self.order.len() > self.capacity {
            let Some(oldest) = self.order.pop_front() else { break };
            self.known.remove(&oldest);
        }
    }

    pub(crate) fn contains(&self, thing: &T) -> bool {
        self.known.contains(thing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first_and_a_repetition_takes_no_room() {
        let mut recent = Recent::new(2);
        for thing in [1, 2, 2, 2, 3] {
            recent.remember(&thing);
        }
        assert_eq!([1, 2, 3].map(|thing| recent.contains(&thing)), [false, true, true]);
    }
}
