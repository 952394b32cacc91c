//! The inputs that could run now, in order, by the method that they call.
//!
//! Every entry has a key by which a cancelled input leaves at once, and by which the queues of several methods are one
//! queue: the input with the lowest key is the next. Rejected: a deque whose dead entries are skipped when met; its
//! length is then a second truth beside a counter, and both had to be kept right in six places.

use std::collections::BTreeMap;

use types::ids::InputId;

use crate::Millis;

/// Names an entry of the queue while it is there.
pub(crate) type ReadyKey = i64;

#[derive(Debug, Default)]
pub(crate) struct ReadyQueue {
    /// A function has one method and a class a handful. No queue here is empty.
    methods: BTreeMap<String, BTreeMap<ReadyKey, (InputId, Millis)>>,
    len: usize,
    next_back: ReadyKey,
    /// Counts down from -1.
    next_front: ReadyKey,
}

impl ReadyQueue {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn push_back(&mut self, method: &str, id: InputId, since: Millis) -> ReadyKey {
        self.next_back += 1;
        self.insert(method, self.next_back, id, since)
    }

    /// For inputs that have had their turn and lost it through no fault of theirs.
    pub(crate) fn push_front(&mut self, method: &str, id: InputId, since: Millis) -> ReadyKey {
        self.next_front -= 1;
        self.insert(method, self.next_front, id, since)
    }

    fn insert(&mut self, method: &str, key: ReadyKey, id: InputId, since: Millis) -> ReadyKey {
        if let Some(queue) = self.methods.get_mut(method) {
            queue.insert(key, (id, since));
        } else {
            self.methods.insert(method.to_owned(), BTreeMap::from([(key, (id, since))]));
        }
        self.len += 1;
        key
    }

    pub(crate) fn remove(&mut self, method: &str, key: ReadyKey) {
        let Some(queue) = self.methods.get_mut(method) else { return };
        if queue.remove(&key).is_some() {
            self.len -= 1;
        }
        if queue.is_empty() {
            self.methods.remove(method);
        }
    }

    /// The method of the input that is next.
    pub(crate) fn front_method(&self) -> Option<&str> {
        let next = self.methods.iter().min_by_key(|(_, queue)| queue.first_key_value().map(|(key, _)| *key));
        next.map(|(method, _)| method.as_str())
    }

    /// Since when the input that is next waits.
    pub(crate) fn front_since(&self) -> Option<Millis> {
        self.first(self.front_method()?).map(|(_, since)| *since)
    }

    /// The next input of a method.
    pub(crate) fn front_of(&self, method: &str) -> Option<&InputId> {
        self.first(method).map(|(id, _)| id)
    }

    fn first(&self, method: &str) -> Option<&(InputId, Millis)> {
        self.methods.get(method)?.first_key_value().map(|(_, entry)| entry)
    }

    /// The method of a batch of `max` that is to go now: it is full, or one of its inputs has waited for `linger_ms`.
    /// Of several the one whose input is next.
    pub(crate) fn due_batch(&self, max: usize, linger_ms: Millis, now: Millis) -> Option<&str> {
        if max <= 1 || linger_ms == 0 {
            return self.front_method();
        }
        let is_due = |queue: &BTreeMap<ReadyKey, (InputId, Millis)>| {
            queue.len() >= max || oldest(queue).is_some_and(|since| since.saturating_add(linger_ms) <= now)
        };
        let due = self.methods.iter().filter(|(_, queue)| is_due(queue));
        due.min_by_key(|(_, queue)| queue.first_key_value().map(|(key, _)| *key)).map(|(method, _)| method.as_str())
    }

    /// When the next incomplete batch has to go.
    pub(crate) fn next_batch_due(&self, linger_ms: Millis) -> Option<Millis> {
        self.methods.values().filter_map(oldest).min().map(|since| since.saturating_add(linger_ms))
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &InputId> {
        self.methods.values().flat_map(BTreeMap::values).map(|(id, _)| id)
    }
}

/// Since when the longest waiting of these waits. Those at the front may have come back, later than others came. Looked
/// for only in what is less than a batch.
fn oldest(queue: &BTreeMap<ReadyKey, (InputId, Millis)>) -> Option<Millis> {
    queue.values().map(|(_, since)| *since).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> InputId {
        InputId::parse(&format!("in-{n}")).unwrap()
    }

    #[test]
    fn inputs_of_several_methods_are_one_queue() {
        let mut queue = ReadyQueue::default();
        let first = queue.push_back("a", id(1), 0);
        queue.push_back("b", id(2), 0);
        queue.push_back("a", id(3), 0);
        assert_eq!(queue.front_method(), Some("a"));
        queue.remove("a", first);
        assert_eq!((queue.front_method(), queue.len()), (Some("b"), 2));
        queue.push_front("a", id(1), 0);
        assert_eq!((queue.front_method(), queue.front_of("a")), (Some("a"), Some(&id(1))));
    }

    #[test]
    fn a_batch_is_due_when_it_is_full_or_its_oldest_has_waited() {
        let mut queue = ReadyQueue::default();
        queue.push_back("a", id(1), 0);
        assert_eq!((queue.due_batch(2, 100, 99), queue.due_batch(2, 100, 100)), (None, Some("a")));
        // Back from a lost container: at the front, and not the oldest.
        queue.push_front("a", id(2), 90);
        assert_eq!((queue.due_batch(3, 100, 99), queue.due_batch(3, 100, 100)), (None, Some("a")));
        assert_eq!(queue.due_batch(2, 100, 0), Some("a"));
        assert_eq!(queue.next_batch_due(100), Some(100));
    }
}
