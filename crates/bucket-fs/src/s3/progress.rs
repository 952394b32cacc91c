//! What moves: a request may take as long as its bytes do, and no longer without them.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

/// What is handed to the connection at once.
const PIECE: usize = 64 << 10;

/// Of one try of a request.
pub struct Progress {
    moved_at: Mutex<Instant>,
    of_all: Moves,
}

/// Of all requests of a mount, for whoever waits for them.
#[derive(Clone, Default)]
pub struct Moves {
    /// Pieces that went to the store.
    pub sent: Arc<AtomicU64>,
    /// Those, and whatever came from it.
    pub any: Arc<AtomicU64>,
}

impl Progress {
    pub fn new(of_all: Moves) -> Self {
        Self { moved_at: Mutex::new(Instant::now()), of_all }
    }

    pub fn note(&self) {
        *self.moved_at.lock() = Instant::now();
        self.of_all.any.fetch_add(1, Ordering::Relaxed);
    }

    /// What comes of `work`; nothing when it is not done and nothing has moved for `patience`.
    pub async fn watch<T>(&self, patience: Duration, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        let mut until = Instant::now() + patience;
        loop {
            if let Ok(done) = timeout_at(until, &mut work).await {
                return Some(done);
            }
            let now_until = *self.moved_at.lock() + patience;
            if now_until <= until {
                return None;
            }
            until = now_until;
        }
    }
}

/// A body that says when a piece of it is on its way.
pub struct Sending {
    left: Bytes,
    progress: Arc<Progress>,
}

impl Sending {
    pub fn new(body: Bytes, progress: Arc<Progress>) -> Self {
        Self { left: body, progress }
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        self.progress.note();
        self.progress.of_all.sent.fetch_add(1, Ordering::Relaxed);
        let piece = self.left.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    /// Exact: stores want to know the length before.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn work_may_last_while_something_moves() {
        let progress = Progress::new(Moves::default());
        let moving = async {
            for _ in 0..100 {
                tokio::time::sleep(SECOND).await;
                progress.note();
            }
        };
        assert!(progress.watch(2 * SECOND, moving).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn work_ends_after_its_patience_without_a_move() {
        let (progress, begun) = (Progress::new(Moves::default()), Instant::now());
        let stops = async {
            tokio::time::sleep(SECOND).await;
            progress.note();
            std::future::pending::<()>().await;
        };
        assert!(progress.watch(10 * SECOND, stops).await.is_none());
        assert_eq!(begun.elapsed().as_secs(), 11);
    }

    #[tokio::test]
    async fn a_body_goes_whole_and_its_pieces_are_counted() {
        let (moves, whole) = (Moves::default(), Bytes::from(vec![7; 2 * PIECE + 1]));
        let mut body = Box::pin(Sending::new(whole.clone(), Arc::new(Progress::new(moves.clone()))));
        assert_eq!(body.size_hint().exact(), Some(whole.len() as u64));
        let mut gone = Vec::new();
        while let Some(Ok(frame)) = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await {
            gone.extend(frame.into_data().unwrap());
        }
        let counted = [&moves.sent, &moves.any].map(|moves| moves.load(Ordering::Relaxed));
        assert_eq!((gone, counted), (whole.to_vec(), [3, 3]));
        assert!(body.is_end_stream());
    }
}
