use rusqlite::{Connection, params};
use types::ids::{AppId, ImageId, TaskId};

use super::{collect, execute, text};
use crate::error::RowError;
use crate::records::ImageRecord;

pub(super) fn put(connection: &Connection, record: &ImageRecord) -> Result<(), RowError> {
    execute(
        connection,
        "INSERT INTO images (id, key, built_json, builder_version, created_at_ms, last_used_ms, bases, build_task,
                             app, finished_at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
         ON CONFLICT (id) DO UPDATE SET
             key = excluded.key, built_json = excluded.built_json, builder_version = excluded.builder_version,
             created_at_ms = excluded.created_at_ms, last_used_ms = excluded.last_used_ms, bases = excluded.bases,
             build_task = excluded.build_task, app = excluded.app, finished_at_ms = excluded.finished_at_ms",
        params![
            record.id.as_str(),
            record.key,
            record.built_json,
            record.builder_version,
            record.created_at_ms,
            record.last_used_ms,
            text::to_json(&record.bases.iter().map(ImageId::as_str).collect::<Vec<_>>())?,
            record.build_task.as_ref().map(TaskId::as_str),
            record.app.as_ref().map(AppId::as_str),
            record.finished_at_ms,
        ],
    )?;
    Ok(())
}

pub(super) fn touch(connection: &Connection, id: &ImageId, used_ms: u64) -> Result<(), RowError> {
    execute(connection, "UPDATE images SET last_used_ms = ?2 WHERE id = ?1", (id.as_str(), used_ms))?;
    Ok(())
}

pub(super) fn delete(connection: &Connection, id: &ImageId) -> Result<(), RowError> {
    execute(connection, "DELETE FROM images WHERE id = ?1", [id.as_str()])?;
    Ok(())
}

pub(super) fn load(connection: &Connection) -> Result<Vec<ImageRecord>, RowError> {
    collect(connection, "SELECT * FROM images ORDER BY created_at_ms, id", [], |row| {
        Ok(ImageRecord {
            id: text::id(row, "id", ImageId::parse)?,
            key: row.get("key")?,
            built_json: row.get("built_json")?,
            builder_version: row.get("builder_version")?,
            created_at_ms: row.get("created_at_ms")?,
            finished_at_ms: row.get("finished_at_ms")?,
            last_used_ms: row.get("last_used_ms")?,
            bases: text::json::<Vec<String>>(row, "bases")?.iter().filter_map(|id| ImageId::parse(id)).collect(),
            build_task: text::optional_id(row, "build_task", TaskId::parse)?,
            app: text::optional_id(row, "app", AppId::parse)?,
        })
    })
}
