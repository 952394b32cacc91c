//! Rows and records: one file per table or family of tables, each with its statements and both directions of mapping.

mod apps;
mod calls;
mod deployments;
mod environments;
mod functions;
mod image_revisions;
mod images;
mod mounts;
mod objects;
mod payload;
mod schedules;
mod secrets;
mod text;
mod variants;

use rusqlite::Connection;

pub(crate) use self::calls::{blobs_in_use, call, calls_of_app, expire_calls, outputs, page, report};
pub(crate) use self::deployments::{definition, definitions, deployments};
pub(crate) use self::mounts::mounts_in_use;
pub(crate) use self::variants::find as variant;
use crate::error::RowError;
use crate::records::{LoadedState, Write};

/// Makes one change, inside the writer's transaction.
pub(crate) fn write(connection: &Connection, write: &Write, now_ms: u64) -> Result<(), RowError> {
    match write {
        Write::Environment(record) => environments::put(connection, record),
        Write::DeleteEnvironment(id) => environments::delete(connection, id),
        Write::App(record) => apps::put(connection, record),
        Write::DeleteApp(id) => apps::delete(connection, id),
        Write::Function(record) => functions::put(connection, record),
        Write::DeleteFunction(id) => functions::delete(connection, id),
        Write::Definition(record) => deployments::put_definition(connection, record),
        Write::Deployment(record) => deployments::put(connection, record),
        Write::Image(record) => images::put(connection, record),
        Write::TouchImage(id, used_ms) => images::touch(connection, id, *used_ms),
        Write::DeleteImage(id) => images::delete(connection, id),
        Write::ImageRevision(record) => image_revisions::put(connection, record),
        Write::DeleteImageTag(environment, tag) => image_revisions::delete_tag(connection, environment, tag),
        Write::Secret(record) => secrets::put(connection, record),
        Write::TouchSecret(id, used_ms) => secrets::touch(connection, id, *used_ms),
        Write::DeleteSecret(id) => secrets::delete(connection, id),
        Write::Object(record) => objects::put(connection, record),
        Write::DeleteObject(id) => objects::delete(connection, id),
        Write::Mount(record) => mounts::put(connection, record),
        Write::DeleteMount(id) => mounts::delete(connection, id),
        Write::Call(record) => calls::put(connection, record),
        Write::Inputs(records) => calls::add_inputs(connection, records),
        Write::Output(record) => calls::add_output(connection, record, now_ms),
        Write::FinishInputs(id) => calls::finish_inputs(connection, id),
        Write::DeleteCall(id) => calls::delete(connection, id),
        Write::Schedule(record) => schedules::put(connection, record),
        Write::ScheduledRun(run) => schedules::note_run(connection, run),
        Write::DeleteSchedule(function) => schedules::delete(connection, function),
        Write::Variant(record) => variants::put(connection, record),
        Write::TouchVariant(id, used_ms) => variants::touch(connection, id, *used_ms),
        Write::ExpireVariants(before_ms) => variants::expire(connection, *before_ms),
    }
}

pub(crate) fn load(connection: &Connection) -> Result<LoadedState, RowError> {
    Ok(LoadedState {
        environments: environments::load(connection)?,
        apps: apps::load(connection)?,
        functions: functions::load(connection)?,
        images: images::load(connection)?,
        image_revisions: image_revisions::load(connection)?,
        secrets: secrets::load(connection)?,
        objects: objects::load(connection)?,
        mounts: mounts::load(connection)?,
        calls: calls::load_open(connection)?,
        schedules: schedules::load(connection)?,
        variants: variants::load_called(connection)?,
    })
}

/// Runs a query and maps each row. Rows map with our own errors, which the library's `query_map` cannot carry.
fn collect<T>(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    map: impl Fn(&rusqlite::Row<'_>) -> Result<T, RowError>,
) -> Result<Vec<T>, RowError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(map(row)?);
    }
    Ok(records)
}

/// As [`collect`], for rows that go to several places.
fn each(
    connection: &Connection,
    sql: &str,
    mut take: impl FnMut(&rusqlite::Row<'_>) -> Result<(), RowError>,
) -> Result<(), RowError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        take(row)?;
    }
    Ok(())
}

fn execute(connection: &Connection, sql: &str, params: impl rusqlite::Params) -> Result<usize, RowError> {
    Ok(connection.prepare_cached(sql)?.execute(params)?)
}
