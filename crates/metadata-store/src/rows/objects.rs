use rusqlite::{Connection, Row, params};
use types::ids::{AppId, EnvironmentId};
use types::objects::ObjectKind;

use super::{collect, execute, text};
use crate::error::RowError;
use crate::records::ObjectRecord;

pub(super) fn put(connection: &Connection, record: &ObjectRecord) -> Result<(), RowError> {
    execute(
        connection,
        "INSERT INTO objects (id, kind, environment, name, app, version, created_at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (id) DO UPDATE SET name = excluded.name",
        params![
            record.id,
            record.kind.prefix(),
            record.environment.as_str(),
            record.name,
            record.app.as_ref().map(AppId::as_str),
            record.version,
            record.created_at_ms,
        ],
    )?;
    Ok(())
}

pub(super) fn delete(connection: &Connection, id: &str) -> Result<(), RowError> {
    execute(connection, "DELETE FROM objects WHERE id = ?1", [id])?;
    Ok(())
}

pub(super) fn load(connection: &Connection) -> Result<Vec<ObjectRecord>, RowError> {
    collect(connection, "SELECT * FROM objects ORDER BY created_at_ms, id", [], |row| {
        Ok(ObjectRecord {
            id: row.get("id")?,
            kind: kind(row)?,
            environment: text::id(row, "environment", EnvironmentId::parse)?,
            name: row.get("name")?,
            app: text::optional_id(row, "app", AppId::parse)?,
            version: row.get("version")?,
            created_at_ms: row.get("created_at_ms")?,
        })
    })
}

fn kind(row: &Row<'_>) -> Result<ObjectKind, RowError> {
    let text: String = row.get("kind")?;
    let found = ObjectKind::ALL.into_iter().find(|kind| kind.prefix() == text);
    found.ok_or(RowError::Unreadable { wanted: "ObjectKind", value: text })
}
