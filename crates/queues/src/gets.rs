//! Gets that are open: who waits, who has taken what, and whose answer has begun.

use std::collections::HashMap;
use std::sync::Arc;

use crate::partition::Item;
use crate::{Millis, Position};

/// One get of one caller; a later one is larger, so that they also tell who came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GetId(pub u64);

/// One taking of one get. A get takes again when the put of what it had taken failed, and the word that the first taking
/// is on disk must not pass for that of the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Taking {
    pub get: GetId,
    pub turn: u32,
}

#[derive(Debug)]
pub(crate) struct Get<V> {
    /// Under which its taking is written down, so that a repeated request finds it.
    pub key: Arc<str>,
    pub partition: Vec<u8>,
    pub wanted: usize,
    /// For a first item. Not any more when its caller's time is over while what it took is on its way to the disk.
    pub waits: bool,
    pub holds: Holds<V>,
    /// Of its latest taking.
    pub turn: u32,
    /// When the items that it took would have gone where they were.
    pub expires_at: Millis,
    /// Its partition was cleared up to here after it had taken its items: those go nowhere but to its caller.
    pub cleared_through: Position,
}

#[derive(Debug)]
pub(crate) enum Holds<V> {
    Nothing,
    /// On their way to the disk as taken.
    Taken(Vec<Item<V>>),
    /// With the shell, which hands them to the caller and has not said yet what became of that.
    Handed,
}

#[derive(Debug)]
pub(crate) struct Gets<V> {
    open: HashMap<GetId, Get<V>>,
}

impl<V> Default for Gets<V> {
    fn default() -> Self {
        Self { open: HashMap::new() }
    }
}

impl<V> Gets<V> {
    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn insert(&mut self, id: GetId, get: Get<V>) {
        self.open.insert(id, get);
    }

    pub fn get_mut(&mut self, id: GetId) -> Option<&mut Get<V>> {
        self.open.get_mut(&id)
    }

    pub fn remove(&mut self, id: GetId) -> Option<Get<V>> {
        self.open.remove(&id)
    }

    pub fn with_key(&self, key: &str) -> Option<GetId> {
        self.open.iter().find(|(_, get)| get.key.as_ref() == key).map(|(id, _)| *id)
    }

    pub fn of_partition(&mut self, partition: &[u8]) -> impl Iterator<Item = (GetId, &mut Get<V>)> {
        self.open.iter_mut().filter(move |(_, get)| get.partition == partition).map(|(id, get)| (*id, get))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Get<V>> {
        self.open.values_mut()
    }

    pub fn ids(&self) -> impl Iterator<Item = GetId> {
        self.open.keys().copied()
    }
}
