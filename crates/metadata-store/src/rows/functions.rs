use bytes::Bytes;
use rusqlite::{Connection, params};
use types::ids::{AppId, DefinitionId, FunctionId};

use super::{calls, collect, execute, text, variants};
use crate::error::RowError;
use crate::records::FunctionRecord;

pub(super) fn put(connection: &Connection, record: &FunctionRecord) -> Result<(), RowError> {
    execute(
        connection,
        "INSERT INTO functions (id, app, tag, definition_id, definition, client_version, created_at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (id) DO UPDATE SET
             app = excluded.app, tag = excluded.tag, definition_id = excluded.definition_id,
             definition = excluded.definition, client_version = excluded.client_version,
             created_at_ms = excluded.created_at_ms",
        params![
            record.id.as_str(),
            record.app.as_str(),
            record.tag,
            record.definition_id.as_str(),
            record.definition.as_ref(),
            record.client_version,
            record.created_at_ms,
        ],
    )?;
    Ok(())
}

pub(super) fn delete(connection: &Connection, id: &FunctionId) -> Result<(), RowError> {
    calls::delete_where(connection, "function", id.as_str())?;
    variants::delete_of_base(connection, id)?;
    execute(connection, "DELETE FROM functions WHERE id = ?1", [id.as_str()])?;
    Ok(())
}

pub(super) fn load(connection: &Connection) -> Result<Vec<FunctionRecord>, RowError> {
    collect(connection, "SELECT * FROM functions ORDER BY created_at_ms, id", [], |row| {
        let definition: Vec<u8> = row.get("definition")?;
        Ok(FunctionRecord {
            id: text::id(row, "id", FunctionId::parse)?,
            app: text::id(row, "app", AppId::parse)?,
            tag: row.get("tag")?,
            definition_id: text::id(row, "definition_id", DefinitionId::parse)?,
            definition: Bytes::from(definition),
            client_version: row.get("client_version")?,
            created_at_ms: row.get("created_at_ms")?,
        })
    })
}
