//! One partition: its items in order, and who waits for more.

use std::collections::{BTreeMap, BTreeSet};

use crate::gets::GetId;
use crate::limits::{MAX_ITEMS, MAX_PARTITION_BYTES, Refusal};
use crate::queue::LookId;
use crate::{Millis, Position};

/// A value in a queue. `bytes` is its size wherever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item<V> {
    pub position: Position,
    pub bytes: usize,
    pub value: V,
}

#[derive(Debug)]
pub(crate) struct Partition<V> {
    /// Each with the time at which the partition goes if it is the last one.
    items: BTreeMap<Position, (Millis, Item<V>)>,
    bytes: usize,
    /// When its items go; of no meaning while it has none.
    pub expires_at: Millis,
    /// Gets without an item, in the order in which they came.
    pub waiting: BTreeSet<GetId>,
    /// Looks that wait for an item to be stored.
    pub looking: Vec<LookId>,
}

impl<V> Default for Partition<V> {
    fn default() -> Self {
        let (items, waiting, looking) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        Self { items, bytes: 0, expires_at: 0, waiting, looking }
    }
}

impl<V> Partition<V> {
    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn is_unused(&self) -> bool {
        self.is_empty() && self.waiting.is_empty() && self.looking.is_empty()
    }

    pub fn check_room(&self, items: usize, bytes: usize) -> Result<(), Refusal> {
        if self.len() + items > MAX_ITEMS || self.bytes + bytes > MAX_PARTITION_BYTES {
            return Err(Refusal::PartitionFull { items: self.len(), bytes: self.bytes });
        }
        Ok(())
    }

    pub fn add(&mut self, expires_at: Millis, item: Item<V>) {
        self.bytes += item.bytes;
        self.items.insert(item.position, (expires_at, item));
    }

    pub fn remove(&mut self, position: Position) -> Option<Item<V>> {
        let (_, item) = self.items.remove(&position)?;
        self.bytes -= item.bytes;
        Some(item)
    }

    pub fn take(&mut self, count: usize) -> Vec<Item<V>> {
        let mut taken = Vec::with_capacity(count.min(self.len()));
        while taken.len() < count {
            let Some((_, (_, item))) = self.items.pop_first() else { break };
            self.bytes -= item.bytes;
            taken.push(item);
        }
        taken
    }

    pub fn after(&self, position: Position) -> impl Iterator<Item = &Item<V>> {
        self.items.range(position.saturating_add(1)..).map(|(_, (_, item))| item)
    }

    pub fn last_expiry(&self) -> Option<Millis> {
        self.items.last_key_value().map(|(_, (expires_at, _))| *expires_at)
    }

    pub fn last(&self) -> Option<Position> {
        self.items.last_key_value().map(|(position, _)| *position)
    }

    pub fn remove_through(&mut self, through: Position) {
        let kept = self.items.split_off(&through.saturating_add(1));
        let gone = std::mem::replace(&mut self.items, kept);
        self.bytes -= gone.values().map(|(_, item)| item.bytes).sum::<usize>();
    }
}
