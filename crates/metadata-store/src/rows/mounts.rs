use std::collections::HashSet;

use rusqlite::{Connection, params};
use types::ids::MountId;

use super::{collect, each, execute, text};
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

/// Ids in the bytes of definitions, which nothing here can read. What only looks like one names nothing.
pub(crate) fn mounts_in_use(connection: &Connection) -> Result<HashSet<MountId>, RowError> {
    let mut found = HashSet::new();
    for table in ["functions", "definitions"] {
        each(connection, &format!("SELECT definition FROM {table}"), |row| {
            let definition: Vec<u8> = row.get("definition")?;
            found.extend(ids_in(&definition));
            Ok(())
        })?;
    }
    Ok(found)
}

/// An id may be followed by what could be a part of it, so each is read at its length.
fn ids_in(bytes: &[u8]) -> impl Iterator<Item = MountId> {
    const LENGTH: usize = MountId::PREFIX.len() + 22;
    let starts = bytes.windows(LENGTH).filter(|window| window.starts_with(MountId::PREFIX.as_bytes()));
    starts.filter_map(|window| MountId::parse(std::str::from_utf8(window).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_in_any_bytes() {
        let [a, b] = [(); 2].map(|()| MountId::random());
        let bytes = [b"\x12\x19mo-", a.as_str().as_bytes(), b"mo-short", b.as_str().as_bytes(), b"mo-"].concat();
        assert_eq!(ids_in(&bytes).collect::<Vec<_>>(), [a, b]);
    }
}
