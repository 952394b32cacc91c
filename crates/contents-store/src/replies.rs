//! What became of requests, for when they are repeated.
//!
//! A client repeats a request under the same key when it had no answer. Mostly that happens within seconds; but a put that
//! waits for room repeats without end, so one that a server did not answer before it went down comes again when there is a
//! server, after hours if it must be. How old is old is for the caller of [`ContentsStore::sweep`] to say.

use rusqlite::{Connection, OptionalExtension, params};

use crate::error::ContentsError;
use crate::store::ContentsStore;

/// Rows that one transaction takes away, so that other writes get their turn in between.
const SWEEP_AT_ONCE: usize = 500;
/// Pages given back to the file system by each transaction of a sweep.
const VACUUM_PAGES: u32 = 256;

/// Free pages that stay in the file: 16 MiB, so that what comes and goes does not make it grow and shrink.
const FREE_PAGES_KEPT: usize = 4_096;

/// The kind of a row. Numbers are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A put, or an entry that was new.
    Done = 1,
    /// An entry that was there already.
    NotDone = 2,
    /// Items that a get took; the body has their positions.
    Taken = 3,
    /// A value that a pop took; the body has its id.
    Popped = 4,
}

impl Kind {
    fn of(number: i64) -> Option<Self> {
        [Self::Done, Self::NotDone, Self::Taken, Self::Popped].into_iter().find(|kind| *kind as i64 == number)
    }
}

pub(crate) struct Reply {
    pub kind: Kind,
    pub body: Vec<u64>,
}

/// The request whose change this is: a text of its own that it has again when it is repeated, and the time.
#[derive(Debug, Clone)]
pub(crate) struct Note<'a> {
    pub key: &'a str,
    pub owner: &'a str,
    pub now_ms: u64,
}

pub(crate) fn put(connection: &Connection, note: &Note<'_>, kind: Kind, body: &[u64]) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO replies (key, at_ms, owner, kind, body) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![note.key, note.now_ms, note.owner, kind as i64, to_bytes(body)])?;
    Ok(())
}

pub(crate) fn get(connection: &Connection, key: &str) -> rusqlite::Result<Option<Reply>> {
    connection
        .prepare_cached("SELECT kind, body FROM replies WHERE key = ?1")?
        .query_row([key], |row| {
            let kind = Kind::of(row.get(0)?);
            Ok(kind.map(|kind| (kind, row.get_ref(1).and_then(|body| Ok(from_bytes(body.as_blob()?))))))
        })
        .optional()?
        .flatten()
        .map(|(kind, body)| Ok(Reply { kind, body: body? }))
        .transpose()
}

pub(crate) fn delete(connection: &Connection, key: &str) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM replies WHERE key = ?1")?.execute([key])?;
    Ok(())
}

/// Everything that gets of this queue have taken and that is still there.
pub(crate) fn taken_of(connection: &Connection, queue: &str) -> rusqlite::Result<Vec<u64>> {
    let mut statement = connection.prepare_cached("SELECT body FROM replies WHERE owner = ?1 AND kind = ?2")?;
    let mut rows = statement.query(params![queue, Kind::Taken as i64])?;
    let mut taken = Vec::new();
    while let Some(row) = rows.next()? {
        taken.extend(from_bytes(row.get_ref(0)?.as_blob()?));
    }
    Ok(taken)
}

impl ContentsStore {
    /// Whether a request of this key has happened. Asked of the writer, behind everything that was handed over before.
    pub async fn has_happened(&self, key: String) -> Result<bool, ContentsError> {
        self.change(0, move |connection| Ok(get(connection, &key)?.is_some())).await
    }

    /// What a get of this key took, if it took something: positions. As [`Self::has_happened`].
    pub async fn taken_by(&self, key: String) -> Result<Option<Vec<u64>>, ContentsError> {
        let work = move |connection: &Connection| {
            Ok(get(connection, &key)?.filter(|reply| reply.kind == Kind::Taken).map(|reply| reply.body))
        };
        self.change(0, work).await
    }

    /// Takes away everything in a dict or queue that is no more. In many small transactions, as all that may be much.
    pub async fn delete_contents(&self, id: &str) -> Result<(), ContentsError> {
        self.dict_clear(id).await?;
        let id = id.to_owned();
        loop {
            let id = id.clone();
            let work = move |connection: &Connection| {
                let delete = "DELETE FROM queue_items WHERE position IN
                              (SELECT position FROM queue_items WHERE queue = ?1 LIMIT ?2)";
                let deleted = connection.prepare_cached(delete)?.execute(params![id, SWEEP_AT_ONCE])?;
                give_back_pages(connection)?;
                Ok(deleted)
            };
            if self.change(0, work).await? < SWEEP_AT_ONCE {
                return Ok(());
            }
        }
    }

    /// Takes away what became of requests before a time, with what they took. In many small transactions, between which
    /// other writes get their turn. Answers with how many there were.
    pub async fn sweep(&self, before_ms: u64) -> Result<usize, ContentsError> {
        self.tell_again().await?;
        let mut swept = 0;
        loop {
            let old = self.read("find old replies", move |connection| find_old(connection, before_ms)).await?;
            let count = old.len();
            let store = self.clone();
            let is_untold = move |key: &str| store.is_untold(key);
            let forgotten = match count {
                0 => 0,
                _ => self.change(0, move |connection| forget(connection, &old, before_ms, &is_untold)).await?,
            };
            swept += forgotten;
            if count < SWEEP_AT_ONCE || forgotten == 0 {
                return Ok(swept);
            }
        }
    }
}

fn find_old(connection: &Connection, before_ms: u64) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare_cached("SELECT key FROM replies WHERE at_ms < ?1 LIMIT ?2")?;
    statement.query_map(params![before_ms, SWEEP_AT_ONCE], |row| row.get(0))?.collect()
}

/// What a note that is untold names was given back, and stays. Answers with how many were forgotten.
fn forget(
    connection: &Connection,
    keys: &[String],
    before_ms: u64,
    is_untold: &impl Fn(&str) -> bool,
) -> rusqlite::Result<usize> {
    let mut forgotten = 0;
    for key in keys.iter().filter(|key| !is_untold(key)) {
        // A request may have been repeated since it was found to be old.
        let old = "SELECT 1 FROM replies WHERE key = ?1 AND at_ms < ?2";
        if !connection.prepare_cached(old)?.exists(params![key, before_ms])? {
            continue;
        }
        let Some(reply) = get(connection, key)? else { continue };
        let thing = match reply.kind {
            Kind::Taken => "DELETE FROM queue_items WHERE position = ?1",
            Kind::Popped => "DELETE FROM dict_values WHERE id = ?1",
            Kind::Done | Kind::NotDone => "",
        };
        for taken in reply.body.iter().filter(|_| !thing.is_empty()) {
            connection.prepare_cached(thing)?.execute([taken])?;
        }
        delete(connection, key)?;
        forgotten += 1;
    }
    give_back_pages(connection)?;
    Ok(forgotten)
}

impl ContentsStore {
    /// Gives the file system back what nothing is on any more, but for some that are used again soon. In many small
    /// transactions, between which other writes get their turn.
    pub async fn give_back_room(&self) -> Result<(), ContentsError> {
        loop {
            let work = |connection: &Connection| {
                let free: usize = connection.query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
                if free <= FREE_PAGES_KEPT {
                    return Ok(false);
                }
                give_back_pages(connection)?;
                Ok(true)
            };
            if !self.change(0, work).await? {
                return Ok(());
            }
        }
    }
}

/// Pages that nothing is on any more go back to the file system.
pub(crate) fn give_back_pages(connection: &Connection) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

fn to_bytes(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn from_bytes(bytes: &[u8]) -> Vec<u64> {
    let number = |chunk: &[u8]| chunk.try_into().map_or(0, u64::from_le_bytes);
    bytes.chunks_exact(8).map(number).collect()
}
