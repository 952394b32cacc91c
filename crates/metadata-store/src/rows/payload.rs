//! A payload is two columns, of which at most one is filled: the bytes, or the name of the blob that holds them.

use bytes::Bytes;
use calls::Payload;
use rusqlite::Row;
use types::ids::BlobId;

use super::text::optional_id;
use crate::error::RowError;

/// `data` and `data_blob`.
pub(super) fn columns(payload: Option<&Payload>) -> (Option<&[u8]>, Option<&str>) {
    match payload {
        Some(Payload::Inline(bytes)) => (Some(bytes), None),
        Some(Payload::Blob(blob)) => (None, Some(blob.as_str())),
        None => (None, None),
    }
}

pub(super) fn read(row: &Row<'_>) -> Result<Option<Payload>, RowError> {
    if let Some(blob) = optional_id(row, "data_blob", BlobId::parse)? {
        return Ok(Some(Payload::Blob(blob)));
    }
    let bytes: Option<Vec<u8>> = row.get("data")?;
    Ok(bytes.map(|bytes| Payload::Inline(Bytes::from(bytes))))
}
