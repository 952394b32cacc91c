use rusqlite::{Connection, params};
use types::ids::MountId;

use super::{collect, execute, text};
use crate::error::RowError;
use crate::records::MountRecord;

pub(super) fn put(connection: &Connection, record: &MountRecord) -> Result<(), RowError> {
    execute(
        connection,
        "INSERT INTO mounts (id, name, content_digest, files, created_at_ms) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (id) DO UPDATE SET
             name = excluded.name, content_digest = excluded.content_digest, files = excluded.files,
             created_at_ms = excluded.created_at_ms",
        params![
            record.id.as_str(),
            record.name,
            record.content_digest,
            text::to_json(&record.files)?,
            record.created_at_ms,
        ],
    )?;
    Ok(())
}

pub(super) fn delete(connection: &Connection, id: &MountId) -> Result<(), RowError> {
    execute(connection, "DELETE FROM mounts WHERE id = ?1", [id.as_str()])?;
    Ok(())
}

pub(super) fn load(connection: &Connection) -> Result<Vec<MountRecord>, RowError> {
    collect(connection, "SELECT * FROM mounts ORDER BY created_at_ms, id", [], |row| {
        Ok(MountRecord {
            id: text::id(row, "id", MountId::parse)?,
            name: row.get("name")?,
            content_digest: row.get("content_digest")?,
            files: text::json(row, "files")?,
            created_at_ms: row.get("created_at_ms")?,
        })
    })
}
