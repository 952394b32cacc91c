use bytes::Bytes;
use rusqlite::{Connection, Row, params};
use types::ids::{AppId, FunctionId};

use super::{calls, collect, execute, text};
use crate::error::RowError;
use crate::records::VariantRecord;

pub(super) fn put(connection: &Connection, record: &VariantRecord) -> Result<(), RowError> {
    execute(
        connection,
        "INSERT INTO variants (id, base, app, params, options, created_at_ms, last_used_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (id) DO UPDATE SET
             base = excluded.base, app = excluded.app, params = excluded.params, options = excluded.options,
             created_at_ms = excluded.created_at_ms, last_used_ms = excluded.last_used_ms",
        params![
            record.id.as_str(),
            record.base.as_str(),
            record.app.as_str(),
            record.params.as_ref(),
            record.options.as_ref(),
            record.created_at_ms,
            record.last_used_ms,
        ],
    )?;
    Ok(())
}

pub(super) fn touch(connection: &Connection, id: &FunctionId, used_ms: u64) -> Result<(), RowError> {
    execute(connection, "UPDATE variants SET last_used_ms = ?2 WHERE id = ?1", params![id.as_str(), used_ms])?;
    Ok(())
}

pub(super) fn expire(connection: &Connection, before_ms: u64) -> Result<(), RowError> {
    execute(
        connection,
        "DELETE FROM variants WHERE last_used_ms < ?1
             AND NOT EXISTS (SELECT 1 FROM calls WHERE calls.app = variants.app AND calls.function = variants.id)",
        [before_ms],
    )?;
    Ok(())
}

/// With their calls.
pub(super) fn delete_of_base(connection: &Connection, base: &FunctionId) -> Result<(), RowError> {
    for variant in collect(connection, "SELECT * FROM variants WHERE base = ?1", [base.as_str()], record)? {
        calls::delete_where(connection, "function", variant.id.as_str())?;
    }
    execute(connection, "DELETE FROM variants WHERE base = ?1", [base.as_str()])?;
    Ok(())
}

pub(super) fn load_called(connection: &Connection) -> Result<Vec<VariantRecord>, RowError> {
    collect(connection, "SELECT * FROM variants WHERE id IN (SELECT function FROM calls) ORDER BY id", [], record)
}

pub(crate) fn find(connection: &Connection, id: &FunctionId) -> Result<Option<VariantRecord>, RowError> {
    Ok(collect(connection, "SELECT * FROM variants WHERE id = ?1", [id.as_str()], record)?.pop())
}

fn record(row: &Row<'_>) -> Result<VariantRecord, RowError> {
    let (params, options): (Vec<u8>, Vec<u8>) = (row.get("params")?, row.get("options")?);
    Ok(VariantRecord {
        id: text::id(row, "id", FunctionId::parse)?,
        base: text::id(row, "base", FunctionId::parse)?,
        app: text::id(row, "app", AppId::parse)?,
        params: Bytes::from(params),
        options: Bytes::from(options),
        created_at_ms: row.get("created_at_ms")?,
        last_used_ms: row.get("last_used_ms")?,
    })
}
