//! Files on their way from clients, block by block, in any order and at once.
//!
//! A file's name is known before its first byte comes, since the client says the digests of its blocks. Each block is checked
//! and written to its place; when the last one is there, the file is a content. A client that comes again is told which
//! blocks are still missing, so a broken upload goes on where it was.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use manifest::content::{BlockDigest, ContentId, block_count, block_digest, digest_of_zeros, whole_block_digest};
use parking_lot::Mutex;

use crate::content::ContentStore;
use crate::error::{Doing, VolumeError};

pub struct Uploads {
    contents: ContentStore,
    /// Locked for a look-up only.
    files: Mutex<HashMap<ContentId, Arc<Upload>>>,
}

struct Upload {
    size: u64,
    blocks: Vec<BlockDigest>,
    path: PathBuf,
    /// Which blocks are there, and how many are not.
    state: Mutex<(Vec<bool>, usize)>,
    asked_at: Mutex<SystemTime>,
}

impl Uploads {
    pub(crate) fn new(contents: ContentStore) -> Self {
        Self { contents, files: Mutex::default() }
    }

    /// Which blocks of a file have yet to come; none when all of it is there.
    pub fn missing(&self, size: u64, blocks: &[BlockDigest]) -> Result<Vec<usize>, VolumeError> {
        let id = ContentId::of(size, blocks);
        if self.contents.has(&id) {
            return Ok(Vec::new());
        }
        let upload = self.begin(&id, size, blocks)?;
        *upload.asked_at.lock() = SystemTime::now();
        let state = upload.state.lock();
        let missing = state.0.iter().enumerate().filter(|(_, is_there)| !**is_there).map(|(index, _)| index).collect();
        let is_complete = state.1 == 0;
        drop(state);
        if is_complete {
            // All zeros: nothing has to be sent.
            self.complete(&id, &upload)?;
        }
        Ok(missing)
    }

    fn begin(&self, id: &ContentId, size: u64, blocks: &[BlockDigest]) -> Result<Arc<Upload>, VolumeError> {
        let mut files = self.files.lock();
        if let Some(upload) = files.get(id) {
            return Ok(upload.clone());
        }
        let path = self.contents.incoming().join(id.as_str());
        let file = File::create(&path).doing("make", &path)?;
        file.set_len(size).doing("size", &path)?;
        let zeros = digest_of_zeros();
        let there: Vec<bool> = blocks.iter().map(|digest| *digest == zeros).collect();
        let missing = there.iter().filter(|is_there| !**is_there).count();
        let upload = Arc::new(Upload {
            size,
            blocks: blocks.to_vec(),
            path,
            state: Mutex::new((there, missing)),
            asked_at: Mutex::new(SystemTime::now()),
        });
        files.insert(id.clone(), upload.clone());
        Ok(upload)
    }

    /// Takes one block, without the zeros at its end or with them.
    pub fn put(&self, id: &ContentId, index: usize, bytes: &[u8]) -> Result<(), VolumeError> {
        let upload = self.files.lock().get(id).cloned();
        let Some(upload) = upload else {
            // Sent again after the last block was there.
            return if self.contents.has(id) { Ok(()) } else { Err(VolumeError::UnknownBlock) };
        };
        let digest = upload.blocks.get(index).ok_or(VolumeError::UnknownBlock)?;
        if block_digest(bytes) != *digest && whole_block_digest(bytes) != *digest {
            return Err(VolumeError::WrongBlock);
        }
        let file = File::options().write(true).open(&upload.path).doing("open", &upload.path)?;
        let wanted = manifest::content::block_length(upload.size, index as u64) as usize;
        let bytes = &bytes[..bytes.len().min(wanted)];
        file.write_all_at(bytes, index as u64 * manifest::content::BLOCK_BYTES).doing("write", &upload.path)?;
        let mut state = upload.state.lock();
        if !state.0[index] {
            state.0[index] = true;
            state.1 -= 1;
        }
        let is_complete = state.1 == 0;
        drop(state);
        if is_complete {
            self.complete(id, &upload)?;
        }
        Ok(())
    }

    fn complete(&self, id: &ContentId, upload: &Upload) -> Result<(), VolumeError> {
        debug_assert_eq!(upload.blocks.len() as u64, block_count(upload.size));
        let mut files = self.files.lock();
        if files.remove(id).is_none() {
            return Ok(());
        }
        // Under the lock: nobody may begin the same file anew while this one is being named. The bytes are written to disk
        // with the layer that refers to them, not here: a reader of the layer finds both or neither.
        self.contents.take(&upload.path, id)
    }

    /// Forgets uploads that nobody has asked about since.
    pub(crate) fn sweep(&self, before: SystemTime) {
        self.files.lock().retain(|_, upload| {
            let is_kept = *upload.asked_at.lock() > before;
            if !is_kept {
                let _ = fs::remove_file(&upload.path);
            }
            is_kept
        });
    }
}
