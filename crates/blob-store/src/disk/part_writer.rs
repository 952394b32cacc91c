//! Receives one part: bytes from the network go to their place in the file, a mebibyte at a time.
//!
//! While one piece is checksummed and written on a blocking thread, the next is read from the network; so two pieces
//! of memory per request, whatever the length.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use md5::{Digest, Md5};
use types::ids::BlobId;

use super::upload::{ActiveUpload, WHOLE};
use super::{DiskBlobs, Inner, files};
use crate::digest::Md5Digest;
use crate::error::BlobError;
use crate::store::ByteStream;

/// One attempt at one part.
struct PartWriter {
    upload: Arc<ActiveUpload>,
    part: u32,
    attempt: u64,
    file: File,
    range: Range<u64>,
    at: u64,
    md5: Md5,
}

impl DiskBlobs {
    /// Takes a part, or all of it when `part` is `None`.
    pub(super) async fn receive(
        &self,
        blob: &BlobId,
        part: Option<u32>,
        mut content: ByteStream,
    ) -> Result<Md5Digest, BlobError> {
        let id = blob.clone();
        let mut writer = match self.blocking(move |inner| inner.begin(&id, part)).await {
            Err(BlobError::Complete(_)) => return self.receive_again(blob, part, content).await,
            result => result?,
        };
        let upload = writer.upload.clone();
        let mut piece = Piece::default();
        loop {
            let chunk = match content.next().await {
                Some(chunk) => chunk.map_err(|error| BlobError::BrokenOff(error.to_string()))?,
                None => break,
            };
            if let Some(full) = piece.add(chunk) {
                writer = self.write_piece(writer, full, &upload).await?;
            }
        }
        let rest = piece.take();
        let finished = self
            .blocking(move |inner| {
                writer.write(&rest, inner)?;
                writer.finish(inner)
            })
            .await;
        self.note_no_space(finished, &upload).await
    }

    /// The blob is complete. A client that did not get its answer sends the same bytes again, and must hear the same;
    /// other bytes are refused. Nothing is written.
    async fn receive_again(
        &self,
        blob: &BlobId,
        part: Option<u32>,
        mut content: ByteStream,
    ) -> Result<Md5Digest, BlobError> {
        let mut hasher = Md5::new();
        while let Some(chunk) = content.next().await {
            hasher.update(chunk.map_err(|error| BlobError::BrokenOff(error.to_string()))?);
        }
        let (sent, blob) = (Md5Digest::finish(hasher), blob.clone());
        let kept = self.blocking(move |inner| inner.md5_of_complete(&blob, part).map(|kept| (blob, kept)));
        match kept.await? {
            (_, Some(kept)) if kept == sent => Ok(kept),
            (blob, _) => Err(BlobError::Complete(blob)),
        }
    }

    async fn write_piece(
        &self,
        mut writer: PartWriter,
        piece: Vec<Bytes>,
        upload: &Arc<ActiveUpload>,
    ) -> Result<PartWriter, BlobError> {
        let written = self.blocking(move |inner| writer.write(&piece, inner).map(|()| writer)).await;
        self.note_no_space(written, upload).await
    }

    async fn note_no_space<T>(&self, result: Result<T, BlobError>, upload: &Arc<ActiveUpload>) -> Result<T, BlobError> {
        if let Err(BlobError::NoSpace(path)) = &result {
            let (path, upload) = (path.clone(), upload.clone());
            self.blocking(move |inner| {
                inner.end_for_no_space(&upload, path);
                Ok(())
            })
            .await?;
        }
        result
    }
}

/// Collects what comes from the network without copying it.
#[derive(Default)]
struct Piece {
    chunks: Vec<Bytes>,
    bytes: usize,
}

impl Piece {
    /// Adds a chunk, and gives everything when it is enough to be worth a trip to another thread.
    fn add(&mut self, chunk: Bytes) -> Option<Vec<Bytes>> {
        self.bytes += chunk.len();
        self.chunks.push(chunk);
        (self.bytes >= files::PIECE_BYTES).then(|| self.take())
    }

    fn take(&mut self) -> Vec<Bytes> {
        self.bytes = 0;
        mem::take(&mut self.chunks)
    }
}

impl Inner {
    fn begin(&self, blob: &BlobId, part: Option<u32>) -> Result<PartWriter, BlobError> {
        let upload = self.upload(blob)?;
        let parts = upload.parts;
        let (part, range) = match part {
            None => (WHOLE, 0..parts.length),
            Some(part) => {
                let no_such_part = || BlobError::NoSuchPart { blob: blob.clone(), part, parts: parts.count() };
                (part, parts.range(part).ok_or_else(no_such_part)?)
            }
        };
        let mut progress = upload.progress.lock();
        let attempt = progress.begin(blob, part)?;
        // From here until the end the part is not there, also if the server is killed.
        self.forget_parts(blob, |present| part == WHOLE || present == part)?;
        drop(progress);
        let path = self.layout.upload_data(blob);
        let file = OpenOptions::new().write(true).open(&path);
        let file = file.map_err(|source| BlobError::io("open", &path, source))?;
        Ok(PartWriter { upload, part, attempt, file, at: range.start, range, md5: Md5::new() })
    }

    fn forget_parts(&self, blob: &BlobId, which: impl Fn(u32) -> bool) -> Result<(), BlobError> {
        for (part, md5) in self.layout.parts_present(blob)? {
            if which(part) {
                files::remove_file(&self.layout.upload_part(blob, part, &md5))?;
            }
        }
        Ok(())
    }
}

impl PartWriter {
    fn write(&mut self, chunks: &[Bytes], inner: &Inner) -> Result<(), BlobError> {
        for chunk in chunks {
            let end = self.at + chunk.len() as u64;
            if end > self.range.end {
                return Err(self.wrong_length(end));
            }
            self.md5.update(chunk);
            let progress = self.upload.progress.lock();
            progress.check(&self.upload.blob, self.part, self.attempt)?;
            self.file.write_all_at(chunk, self.at).map_err(|source| self.failed(source, inner))?;
            self.at = end;
        }
        Ok(())
    }

    /// The part counts once its bytes are on disk.
    fn finish(self, inner: &Inner) -> Result<Md5Digest, BlobError> {
        if self.at != self.range.end {
            return Err(self.wrong_length(self.at));
        }
        self.file.sync_data().map_err(|source| self.failed(source, inner))?;
        let (blob, part) = (&self.upload.blob, self.part);
        let md5 = Md5Digest::finish(self.md5.clone());
        let mut progress = self.upload.progress.lock();
        progress.check(blob, part, self.attempt)?;
        if part == WHOLE {
            progress.received_whole();
        } else {
            let path = inner.layout.upload_part(blob, part, &md5);
            File::create(&path).map_err(|source| BlobError::io("create", &path, source))?;
        }
        Ok(md5)
    }

    fn wrong_length(&self, end: u64) -> BlobError {
        BlobError::WrongLength {
            blob: self.upload.blob.clone(),
            part: self.part.max(1),
            wanted: self.range.end - self.range.start,
            got: end - self.range.start,
        }
    }

    fn failed(&self, source: io::Error, inner: &Inner) -> BlobError {
        BlobError::io("write", &inner.layout.upload_data(&self.upload.blob), source)
    }
}
