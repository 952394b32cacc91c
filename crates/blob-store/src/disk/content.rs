//! Files known by their SHA-256.

use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use types::ids::BlobId;

use super::{Inner, files};
use crate::digest::Sha256Digest;
use crate::error::BlobError;

/// Being asked for makes a content young again, but a time is not written more often than this.
const TOUCHED_EVERY: Duration = Duration::from_secs(600);

impl Inner {
    pub(super) fn has_content(&self, sha256: &Sha256Digest, now: SystemTime) -> bool {
        let path = self.layout.content(sha256);
        let Ok(changed) = fs::metadata(&path).and_then(|metadata| metadata.modified()) else { return false };
        if changed + TOUCHED_EVERY < now {
            // Whoever is told that it is there will not send it, and must find it a little later.
            let touched = fs::File::open(&path).and_then(|file| file.set_modified(now));
            return touched.is_ok();
        }
        true
    }

    pub(super) fn delete_content(&self, sha256: &Sha256Digest) -> Result<(), BlobError> {
        files::remove_file(&self.layout.content(sha256))
    }

    pub(super) fn put_content(&self, wanted: &Sha256Digest, bytes: &[u8]) -> Result<(), BlobError> {
        check(wanted, Sha256Digest::of(bytes))?;
        let path = self.layout.content(wanted);
        if path.exists() {
            return Ok(());
        }
        let temporary = self.layout.temporary();
        files::write_new(&temporary, bytes)?;
        let published = files::publish(&temporary, &path);
        if published.is_err() {
            // The error at hand is the one to report.
            let _ = files::remove_file(&temporary);
        }
        published
    }

    /// No bytes are copied: both names are of the same file, and neither name is ever written through.
    pub(super) fn put_content_from_blob(&self, wanted: &Sha256Digest, blob: &BlobId) -> Result<(), BlobError> {
        let path = self.layout.content(wanted);
        if path.exists() {
            return Ok(());
        }
        let (mut file, _) = self.open_blob(blob)?;
        let source = self.layout.blob(blob);
        let got = files::sha256_of(&mut file).map_err(|error| BlobError::io("read", &source, error))?;
        check(wanted, got)?;
        files::publish_link(&source, &path).map_err(|error| match error {
            BlobError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                BlobError::NotFound(blob.clone())
            }
            error => error,
        })
    }
}

fn check(wanted: &Sha256Digest, got: Sha256Digest) -> Result<(), BlobError> {
    if got == *wanted { Ok(()) } else { Err(BlobError::WrongDigest { wanted: *wanted, got }) }
}
