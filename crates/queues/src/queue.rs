//! One queue and everything that happens to it.

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::gets::{Get, GetId, Gets, Holds, Taking};
use crate::limits::{MAX_ITEM_BYTES, MAX_ITEMS, MAX_OPEN_GETS, MAX_PARTITION_BYTES, MAX_PARTITIONS, Refusal};
use crate::partition::{Item, Partition};
use crate::{Millis, Position};

/// A caller that waits for an item without taking it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LookId(pub u64);

/// One thing to do. Writes are to be handed to the store in the order of the effects.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect<V> {
    /// Write down that these were taken under this key; then say [`Queue::on_take_stored`].
    Take { taking: Taking, key: Arc<str>, positions: Vec<Position> },
    /// What was taken under this key is there again.
    Untake { key: Arc<str> },
    /// The partition's items up to this one are no more.
    Forget { partition: Vec<u8>, through: Position },
    /// Hand these to the caller; then say [`Queue::on_delivered`] or [`Queue::on_undelivered`].
    Answer { get: GetId, items: Vec<Item<V>> },
    /// The caller learns that its taking could not be written down.
    Fail { get: GetId },
    /// There is news for a look.
    Wake(LookId),
}

/// What became of a get at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    /// It has taken something, and is answered when the disk knows.
    Items,
    /// Nothing there; it waits.
    Waits,
    /// Nothing there, and it does not wait.
    Nothing,
}

pub struct NewGet {
    pub id: GetId,
    pub key: Arc<str>,
    pub partition: Vec<u8>,
    pub wanted: usize,
    pub waits: bool,
}

/// An item as the store had it.
pub struct Stored<V> {
    pub partition: Vec<u8>,
    pub expires_at: Millis,
    pub item: Item<V>,
}

#[derive(Debug)]
pub struct Queue<V> {
    partitions: HashMap<Vec<u8>, Partition<V>>,
    /// When partitions with items go.
    expiries: BTreeSet<(Millis, Vec<u8>)>,
    gets: Gets<V>,
    items: usize,
    /// Everything up to here is on disk. What is not cannot be looked at, since a crash may undo it.
    stored_through: Position,
}

impl<V> Default for Queue<V> {
    fn default() -> Self {
        let (partitions, expiries) = (HashMap::new(), BTreeSet::new());
        Self { partitions, expiries, gets: Gets::default(), items: 0, stored_through: 0 }
    }
}

impl<V> Queue<V> {
    /// What the store has of it, in the order of positions: of two items of a partition the later one says when it goes.
    pub fn restored(stored: impl IntoIterator<Item = Stored<V>>) -> Self {
        let mut queue = Self::default();
        for Stored { partition, expires_at, item } in stored {
            queue.stored_through = queue.stored_through.max(item.position);
            queue.add(&partition, expires_at, item);
        }
        queue
    }

    // ------------------------------------------------------------------------------------------- puts

    /// Adds values behind each other, all or none, at positions from `first` on. They are to be written down at once:
    /// the order of puts is the order in which the store gets them. Then say [`Self::on_put_stored`] or
    /// [`Self::on_put_failed`].
    pub fn put(
        &mut self,
        partition: &[u8],
        values: Vec<(usize, V)>,
        first: Position,
        ttl_ms: Millis,
        now: Millis,
        effects: &mut Vec<Effect<V>>,
    ) -> Result<RangeInclusive<Position>, Refusal> {
        let sizes: Vec<usize> = values.iter().map(|(bytes, _)| *bytes).collect();
        self.expire_partition(partition, now, effects);
        if self.check_put(partition, &sizes) == Err(Refusal::QueueFull) {
            // Of those whose time is over and that nobody has asked for.
            self.expire(now, effects);
        }
        self.check_put(partition, &sizes)?;
        let mut position = first;
        for (bytes, value) in values {
            self.add(partition, now.saturating_add(ttl_ms), Item { position, bytes, value });
            position += 1;
        }
        self.serve(partition, effects);
        Ok(first..=position.saturating_sub(1))
    }

    fn check_put(&self, partition: &[u8], sizes: &[usize]) -> Result<(), Refusal> {
        let (items, bytes) = (sizes.len(), sizes.iter().sum());
        if let Some(large) = sizes.iter().find(|size| **size > MAX_ITEM_BYTES) {
            return Err(Refusal::ItemTooLarge { bytes: *large });
        }
        if items > MAX_ITEMS || bytes > MAX_PARTITION_BYTES {
            return Err(Refusal::PutTooLarge { items, bytes });
        }
        match self.partitions.get(partition).filter(|known| !known.is_empty()) {
            Some(known) => known.check_room(items, bytes),
            None if self.partitions() >= MAX_PARTITIONS => Err(Refusal::QueueFull),
            None => Ok(()),
        }
    }

    pub fn on_put_stored(&mut self, partition: &[u8], through: Position, effects: &mut Vec<Effect<V>>) {
        self.stored_through = self.stored_through.max(through);
        if let Some(known) = self.partitions.get_mut(partition) {
            effects.extend(known.looking.drain(..).map(Effect::Wake));
        }
        self.tidy(partition);
    }

    /// The put never happened. Whoever took of it waits again, or gets nothing if it does not wait.
    pub fn on_put_failed(
        &mut self,
        partition: &[u8],
        positions: &RangeInclusive<Position>,
        effects: &mut Vec<Effect<V>>,
    ) {
        for position in positions.clone() {
            self.remove(partition, position);
        }
        // Nor did it change how long the others last.
        if let Some(expires_at) = self.partitions.get(partition).and_then(Partition::last_expiry) {
            self.set_expiry(partition, expires_at);
        }
        let mut bereft = Vec::new();
        for (id, get) in self.gets.of_partition(partition) {
            let Holds::Taken(items) = &mut get.holds else { continue };
            let before = items.len();
            items.retain(|item| !positions.contains(&item.position));
            if items.is_empty() && before > 0 {
                get.holds = Holds::Nothing;
                bereft.push((id, get.key.clone(), get.waits));
            }
        }
        for (id, key, waits) in bereft {
            effects.push(Effect::Untake { key });
            if waits {
                self.partitions.entry(partition.to_owned()).or_default().waiting.insert(id);
            } else {
                self.gets.remove(id);
                effects.push(Effect::Answer { get: id, items: Vec::new() });
            }
        }
        self.serve(partition, effects);
        self.tidy(partition);
    }

    // ------------------------------------------------------------------------------------------- gets

    pub fn get(&mut self, new: NewGet, now: Millis, effects: &mut Vec<Effect<V>>) -> Result<Got, Refusal> {
        if self.gets.len() >= MAX_OPEN_GETS {
            return Err(Refusal::TooManyGets);
        }
        let NewGet { id, key, partition, wanted, waits } = new;
        self.expire_partition(&partition, now, effects);
        // Whoever waits already comes first, but nobody waits where there are items.
        if !self.has_items(&partition) && !waits {
            return Ok(Got::Nothing);
        }
        let get = Get {
            key,
            partition: partition.clone(),
            wanted,
            waits,
            holds: Holds::Nothing,
            turn: 0,
            expires_at: 0,
            cleared_through: 0,
        };
        self.gets.insert(id, get);
        self.partitions.entry(partition.clone()).or_default().waiting.insert(id);
        self.serve(&partition, effects);
        let is_waiting = self.gets.get_mut(id).is_some_and(|get| matches!(get.holds, Holds::Nothing));
        Ok(if is_waiting { Got::Waits } else { Got::Items })
    }

    /// The open get of a request, for when the request is repeated: the caller has lost the old one.
    pub fn open_get(&self, key: &str) -> Option<GetId> {
        self.gets.with_key(key)
    }

    /// The caller has waited long enough. False when there is something for it after all; if that comes to nothing, it gets
    /// an answer without items.
    pub fn stop_waiting(&mut self, id: GetId) -> bool {
        let Some(get) = self.gets.get_mut(id) else { return false };
        get.waits = false;
        let waits = matches!(get.holds, Holds::Nothing);
        if waits && let Some(get) = self.gets.remove(id) {
            self.forget_waiting(&get.partition, id);
        }
        waits
    }

    /// The caller has gone: it waits no more, and what it took goes back. What was handed out is with the shell.
    pub fn leave(&mut self, id: GetId, now: Millis, effects: &mut Vec<Effect<V>>) {
        let Some(get) = self.gets.get_mut(id) else { return };
        match std::mem::replace(&mut get.holds, Holds::Handed) {
            Holds::Nothing => {
                let partition = get.partition.clone();
                self.gets.remove(id);
                self.forget_waiting(&partition, id);
            }
            Holds::Taken(items) => self.give_back(id, items, now, effects),
            Holds::Handed => {}
        }
    }

    pub fn on_take_stored(&mut self, taking: Taking, effects: &mut Vec<Effect<V>>) {
        if let Some(items) = self.end_taking(taking) {
            effects.push(Effect::Answer { get: taking.get, items });
        }
    }

    /// The disk did not take the note: the items stay, the caller is told.
    pub fn on_take_failed(&mut self, taking: Taking, now: Millis, effects: &mut Vec<Effect<V>>) {
        if let Some(items) = self.end_taking(taking) {
            effects.push(Effect::Fail { get: taking.get });
            self.give_back(taking.get, items, now, effects);
        }
    }

    /// What this taking took, unless it came to nothing meanwhile.
    fn end_taking(&mut self, taking: Taking) -> Option<Vec<Item<V>>> {
        let get = self.gets.get_mut(taking.get).filter(|get| get.turn == taking.turn)?;
        match std::mem::replace(&mut get.holds, Holds::Handed) {
            Holds::Taken(items) => Some(items),
            other => {
                get.holds = other;
                None
            }
        }
    }

    pub fn on_delivered(&mut self, id: GetId) {
        self.gets.remove(id);
    }

    /// The caller went away before its answer was on the way.
    pub fn on_undelivered(&mut self, id: GetId, items: Vec<Item<V>>, now: Millis, effects: &mut Vec<Effect<V>>) {
        self.give_back(id, items, now, effects);
    }

    fn give_back(&mut self, id: GetId, items: Vec<Item<V>>, now: Millis, effects: &mut Vec<Effect<V>>) {
        let Some(get) = self.gets.remove(id) else { return };
        // What was cleared or has expired stays taken, and is swept away as that.
        let is_left = |item: &Item<V>| item.position > get.cleared_through && get.expires_at > now;
        let items: Vec<Item<V>> = items.into_iter().filter(is_left).collect();
        if items.is_empty() {
            return;
        }
        effects.push(Effect::Untake { key: get.key });
        for item in items {
            let expires_at = self.expires_at(&get.partition).unwrap_or(get.expires_at);
            self.add(&get.partition, expires_at, item);
        }
        if let Some(known) = self.partitions.get_mut(&get.partition) {
            effects.extend(known.looking.drain(..).map(Effect::Wake));
        }
        self.serve(&get.partition, effects);
        self.tidy(&get.partition);
    }

    /// Gives items to those who wait, first come, first served.
    fn serve(&mut self, partition: &[u8], effects: &mut Vec<Effect<V>>) {
        let Some(known) = self.partitions.get_mut(partition) else { return };
        while !known.is_empty() {
            let Some(id) = known.waiting.pop_first() else { break };
            let Some(get) = self.gets.get_mut(id) else { continue };
            let items = known.take(get.wanted);
            self.items -= items.len();
            let positions = items.iter().map(|item| item.position).collect();
            get.expires_at = known.expires_at;
            get.holds = Holds::Taken(items);
            get.turn += 1;
            let taking = Taking { get: id, turn: get.turn };
            effects.push(Effect::Take { taking, key: get.key.clone(), positions });
        }
        self.tidy(partition);
    }

    fn forget_waiting(&mut self, partition: &[u8], id: GetId) {
        if let Some(known) = self.partitions.get_mut(partition) {
            known.waiting.remove(&id);
        }
        self.tidy(partition);
    }

    /// Everybody who is open, for when the queue itself goes.
    pub fn open_gets(&self) -> Vec<GetId> {
        self.gets.ids().collect()
    }

    // ------------------------------------------------------------------------------------------- looks

    /// Items behind a position that are on disk, in order, as long as they are at most so many bytes; the first always.
    pub fn look(
        &self,
        partition: &[u8],
        after: Position,
        (count, bytes): (usize, usize),
        now: Millis,
    ) -> Vec<&Item<V>> {
        let Some(known) = self.partitions.get(partition).filter(|known| known.expires_at > now) else {
            return Vec::new();
        };
        let mut total = 0;
        let mut found = Vec::new();
        for item in known.after(after).take(count) {
            total += item.bytes;
            let is_too_much = total > bytes && !found.is_empty();
            if is_too_much || item.position > self.stored_through {
                break;
            }
            found.push(item);
        }
        found
    }

    /// Until [`Effect::Wake`].
    pub fn wait_to_look(&mut self, id: LookId, partition: &[u8]) {
        self.partitions.entry(partition.to_owned()).or_default().looking.push(id);
    }

    pub fn stop_looking(&mut self, id: LookId, partition: &[u8]) {
        if let Some(known) = self.partitions.get_mut(partition) {
            known.looking.retain(|other| *other != id);
        }
        self.tidy(partition);
    }

    /// Items of one partition.
    pub fn len(&self, partition: &[u8], now: Millis) -> usize {
        self.partitions.get(partition).filter(|known| known.expires_at > now).map_or(0, Partition::len)
    }

    /// Items of all partitions.
    pub fn total(&self) -> usize {
        self.items
    }

    /// Partitions that hold items.
    pub fn partitions(&self) -> usize {
        self.expiries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    // ------------------------------------------------------------------------------------------- ends

    /// The store has forgotten the partition's items up to this one, or those of all partitions.
    pub fn on_cleared(&mut self, partition: Option<&[u8]>, through: Position) {
        let cleared: Vec<Vec<u8>> = match partition {
            Some(partition) => vec![partition.to_owned()],
            None => self.partitions.keys().cloned().collect(),
        };
        for partition in &cleared {
            self.remove_through(partition, through);
        }
        for get in self.gets.iter_mut().filter(|get| partition.is_none_or(|wanted| get.partition == wanted)) {
            get.cleared_through = get.cleared_through.max(through);
        }
    }

    /// When the next partition goes.
    pub fn next_expiry(&self) -> Option<Millis> {
        self.expiries.first().map(|(at, _)| *at)
    }

    pub fn expire(&mut self, now: Millis, effects: &mut Vec<Effect<V>>) {
        while let Some((at, partition)) = self.expiries.first().filter(|(at, _)| *at <= now) {
            let (at, partition) = (*at, partition.clone());
            self.expire_partition(&partition, now.max(at), effects);
        }
    }

    fn expire_partition(&mut self, partition: &[u8], now: Millis, effects: &mut Vec<Effect<V>>) {
        let Some(known) = self.partitions.get(partition).filter(|known| known.expires_at <= now) else { return };
        let Some(through) = known.last() else { return };
        self.remove_through(partition, through);
        effects.push(Effect::Forget { partition: partition.to_owned(), through });
    }

    // ------------------------------------------------------------------------------------------- bookkeeping

    fn has_items(&self, partition: &[u8]) -> bool {
        self.partitions.get(partition).is_some_and(|known| !known.is_empty())
    }

    fn expires_at(&self, partition: &[u8]) -> Option<Millis> {
        self.partitions.get(partition).filter(|known| !known.is_empty()).map(|known| known.expires_at)
    }

    fn add(&mut self, partition: &[u8], expires_at: Millis, item: Item<V>) {
        self.partitions.entry(partition.to_owned()).or_default().add(expires_at, item);
        self.items += 1;
        self.set_expiry(partition, expires_at);
    }

    /// Of a partition with items.
    fn set_expiry(&mut self, partition: &[u8], expires_at: Millis) {
        let Some(known) = self.partitions.get_mut(partition) else { return };
        if known.expires_at != expires_at || known.len() == 1 {
            self.expiries.remove(&(known.expires_at, partition.to_owned()));
            self.expiries.insert((expires_at, partition.to_owned()));
            known.expires_at = expires_at;
        }
    }

    fn remove(&mut self, partition: &[u8], position: Position) {
        if let Some(known) = self.partitions.get_mut(partition) {
            self.items -= usize::from(known.remove(position).is_some());
        }
        self.tidy(partition);
    }

    fn remove_through(&mut self, partition: &[u8], through: Position) {
        if let Some(known) = self.partitions.get_mut(partition) {
            let before = known.len();
            known.remove_through(through);
            self.items -= before - known.len();
        }
        self.tidy(partition);
    }

    /// A partition without items does not expire, and one that nobody uses is not kept.
    fn tidy(&mut self, partition: &[u8]) {
        let Some(known) = self.partitions.get(partition).filter(|known| known.is_empty()) else { return };
        self.expiries.remove(&(known.expires_at, partition.to_owned()));
        if known.is_unused() {
            self.partitions.remove(partition);
        }
    }
}
