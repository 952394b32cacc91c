//! Chunks that generators yield, kept per call until it is forgotten.

use std::sync::Arc;

use client_protocol::wire::DataChunk;
use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use types::ids::FunctionCallId;

/// Bytes of chunks that one call may hold in memory. The client moves larger items to blobs by itself, so this is
/// reached by hundreds of items near its inline limit of 2 MiB.
const MAX_BYTES: usize = 1 << 30;

#[derive(Default)]
pub struct Generators {
    by_call: DashMap<FunctionCallId, Arc<Chunks>>,
}

#[derive(Default)]
pub struct Chunks {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Default)]
struct State {
    /// Index 1 is at position 0.
    chunks: Vec<DataChunk>,
    bytes: usize,
    /// Chunks that a reader has taken.
    taken: usize,
    /// The call is forgotten: readers end.
    gone: bool,
}

/// Why chunks were not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChunkError {
    #[error("the generator yielded more than {} MiB that nobody has read; read its items as they come, or yield larger ones", MAX_BYTES >> 20)]
    TooMuch,
    #[error("the generator skipped an index: {got} came where {expected} was due")]
    Gap { expected: u64, got: u64 },
}

impl Generators {
    pub fn of(&self, call: &FunctionCallId) -> Arc<Chunks> {
        self.by_call.entry(call.clone()).or_default().clone()
    }

    /// The chunks of a call that has yielded any.
    pub fn find(&self, call: &FunctionCallId) -> Option<Arc<Chunks>> {
        self.by_call.get(call).map(|c| c.clone())
    }

    pub fn forget(&self, call: &FunctionCallId) {
        if let Some((_, chunks)) = self.by_call.remove(call) {
            chunks.state.lock().gone = true;
            chunks.news.notify_waiters();
        }
    }
}

impl Chunks {
    /// Appends chunks; those that came before (a repeated request) are passed over.
    pub fn push(&self, chunks: Vec<DataChunk>) -> Result<(), ChunkError> {
        let mut state = self.state.lock();
        for chunk in chunks {
            let expected = state.chunks.len() as u64 + 1;
            if chunk.index < expected {
                continue;
            }
            if chunk.index > expected {
                return Err(ChunkError::Gap { expected, got: chunk.index });
            }
            let bytes = prost::Message::encoded_len(&chunk);
            if state.bytes + bytes > MAX_BYTES {
                return Err(ChunkError::TooMuch);
            }
            state.bytes += bytes;
            state.chunks.push(chunk);
        }
        drop(state);
        self.news.notify_waiters();
        Ok(())
    }

    /// Waits until a reader has taken every chunk that is there. A generator that fails has yielded them before, and
    /// its caller must see them before the failure.
    pub async fn all_taken(&self) {
        loop {
            let news = self.news.notified();
            {
                let state = self.state.lock();
                if state.taken >= state.chunks.len() || state.gone {
                    return;
                }
            }
            news.await;
        }
    }

    /// Waits for chunks after `index`; empty when the call is forgotten.
    pub async fn after(&self, index: u64, limit: usize) -> Vec<DataChunk> {
        loop {
            let news = self.news.notified();
            {
                let mut state = self.state.lock();
                let from = (index as usize).min(state.chunks.len());
                let page: Vec<DataChunk> = state.chunks[from..].iter().take(limit).cloned().collect();
                if !page.is_empty() || state.gone {
                    state.taken = state.taken.max(from + page.len());
                    drop(state);
                    self.news.notify_waiters();
                    return page;
                }
            }
            news.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(index: u64) -> DataChunk {
        DataChunk { index, ..Default::default() }
    }

    #[tokio::test]
    async fn a_repeated_chunk_is_delivered_once() {
        let chunks = Chunks::default();
        chunks.push(vec![chunk(1), chunk(2)]).unwrap();
        chunks.push(vec![chunk(2), chunk(3)]).unwrap();
        let indices: Vec<u64> = chunks.after(0, 10).await.iter().map(|c| c.index).collect();
        assert_eq!(indices, [1, 2, 3]);
    }

    #[test]
    fn a_gap_is_refused() {
        let chunks = Chunks::default();
        assert_eq!(chunks.push(vec![chunk(2)]), Err(ChunkError::Gap { expected: 1, got: 2 }));
    }
}
