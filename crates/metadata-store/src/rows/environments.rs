use rusqlite::Connection;
use types::ids::{AppId, EnvironmentId};

use super::{apps, collect, execute, text};
use crate::error::RowError;
use crate::records::EnvironmentRecord;

pub(super) fn put(connection: &Connection, record: &EnvironmentRecord) -> Result<(), RowError> {
    execute(
        connection,
        "INSERT INTO environments (id, name, created_at_ms) VALUES (?1, ?2, ?3)
         ON CONFLICT (id) DO UPDATE SET name = excluded.name",
        (record.id.as_str(), &record.name, record.created_at_ms),
    )?;
    Ok(())
}

pub(super) fn delete(connection: &Connection, id: &EnvironmentId) -> Result<(), RowError> {
    let apps = collect(connection, "SELECT id FROM apps WHERE environment = ?1", [id.as_str()], |row| {
        text::id(row, "id", AppId::parse)
    })?;
    for app in apps {
        apps::delete(connection, &app)?;
    }
    execute(connection, "DELETE FROM secrets WHERE environment = ?1", [id.as_str()])?;
    execute(connection, "DELETE FROM objects WHERE environment = ?1", [id.as_str()])?;
    execute(connection, "DELETE FROM image_revisions WHERE environment = ?1", [id.as_str()])?;
    execute(connection, "DELETE FROM environments WHERE id = ?1", [id.as_str()])?;
    Ok(())
}

pub(super) fn load(connection: &Connection) -> Result<Vec<EnvironmentRecord>, RowError> {
    collect(connection, "SELECT * FROM environments ORDER BY created_at_ms, id", [], |row| {
        Ok(EnvironmentRecord {
            id: text::id(row, "id", EnvironmentId::parse)?,
            name: row.get("name")?,
            created_at_ms: row.get("created_at_ms")?,
        })
    })
}
