//! Calls, their inputs and their outputs.
//!
//! An input row lives until its output is written, in the same transaction: so what is pending after a crash is simply
//! what is in `inputs`, and no state is kept twice. Both are unique per call and id, so that a repeated write changes
//! nothing, and the first output of an input is the one that stays.

use std::collections::HashMap;

use bytes::Bytes;
use calls::{
    CallSpec, FinishedOutput, InputReport, NewInput, Outcome, OutputPage, PageRequest, Payload, ReportedStage,
};
use rusqlite::{Connection, Row, params};
use types::ids::{AppId, BlobId, FunctionCallId, FunctionId, InputId, TaskId};

use super::{collect, each, execute, payload, text};
use crate::error::RowError;
use crate::records::{CallRecord, Expired, InputRecord, OutputRecord, StoredCall};

pub(super) fn put(connection: &Connection, record: &CallRecord) -> Result<(), RowError> {
    let spec = &record.spec;
    execute(
        connection,
        "INSERT INTO calls (id, app, function, kind, durable, parent_input, created_at_ms, invocation_type,
                            inputs_complete)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (id) DO UPDATE SET inputs_complete = inputs_complete OR excluded.inputs_complete",
        params![
            spec.id.as_str(),
            record.app.as_str(),
            record.function.as_str(),
            text::call_kind_word(spec.kind),
            spec.durable,
            spec.parent_input.as_ref().map(InputId::as_str),
            spec.created_at,
            spec.invocation_type,
            record.inputs_complete,
        ],
    )?;
    Ok(())
}

pub(super) fn add_inputs(connection: &Connection, records: &[InputRecord]) -> Result<(), RowError> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO inputs (call, id, idx, data, data_blob, data_format, method_name)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE NOT EXISTS (SELECT 1 FROM outputs WHERE call = ?1 AND input = ?2)
         ON CONFLICT (call, id) DO NOTHING",
    )?;
    let mut known_call = None;
    for InputRecord { call, input } in records {
        if known_call != Some(call) && !exists(connection, call)? {
            return Err(RowError::NoSuchCall(call.clone()));
        }
        known_call = Some(call);
        let (data, data_blob) = payload::columns(Some(&input.payload));
        insert.execute(params![
            call.as_str(),
            input.id.as_str(),
            input.idx,
            data,
            data_blob,
            input.data_format,
            input.method_name,
        ])?;
    }
    Ok(())
}

pub(super) fn add_output(connection: &Connection, record: &OutputRecord, now_ms: u64) -> Result<(), RowError> {
    let OutputRecord { call, output } = record;
    let outcome = &output.outcome;
    let (data, data_blob) = payload::columns(outcome.data.as_ref());
    execute(
        connection,
        "INSERT INTO outputs (call, input, idx, task, status, data, data_blob, data_format, exception, traceback,
                              serialized_traceback, traceback_line_cache, started_at, created_at, written_at_ms)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15
         WHERE EXISTS (SELECT 1 FROM calls WHERE id = ?1)
         ON CONFLICT (call, input) DO NOTHING",
        params![
            call.as_str(),
            output.input.as_str(),
            output.idx,
            output.task.as_ref().map(TaskId::as_str),
            text::status_word(outcome.status),
            data,
            data_blob,
            outcome.data_format,
            outcome.exception,
            outcome.traceback,
            outcome.serialized_traceback.as_ref(),
            outcome.traceback_line_cache.as_ref(),
            // SQLite has no NaN: it would become NULL, and fail the whole group.
            finite(outcome.started_at),
            finite(outcome.created_at),
            now_ms,
        ],
    )?;
    execute(connection, "DELETE FROM inputs WHERE call = ?1 AND id = ?2", (call.as_str(), output.input.as_str()))?;
    Ok(())
}

fn finite(seconds: f64) -> f64 {
    if seconds.is_finite() { seconds } else { 0.0 }
}

pub(super) fn finish_inputs(connection: &Connection, id: &FunctionCallId) -> Result<(), RowError> {
    execute(connection, "UPDATE calls SET inputs_complete = 1 WHERE id = ?1", [id.as_str()])?;
    Ok(())
}

pub(super) fn delete(connection: &Connection, id: &FunctionCallId) -> Result<(), RowError> {
    delete_where(connection, "id", id.as_str())
}

/// Deletes the calls whose `column` (a word of ours, never of a user) holds this id, with all that is theirs.
pub(super) fn delete_where(connection: &Connection, column: &'static str, id: &str) -> Result<(), RowError> {
    for table in ["inputs", "outputs"] {
        let sql = format!("DELETE FROM {table} WHERE call IN (SELECT id FROM calls WHERE {column} = ?1)");
        execute(connection, &sql, [id])?;
    }
    execute(connection, &format!("DELETE FROM calls WHERE {column} = ?1"), [id])?;
    Ok(())
}

fn exists(connection: &Connection, id: &FunctionCallId) -> Result<bool, RowError> {
    Ok(connection.prepare_cached("SELECT 1 FROM calls WHERE id = ?1")?.exists([id.as_str()])?)
}

/// Deletes up to `limit` calls that wait for no output and whose last news (an output, or their creation) is older
/// than `before_ms`. A call whose caller never said that its inputs are complete counts too: nobody will.
pub(crate) fn expire_calls(connection: &Connection, before_ms: u64, limit: usize) -> Result<Expired, RowError> {
    let ids = collect(
        connection,
        "SELECT id FROM calls
         WHERE created_at_ms < ?1
           AND NOT EXISTS (SELECT 1 FROM inputs WHERE call = calls.id)
           AND NOT EXISTS (SELECT 1 FROM outputs WHERE call = calls.id AND written_at_ms >= ?1)
         ORDER BY created_at_ms LIMIT ?2",
        (before_ms, limit),
        |row| text::id(row, "id", FunctionCallId::parse),
    )?;
    let mut expired = Expired { calls: ids.len(), blobs: Vec::new() };
    for id in ids {
        let sql = "SELECT data_blob FROM outputs WHERE call = ?1 AND data_blob IS NOT NULL";
        let blobs = collect(connection, sql, [id.as_str()], |row| text::id(row, "data_blob", BlobId::parse))?;
        expired.blobs.extend(blobs);
        delete(connection, &id)?;
    }
    Ok(expired)
}

/// Three queries, however many calls there are: a queue of a million spawned inputs is a million calls.
pub(super) fn load_open(connection: &Connection) -> Result<Vec<StoredCall>, RowError> {
    const OPEN: &str = "NOT inputs_complete OR id IN (SELECT call FROM inputs)";
    let sql = format!("SELECT * FROM calls WHERE {OPEN} ORDER BY created_at_ms, id");
    let records = collect(connection, &sql, [], read_call)?;
    let by_call = |row: &Row<'_>| text::id(row, "call", FunctionCallId::parse);
    let mut pending: HashMap<FunctionCallId, Vec<NewInput>> = HashMap::new();
    let sql = "SELECT * FROM inputs ORDER BY position";
    each(connection, sql, |row| {
        pending.entry(by_call(row)?).or_default().push(read_input(row)?);
        Ok(())
    })?;
    let mut finished: HashMap<FunctionCallId, Vec<FinishedOutput>> = HashMap::new();
    let sql = format!("SELECT * FROM outputs WHERE call IN (SELECT id FROM calls WHERE {OPEN}) ORDER BY position");
    each(connection, &sql, |row| {
        finished.entry(by_call(row)?).or_default().push(read_output(row)?);
        Ok(())
    })?;
    let with_contents = |record: CallRecord| StoredCall {
        pending: pending.remove(&record.spec.id).unwrap_or_default(),
        finished: finished.remove(&record.spec.id).unwrap_or_default(),
        record,
    };
    Ok(records.into_iter().map(with_contents).collect())
}

/// A page of a call's outputs, for a call too large to hold, and how many inputs have none.
pub(crate) fn page(
    connection: &Connection,
    id: &FunctionCallId,
    request: PageRequest,
) -> Result<Option<OutputPage>, RowError> {
    if !exists(connection, id)? {
        return Ok(None);
    }
    let (from, to) = request.range.unwrap_or((i32::MIN, i32::MAX));
    let sql = "SELECT * FROM outputs WHERE call = ?1 AND idx BETWEEN ?4 AND ?5 ORDER BY position LIMIT ?3 OFFSET ?2";
    let limit = i64::try_from(request.limit).unwrap_or(i64::MAX);
    let after = i64::try_from(request.after).unwrap_or(i64::MAX);
    let outputs = collect(connection, sql, (id.as_str(), after, limit, from, to), read_output)?;
    let unfinished = connection
        .prepare_cached("SELECT count(*) FROM inputs WHERE call = ?1")?
        .query_row([id.as_str()], |row| row.get::<_, i64>(0))?;
    let next = request.after.saturating_add(outputs.len());
    Ok(Some(OutputPage { next, unfinished: usize::try_from(unfinished).unwrap_or(0), outputs }))
}

pub(crate) fn call(connection: &Connection, id: &FunctionCallId) -> Result<Option<StoredCall>, RowError> {
    let mut found = collect(connection, "SELECT * FROM calls WHERE id = ?1", [id.as_str()], read_call)?;
    found.pop().map(|record| with_contents(connection, record)).transpose()
}

pub(crate) fn calls_of_app(connection: &Connection, app: &AppId) -> Result<Vec<CallRecord>, RowError> {
    let sql = "SELECT * FROM calls WHERE app = ?1 ORDER BY created_at_ms, id";
    collect(connection, sql, [app.as_str()], read_call)
}

/// Inputs of calls to a function that were made in a time, newest call first.
pub(crate) fn report(
    connection: &Connection,
    (app, function): (&AppId, &FunctionId),
    (since_ms, until_ms): (u64, u64),
    limit: usize,
) -> Result<Vec<InputReport>, RowError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let until_ms = until_ms.min(i64::MAX as u64);
    let range = params![app.as_str(), function.as_str(), since_ms, until_ms, limit];
    let finished =
        "SELECT calls.id AS call, calls.created_at_ms, outputs.* FROM calls JOIN outputs ON outputs.call = calls.id
         WHERE app = ?1 AND function = ?2 AND created_at_ms BETWEEN ?3 AND ?4
         ORDER BY created_at_ms DESC, calls.id, outputs.position DESC LIMIT ?5";
    let mut reports = collect(connection, finished, range, |row| {
        Ok(InputReport {
            input: text::id(row, "input", InputId::parse)?,
            call: text::id(row, "call", FunctionCallId::parse)?,
            enqueued_at: row.get("created_at_ms")?,
            stage: ReportedStage::Finished(text::status(row, "status")?),
            task: text::optional_id(row, "task", TaskId::parse)?,
            started_at: row.get("started_at")?,
            ended_at: row.get("created_at")?,
        })
    })?;
    let open = "SELECT calls.id AS call, calls.created_at_ms, inputs.id AS input FROM calls JOIN inputs ON inputs.call = calls.id
         WHERE app = ?1 AND function = ?2 AND created_at_ms BETWEEN ?3 AND ?4
         ORDER BY created_at_ms DESC, calls.id, inputs.position LIMIT ?5";
    reports.extend(collect(connection, open, range, |row| {
        Ok(InputReport {
            input: text::id(row, "input", InputId::parse)?,
            call: text::id(row, "call", FunctionCallId::parse)?,
            enqueued_at: row.get("created_at_ms")?,
            stage: ReportedStage::Pending,
            task: None,
            started_at: 0.0,
            ended_at: 0.0,
        })
    })?);
    Ok(reports)
}

pub(crate) fn outputs(
    connection: &Connection,
    call: &FunctionCallId,
    after: usize,
    limit: usize,
) -> Result<Vec<FinishedOutput>, RowError> {
    let sql = "SELECT * FROM outputs WHERE call = ?1 ORDER BY position LIMIT ?3 OFFSET ?2";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    collect(connection, sql, (call.as_str(), after, limit), read_output)
}

pub(crate) fn blobs_in_use(connection: &Connection) -> Result<Vec<BlobId>, RowError> {
    let sql = "SELECT data_blob FROM inputs WHERE data_blob IS NOT NULL
               UNION SELECT data_blob FROM outputs WHERE data_blob IS NOT NULL";
    collect(connection, sql, [], |row| text::id(row, "data_blob", BlobId::parse))
}

fn with_contents(connection: &Connection, record: CallRecord) -> Result<StoredCall, RowError> {
    let sql = "SELECT * FROM inputs WHERE call = ?1 ORDER BY position";
    let pending = collect(connection, sql, [record.spec.id.as_str()], read_input)?;
    let finished = outputs(connection, &record.spec.id, 0, usize::MAX)?;
    Ok(StoredCall { record, pending, finished })
}

fn read_call(row: &Row<'_>) -> Result<CallRecord, RowError> {
    Ok(CallRecord {
        spec: CallSpec {
            id: text::id(row, "id", FunctionCallId::parse)?,
            kind: text::call_kind(row, "kind")?,
            durable: row.get("durable")?,
            parent_input: text::optional_id(row, "parent_input", InputId::parse)?,
            created_at: row.get("created_at_ms")?,
            invocation_type: row.get("invocation_type")?,
        },
        app: text::id(row, "app", AppId::parse)?,
        function: text::id(row, "function", FunctionId::parse)?,
        inputs_complete: row.get("inputs_complete")?,
    })
}

fn read_input(row: &Row<'_>) -> Result<NewInput, RowError> {
    Ok(NewInput {
        id: text::id(row, "id", InputId::parse)?,
        idx: row.get("idx")?,
        payload: payload::read(row)?.unwrap_or(Payload::Inline(Bytes::new())),
        data_format: row.get("data_format")?,
        method_name: row.get("method_name")?,
    })
}

fn read_output(row: &Row<'_>) -> Result<FinishedOutput, RowError> {
    let serialized_traceback: Vec<u8> = row.get("serialized_traceback")?;
    let traceback_line_cache: Vec<u8> = row.get("traceback_line_cache")?;
    Ok(FinishedOutput {
        input: text::id(row, "input", InputId::parse)?,
        idx: row.get("idx")?,
        task: text::optional_id(row, "task", TaskId::parse)?,
        outcome: Outcome {
            status: text::status(row, "status")?,
            data: payload::read(row)?,
            data_format: row.get("data_format")?,
            exception: row.get("exception")?,
            traceback: row.get("traceback")?,
            serialized_traceback: Bytes::from(serialized_traceback),
            traceback_line_cache: Bytes::from(traceback_line_cache),
            started_at: row.get("started_at")?,
            created_at: row.get("created_at")?,
        },
    })
}
