//! Clients that were told that a file is here, or that are sending it, until they have put it where they want it.
//!
//! A client puts many files at once: it is told of each, sends those that are missing, which may take hours, and then wants
//! all of them. Several may be told of the same file, and what one has done with it says nothing about the others, so each
//! counts by itself. A client is known by what it puts where; clients that put the same are counted. Whoever asks twice
//! because an answer got lost counts twice, and one that has given up goes on counting: both only until they have been
//! silent for long enough, see [`crate::keeping`].

use std::time::SystemTime;

/// Those that wait for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting<K>(Vec<Clients<K>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Clients<K> {
    key: K,
    count: u32,
    /// When one of them was last told of the file.
    told: SystemTime,
}

impl<K> Default for Waiting<K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: PartialEq> Waiting<K> {
    /// One more waits.
    pub fn add(&mut self, key: K, now: SystemTime) {
        self.tell(key, 1, now);
    }

    /// One that has asked before asks again.
    pub fn renew(&mut self, key: K, now: SystemTime) {
        self.tell(key, 0, now);
    }

    fn tell(&mut self, key: K, more: u32, now: SystemTime) {
        match self.0.iter_mut().find(|clients| clients.key == key) {
            Some(clients) => {
                clients.count = clients.count.saturating_add(more);
                clients.told = clients.told.max(now);
            }
            None => self.0.push(Clients { key, count: more.max(1), told: now }),
        }
    }

    /// All of these wait here, too, and are told now.
    pub fn take_in(&mut self, others: Self, now: SystemTime) {
        others.0.into_iter().for_each(|clients| self.tell(clients.key, clients.count, now));
    }

    /// One has what it wanted.
    pub fn remove(&mut self, key: &K) {
        if let Some(at) = self.0.iter().position(|clients| clients.key == *key) {
            self.0[at].count -= 1;
            if self.0[at].count == 0 {
                self.0.swap_remove(at);
            }
        }
    }

    /// Forgets those that were last told at such a time.
    pub fn retain(&mut self, is_kept: impl Fn(SystemTime) -> bool) {
        self.0.retain(|clients| is_kept(clients.told));
    }

    pub fn last_told(&self) -> Option<SystemTime> {
        self.0.iter().map(|clients| clients.told).max()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn what_one_client_has_done_takes_nothing_from_another_that_puts_the_same_or_something_else() {
        let mut waiting = Waiting::default();
        waiting.add("a", at(1));
        waiting.add("a", at(2));
        waiting.add("b", at(3));
        waiting.renew("a", at(4));
        waiting.remove(&"b");
        assert_eq!(waiting.last_told(), Some(at(4)));
        waiting.remove(&"a");
        assert!(!waiting.is_empty(), "another puts the same");
        waiting.remove(&"a");
        assert!(waiting.is_empty());
        waiting.remove(&"a");
        assert_eq!(waiting.last_told(), None);
    }

    #[test]
    fn whoever_asks_again_after_a_restart_waits_once() {
        let mut waiting = Waiting::default();
        waiting.renew("a", at(1));
        waiting.renew("a", at(2));
        waiting.remove(&"a");
        assert!(waiting.is_empty());
    }

    #[test]
    fn those_that_have_fallen_silent_are_forgotten_each_at_its_time() {
        let mut waiting = Waiting::default();
        waiting.add("a", at(1));
        waiting.add("b", at(5));
        waiting.retain(|told| told > at(1));
        assert_eq!(waiting.last_told(), Some(at(5)));
        waiting.remove(&"a");
        assert!(!waiting.is_empty());
    }

    #[test]
    fn those_that_waited_for_its_bytes_wait_on_when_it_has_come() {
        let (mut waiting, mut sending) = (Waiting::default(), Waiting::default());
        sending.add("a", at(1));
        sending.add("a", at(1));
        sending.add("b", at(2));
        waiting.add("b", at(2));
        waiting.take_in(sending, at(9));
        assert_eq!(waiting.last_told(), Some(at(9)));
        for key in ["a", "a", "b"] {
            waiting.remove(&key);
        }
        assert!(!waiting.is_empty());
        waiting.remove(&"b");
        assert!(waiting.is_empty());
    }
}
