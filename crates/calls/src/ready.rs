//! The inputs that could run now, in order.
//!
//! Every entry has a key by which a cancelled input leaves at once. Rejected: a deque whose dead entries are skipped
//! when met; its length is then a second truth beside a counter, and both had to be kept right in six places.

use std::collections::BTreeMap;

use types::ids::InputId;

use crate::Millis;

/// Names an entry of the queue while it is there.
pub(crate) type ReadyKey = i64;

#[derive(Debug, Default)]
pub(crate) struct ReadyQueue {
    entries: BTreeMap<ReadyKey, (InputId, Millis)>,
}

impl ReadyQueue {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn push_back(&mut self, id: InputId, since: Millis) -> ReadyKey {
        let key = self.entries.last_key_value().map_or(0, |(last, _)| last + 1);
        self.entries.insert(key, (id, since));
        key
    }

    /// For inputs that have had their turn and lost it through no fault of theirs.
    pub(crate) fn push_front(&mut self, id: InputId, since: Millis) -> ReadyKey {
        let key = self.entries.first_key_value().map_or(0, |(first, _)| first - 1);
        self.entries.insert(key, (id, since));
        key
    }

    pub(crate) fn front(&self) -> Option<&InputId> {
        self.entries.first_key_value().map(|(_, (id, _))| id)
    }

    /// Since when the input at the front waits.
    pub(crate) fn front_since(&self) -> Option<Millis> {
        self.entries.first_key_value().map(|(_, (_, since))| *since)
    }

    pub(crate) fn remove(&mut self, key: ReadyKey) {
        self.entries.remove(&key);
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &InputId> {
        self.entries.values().map(|(id, _)| id)
    }
}
