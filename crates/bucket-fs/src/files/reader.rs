//! A file opened for reading: one content of an object, by its etag, in pieces.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::window::{Plan, Window};
use crate::s3::{S3, S3Error};

/// Memory is counted in this unit.
const UNIT: u64 = 64 << 10;

/// Reads that are fetched by themselves at once, of all files of a mount; the kernel asks for a megabyte at most.
const ALONE: usize = 16;

/// The memory of a mount for what is read.
pub struct Memory {
    /// For pieces, in units.
    pieces: Arc<Semaphore>,
    alone: Semaphore,
}

impl Memory {
    pub fn new(bytes: u64) -> Self {
        Self { pieces: Arc::new(Semaphore::new((bytes / UNIT) as usize)), alone: Semaphore::new(ALONE) }
    }
}

pub struct Reader {
    s3: Arc<S3>,
    key: String,
    etag: String,
    pub size: u64,
    memory: Arc<Memory>,
    /// Locked for a few operations, never across an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    window: Window,
    pieces: VecDeque<Piece>,
}

type Fetched = Result<Bytes, S3Error>;

#[derive(Clone)]
struct Piece {
    range: Range<u64>,
    bytes: Shared<BoxFuture<'static, Fetched>>,
    /// Given back when nobody needs the piece any more.
    _memory: Arc<OwnedSemaphorePermit>,
}

impl Reader {
    pub fn new(s3: Arc<S3>, key: String, etag: String, size: u64, memory: Arc<Memory>) -> Self {
        Self { s3, key, etag, size, memory, state: Mutex::default() }
    }

    /// Of the same file.
    pub fn is_other_content(&self, other: &Self) -> bool {
        self.key == other.key && self.etag != other.etag
    }

    /// Bytes from `offset` on: `size`, or fewer at the end.
    pub async fn read(&self, offset: u64, size: u32) -> Result<Bytes, S3Error> {
        let read = offset..(offset + u64::from(size)).min(self.size);
        if read.is_empty() {
            return Ok(Bytes::new());
        }
        let Some(pieces) = self.pieces(&read) else {
            let _alone = self.memory.alone.acquire().await;
            return self.s3.get(&self.key, read, &self.etag).await;
        };
        let mut whole = BytesMut::new();
        for piece in &pieces {
            let bytes = match piece.bytes.clone().await {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.give_up(piece.range.start);
                    return Err(error);
                }
            };
            let part = read.start.max(piece.range.start)..read.end.min(piece.range.end);
            let part = bytes.slice((part.start - piece.range.start) as usize..(part.end - piece.range.start) as usize);
            if pieces.len() == 1 {
                return Ok(part);
            }
            whole.extend_from_slice(&part);
        }
        Ok(whole.freeze())
    }

    /// Those that cover the read, fetching what is missing; none when it has to be fetched by itself.
    fn pieces(&self, read: &Range<u64>) -> Option<Vec<Piece>> {
        let mut state = self.state.lock();
        let Plan::Window { fetch } = state.window.on_read(read.clone(), self.size) else { return None };
        let start = state.window.start();
        // After a jump, what was there before is passed, or lies behind what is fetched now.
        let first_new = fetch.first().map_or(u64::MAX, |range| range.start);
        state.pieces.retain(|piece| piece.range.end > start && piece.range.end <= first_new);
        for range in fetch {
            let at = range.start;
            match self.fetch(range) {
                Some(piece) => state.pieces.push_back(piece),
                None => {
                    state.window.cut(at);
                    break;
                }
            }
        }
        let covering: Vec<Piece> =
            state.pieces.iter().filter(|p| p.range.start < read.end && p.range.end > read.start).cloned().collect();
        // Without memory for pieces, the read still gets what it asked for.
        covering
            .last()
            .is_some_and(|last| last.range.end >= read.end && covering[0].range.start <= read.start)
            .then_some(covering)
    }

    /// None when the mount's memory is used up.
    fn fetch(&self, range: Range<u64>) -> Option<Piece> {
        let units = u32::try_from((range.end - range.start).div_ceil(UNIT)).unwrap_or(u32::MAX);
        let memory = Arc::new(self.memory.pieces.clone().try_acquire_many_owned(units).ok()?);
        let (s3, key, etag, wanted) = (self.s3.clone(), self.key.clone(), self.etag.clone(), range.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(async move { s3.get(&key, wanted, &etag).await }));
        let stopped = |_| S3Error::Unreachable("reading was stopped".to_owned());
        let bytes = async move { task.await.unwrap_or_else(|error| Err(stopped(error))) };
        Some(Piece { range, bytes: bytes.boxed().shared(), _memory: memory })
    }

    /// The next read tries anew.
    fn give_up(&self, at: u64) {
        let mut state = self.state.lock();
        state.window.cut(at);
        state.pieces.retain(|piece| piece.range.start < at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Store;

    #[tokio::test]
    async fn without_memory_few_reads_are_fetched_at_once_and_all_get_what_they_asked_for() {
        let store = Store::start().await;
        store.put("f", &[7; 1000]);
        let (s3, memory) = (Arc::new(store.s3()), Arc::new(Memory::new(0)));
        let new = |_| Reader::new(s3.clone(), "f".to_owned(), String::new(), 1000, memory.clone());
        let readers: Vec<Reader> = (0..2 * ALONE).map(new).collect();
        let mut reads: Vec<_> = readers.iter().map(|reader| Box::pin(reader.read(0, 1000))).collect();
        for read in &mut reads {
            assert!(futures::poll!(read).is_pending());
        }
        assert_eq!(memory.alone.available_permits(), 0);
        for read in futures::future::join_all(reads).await {
            assert_eq!(read.unwrap(), vec![7; 1000]);
        }
    }
}
