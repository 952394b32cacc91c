//! The tables, as a list of migrations: the schema's version is how many of them have been applied.
//!
//! A migration that has been released is never changed; a change of mind is another migration.

use std::path::Path;

use rusqlite::Connection;

use crate::error::ContentsError;

const MIGRATIONS: &[&str] = &[
    // 1. Keys and values of dicts are apart, so that counting, listing and expiring read nothing of the values, and so
    // that a pop needs to take away no more than the key. Positions of items say in which order they were put.
    "CREATE TABLE dict_keys (
        dict TEXT NOT NULL, key BLOB NOT NULL, value INTEGER NOT NULL, used_at_ms INTEGER NOT NULL,
        PRIMARY KEY (dict, key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE dict_values (id INTEGER PRIMARY KEY, value BLOB NOT NULL) STRICT;
    CREATE TABLE queue_items (
        position INTEGER PRIMARY KEY, queue TEXT NOT NULL, partition BLOB NOT NULL, expires_at_ms INTEGER NOT NULL,
        value BLOB NOT NULL
    ) STRICT;
    CREATE INDEX items_by_queue ON queue_items (queue);
    -- What became of requests that must not happen twice. `body` names what they took: positions, or a dict's value.
    CREATE TABLE replies (
        key TEXT PRIMARY KEY, at_ms INTEGER NOT NULL, owner TEXT NOT NULL, kind INTEGER NOT NULL, body BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;",
];

/// The version that this program writes.
const KNOWN: u32 = MIGRATIONS.len() as u32;

/// Opens the one connection that may write, and brings the schema up to date.
pub(crate) fn open_and_migrate(path: &Path) -> Result<Connection, ContentsError> {
    let mut connection = Connection::open(path).map_err(|e| ContentsError::new(&e, "open the tables", path))?;
    let found = version(&connection).map_err(|e| ContentsError::new(&e, "read the schema", path))?;
    if found > KNOWN {
        return Err(ContentsError::NewerSchema { found, known: KNOWN });
    }
    migrate(&mut connection, found).map_err(|e| ContentsError::new(&e, "bring the schema up to date", path))?;
    Ok(connection)
}

fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn migrate(connection: &mut Connection, found: u32) -> rusqlite::Result<()> {
    // Before the first table: room of what was thrown away goes back to the file system, a little at a time.
    connection.pragma_update(None, "auto_vacuum", "incremental")?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // FULL waits for the disk at each commit; NORMAL would forget the last commits when the power fails, and what a get
    // had taken would be there again.
    connection.pragma_update(None, "synchronous", "full")?;
    // A burst may grow the log; what it leaves behind is cut back to this.
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    for (number, migration) in (1u32..).zip(MIGRATIONS).skip(found as usize) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    Ok(())
}
