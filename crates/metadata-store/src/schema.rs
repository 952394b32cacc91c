//! The tables, as a list of migrations: the schema's version is how many of them have been applied.
//!
//! A migration that has been released is never changed; a change of mind is another migration.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, OptionalExtension};

use crate::error::{RowError, StoreError};

const MIGRATIONS: &[&str] = &[
    // 1: what a server needs to run programs. Ids are text, as the protocol has them, so that `sqlite3` shows them.
    "CREATE TABLE environments (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_at_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE apps (
        id TEXT PRIMARY KEY, environment TEXT NOT NULL, name TEXT, description TEXT NOT NULL, state TEXT NOT NULL,
        created_at_ms INTEGER NOT NULL, deployed_at_ms INTEGER, stopped_at_ms INTEGER,
        tags TEXT NOT NULL, function_ids TEXT NOT NULL, class_ids TEXT NOT NULL, client_version TEXT NOT NULL
    ) STRICT;
    CREATE INDEX apps_by_environment ON apps (environment);
    CREATE TABLE functions (
        id TEXT PRIMARY KEY, app TEXT NOT NULL, tag TEXT NOT NULL, definition_id TEXT NOT NULL,
        definition BLOB NOT NULL, client_version TEXT NOT NULL, created_at_ms INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX functions_by_app ON functions (app);
    -- Neither an image's key nor an anonymous mount's content is unique: whoever makes one twice, because its layers were
    -- lost or two callers met, must not take away an id that functions name.
    CREATE TABLE images (
        id TEXT PRIMARY KEY, key TEXT NOT NULL, built_json TEXT NOT NULL, builder_version TEXT NOT NULL,
        created_at_ms INTEGER NOT NULL, last_used_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE mounts (
        id TEXT PRIMARY KEY, name TEXT UNIQUE, content_digest TEXT NOT NULL, files TEXT NOT NULL,
        created_at_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE calls (
        id TEXT PRIMARY KEY, app TEXT NOT NULL, function TEXT NOT NULL, kind TEXT NOT NULL, durable INTEGER NOT NULL,
        parent_input TEXT, created_at_ms INTEGER NOT NULL, invocation_type INTEGER NOT NULL,
        inputs_complete INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX calls_by_app ON calls (app);
    CREATE INDEX calls_by_creation ON calls (created_at_ms);
    CREATE INDEX open_calls ON calls (id) WHERE NOT inputs_complete;
    -- An input is deleted when its output is written: what is here is what is left to do.
    CREATE TABLE inputs (
        position INTEGER PRIMARY KEY, call TEXT NOT NULL, id TEXT NOT NULL, idx INTEGER NOT NULL,
        data BLOB, data_blob TEXT, data_format INTEGER NOT NULL, method_name TEXT NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX inputs_by_call ON inputs (call, id);
    -- AUTOINCREMENT: a position is never used twice, so positions are the order of publication.
    CREATE TABLE outputs (
        position INTEGER PRIMARY KEY AUTOINCREMENT, call TEXT NOT NULL, input TEXT NOT NULL, idx INTEGER NOT NULL,
        task TEXT, status TEXT NOT NULL, data BLOB, data_blob TEXT, data_format INTEGER NOT NULL,
        exception TEXT NOT NULL, traceback TEXT NOT NULL, serialized_traceback BLOB NOT NULL,
        traceback_line_cache BLOB NOT NULL, started_at REAL NOT NULL, created_at REAL NOT NULL,
        written_at_ms INTEGER NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX outputs_by_call ON outputs (call, input);",
    // 2: secrets, whose values are sealed before they come here; names of images, with everything they ever meant; and
    // what an image was built on.
    "CREATE TABLE secrets (
        id TEXT PRIMARY KEY, environment TEXT NOT NULL, name TEXT, app TEXT, keys TEXT NOT NULL, sealed BLOB NOT NULL,
        created_at_ms INTEGER NOT NULL, last_used_ms INTEGER
    ) STRICT;
    CREATE UNIQUE INDEX secrets_by_name ON secrets (environment, name) WHERE name IS NOT NULL;
    CREATE INDEX secrets_by_app ON secrets (app) WHERE app IS NOT NULL;
    CREATE TABLE image_revisions (
        id TEXT PRIMARY KEY, environment TEXT NOT NULL, tag TEXT NOT NULL, image TEXT NOT NULL,
        created_at_ms INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX image_revisions_by_tag ON image_revisions (environment, tag);
    ALTER TABLE images ADD COLUMN bases TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE images ADD COLUMN build_task TEXT;
    ALTER TABLE images ADD COLUMN app TEXT;
    ALTER TABLE images ADD COLUMN finished_at_ms INTEGER NOT NULL DEFAULT 0;",
    // 3: what is deployed and was deployed. A definition is stored when it is made and comes to life when a version of
    // its app names it; `functions` holds the one that lives.
    "CREATE TABLE definitions (
        id TEXT PRIMARY KEY, function TEXT NOT NULL, app TEXT NOT NULL, definition BLOB NOT NULL,
        client_version TEXT NOT NULL, created_at_ms INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX definitions_by_app ON definitions (app);
    INSERT INTO definitions
        SELECT definition_id, id, app, definition, client_version, created_at_ms FROM functions;
    CREATE TABLE deployments (
        app TEXT NOT NULL, version INTEGER NOT NULL, deployed_at_ms INTEGER NOT NULL, client_version TEXT NOT NULL,
        tag TEXT NOT NULL, rollback_version INTEGER, staged INTEGER NOT NULL, commit_info BLOB NOT NULL,
        function_ids TEXT NOT NULL, class_ids TEXT NOT NULL, definition_ids TEXT NOT NULL,
        PRIMARY KEY (app, version)
    ) STRICT, WITHOUT ROWID;
    ALTER TABLE apps ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
    -- Classes and variants of functions. A class is a name in its app's layout; its service function does the work.
    CREATE TABLE variants (
        id TEXT PRIMARY KEY, base TEXT NOT NULL, app TEXT NOT NULL, params BLOB NOT NULL, options BLOB NOT NULL,
        created_at_ms INTEGER NOT NULL, last_used_ms INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX variants_by_app ON variants (app);
    CREATE INDEX variants_by_base ON variants (base);
    -- Schedules.
    CREATE TABLE schedules (
        function TEXT PRIMARY KEY, app TEXT NOT NULL, schedule TEXT NOT NULL, anchor_ms INTEGER NOT NULL,
        next_run_ms INTEGER, last_run_ms INTEGER, last_call TEXT
    ) STRICT, WITHOUT ROWID;
    ",
    // 4: volumes, dicts, queues and network file systems, by name.
    "CREATE TABLE objects (
        id TEXT PRIMARY KEY, kind TEXT NOT NULL, environment TEXT NOT NULL, name TEXT, app TEXT,
        version INTEGER NOT NULL, created_at_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE UNIQUE INDEX objects_by_name ON objects (environment, kind, name) WHERE name IS NOT NULL;
    CREATE INDEX objects_by_app ON objects (app) WHERE app IS NOT NULL;",
];

/// The version that this program writes.
pub(crate) const KNOWN: u32 = MIGRATIONS.len() as u32;

/// Opens a connection that may write, and brings the schema up to date. A database of a newer schema is left as it is.
pub(crate) fn open_and_migrate(path: &Path, now_ms: u64) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(path).map_err(|source| open_error(path, source))?;
    let found = version(&connection).map_err(|source| open_error(path, source))?;
    if found > KNOWN {
        return Err(StoreError::NewerSchema { found, known: KNOWN });
    }
    configure(&connection).map_err(|source| open_error(path, source))?;
    for (number, migration) in (1u32..).zip(MIGRATIONS).skip(found as usize) {
        apply(&mut connection, number, migration, now_ms)
            .map_err(|source| RowError::from(source).at("bring the schema up to date", path))?;
    }
    Ok(connection)
}

/// A database in memory with the newest schema.
#[cfg(feature = "simulation")]
pub(crate) fn in_memory() -> rusqlite::Result<Connection> {
    let mut connection = Connection::open_in_memory()?;
    connection.set_prepared_statement_cache_capacity(256);
    for (number, migration) in (1u32..).zip(MIGRATIONS) {
        apply(&mut connection, number, migration, 0)?;
    }
    Ok(connection)
}

fn open_error(path: &Path, source: rusqlite::Error) -> StoreError {
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => StoreError::NotOurs(path.to_owned()),
        _ if crate::error::is_no_space(&source, path) => StoreError::NoSpace(path.to_owned()),
        _ => StoreError::Open { path: path.to_owned(), source },
    }
}

fn version(connection: &Connection) -> rusqlite::Result<u32> {
    let exists: Option<i64> = connection
        .query_row("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'schema_versions'", [], |row| {
            row.get(0)
        })
        .optional()?;
    if exists.is_none() {
        return Ok(0);
    }
    connection.query_row("SELECT coalesce(max(version), 0) FROM schema_versions", [], |row| row.get(0))
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "wal")?;
    // FULL waits for the disk at each commit; NORMAL would only keep the file sound, and forget the last commits when
    // the power fails.
    connection.pragma_update(None, "synchronous", "full")?;
    // A burst may grow the log; what it leaves behind is cut back to this.
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn apply(connection: &mut Connection, number: u32, migration: &str, now_ms: u64) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_versions (
            version INTEGER PRIMARY KEY, applied_at_ms INTEGER NOT NULL
        ) STRICT",
    )?;
    transaction.execute_batch(migration)?;
    transaction.execute("INSERT INTO schema_versions VALUES (?1, ?2)", (number, now_ms as i64))?;
    transaction.commit()
}
