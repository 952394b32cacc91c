use rusqlite::{Connection, params};
use types::ids::{AppId, EnvironmentId};

use super::{calls, collect, execute, text};
use crate::error::RowError;
use crate::records::AppRecord;

pub(super) fn put(connection: &Connection, record: &AppRecord) -> Result<(), RowError> {
    execute(
        connection,
        "INSERT INTO apps (id, environment, name, description, state, created_at_ms, deployed_at_ms, stopped_at_ms,
                           tags, function_ids, class_ids, client_version, version)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
         ON CONFLICT (id) DO UPDATE SET
             environment = excluded.environment, name = excluded.name, description = excluded.description,
             state = excluded.state, created_at_ms = excluded.created_at_ms,
             deployed_at_ms = excluded.deployed_at_ms, stopped_at_ms = excluded.stopped_at_ms,
             tags = excluded.tags, function_ids = excluded.function_ids, class_ids = excluded.class_ids,
             client_version = excluded.client_version, version = excluded.version",
        params![
            record.id.as_str(),
            record.environment.as_str(),
            record.name,
            record.description,
            text::app_state_word(record.state),
            record.created_at_ms,
            record.deployed_at_ms,
            record.stopped_at_ms,
            text::to_json(&record.tags)?,
            text::to_json(&record.function_ids)?,
            text::to_json(&record.class_ids)?,
            record.client_version,
            record.version,
        ],
    )?;
    Ok(())
}

pub(super) fn delete(connection: &Connection, id: &AppId) -> Result<(), RowError> {
    calls::delete_where(connection, "app", id.as_str())?;
    execute(connection, "DELETE FROM functions WHERE app = ?1", [id.as_str()])?;
    execute(connection, "DELETE FROM definitions WHERE app = ?1", [id.as_str()])?;
    execute(connection, "DELETE FROM deployments WHERE app = ?1", [id.as_str()])?;
    execute(connection, "DELETE FROM schedules WHERE app = ?1", [id.as_str()])?;
    execute(connection, "DELETE FROM variants WHERE app = ?1", [id.as_str()])?;
    execute(connection, "DELETE FROM secrets WHERE app = ?1", [id.as_str()])?;
    execute(connection, "DELETE FROM objects WHERE app = ?1", [id.as_str()])?;
    execute(connection, "DELETE FROM apps WHERE id = ?1", [id.as_str()])?;
    Ok(())
}

pub(super) fn load(connection: &Connection) -> Result<Vec<AppRecord>, RowError> {
    collect(connection, "SELECT * FROM apps ORDER BY created_at_ms, id", [], |row| {
        Ok(AppRecord {
            id: text::id(row, "id", AppId::parse)?,
            environment: text::id(row, "environment", EnvironmentId::parse)?,
            name: row.get("name")?,
            description: row.get("description")?,
            state: text::app_state(row, "state")?,
            created_at_ms: row.get("created_at_ms")?,
            deployed_at_ms: row.get("deployed_at_ms")?,
            stopped_at_ms: row.get("stopped_at_ms")?,
            tags: text::json(row, "tags")?,
            function_ids: text::json(row, "function_ids")?,
            class_ids: text::json(row, "class_ids")?,
            client_version: row.get("client_version")?,
            version: row.get("version")?,
        })
    })
}
