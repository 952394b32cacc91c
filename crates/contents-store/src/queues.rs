//! Items of queues.

use std::collections::HashSet;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use crate::error::ContentsError;
use crate::jobs::{Job, Room};
use crate::replies::{self, Kind, Note};
use crate::store::ContentsStore;

/// An item to be stored.
#[derive(Debug, Clone)]
pub struct ItemRow {
    pub position: u64,
    pub value: Bytes,
}

/// An item that is stored, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredItem {
    pub position: u64,
    pub partition: Vec<u8>,
    pub expires_at_ms: u64,
    pub bytes: usize,
}

impl Job {
    /// Stores a put's items, and that the request of this key has happened.
    pub fn add_items(
        room: Room,
        (queue, partition): (&str, &[u8]),
        items: Vec<ItemRow>,
        expires_at_ms: u64,
        (key, now_ms): (Option<String>, u64),
        done: impl FnOnce(Result<(), ContentsError>) + Send + 'static,
    ) -> Self {
        let (queue, partition) = (queue.to_owned(), partition.to_owned());
        let work = move |connection: &Connection| {
            let insert = "INSERT INTO queue_items (position, queue, partition, expires_at_ms, value)
                          VALUES (?1, ?2, ?3, ?4, ?5)";
            let mut statement = connection.prepare_cached(insert)?;
            for item in &items {
                statement.execute(params![item.position, queue, partition, expires_at_ms, item.value.as_ref()])?;
            }
            if let Some(key) = &key {
                replies::put(connection, &Note { key, owner: &queue, now_ms }, Kind::Done, &[])?;
            }
            Ok(())
        };
        Self::new(room, work, done)
    }

    /// Notes that a get took these.
    pub fn take(
        store: &ContentsStore,
        queue: &str,
        key: &str,
        positions: Vec<u64>,
        now_ms: u64,
        done: impl FnOnce(Result<(), ContentsError>) + Send + 'static,
    ) -> Self {
        let (queue, key) = (queue.to_owned(), key.to_owned());
        let (writing, written, of) = (store.clone(), store.clone(), key.clone());
        let work = move |connection: &Connection| {
            writing.begin_replacing(&key);
            replies::put(connection, &Note { key: &key, owner: &queue, now_ms }, Kind::Taken, &positions)
        };
        let done = move |result: Result<(), ContentsError>| {
            written.end_replacing(&of, result.is_ok());
            done(result);
        };
        Self::new(Room::none(), work, done)
    }

    /// What was noted under this key did not happen. If the disk refuses that, it is told again before anything is swept.
    pub fn untake(store: &ContentsStore, key: &str) -> Self {
        let (store, key) = (store.clone(), key.to_owned());
        let wanted = key.clone();
        let work = move |connection: &Connection| replies::delete(connection, &wanted);
        let done = move |result: Result<(), ContentsError>| {
            if let Err(error) = result {
                tracing::error!(%error, "items of a queue that were given back are taken on disk; it is told again");
                store.note_untold(key);
            }
        };
        Self::new(Room::none(), work, done)
    }

    /// Deletes a partition's items up to a position; of all partitions with `None`.
    pub fn forget_items(
        queue: &str,
        partition: Option<&[u8]>,
        through: u64,
        done: impl FnOnce(Result<(), ContentsError>) + Send + 'static,
    ) -> Self {
        let (queue, partition) = (queue.to_owned(), partition.map(<[u8]>::to_owned));
        let work = move |connection: &Connection| {
            let delete = "DELETE FROM queue_items
                          WHERE queue = ?1 AND position <= ?2 AND (?3 IS NULL OR partition = ?3)";
            connection.prepare_cached(delete)?.execute(params![queue, through, partition])?;
            Ok(())
        };
        Self::new(Room::none(), work, done)
    }
}

impl ContentsStore {
    /// What a queue holds, by position, without what gets have taken.
    pub async fn load_queue(&self, queue: &str) -> Result<Vec<StoredItem>, ContentsError> {
        let queue = queue.to_owned();
        self.read("load a queue", move |connection| load(connection, &queue)).await
    }

    /// Whether the time of an item is over. It may still be there by right: the last put of a partition says how long all last.
    pub async fn has_expired_items(&self, queue: &str, now_ms: u64) -> Result<bool, ContentsError> {
        let queue = queue.to_owned();
        let query = move |connection: &Connection| {
            let select = "SELECT 1 FROM queue_items WHERE queue = ?1 AND expires_at_ms <= ?2";
            connection.prepare_cached(select)?.exists(params![queue, now_ms])
        };
        self.read("look for expired items of a queue", query).await
    }

    /// Values of items in the order asked for; an item that is gone has none.
    pub async fn item_values(&self, positions: Vec<u64>) -> Result<Vec<Option<Bytes>>, ContentsError> {
        let query = move |connection: &Connection| {
            let mut statement = connection.prepare_cached("SELECT value FROM queue_items WHERE position = ?1")?;
            let value = |position| statement.query_row([position], |row| row.get::<_, Vec<u8>>(0)).optional();
            positions.into_iter().map(value).map(|value| Ok(value?.map(Bytes::from))).collect()
        };
        self.read("read items of a queue", query).await
    }

    /// Ids of the queues and dicts that something is stored of.
    pub async fn owners(&self) -> Result<Vec<String>, ContentsError> {
        self.read("list what dicts and queues there are", |connection| {
            let mut found = distinct(connection, "SELECT min(queue) FROM queue_items WHERE queue > ?1")?;
            found.extend(distinct(connection, "SELECT min(dict) FROM dict_keys WHERE dict > ?1")?);
            Ok(found)
        })
        .await
    }
}

fn load(connection: &Connection, queue: &str) -> rusqlite::Result<Vec<StoredItem>> {
    let taken: HashSet<u64> = replies::taken_of(connection, queue)?.into_iter().collect();
    // The size of a value is in the row's head: the value itself is not read.
    let mut statement = connection.prepare_cached(
        "SELECT position, partition, expires_at_ms, length(value) FROM queue_items WHERE queue = ?1 ORDER BY position",
    )?;
    let item = |row: &rusqlite::Row<'_>| {
        let (position, partition, expires_at_ms) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(StoredItem { position, partition, expires_at_ms, bytes: row.get(3)? })
    };
    let rows = statement.query_map([queue], item)?;
    rows.filter(|row| row.as_ref().map_or(true, |item| !taken.contains(&item.position))).collect()
}

/// Steps from one value of an index to the next, instead of reading all of it.
fn distinct(connection: &Connection, next: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare_cached(next)?;
    let mut found: Vec<String> = Vec::new();
    loop {
        let last = found.last().map_or("", String::as_str);
        match statement.query_row([last], |row| row.get::<_, Option<String>>(0))? {
            Some(value) => found.push(value),
            None => return Ok(found),
        }
    }
}
