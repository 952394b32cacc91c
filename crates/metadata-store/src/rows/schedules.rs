use rusqlite::{Connection, params};
use types::ids::{AppId, FunctionCallId, FunctionId};

use super::{collect, execute, text};
use crate::error::RowError;
use crate::records::{ScheduleRecord, ScheduledRun};

pub(super) fn put(connection: &Connection, record: &ScheduleRecord) -> Result<(), RowError> {
    execute(
        connection,
        "INSERT OR REPLACE INTO schedules (function, app, schedule, anchor_ms, next_run_ms, last_run_ms, last_call)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            record.function.as_str(),
            record.app.as_str(),
            record.schedule,
            record.anchor_ms,
            record.next_run_ms,
            record.last_run_ms,
            record.last_call.as_ref().map(FunctionCallId::as_str),
        ],
    )?;
    Ok(())
}

/// Of a schedule that was replaced or taken away meanwhile, nothing is noted.
pub(super) fn note_run(connection: &Connection, run: &ScheduledRun) -> Result<(), RowError> {
    execute(
        connection,
        "UPDATE schedules SET next_run_ms = ?1, last_run_ms = ?2, last_call = ?3
         WHERE function = ?4 AND schedule = ?5 AND anchor_ms = ?6",
        params![run.next_run_ms, run.at_ms, run.call.as_str(), run.function.as_str(), run.schedule, run.anchor_ms,],
    )?;
    Ok(())
}

pub(super) fn delete(connection: &Connection, function: &FunctionId) -> Result<(), RowError> {
    execute(connection, "DELETE FROM schedules WHERE function = ?1", [function.as_str()])?;
    Ok(())
}

pub(super) fn load(connection: &Connection) -> Result<Vec<ScheduleRecord>, RowError> {
    collect(connection, "SELECT * FROM schedules", [], |row| {
        Ok(ScheduleRecord {
            function: text::id(row, "function", FunctionId::parse)?,
            app: text::id(row, "app", AppId::parse)?,
            schedule: row.get("schedule")?,
            anchor_ms: row.get("anchor_ms")?,
            next_run_ms: row.get("next_run_ms")?,
            last_run_ms: row.get("last_run_ms")?,
            last_call: text::optional_id(row, "last_call", FunctionCallId::parse)?,
        })
    })
}
