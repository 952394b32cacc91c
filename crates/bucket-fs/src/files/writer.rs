//! A file being written: from its beginning to its end, sent in parts while it grows.
//!
//! Nothing of it is seen before it is whole, and whoever closes or syncs it is told whether the store has it. A file
//! of less than a part goes in one request.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::closing::Closing;
use super::memory::{Held, Memory};
use crate::s3::{S3, S3Error};

/// Bytes of each part but the last: some stores want them all alike.
pub const PART: usize = 8 << 20;
/// Parts that an object may have.
const MAX_PARTS: usize = 10_000;
/// Parts of one file on their way at once.
const UNDER_WAY: usize = 3;
/// How long a write waits for memory that other files of the mount hold, while none of them gets on: longer than a part
/// may be silent.
pub const MEMORY_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    #[error("{0}")]
    Store(#[from] S3Error),
    #[error("{0}")]
    Refused(String, i32),
}

impl WriteError {
    pub fn errno(&self) -> i32 {
        match self {
            Self::Store(error) => match error.errno() {
                // What was just begun cannot be missing: the bucket or the upload is.
                libc::ENOENT => libc::EIO,
                errno => errno,
            },
            Self::Refused(_, errno) => *errno,
        }
    }
}

pub struct Writer {
    s3: Arc<S3>,
    key: String,
    pub path: String,
    /// The process that opened it. Another one that closes its copy does not finish the file.
    pub opener: u32,
    memory: Arc<Memory>,
    /// Locked for a few operations, never across an await.
    closing: parking_lot::Mutex<Closing>,
    settled: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    size: u64,
    buffer: BytesMut,
    /// For what is in the buffer.
    held: Held,
    upload: Option<Upload>,
    end: Option<Result<Written, WriteError>>,
}

impl State {
    /// What is in the buffer, which is empty afterwards.
    fn part(&mut self) -> Bytes {
        let (buffer, held) = (std::mem::take(&mut self.buffer), std::mem::take(&mut self.held));
        Bytes::from_owner(Part { buffer, _held: held })
    }
}

/// Bytes on their way, with the memory for them. Both go when nobody has any of them any more: a request may be answered
/// before it has gone whole, and then its connection still has the rest.
struct Part {
    buffer: BytesMut,
    _held: Held,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

struct Upload {
    id: String,
    /// In their order, empty until each has arrived.
    etags: Vec<String>,
    under_way: JoinSet<(usize, Result<String, S3Error>)>,
}

/// What the store has now.
#[derive(Debug, Clone)]
pub struct Written {
    pub size: u64,
    pub etag: String,
    pub at: SystemTime,
}

impl Writer {
    pub fn new(s3: Arc<S3>, key: String, path: String, opener: u32, memory: Arc<Memory>) -> Self {
        Self {
            s3,
            key,
            path,
            opener,
            memory,
            closing: parking_lot::Mutex::default(),
            settled: AtomicBool::default(),
            state: Mutex::default(),
        }
    }

    /// The file's size afterwards.
    pub async fn write(self: &Arc<Self>, offset: u64, data: Bytes) -> Result<u64, WriteError> {
        self.closing.lock().on_write();
        let writer = self.clone();
        whole(async move { writer.append(offset, data).await }).await
    }

    async fn append(&self, offset: u64, data: Bytes) -> Result<u64, WriteError> {
        let mut state = self.state.lock().await;
        match &state.end {
            Some(Err(error)) => return Err(error.clone()),
            Some(Ok(_)) => return Err(refused("it was synced or closed, which ends it", libc::EPERM)),
            None => {}
        }
        let result = match may_follow(state.size, offset, data.len() as u64) {
            Ok(()) => self.take(&mut state, data).await,
            Err(refusal) => Err(refusal),
        };
        if let Err(error) = result {
            self.fail(&mut state, error.clone());
            return Err(error);
        }
        Ok(state.size)
    }

    /// A write was not taken: a file that lacks it is not what its program meant, so it is not published.
    pub async fn refuse(self: &Arc<Self>, error: WriteError) {
        let writer = self.clone();
        let failed = async move {
            let mut state = writer.state.lock().await;
            if state.end.is_none() {
                writer.fail(&mut state, error);
            }
            Ok(())
        };
        // Only for its end: there is no other answer.
        let _ = whole(failed).await;
    }

    /// Piece by piece, so that nothing is left over when a part goes, and with it the memory for it.
    async fn take(&self, state: &mut State, mut data: Bytes) -> Result<(), WriteError> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PART - state.buffer.len()));
            if !self.memory.hold(&mut state.held, state.buffer.len() + piece.len()).await {
                return Err(refused("too many files of this mount are being written at once", libc::EIO));
            }
            state.buffer.extend_from_slice(&piece);
            state.size += piece.len() as u64;
            if state.buffer.len() == PART {
                let part = state.part();
                self.send_part(state, part).await?;
            }
        }
        Ok(())
    }

    /// Starts it, waiting for an earlier one when enough are under way.
    async fn send_part(&self, state: &mut State, part: Bytes) -> Result<(), WriteError> {
        if state.upload.is_none() {
            let id = self.s3.begin_upload(&self.key).await?;
            state.upload = Some(Upload { id, etags: Vec::new(), under_way: JoinSet::new() });
        }
        let Some(upload) = &mut state.upload else { return Ok(()) };
        while upload.under_way.len() >= UNDER_WAY {
            upload.one_arrives().await?;
        }
        upload.etags.push(String::new());
        let (s3, key, id, number) = (self.s3.clone(), self.key.clone(), upload.id.clone(), upload.etags.len());
        upload.under_way.spawn(async move { (number, s3.upload_part(&key, &id, number, part).await) });
        Ok(())
    }

    /// Ends the file: what was written is in the store afterwards, or the error says why not. Asked again, it answers
    /// the same.
    pub async fn finish(self: &Arc<Self>) -> Result<Written, WriteError> {
        let writer = self.clone();
        whole(async move { writer.end().await }).await
    }

    async fn end(&self) -> Result<Written, WriteError> {
        let mut state = self.state.lock().await;
        if let Some(end) = &state.end {
            return end.clone();
        }
        match self.complete(&mut state).await {
            Ok(etag) => {
                let written = Written { size: state.size, etag, at: SystemTime::now() };
                state.upload = None;
                state.end = Some(Ok(written.clone()));
                Ok(written)
            }
            Err(error) => {
                self.fail(&mut state, error.clone());
                Err(error)
            }
        }
    }

    async fn complete(&self, state: &mut State) -> Result<String, WriteError> {
        let rest = state.part();
        if state.upload.is_none() {
            return Ok(self.s3.put(&self.key, rest).await?);
        }
        if !rest.is_empty() {
            self.send_part(state, rest).await?;
        }
        let Some(upload) = &mut state.upload else { return Ok(String::new()) };
        while !upload.under_way.is_empty() {
            upload.one_arrives().await?;
        }
        Ok(self.s3.complete_upload(&self.key, &upload.id, &upload.etags).await?)
    }

    fn fail(&self, state: &mut State, error: WriteError) {
        state.end = Some(Err(error));
        state.buffer = BytesMut::new();
        state.held = Held::default();
        if let Some(upload) = state.upload.take() {
            self.abort(upload);
        }
    }

    /// In the background: the store is told that nobody will finish the upload.
    fn abort(&self, upload: Upload) {
        let (s3, key) = (self.s3.clone(), self.key.clone());
        tokio::spawn(async move {
            let Upload { id, mut under_way, .. } = upload;
            under_way.shutdown().await;
            if let Err(error) = s3.abort_upload(&key, &id).await {
                tracing::warn!(key, %error, "parts of an upload that failed stay in the bucket");
            }
        });
    }

    pub fn on_kill(&self) {
        self.closing.lock().on_kill();
    }

    pub fn on_close(&self, process: u32) {
        self.closing.lock().on_close(process == self.opener);
    }

    /// Nobody has it open any more: whether what was written is only a part of what was to be.
    pub fn is_cut_off(&self, over: bool) -> bool {
        self.closing.lock().is_cut_off(over)
    }

    /// True once, for whoever has seen the end first: the mount's picture of the file changes with it.
    pub fn settle(&self) -> bool {
        !self.settled.swap(true, Ordering::Relaxed)
    }

    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    /// Gives the file up, unless it has ended before. The store is told before this returns.
    pub async fn give_up(self: &Arc<Self>, why: &'static str) {
        let writer = self.clone();
        let dropped = async move {
            writer.drop_all(why).await;
            Ok(())
        };
        // Only for its end: there is no other answer.
        let _ = whole(dropped).await;
    }

    async fn drop_all(&self, why: &str) {
        let mut state = self.state.lock().await;
        if state.end.is_some() {
            return;
        }
        state.end = Some(Err(refused(why, libc::EIO)));
        state.buffer = BytesMut::new();
        state.held = Held::default();
        if let Some(mut upload) = state.upload.take() {
            upload.under_way.shutdown().await;
            if let Err(error) = self.s3.abort_upload(&self.key, &upload.id).await {
                tracing::warn!(key = self.key, %error, "parts of an unfinished upload stay in the bucket");
            }
        }
    }

    pub async fn has_content(&self) -> bool {
        self.state.lock().await.size > 0
    }

    /// Whether it was synced, closed or given up, or a write failed. Asked while something of it is under way, it has not:
    /// who asks does not wait for that.
    pub fn has_ended(&self) -> bool {
        self.state.try_lock().is_ok_and(|state| state.end.is_some())
    }
}

impl Upload {
    async fn one_arrives(&mut self) -> Result<(), WriteError> {
        let arrived = self.under_way.join_next().await;
        let (number, sent) = match arrived {
            Some(Ok(part)) => part,
            Some(Err(_)) => return Err(refused("sending a part was stopped", libc::EIO)),
            None => return Ok(()),
        };
        self.etags[number - 1] = sent?;
        Ok(())
    }
}

/// Whether `length` bytes at `offset` may be the next ones of a file of `size` bytes.
fn may_follow(size: u64, offset: u64, length: u64) -> Result<(), WriteError> {
    if offset != size {
        let text = format!("a write at {offset} does not follow the {size} bytes before it, and ends the file");
        return Err(refused(&text, libc::EINVAL));
    }
    if size + length > (PART * MAX_PARTS) as u64 {
        return Err(refused("it is larger than 10,000 parts of 8 MiB", libc::EFBIG));
    }
    Ok(())
}

/// Runs `work` to its end, also when whoever waits for it goes away, as all do when the mount is over: a change of
/// [`State`] that stops in the middle loses bytes that were counted, and a later end would publish the rest.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, WriteError>> + Send + 'static,
) -> Result<T, WriteError> {
    tokio::spawn(work).await.unwrap_or_else(|_| Err(refused("writing was stopped", libc::EIO)))
}

fn refused(text: &str, errno: i32) -> WriteError {
    WriteError::Refused(text.to_owned(), errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Store;

    const MIB: usize = 1 << 20;

    #[test]
    fn a_file_is_written_from_its_beginning_to_its_end_and_no_larger_than_an_object() {
        let largest = (PART * MAX_PARTS) as u64;
        let number = |size, offset, length| may_follow(size, offset, length).err().map(|error| error.errno());
        assert_eq!([number(0, 0, 1), number(10, 10, 1), number(largest - 1, largest - 1, 1)], [None; 3]);
        assert_eq!([number(0, 1, 1), number(10, 3, 1)], [Some(libc::EINVAL); 2]);
        assert_eq!(number(largest, largest, 1), Some(libc::EFBIG));
    }

    #[tokio::test]
    async fn the_memory_of_a_part_is_given_back_with_the_last_of_its_bytes() {
        let memory = Memory::new(MIB, Duration::from_millis(1), Arc::default());
        let [mut turn, mut other] = [Held::default(), Held::default()];
        let mut state = State::default();
        assert!(memory.hold(&mut state.held, MIB).await && memory.hold(&mut turn, MIB).await);
        state.buffer.extend_from_slice(b"part");
        let part = state.part();
        let rest = part.slice(2..);
        drop((part, state));
        assert!(rest == "rt" && !memory.hold(&mut other, MIB).await);
        drop(rest);
        assert!(memory.hold(&mut other, MIB).await);
    }

    #[tokio::test]
    async fn files_that_together_need_more_memory_than_there_is_are_all_written() {
        let store = Store::start().await;
        let (s3, memory) = (Arc::new(store.s3()), Arc::new(Memory::new(16 * MIB, MEMORY_PATIENCE, Arc::default())));
        let new = |key: &str| Arc::new(Writer::new(s3.clone(), key.to_owned(), key.to_owned(), 1, memory.clone()));
        let writers = ["a", "b", "c"].map(new);
        for writer in &writers {
            writer.write(0, vec![1; 5 * MIB].into()).await.unwrap();
        }
        // What is left is too little for any of them to come to a part.
        let rest = writers.clone().map(|writer| async move {
            writer.write(5 * MIB as u64, vec![2; 4 * MIB].into()).await?;
            writer.finish().await
        });
        let ended = futures::future::join_all(rest).await;
        assert!(ended.iter().all(|end| end.as_ref().is_ok_and(|end| end.size == 9 * MIB as u64)), "{ended:?}");
        let whole = [vec![1; 5 * MIB], vec![2; 4 * MIB]].concat();
        assert!(["a", "b", "c"].iter().all(|key| store.get(key).unwrap() == whole));
    }
}
