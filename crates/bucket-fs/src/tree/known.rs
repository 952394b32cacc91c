//! What the store said of files, believed for a while.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use super::Kind;

/// Files of which something is remembered; the oldest news go first. Enough for a folder that is listed and looked
/// through, at about 200 bytes each.
const MAX_KNOWN: usize = 50_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub kind: Kind,
    pub size: u64,
    pub modified: SystemTime,
    /// Names the content.
    pub etag: String,
}

impl Facts {
    pub fn folder() -> Self {
        Self { kind: Kind::Folder, size: 0, modified: SystemTime::UNIX_EPOCH, etag: String::new() }
    }

    pub fn file(size: u64, modified: SystemTime, etag: String) -> Self {
        Self { kind: Kind::File, size, modified, etag }
    }
}

pub struct Known {
    ttl: Duration,
    by_path: HashMap<String, (Facts, Instant)>,
}

impl Known {
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, by_path: HashMap::new() }
    }

    pub fn get(&self, path: &str, now: Instant) -> Option<Facts> {
        let (facts, learned) = self.by_path.get(path)?;
        (now.saturating_duration_since(*learned) < self.ttl).then(|| facts.clone())
    }

    pub fn learn(&mut self, path: &str, facts: Facts, now: Instant) {
        if self.ttl.is_zero() {
            return;
        }
        if self.by_path.len() >= MAX_KNOWN && !self.by_path.contains_key(path) {
            self.make_room(now);
        }
        self.by_path.insert(path.to_owned(), (facts, now));
    }

    pub fn forget(&mut self, path: &str) {
        self.by_path.remove(path);
    }

    /// What is over goes; if that is little, the older half of the rest. So room is made seldom, and each time for many.
    fn make_room(&mut self, now: Instant) {
        self.by_path.retain(|_, (_, learned)| now.saturating_duration_since(*learned) < self.ttl);
        if self.by_path.len() > MAX_KNOWN / 2 {
            let mut times: Vec<Instant> = self.by_path.values().map(|(_, learned)| *learned).collect();
            let middle = times.len() / 2;
            let (_, median, _) = times.select_nth_unstable(middle);
            let median = *median;
            self.by_path.retain(|_, (_, learned)| *learned > median);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_believed_until_its_time_is_over() {
        let (mut known, now) = (Known::new(Duration::from_secs(1)), Instant::now());
        known.learn("a", Facts::folder(), now);
        assert_eq!(known.get("a", now + Duration::from_millis(999)), Some(Facts::folder()));
        assert_eq!(known.get("a", now + Duration::from_secs(1)), None);
        known.forget("a");
        assert_eq!(known.get("a", now), None);
    }

    #[test]
    fn without_a_time_nothing_is_remembered() {
        let (mut known, now) = (Known::new(Duration::ZERO), Instant::now());
        known.learn("a", Facts::folder(), now);
        assert!(known.by_path.is_empty());
    }

    #[test]
    fn memory_is_bounded_and_the_newest_stay() {
        let (mut known, now) = (Known::new(Duration::from_secs(1 << 40)), Instant::now());
        for i in 0..MAX_KNOWN as u64 * 2 {
            known.learn(&i.to_string(), Facts::folder(), now + Duration::from_micros(i));
        }
        assert!(known.by_path.len() <= MAX_KNOWN);
        assert!(known.get(&(MAX_KNOWN * 2 - 1).to_string(), now).is_some());
    }
}
