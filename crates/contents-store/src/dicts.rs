//! Entries of dicts.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use crate::error::ContentsError;
use crate::jobs::{Job, Room, log_failure};
use crate::replies::{self, Kind, Note};
use crate::store::ContentsStore;

/// An entry goes so long after its last use; of the client's documentation.
const ENTRY_KEPT_MS: u64 = 7 * 24 * 3_600_000;
/// A read is noted when the last note is so old: a write for each read would cost more than the read.
const NOTE_USE_EVERY_MS: u64 = 3_600_000;
/// Entries that one transaction takes away, so that other writes get their turn in between.
const DELETE_AT_ONCE: usize = 1_000;

/// What became of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Updated {
    /// False when an entry was there that must not have been.
    pub created: bool,
}

/// The value of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Value(Bytes),
    /// It has more bytes than were asked for, and nothing of it was read or changed.
    Larger {
        bytes: usize,
    },
}

type Entry = (Bytes, Bytes);

/// When an entry was used last that counts as gone now. Notes of reads may be missing for the time between two.
fn used_before(now_ms: u64) -> u64 {
    now_ms.saturating_sub(ENTRY_KEPT_MS + NOTE_USE_EVERY_MS)
}

impl ContentsStore {
    /// Sets entries, all or none; with `if_not_exists` only those that are not there. `repeated` says that the request may
    /// have happened already, under the same key.
    pub async fn dict_update(
        &self,
        dict: &str,
        entries: Vec<Entry>,
        if_not_exists: bool,
        key: Option<String>,
        now_ms: u64,
    ) -> Result<Updated, ContentsError> {
        let bytes = entries.iter().map(|(key, value)| key.len() + value.len()).sum();
        let dict = dict.to_owned();
        let work = move |connection: &Connection| {
            // Setting something twice is not the same as once: somebody may have taken or replaced it in between.
            let key = key.as_deref();
            if let Some(reply) = key.map(|key| replies::get(connection, key)).transpose()?.flatten() {
                return Ok(Updated { created: reply.kind == Kind::Done });
            }
            let mut created = true;
            for entry in &entries {
                created &= set(connection, &dict, entry, if_not_exists, now_ms)?;
            }
            if let Some(key) = key {
                let kind = if created { Kind::Done } else { Kind::NotDone };
                replies::put(connection, &Note { key, owner: &dict, now_ms }, kind, &[])?;
            }
            Ok(Updated { created })
        };
        self.change(bytes, work).await
    }

    /// The value of a key, unless it is larger than `at_most` bytes.
    pub async fn dict_get(
        &self,
        dict: &str,
        key: Bytes,
        at_most: usize,
        now_ms: u64,
    ) -> Result<Option<Found>, ContentsError> {
        let (of, wanted) = (dict.to_owned(), key.clone());
        let query = move |connection: &Connection| {
            // The size of a value is in the row's head: a larger value is not read.
            let select = "SELECT length(v.value), CASE WHEN length(v.value) <= ?4 THEN v.value END, k.used_at_ms
                          FROM dict_keys k JOIN dict_values v ON v.id = k.value
                          WHERE k.dict = ?1 AND k.key = ?2 AND k.used_at_ms >= ?3";
            let entry = |row: &rusqlite::Row<'_>| Ok((found_value(row)?, row.get(2)?));
            let mut statement = connection.prepare_cached(select)?;
            statement.query_row(params![of, wanted.as_ref(), used_before(now_ms), at_most], entry).optional()
        };
        let found: Option<(Found, u64)> = self.read("read an entry of a dict", query).await?;
        let Some((value, used_at_ms)) = found else { return Ok(None) };
        if matches!(value, Found::Value(_)) {
            self.note_use(dict, key, used_at_ms, now_ms);
        }
        Ok(Some(value))
    }

    pub async fn dict_contains(&self, dict: &str, key: Bytes, now_ms: u64) -> Result<bool, ContentsError> {
        let (of, wanted) = (dict.to_owned(), key.clone());
        let query = move |connection: &Connection| {
            let select = "SELECT used_at_ms FROM dict_keys WHERE dict = ?1 AND key = ?2 AND used_at_ms >= ?3";
            let mut statement = connection.prepare_cached(select)?;
            statement.query_row(params![of, wanted.as_ref(), used_before(now_ms)], |row| row.get(0)).optional()
        };
        let found: Option<u64> = self.read("look for an entry of a dict", query).await?;
        if let Some(used_at_ms) = found {
            self.note_use(dict, key, used_at_ms, now_ms);
        }
        Ok(found.is_some())
    }

    fn note_use(&self, dict: &str, key: Bytes, used_at_ms: u64, now_ms: u64) {
        if used_at_ms + NOTE_USE_EVERY_MS > now_ms {
            return;
        }
        let dict = dict.to_owned();
        let work = move |connection: &Connection| {
            let update = "UPDATE dict_keys SET used_at_ms = ?3 WHERE dict = ?1 AND key = ?2 AND used_at_ms < ?3";
            connection.prepare_cached(update)?.execute(params![dict, key.as_ref(), now_ms])?;
            Ok(())
        };
        self.send(vec![Job::new(Room::none(), work, log_failure("note the use of an entry"))]);
    }

    /// How many entries there are, up to `most`.
    pub async fn dict_len(&self, dict: &str, most: usize, now_ms: u64) -> Result<usize, ContentsError> {
        let dict = dict.to_owned();
        let query = move |connection: &Connection| {
            let count = "SELECT count(*) FROM
                         (SELECT 1 FROM dict_keys WHERE dict = ?1 AND used_at_ms >= ?2 LIMIT ?3)";
            let mut statement = connection.prepare_cached(count)?;
            statement.query_row(params![dict, used_before(now_ms), most], |row| row.get(0))
        };
        self.read("count the entries of a dict", query).await
    }

    /// Takes an entry away, unless its value is larger than `at_most` bytes. A repeated request of the same key gets what the
    /// first one took.
    pub async fn dict_pop(
        &self,
        dict: &str,
        key: Bytes,
        at_most: usize,
        request: Option<String>,
        now_ms: u64,
    ) -> Result<Option<Found>, ContentsError> {
        let dict = dict.to_owned();
        let work = move |connection: &Connection| {
            let request = request.as_deref();
            if let Some(reply) = request.map(|key| replies::get(connection, key)).transpose()?.flatten() {
                return reply.body.first().map_or(Ok(None), |id| value_up_to(connection, *id, at_most));
            }
            let Some((id, used_at_ms)) = known(connection, &dict, &key)? else { return Ok(None) };
            let popped = value_up_to(connection, id, at_most)?.filter(|_| used_at_ms >= used_before(now_ms));
            if matches!(popped, Some(Found::Larger { .. })) {
                return Ok(popped);
            }
            let delete = "DELETE FROM dict_keys WHERE dict = ?1 AND key = ?2";
            connection.prepare_cached(delete)?.execute(params![dict, key.as_ref()])?;
            match request.filter(|_| popped.is_some()) {
                // The value goes when the note of it goes.
                Some(key) => replies::put(connection, &Note { key, owner: &dict, now_ms }, Kind::Popped, &[id])?,
                None => delete_value(connection, id)?,
            }
            Ok(popped)
        };
        self.change(0, work).await
    }

    /// A page of entries behind a key, in the order of keys: at most `most`, and no more once the values have so many
    /// bytes. Values are empty unless asked for.
    pub async fn dict_page(
        &self,
        dict: &str,
        after: Option<Bytes>,
        (most, most_bytes): (usize, usize),
        values: bool,
        now_ms: u64,
    ) -> Result<Vec<Entry>, ContentsError> {
        let dict = dict.to_owned();
        let query = move |connection: &Connection| {
            // A plain comparison, so that the index finds where the page begins.
            let behind = if after.is_some() { ">" } else { ">=" };
            let select = format!(
                "SELECT key, value FROM dict_keys
                 WHERE dict = ?1 AND used_at_ms >= ?2 AND key {behind} ?3 ORDER BY key LIMIT ?4"
            );
            let mut statement = connection.prepare_cached(&select)?;
            let after = after.as_deref().unwrap_or_default();
            let mut rows = statement.query(params![dict, used_before(now_ms), after, most])?;
            let (mut page, mut bytes) = (Vec::new(), 0);
            while let Some(row) = rows.next()? {
                let key: Vec<u8> = row.get(0)?;
                let value = if values { value(connection, row.get(1)?)?.unwrap_or_default() } else { Bytes::new() };
                bytes += key.len() + value.len();
                page.push((key.into(), value));
                if bytes >= most_bytes {
                    break;
                }
            }
            Ok(page)
        };
        self.read("list the entries of a dict", query).await
    }

    /// Takes away what was there when it began; a million entries take many small transactions.
    pub async fn dict_clear(&self, dict: &str) -> Result<(), ContentsError> {
        let newest = "SELECT coalesce(max(id), 0) FROM dict_values";
        let newest: u64 = self.change(0, |connection| connection.query_row(newest, [], |row| row.get(0))).await?;
        let dict = dict.to_owned();
        let select = "SELECT dict, key, value FROM dict_keys WHERE dict = ?1 AND value <= ?2 LIMIT ?3";
        self.delete_in_parts(move |connection| {
            let mut statement = connection.prepare_cached(select)?;
            let found = statement.query_map(params![dict, newest, DELETE_AT_ONCE], found_entry)?;
            found.collect()
        })
        .await
    }

    /// Takes away entries that nobody has used for a week.
    pub async fn expire_entries(&self, now_ms: u64) -> Result<(), ContentsError> {
        let select = "SELECT dict, key, value FROM dict_keys WHERE used_at_ms < ?1 LIMIT ?2";
        let before = used_before(now_ms);
        loop {
            let find = move |connection: &Connection| {
                let mut statement = connection.prepare_cached(select)?;
                statement.query_map(params![before, DELETE_AT_ONCE], found_entry)?.collect::<rusqlite::Result<Vec<_>>>()
            };
            // Looked for by a reader: a table of many entries is not read through on the writer's thread.
            let old = self.read("find old entries", find).await?;
            let count = old.len();
            if count > 0 {
                self.change(0, move |connection| forget_old(connection, &old, before)).await?;
            }
            if count < DELETE_AT_ONCE {
                return Ok(());
            }
        }
    }

    /// `find` answers with at most [`DELETE_AT_ONCE`]; fewer are the last.
    async fn delete_in_parts(
        &self,
        find: impl Fn(&Connection) -> rusqlite::Result<Vec<(String, Vec<u8>, u64)>> + Clone + Send + 'static,
    ) -> Result<(), ContentsError> {
        loop {
            let find = find.clone();
            let work = move |connection: &Connection| {
                let found = find(connection)?;
                for (dict, key, id) in &found {
                    let delete = "DELETE FROM dict_keys WHERE dict = ?1 AND key = ?2";
                    connection.prepare_cached(delete)?.execute(params![dict, key])?;
                    delete_value(connection, *id)?;
                }
                replies::give_back_pages(connection)?;
                Ok(found.len())
            };
            if self.change(0, work).await? < DELETE_AT_ONCE {
                return Ok(());
            }
        }
    }
}

/// Unless they were used since they were found.
fn forget_old(connection: &Connection, entries: &[(String, Vec<u8>, u64)], before_ms: u64) -> rusqlite::Result<()> {
    for (dict, key, id) in entries {
        let delete = "DELETE FROM dict_keys WHERE dict = ?1 AND key = ?2 AND used_at_ms < ?3";
        if connection.prepare_cached(delete)?.execute(params![dict, key, before_ms])? > 0 {
            delete_value(connection, *id)?;
        }
    }
    replies::give_back_pages(connection)
}

fn found_entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<(String, Vec<u8>, u64)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

/// Whether it was set.
fn set(
    connection: &Connection,
    dict: &str,
    (key, value): &Entry,
    if_not_exists: bool,
    now_ms: u64,
) -> rusqlite::Result<bool> {
    let known = known(connection, dict, key)?;
    let note = "INSERT INTO dict_keys (dict, key, value, used_at_ms) VALUES (?1, ?2, ?3, ?4)
                ON CONFLICT (dict, key) DO UPDATE SET value = excluded.value, used_at_ms = excluded.used_at_ms";
    let mut note = connection.prepare_cached(note)?;
    match known {
        Some((id, used_at_ms)) if if_not_exists && used_at_ms >= used_before(now_ms) => {
            note.execute(params![dict, key.as_ref(), id, now_ms])?;
            return Ok(false);
        }
        Some((id, _)) => {
            connection
                .prepare_cached("UPDATE dict_values SET value = ?2 WHERE id = ?1")?
                .execute(params![id, value.as_ref()])?;
            note.execute(params![dict, key.as_ref(), id, now_ms])?;
        }
        None => {
            connection.prepare_cached("INSERT INTO dict_values (value) VALUES (?1)")?.execute([value.as_ref()])?;
            note.execute(params![dict, key.as_ref(), connection.last_insert_rowid(), now_ms])?;
        }
    }
    Ok(true)
}

/// The id of an entry's value, and when it was used last.
fn known(connection: &Connection, dict: &str, key: &Bytes) -> rusqlite::Result<Option<(u64, u64)>> {
    let select = "SELECT value, used_at_ms FROM dict_keys WHERE dict = ?1 AND key = ?2";
    let mut statement = connection.prepare_cached(select)?;
    statement.query_row(params![dict, key.as_ref()], |row| Ok((row.get(0)?, row.get(1)?))).optional()
}

/// Of a row that begins with a value's length, and with the value if it is not too large.
fn found_value(row: &rusqlite::Row<'_>) -> rusqlite::Result<Found> {
    let value: Option<Vec<u8>> = row.get(1)?;
    Ok(match value {
        Some(value) => Found::Value(value.into()),
        None => Found::Larger { bytes: row.get(0)? },
    })
}

fn value_up_to(connection: &Connection, id: u64, at_most: usize) -> rusqlite::Result<Option<Found>> {
    let select = "SELECT length(value), CASE WHEN length(value) <= ?2 THEN value END FROM dict_values WHERE id = ?1";
    let mut statement = connection.prepare_cached(select)?;
    statement.query_row(params![id, at_most], found_value).optional()
}

fn value(connection: &Connection, id: u64) -> rusqlite::Result<Option<Bytes>> {
    let mut statement = connection.prepare_cached("SELECT value FROM dict_values WHERE id = ?1")?;
    Ok(statement.query_row([id], |row| row.get::<_, Vec<u8>>(0)).optional()?.map(Bytes::from))
}

fn delete_value(connection: &Connection, id: u64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM dict_values WHERE id = ?1")?.execute([id])?;
    Ok(())
}
