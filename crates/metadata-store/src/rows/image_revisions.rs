use rusqlite::{Connection, params};
use types::ids::{EnvironmentId, ImageId, ImageRevisionId};

use super::{collect, execute, text};
use crate::error::RowError;
use crate::records::ImageRevisionRecord;

pub(super) fn put(connection: &Connection, record: &ImageRevisionRecord) -> Result<(), RowError> {
    execute(
        connection,
        "INSERT OR REPLACE INTO image_revisions (id, environment, tag, image, created_at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            record.id.as_str(),
            record.environment.as_str(),
            record.tag,
            record.image.as_str(),
            record.created_at_ms,
        ],
    )?;
    Ok(())
}

pub(super) fn delete_tag(connection: &Connection, environment: &EnvironmentId, tag: &str) -> Result<(), RowError> {
    let sql = "DELETE FROM image_revisions WHERE environment = ?1 AND tag = ?2";
    execute(connection, sql, (environment.as_str(), tag))?;
    Ok(())
}

pub(super) fn load(connection: &Connection) -> Result<Vec<ImageRevisionRecord>, RowError> {
    collect(connection, "SELECT * FROM image_revisions ORDER BY created_at_ms, id", [], |row| {
        Ok(ImageRevisionRecord {
            id: text::id(row, "id", ImageRevisionId::parse)?,
            environment: text::id(row, "environment", EnvironmentId::parse)?,
            tag: row.get("tag")?,
            image: text::id(row, "image", ImageId::parse)?,
            created_at_ms: row.get("created_at_ms")?,
        })
    })
}
