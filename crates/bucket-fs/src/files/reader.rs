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

pub struct Reader {
    s3: Arc<S3>,
    key: String,
    etag: String,
    pub size: u64,
    /// The mount's memory for what was fetched, in units.
    memory: Arc<Semaphore>,
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
    pub fn new(s3: Arc<S3>, key: String, etag: String, size: u64, memory: Arc<Semaphore>) -> Self {
        Self { s3, key, etag, size, memory, state: Mutex::default() }
    }

    /// Bytes from `offset` on: `size`, or fewer at the end.
    pub async fn read(&self, offset: u64, size: u32) -> Result<Bytes, S3Error> {
        let read = offset..(offset + u64::from(size)).min(self.size);
        if read.is_empty() {
            return Ok(Bytes::new());
        }
        let Some(pieces) = self.pieces(&read) else {
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
        let memory = Arc::new(self.memory.clone().try_acquire_many_owned(units).ok()?);
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

/// The memory of a mount for what was read.
pub fn memory(bytes: u64) -> Arc<Semaphore> {
    Arc::new(Semaphore::new((bytes / UNIT) as usize))
}
