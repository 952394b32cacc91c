//! Versions of apps, and the definitions that they name.

use bytes::Bytes;
use rusqlite::{Connection, Row, params};
use types::ids::{AppId, DefinitionId, FunctionId};

use super::{collect, execute, text};
use crate::error::RowError;
use crate::records::{DefinitionRecord, DeploymentRecord};

/// Versions of an app that can be listed and brought back.
const VERSIONS_KEPT: u32 = 100;
/// A definition that no version names may belong to a deployment that is still going on.
const DRAFTS_KEPT_MS: u64 = 24 * 3_600_000;

pub(super) fn put_definition(connection: &Connection, record: &DefinitionRecord) -> Result<(), RowError> {
    execute(
        connection,
        "INSERT INTO definitions (id, function, app, definition, client_version, created_at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO NOTHING",
        params![
            record.id.as_str(),
            record.function.as_str(),
            record.app.as_str(),
            record.definition.as_ref(),
            record.client_version,
            record.created_at_ms,
        ],
    )?;
    Ok(())
}

pub(super) fn put(connection: &Connection, record: &DeploymentRecord) -> Result<(), RowError> {
    execute(
        connection,
        "INSERT INTO deployments (app, version, deployed_at_ms, client_version, tag, rollback_version, staged,
                                  commit_info, function_ids, class_ids, definition_ids)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT (app, version) DO UPDATE SET
             deployed_at_ms = excluded.deployed_at_ms, client_version = excluded.client_version, tag = excluded.tag,
             rollback_version = excluded.rollback_version, staged = excluded.staged,
             commit_info = excluded.commit_info, function_ids = excluded.function_ids,
             class_ids = excluded.class_ids, definition_ids = excluded.definition_ids",
        params![
            record.app.as_str(),
            record.version,
            record.deployed_at_ms,
            record.client_version,
            record.tag,
            record.rollback_version,
            record.staged,
            record.commit_info.as_ref(),
            text::to_json(&record.function_ids)?,
            text::to_json(&record.class_ids)?,
            text::to_json(&record.definition_ids)?,
        ],
    )?;
    prune(connection, record)
}

/// Takes away the oldest versions, and definitions that nothing names any more.
fn prune(connection: &Connection, newest: &DeploymentRecord) -> Result<(), RowError> {
    let app = newest.app.as_str();
    execute(
        connection,
        "DELETE FROM deployments WHERE app = ?1 AND version <= ?2",
        params![app, newest.version.saturating_sub(VERSIONS_KEPT)],
    )?;
    execute(
        connection,
        "DELETE FROM definitions WHERE app = ?1 AND created_at_ms < ?2
             AND id NOT IN (SELECT definition_id FROM functions WHERE app = ?1)
             AND id NOT IN (SELECT named.value FROM deployments, json_each(definition_ids) AS named WHERE app = ?1)",
        params![app, newest.deployed_at_ms.saturating_sub(DRAFTS_KEPT_MS)],
    )?;
    Ok(())
}

/// Oldest first.
pub(crate) fn deployments(connection: &Connection, app: &AppId) -> Result<Vec<DeploymentRecord>, RowError> {
    collect(connection, "SELECT * FROM deployments WHERE app = ?1 ORDER BY version", [app.as_str()], |row| {
        let commit_info: Vec<u8> = row.get("commit_info")?;
        Ok(DeploymentRecord {
            app: text::id(row, "app", AppId::parse)?,
            version: row.get("version")?,
            deployed_at_ms: row.get("deployed_at_ms")?,
            client_version: row.get("client_version")?,
            tag: row.get("tag")?,
            rollback_version: row.get("rollback_version")?,
            staged: row.get("staged")?,
            commit_info: Bytes::from(commit_info),
            function_ids: text::json(row, "function_ids")?,
            class_ids: text::json(row, "class_ids")?,
            definition_ids: text::json(row, "definition_ids")?,
        })
    })
}

pub(crate) fn definitions(connection: &Connection, app: &AppId) -> Result<Vec<DefinitionRecord>, RowError> {
    collect(connection, "SELECT * FROM definitions WHERE app = ?1", [app.as_str()], read_definition)
}

pub(crate) fn definition(connection: &Connection, id: &DefinitionId) -> Result<Option<DefinitionRecord>, RowError> {
    let mut found = collect(connection, "SELECT * FROM definitions WHERE id = ?1", [id.as_str()], read_definition)?;
    Ok(found.pop())
}

fn read_definition(row: &Row<'_>) -> Result<DefinitionRecord, RowError> {
    let definition: Vec<u8> = row.get("definition")?;
    Ok(DefinitionRecord {
        id: text::id(row, "id", DefinitionId::parse)?,
        function: text::id(row, "function", FunctionId::parse)?,
        app: text::id(row, "app", AppId::parse)?,
        definition: Bytes::from(definition),
        client_version: row.get("client_version")?,
        created_at_ms: row.get("created_at_ms")?,
    })
}
