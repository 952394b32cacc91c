//! The life of an upload: created, written to in any order, completed or swept.
//!
//! An upload can be written to by several requests at once, also for the same part when a client repeats a request
//! whose answer it did not get. The rule is that the newest attempt at a part wins, and that nothing is written after
//! the end. Each write therefore happens under the upload's lock, after a look at who is current; a write is a copy of
//! a mebibyte into the page cache, and checksums are computed outside of it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use types::ids::BlobId;

use super::{Inner, files};
use crate::digest::{Md5Digest, Sha256Digest, multipart_etag};
use crate::error::BlobError;
use crate::parts::Parts;
use crate::store::Upload;

/// The number under which the attempts at all of it, in one request, are counted; parts count from 1.
pub(super) const WHOLE: u32 = 0;

/// What must be known of an upload after a restart.
#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    length: u64,
    part_length: u64,
    sha256: Option<String>,
}

pub(super) struct ActiveUpload {
    pub blob: BlobId,
    pub parts: Parts,
    sha256: Option<Sha256Digest>,
    pub progress: Mutex<Progress>,
}

#[derive(Default)]
pub(super) struct Progress {
    /// The newest attempt at each part.
    current: HashMap<u32, u64>,
    attempts: u64,
    /// A request with all of it has been received.
    whole: bool,
    end: Option<End>,
}

#[derive(Clone)]
enum End {
    Complete,
    Deleted,
    /// The file system was full; what was uploaded is gone.
    NoSpace(PathBuf),
}

impl Progress {
    /// The number of a new attempt at a part, which makes older attempts stop.
    pub fn begin(&mut self, blob: &BlobId, part: u32) -> Result<u64, BlobError> {
        self.check_open(blob)?;
        self.attempts += 1;
        self.whole = false;
        if part == WHOLE {
            self.current.clear();
        } else {
            self.current.remove(&WHOLE);
        }
        self.current.insert(part, self.attempts);
        Ok(self.attempts)
    }

    /// Whether this attempt may still write.
    pub fn check(&self, blob: &BlobId, part: u32, attempt: u64) -> Result<(), BlobError> {
        self.check_open(blob)?;
        if self.current.get(&part) == Some(&attempt) {
            return Ok(());
        }
        Err(BlobError::Superseded { blob: blob.clone(), part })
    }

    pub fn received_whole(&mut self) {
        self.whole = true;
    }

    fn check_open(&self, blob: &BlobId) -> Result<(), BlobError> {
        match &self.end {
            None => Ok(()),
            Some(End::Complete) => Err(BlobError::Complete(blob.clone())),
            Some(End::Deleted) => Err(BlobError::NotFound(blob.clone())),
            Some(End::NoSpace(path)) => Err(BlobError::NoSpace(path.clone())),
        }
    }
}

impl Inner {
    pub(super) fn create(&self, length: u64, sha256: Option<Sha256Digest>) -> Result<Upload, BlobError> {
        self.check_fits(length)?;
        let parts = Parts::plan(length, self.config.part_bytes);
        let blob = BlobId::random();
        let created = self.create_files(&blob, parts, sha256);
        if created.is_err() {
            // The error at hand is the one to report.
            let _ = files::remove_folder(&self.layout.upload(&blob));
        }
        created.map(|()| Upload { blob, parts })
    }

    /// Refuses at once what cannot end well: better than after an hour of uploading.
    pub(super) fn check_fits(&self, length: u64) -> Result<(), BlobError> {
        let limit = self.config.max_blob_bytes;
        if length > limit {
            return Err(BlobError::TooLarge { length, limit });
        }
        let folder = self.layout.temporary();
        let folder = folder.parent().unwrap_or(&folder);
        match rustix::fs::statvfs(folder) {
            Ok(fs) if fs.f_bavail.saturating_mul(fs.f_frsize) < length => Err(BlobError::NoSpace(folder.to_owned())),
            _ => Ok(()),
        }
    }

    fn create_files(&self, blob: &BlobId, parts: Parts, sha256: Option<Sha256Digest>) -> Result<(), BlobError> {
        let folder = self.layout.upload(blob);
        fs::create_dir(&folder).map_err(|source| BlobError::io("create the folder", &folder, source))?;
        let meta = Meta {
            length: parts.length,
            part_length: parts.part_length,
            sha256: sha256.map(|digest| digest.to_string()),
        };
        let path = self.layout.upload_meta(blob);
        // Not synced: an upload that was under way when the power failed is started again by its client.
        let written = serde_json::to_vec(&meta).map_err(io::Error::from).and_then(|json| fs::write(&path, json));
        written.map_err(|source| BlobError::io("write", &path, source))?;
        let path = self.layout.upload_data(blob);
        let made = File::create_new(&path).and_then(|file| file.set_len(parts.length));
        made.map_err(|source| BlobError::io("create", &path, source))
    }

    /// The upload in memory, read from disk when it is not there yet.
    pub(super) fn upload(&self, blob: &BlobId) -> Result<Arc<ActiveUpload>, BlobError> {
        if let Some(upload) = self.uploads.lock().get(blob) {
            return Ok(upload.clone());
        }
        // Looked for first: a server killed while completing leaves both, and then the blob counts.
        if self.layout.blob(blob).exists() {
            return Err(BlobError::Complete(blob.clone()));
        }
        let meta = self.read_meta(blob)?.ok_or_else(|| BlobError::NotFound(blob.clone()))?;
        let upload = Arc::new(ActiveUpload {
            blob: blob.clone(),
            parts: Parts { length: meta.length, part_length: meta.part_length.max(1) },
            sha256: meta.sha256.as_deref().and_then(Sha256Digest::from_hex),
            progress: Mutex::default(),
        });
        // Somebody may have been faster; there must be only one.
        Ok(self.uploads.lock().entry(blob.clone()).or_insert(upload).clone())
    }

    fn read_meta(&self, blob: &BlobId) -> Result<Option<Meta>, BlobError> {
        let path = self.layout.upload_meta(blob);
        let json = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(|source| BlobError::io("read", &path, source))?,
        };
        // A power failure may have left an empty file: an upload that is as good as never begun.
        Ok(serde_json::from_slice(&json).ok())
    }

    /// Completes an upload in parts; says again what it said when it is complete already.
    pub(super) fn complete(&self, blob: &BlobId) -> Result<String, BlobError> {
        match self.upload(blob) {
            Ok(upload) => self.complete_parts(&upload),
            Err(BlobError::Complete(_)) => self.etag_of_complete(blob),
            Err(error) => Err(error),
        }
    }

    fn complete_parts(&self, upload: &ActiveUpload) -> Result<String, BlobError> {
        let mut progress = upload.progress.lock();
        match progress.check_open(&upload.blob) {
            Err(BlobError::Complete(blob)) => return self.etag_of_complete(&blob),
            result => result?,
        }
        let md5s = self.md5s_of_all_parts(upload)?;
        self.finish(upload, &mut progress)?;
        Ok(multipart_etag(&md5s))
    }

    pub(super) fn complete_whole(&self, blob: &BlobId) -> Result<(), BlobError> {
        let upload = match self.upload(blob) {
            // The same bytes came again after the blob was complete.
            Err(BlobError::Complete(_)) => return Ok(()),
            result => result?,
        };
        let mut progress = upload.progress.lock();
        progress.check_open(blob)?;
        if !progress.whole {
            return Err(BlobError::PartsMissing { blob: blob.clone(), first: 1, others: 0 });
        }
        self.finish(&upload, &mut progress)
    }

    fn md5s_of_all_parts(&self, upload: &ActiveUpload) -> Result<Vec<Md5Digest>, BlobError> {
        let present: HashMap<u32, Md5Digest> = self.layout.parts_present(&upload.blob)?.into_iter().collect();
        let (mut md5s, mut missing) = (Vec::new(), Vec::new());
        for part in 1..=upload.parts.count() {
            match present.get(&part) {
                Some(md5) => md5s.push(*md5),
                None => missing.push(part),
            }
        }
        match missing.first() {
            None => Ok(md5s),
            Some(&first) => {
                Err(BlobError::PartsMissing { blob: upload.blob.clone(), first, others: missing.len() - 1 })
            }
        }
    }

    /// Under the lock: no write can come in between.
    fn finish(&self, upload: &ActiveUpload, progress: &mut Progress) -> Result<(), BlobError> {
        let data = self.layout.upload_data(&upload.blob);
        if let Some(wanted) = upload.sha256 {
            let got = File::open(&data).and_then(|mut file| files::sha256_of(&mut file));
            let got = got.map_err(|source| BlobError::io("read", &data, source))?;
            if got != wanted {
                return Err(BlobError::WrongDigest { wanted, got });
            }
        }
        files::publish(&data, &self.layout.blob(&upload.blob))?;
        progress.end = Some(End::Complete);
        let removed = files::remove_folder(&self.layout.upload(&upload.blob));
        self.uploads.lock().remove(&upload.blob);
        if let Err(error) = removed {
            // The blob is complete all the same; the folder goes with the next sweep.
            tracing::warn!(blob = %upload.blob, error = %error, "cannot delete what is left of an upload");
        }
        Ok(())
    }

    /// The digest of a part, or of the whole when `part` is `None`; `None` when there is no such part.
    pub(super) fn md5_of_complete(&self, blob: &BlobId, part: Option<u32>) -> Result<Option<Md5Digest>, BlobError> {
        let (file, length) = self.open_blob(blob)?;
        let parts = Parts::plan(length, self.config.part_bytes);
        let range = part.map_or(Some(0..length), |part| parts.range(part));
        let md5 = range.map(|range| files::md5_of(&file, range)).transpose();
        md5.map_err(|source| BlobError::io("read", &self.layout.blob(blob), source))
    }

    fn etag_of_complete(&self, blob: &BlobId) -> Result<String, BlobError> {
        let (_, length) = self.open_blob(blob)?;
        let parts = Parts::plan(length, self.config.part_bytes);
        let mut md5s = Vec::new();
        for part in 1..=parts.count() {
            md5s.extend(self.md5_of_complete(blob, Some(part))?);
        }
        Ok(multipart_etag(&md5s))
    }

    /// Ends an upload because the file system is full, and gives back what it took. Whoever asks again hears why.
    pub(super) fn end_for_no_space(&self, upload: &ActiveUpload, path: PathBuf) {
        let mut progress = upload.progress.lock();
        if progress.end.is_none() {
            progress.end = Some(End::NoSpace(path));
            if let Err(error) = files::remove_folder(&self.layout.upload(&upload.blob)) {
                tracing::warn!(blob = %upload.blob, error = %error, "cannot delete an upload that found the disk full");
            }
        }
    }

    pub(super) fn delete(&self, blob: &BlobId) -> Result<(), BlobError> {
        let upload = self.uploads.lock().remove(blob);
        if let Some(upload) = upload {
            upload.progress.lock().end = Some(End::Deleted);
        }
        files::remove_folder(&self.layout.upload(blob))?;
        files::remove_file(&self.layout.blob(blob))
    }

    pub(super) fn sweep(&self, before: SystemTime) -> Result<usize, BlobError> {
        let mut swept = 0;
        for blob in self.layout.uploads_present()? {
            swept += usize::from(self.sweep_one(&blob, before)?);
        }
        // What has ended stays known for those who ask again, until now.
        let layout = &self.layout;
        self.uploads.lock().retain(|blob, _| layout.upload(blob).exists());
        Ok(swept)
    }

    fn sweep_one(&self, blob: &BlobId, before: SystemTime) -> Result<bool, BlobError> {
        let folder = self.layout.upload(blob);
        let upload = match self.upload(blob) {
            Ok(upload) => Some(upload),
            // The rest of an upload that was completed, or that a crash left without its description.
            Err(BlobError::Complete(_) | BlobError::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        // Held until the folder is gone, so that nobody completes the upload meanwhile.
        let mut progress = upload.as_ref().map(|upload| upload.progress.lock());
        let changed = fs::metadata(self.layout.upload_data(blob)).or_else(|_| fs::metadata(&folder));
        if !changed.and_then(|meta| meta.modified()).is_ok_and(|changed| changed < before) {
            return Ok(false);
        }
        if let Some(progress) = &mut progress {
            progress.end.get_or_insert(End::Deleted);
        }
        files::remove_folder(&folder)?;
        Ok(true)
    }
}
