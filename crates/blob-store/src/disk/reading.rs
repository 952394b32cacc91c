//! Complete blobs, read whole or a piece at a time.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use futures::stream;
use types::ids::BlobId;

use super::{Inner, files};
use crate::error::BlobError;
use crate::store::ByteStream;

/// Small enough that a slow reader costs little memory, large enough that a trip to another thread is nothing beside it.
const PIECE_BYTES: u64 = files::PIECE_BYTES as u64 / 2;

impl Inner {
    pub(super) fn open_blob(&self, blob: &BlobId) -> Result<(File, u64), BlobError> {
        let path = self.layout.blob(blob);
        let opened = File::open(&path).and_then(|file| {
            let length = file.metadata()?.len();
            Ok((file, length))
        });
        opened.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => BlobError::NotFound(blob.clone()),
            _ => BlobError::io("open", &path, source),
        })
    }

    pub(super) fn read(&self, blob: &BlobId, limit: u64) -> Result<Bytes, BlobError> {
        let (file, length) = self.open_blob(blob)?;
        if length > limit {
            return Err(BlobError::TooLarge { length, limit });
        }
        let mut bytes = vec![0; length as usize];
        let read = file.read_exact_at(&mut bytes, 0);
        read.map_err(|source| BlobError::io("read", &self.layout.blob(blob), source))?;
        Ok(bytes.into())
    }

    pub(super) fn put(&self, bytes: &[u8]) -> Result<BlobId, BlobError> {
        self.check_fits(bytes.len() as u64)?;
        let blob = BlobId::random();
        let temporary = self.layout.temporary();
        files::write_new(&temporary, bytes)?;
        let published = files::publish(&temporary, &self.layout.blob(&blob));
        if published.is_err() {
            // The error at hand is the one to report.
            let _ = files::remove_file(&temporary);
        }
        published.map(|()| blob)
    }
}

/// The file's bytes, read on blocking threads as they are asked for. A blob that is deleted meanwhile is read to its end.
pub(super) fn stream(file: File, range: Range<u64>) -> ByteStream {
    let end = range.end;
    Box::pin(stream::try_unfold((file, range.start), move |(file, at)| async move {
        if at >= end {
            return Ok(None);
        }
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; PIECE_BYTES.min(end - at) as usize];
            file.read_exact_at(&mut piece, at).map(|()| (file, piece))
        });
        let (file, piece) = read.await.map_err(io::Error::other)??;
        let next = at + piece.len() as u64;
        Ok(Some((Bytes::from(piece), (file, next))))
    }))
}
