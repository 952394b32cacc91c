//! Files on their way from clients, block by block, in any order and at once.
//!
//! A file's name is known before its first byte comes, since the client says the digests of its blocks. Each block is checked
//! and written to its place; when the last one is there, the file is a content. A client that comes again is told which
//! blocks are still missing, so a broken upload goes on where it was.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use manifest::content::{BLOCK_BYTES, BlockDigest, BlockHasher, ContentId, block_count, block_length, digest_of_zeros};
use manifest::keeping::{Unused, stays};
use manifest::merging::Need;
use manifest::waiting::Waiting;
use parking_lot::Mutex;
use rustix::fs::FallocateFlags;

use crate::content::ContentStore;
use crate::error::{Doing, VolumeError};
use crate::layer::MAX_FILE_BYTES;

pub struct Uploads {
    contents: ContentStore,
    /// Locked for a look-up only.
    files: Mutex<HashMap<ContentId, Arc<Upload>>>,
    /// Files of which clients know that they are here whole: each may still be sending others before it puts all of them
    /// into a volume. Locked for a look-up only.
    awaited: Mutex<HashMap<ContentId, Waiting<u64>>>,
}

/// A client that asks which of its files are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// Of what it puts where: equal whenever it asks for the same.
    pub key: u64,
    /// It has asked for this file before.
    pub again: bool,
}

impl Asker {
    fn note(self, waiting: &mut Waiting<u64>, now: SystemTime) {
        if self.again { waiting.renew(self.key, now) } else { waiting.add(self.key, now) }
    }
}

struct Upload {
    size: u64,
    blocks: Vec<BlockDigest>,
    path: PathBuf,
    /// Held for each write, so that nothing is written into a block that is there.
    state: Mutex<State>,
    /// When a client of it was last heard of.
    asked_at: Mutex<SystemTime>,
    /// Clients that were told what is missing of it. Another one's blocks may make it whole.
    waiting: Mutex<Waiting<u64>>,
}

struct State {
    is_there: Vec<bool>,
    /// How many are not.
    missing: usize,
    /// Attempts at each block; only the newest may write.
    attempts: Vec<u64>,
}

/// One attempt at one block.
pub struct BlockWriter {
    upload: Arc<Upload>,
    id: ContentId,
    index: usize,
    attempt: u64,
    file: File,
    at: u64,
    hasher: BlockHasher,
}

impl Uploads {
    pub(crate) fn new(contents: ContentStore) -> Self {
        Self { contents, files: Mutex::default(), awaited: Mutex::default() }
    }

    /// Which blocks of a file have yet to come; none when all of it is there. It stays until [`Uploads::were_used`] is called
    /// for this client, or nothing was heard of it for long.
    pub fn missing(&self, size: u64, blocks: &[BlockDigest], asker: Asker) -> Result<Vec<usize>, VolumeError> {
        let id = ContentId::of(size, blocks);
        if size > MAX_FILE_BYTES {
            return Err(VolumeError::TooLarge(id.as_str().into()));
        }
        let note = || asker.note(self.awaited.lock().entry(id.clone()).or_default(), SystemTime::now());
        if self.contents.has_noting(&id, note) {
            return Ok(Vec::new());
        }
        let upload = self.begin(&id, size, blocks, asker)?;
        let state = upload.state.lock();
        let is_missing = |(index, is_there): (usize, &bool)| (!is_there).then_some(index);
        let missing = state.is_there.iter().enumerate().filter_map(is_missing).collect();
        let is_complete = state.missing == 0;
        drop(state);
        if is_complete {
            // All zeros: nothing has to be sent.
            self.complete(&id, &upload)?;
        }
        Ok(missing)
    }

    fn begin(
        &self,
        id: &ContentId,
        size: u64,
        blocks: &[BlockDigest],
        asker: Asker,
    ) -> Result<Arc<Upload>, VolumeError> {
        let mut files = self.files.lock();
        let now = SystemTime::now();
        if let Some(upload) = files.get(id) {
            *upload.asked_at.lock() = now;
            asker.note(&mut upload.waiting.lock(), now);
            return Ok(upload.clone());
        }
        let path = self.contents.incoming().join(id.as_str());
        let file = File::create(&path).doing("make", &path)?;
        file.set_len(size).doing("size", &path)?;
        let zeros = digest_of_zeros();
        let is_there: Vec<bool> = blocks.iter().map(|digest| *digest == zeros).collect();
        let missing = is_there.iter().filter(|is_there| !**is_there).count();
        let attempts = vec![0; blocks.len()];
        let mut waiting = Waiting::default();
        asker.note(&mut waiting, now);
        let upload = Arc::new(Upload {
            size,
            blocks: blocks.to_vec(),
            path,
            state: Mutex::new(State { is_there, missing, attempts }),
            asked_at: Mutex::new(now),
            waiting: Mutex::new(waiting),
        });
        files.insert(id.clone(), upload.clone());
        Ok(upload)
    }

    /// Begins to take one block, with the zeros at its end or without them. `None` when it is there already: a client
    /// that did not get its answer sends it again.
    pub fn begin_block(&self, id: &ContentId, index: usize) -> Result<Option<BlockWriter>, VolumeError> {
        let upload = self.files.lock().get(id).cloned();
        let Some(upload) = upload else {
            return if self.contents.has(id) { Ok(None) } else { Err(VolumeError::UnknownBlock) };
        };
        *upload.asked_at.lock() = SystemTime::now();
        let mut state = upload.state.lock();
        if *state.is_there.get(index).ok_or(VolumeError::UnknownBlock)? {
            let is_complete = state.missing == 0;
            drop(state);
            if is_complete {
                // The disk has refused its name.
                self.complete(id, &upload)?;
            }
            return Ok(None);
        }
        state.attempts[index] += 1;
        let attempt = state.attempts[index];
        drop(state);
        let file = File::options().write(true).open(&upload.path).doing("open", &upload.path)?;
        let id = id.clone();
        Ok(Some(BlockWriter { upload, id, index, attempt, file, at: 0, hasher: BlockHasher::default() }))
    }

    /// The block counts once its bytes are seen to be those that were announced.
    pub fn finish_block(&self, writer: BlockWriter) -> Result<(), VolumeError> {
        let BlockWriter { upload, id, index, attempt, file, at, hasher } = writer;
        if !hasher.is(&upload.blocks[index]) {
            return Err(VolumeError::WrongBlock);
        }
        let mut state = upload.state.lock();
        if state.attempts[index] != attempt {
            return Err(VolumeError::WrongBlock);
        }
        let zeros = block_length(upload.size, index as u64) - at;
        if attempt > 1 && zeros > 0 {
            // An attempt that failed may have written here.
            let holes = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let start = index as u64 * BLOCK_BYTES + at;
            rustix::fs::fallocate(&file, holes, start, zeros).doing("clear", &upload.path)?;
        }
        if !state.is_there[index] {
            state.is_there[index] = true;
            state.missing -= 1;
        }
        let is_complete = state.missing == 0;
        drop(state);
        if is_complete {
            self.complete(&id, &upload)?;
        }
        Ok(())
    }

    fn complete(&self, id: &ContentId, upload: &Arc<Upload>) -> Result<(), VolumeError> {
        debug_assert_eq!(upload.blocks.len() as u64, block_count(upload.size));
        let file = match File::open(&upload.path) {
            // A block that came twice: the other one has named the file.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            opened => opened.doing("open", &upload.path)?,
        };
        // What has its name is taken for whole, also after the power has failed.
        if let Err(error) = file.sync_data() {
            // A second attempt would succeed without what this one has lost.
            self.give_up(id, upload);
            return Err(error).doing("write", &upload.path);
        }
        // Held until it has its name: nobody may begin the same file anew meanwhile.
        let mut files = self.files.lock();
        if !is_of(&files, id, upload) {
            return Ok(());
        }
        let come = || {
            let waiting = std::mem::take(&mut *upload.waiting.lock());
            self.awaited.lock().entry(id.clone()).or_default().take_in(waiting, SystemTime::now());
        };
        self.contents.take(&upload.path, id, come)?;
        // Not before: what could not be named is named when it is asked for again.
        files.remove(id);
        Ok(())
    }

    fn give_up(&self, id: &ContentId, upload: &Arc<Upload>) {
        let mut files = self.files.lock();
        if is_of(&files, id, upload) {
            files.remove(id);
            let _ = fs::remove_file(&upload.path);
        }
    }

    /// A client has put these into a volume: they stay as long as a layer refers to them, or another client waits for them.
    pub fn were_used(&self, key: u64, contents: impl IntoIterator<Item = ContentId>) {
        let contents: HashSet<ContentId> = contents.into_iter().collect();
        let mut awaited = self.awaited.lock();
        for id in &contents {
            if let Some(waiting) = awaited.get_mut(id) {
                waiting.remove(&key);
                if waiting.is_empty() {
                    awaited.remove(id);
                }
            }
        }
        drop(awaited);
        self.contents.loose().note(contents);
    }

    /// When a client was last told that this file is here, that has not put it anywhere yet.
    pub(crate) fn awaited_since(&self, content: &ContentId) -> Option<SystemTime> {
        self.awaited.lock().get(content)?.last_told()
    }

    /// Forgets uploads that nobody has sent anything of in a long time.
    pub(crate) fn sweep(&self, now: SystemTime, need: Need) {
        let is_kept = |since: SystemTime| {
            let awaited = Some(now.duration_since(since).unwrap_or_default());
            stays(&Unused { awaited, ..Unused::default() }, need)
        };
        let mut given_up = Vec::new();
        self.awaited.lock().retain(|id, waiting| {
            waiting.retain(is_kept);
            if waiting.is_empty() {
                given_up.push(id.clone());
            }
            !waiting.is_empty()
        });
        self.contents.loose().put_back(given_up);
        self.files.lock().retain(|_, upload| {
            let is_kept = is_kept(*upload.asked_at.lock());
            if !is_kept {
                let _ = fs::remove_file(&upload.path);
            }
            is_kept
        });
    }
}

/// False when it was given up, and somebody has begun the same file anew.
fn is_of(files: &HashMap<ContentId, Arc<Upload>>, id: &ContentId, upload: &Arc<Upload>) -> bool {
    files.get(id).is_some_and(|found| Arc::ptr_eq(found, upload))
}

impl BlockWriter {
    /// # Errors
    /// [`VolumeError::WrongBlock`] also when another attempt at the same block has begun since.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), VolumeError> {
        let end = self.at + piece.len() as u64;
        if end > block_length(self.upload.size, self.index as u64) {
            return Err(VolumeError::WrongBlock);
        }
        self.hasher.update(piece);
        let state = self.upload.state.lock();
        if state.attempts[self.index] != self.attempt || state.is_there[self.index] {
            return Err(VolumeError::WrongBlock);
        }
        let place = self.index as u64 * BLOCK_BYTES + self.at;
        self.file.write_all_at(piece, place).doing("write", &self.upload.path)?;
        self.at = end;
        Ok(())
    }
}
