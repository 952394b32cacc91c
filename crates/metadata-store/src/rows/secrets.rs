use rusqlite::{Connection, params};
use types::ids::{AppId, EnvironmentId, SecretId};

use super::{collect, execute, text};
use crate::error::RowError;
use crate::records::SecretRecord;

pub(super) fn put(connection: &Connection, record: &SecretRecord) -> Result<(), RowError> {
    execute(
        connection,
        "INSERT INTO secrets (id, environment, name, app, keys, sealed, created_at_ms, last_used_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (id) DO UPDATE SET
             environment = excluded.environment, name = excluded.name, app = excluded.app, keys = excluded.keys,
             sealed = excluded.sealed, created_at_ms = excluded.created_at_ms, last_used_ms = excluded.last_used_ms",
        params![
            record.id.as_str(),
            record.environment.as_str(),
            record.name,
            record.app.as_ref().map(AppId::as_str),
            text::to_json(&record.keys)?,
            record.sealed.as_ref(),
            record.created_at_ms,
            record.last_used_ms,
        ],
    )?;
    Ok(())
}

pub(super) fn touch(connection: &Connection, id: &SecretId, used_ms: u64) -> Result<(), RowError> {
    execute(connection, "UPDATE secrets SET last_used_ms = ?2 WHERE id = ?1", (id.as_str(), used_ms))?;
    Ok(())
}

pub(super) fn delete(connection: &Connection, id: &SecretId) -> Result<(), RowError> {
    execute(connection, "DELETE FROM secrets WHERE id = ?1", [id.as_str()])?;
    Ok(())
}

pub(super) fn load(connection: &Connection) -> Result<Vec<SecretRecord>, RowError> {
    collect(connection, "SELECT * FROM secrets ORDER BY created_at_ms, id", [], |row| {
        Ok(SecretRecord {
            id: text::id(row, "id", SecretId::parse)?,
            environment: text::id(row, "environment", EnvironmentId::parse)?,
            name: row.get("name")?,
            app: text::optional_id(row, "app", AppId::parse)?,
            keys: text::json(row, "keys")?,
            sealed: row.get::<_, Vec<u8>>("sealed")?.into(),
            created_at_ms: row.get("created_at_ms")?,
            last_used_ms: row.get("last_used_ms")?,
        })
    })
}
