//! How much of large answers is in memory at once.
//!
//! An answer is in memory from when it is read until its caller has taken it, and callers are as slow as they like: a
//! thousand gets of a dict's entry of 100 MiB, or calls of a container that takes nothing of their answers, would fill the
//! memory. So whoever reads something large first takes its length from what all such answers share, in the order of asking,
//! and sends it along with the answer; it goes when the answer is taken, or when its caller has taken nothing for a while
//! and others wait. Small answers touch none of this: what they amount to is bounded by the number of calls that a
//! connection may have open. Nor does what a get takes of a queue, which could not wait without a claim on it.
//!
//! What is in the transport is taken already. It asks for more whenever it may send a byte, so it gets small pieces, each in
//! memory of its own: a slice would keep the whole answer for as long as the transport has it.
//!
//! While its message is made an answer is in memory twice. That is not counted: no more of them are made than there are
//! threads.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tonic::Response;

/// Answers up to here are small.
pub const SMALL: usize = 1 << 20;
/// An answer of up to here does not wait behind larger ones, of which one takes minutes on a slow line.
const MIDDLING: usize = 16 << 20;
static MIDDLING_ROOM: Room = Room::new(256 << 20);
/// Larger answers that are in memory at once: ten of the longest.
static ROOM: Room = Room::new(1 << 30);
const PIECE: usize = 64 << 10;
/// How long a caller may take nothing of a large answer while others wait for its room.
const SILENCE: Duration = Duration::from_secs(60);
/// When nobody waited, it is soon looked again.
const LOOKS_AGAIN: Duration = Duration::from_secs(5);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug)]
struct Room {
    kib: u32,
    free: Semaphore,
    waiting: AtomicUsize,
}

/// One who waits for room.
struct Waiting(&'static AtomicUsize);

impl Waiting {
    fn among(waiting: &'static AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a large answer has taken of the room.
#[derive(Debug, Clone)]
pub struct AnswerRoom {
    room: &'static Room,
    _held: Arc<SemaphorePermit<'static>>,
}

impl Room {
    const fn new(bytes: u32) -> Self {
        let kib = bytes >> 10;
        Self { kib, free: Semaphore::const_new(kib as usize), waiting: AtomicUsize::new(0) }
    }

    /// One that is larger than all there is takes all.
    async fn enter(&'static self, bytes: usize) -> Option<AnswerRoom> {
        if bytes <= SMALL {
            return None;
        }
        let kib = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX).min(self.kib);
        let _waiting = Waiting::among(&self.waiting);
        // Never closed.
        self.free.acquire_many(kib).await.ok().map(|held| AnswerRoom { room: self, _held: Arc::new(held) })
    }
}

/// Room for an answer of so many bytes, which is to be read then; waits for it. A small one needs none.
pub async fn room_for(bytes: usize) -> Option<AnswerRoom> {
    if bytes <= MIDDLING { MIDDLING_ROOM.enter(bytes).await } else { ROOM.enter(bytes).await }
}

/// An answer that keeps its room until it is taken.
pub fn respond<T>(message: T, room: Option<AnswerRoom>) -> Response<T> {
    let mut response = Response::new(message);
    if let Some(room) = room {
        response.extensions_mut().insert(room);
    }
    response
}

/// A large answer's body on its way to its caller.
pub struct Paced<B> {
    /// Empty once the caller has lost it.
    answer: Arc<Mutex<Option<Answer<B>>>>,
    watcher: AbortHandle,
}

struct Answer<B> {
    body: B,
    /// Of the last frame.
    rest: Bytes,
    taken: Instant,
    room: AnswerRoom,
}

impl<B: Send + 'static> Paced<B> {
    pub fn new(body: B, room: AnswerRoom) -> Self {
        let answer = Answer { body, rest: Bytes::new(), taken: Instant::now(), room };
        let answer = Arc::new(Mutex::new(Some(answer)));
        let watched = Arc::downgrade(&answer);
        let watcher = tokio::spawn(async move {
            let mut next = Some(Instant::now() + SILENCE);
            while let Some(at) = next {
                sleep_until(at).await;
                next = look_after(&watched);
            }
        });
        Self { answer, watcher: watcher.abort_handle() }
    }
}

/// Lets an answer go of which nothing was taken for too long, if others wait. When to look again, if there is anything left
/// to look after.
fn look_after<B>(answer: &Weak<Mutex<Option<Answer<B>>>>) -> Option<Instant> {
    let answer = answer.upgrade()?;
    let mut answer = answer.lock();
    let now = Instant::now();
    let held = answer.as_ref()?;
    if held.taken + SILENCE > now {
        return Some(held.taken + SILENCE);
    }
    if held.room.room.waiting.load(Ordering::Relaxed) == 0 {
        return Some(now + LOOKS_AGAIN);
    }
    *answer = None;
    None
}

impl<B> Drop for Paced<B> {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for Paced<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut answer = self.answer.lock();
        let Some(answer) = &mut *answer else {
            let text = format!("nothing of the answer was taken for {} s", SILENCE.as_secs());
            return Poll::Ready(Some(Err(text.into())));
        };
        answer.taken = Instant::now();
        while answer.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut answer.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            };
            match frame.into_data() {
                Ok(data) => answer.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let length = answer.rest.len().min(PIECE);
        let piece = Bytes::copy_from_slice(&answer.rest.split_to(length));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt;
    use http::HeaderMap;
    use hyper::client::conn::http2;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::time::sleep;

    use super::*;

    /// Frames of a message, and then trailers.
    struct Frames(Vec<Bytes>, bool);

    impl Body for Frames {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            if !self.0.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(self.0.remove(0)))));
            }
            let is_over = std::mem::replace(&mut self.1, true);
            Poll::Ready((!is_over).then(|| Ok(Frame::trailers(HeaderMap::new()))))
        }
    }

    fn room(mib: u32) -> &'static Room {
        Box::leak(Box::new(Room::new(mib << 20)))
    }

    async fn paced(room: &'static Room, frames: Vec<Bytes>) -> Paced<Frames> {
        let length = frames.iter().map(Bytes::len).sum();
        Paced::new(Frames(frames, false), room.enter(length).await.unwrap())
    }

    async fn next(body: &mut Paced<Frames>) -> Option<Result<Frame<Bytes>, BoxError>> {
        poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
    }

    #[tokio::test]
    async fn an_answer_is_taken_in_pieces_that_do_not_keep_it_and_leaves_its_room() {
        let room = room(8);
        let all: Vec<u8> = (0..3 << 20).map(|at: u32| (at % 251) as u8).collect();
        let message = Bytes::from(all.clone());
        let frames = vec![message.slice(..100_000), Bytes::new(), message.slice(100_000..)];
        let mut body = paced(room, frames).await;
        let mut taken = Vec::new();
        while let Some(frame) = next(&mut body).await {
            match frame.unwrap().into_data() {
                Ok(data) => taken.push(data),
                Err(frame) => assert!(frame.is_trailers()),
            }
        }
        assert!(taken.iter().all(|piece| piece.len() <= PIECE));
        assert!(taken.concat() == all);
        assert_eq!(room.free.available_permits(), 5 << 10);
        drop(body);
        assert!(message.is_unique(), "a piece keeps all of the answer");
        assert_eq!(room.free.available_permits(), 8 << 10);
    }

    #[tokio::test]
    async fn large_answers_wait_in_turn_and_small_ones_need_no_room() {
        let room = room(8);
        let first = room.enter(5 << 20).await;
        let (mut second, mut third) = (Box::pin(room.enter(50 << 20)), Box::pin(room.enter(2 << 20)));
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        assert!(room.enter(SMALL).now_or_never().unwrap().is_none());
        drop(first);
        let second = second.await;
        assert!((&mut third).now_or_never().is_none(), "one that is larger than all the room is alone in it");
        drop(second);
        assert!(third.await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_takes_nothing_loses_its_answer() {
        let room = room(8);
        let message = Bytes::from(vec![7; 2 << 20]);
        let mut body = paced(room, vec![message.clone()]).await;
        next(&mut body).await.unwrap().unwrap();
        sleep(SILENCE * 2).await;
        assert_eq!(room.free.available_permits(), 6 << 10, "nobody waits for it");
        drop(room.enter(8 << 20).await);
        assert_eq!(room.free.available_permits(), 8 << 10);
        assert!(message.is_unique());
        let lost = next(&mut body).await.unwrap().unwrap_err();
        assert!(lost.to_string().contains("nothing of the answer was taken"), "{lost}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_is_slow_is_waited_for() {
        let mut body = paced(room(8), vec![vec![7; 2 << 20].into()]).await;
        for _ in 0..(2 << 20) / PIECE {
            sleep(SILENCE * 9 / 10).await;
            assert_eq!(next(&mut body).await.unwrap().unwrap().into_data().unwrap().len(), PIECE);
        }
        assert!(next(&mut body).await.unwrap().unwrap().is_trailers());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_has_of_an_answer_what_its_caller_takes() {
        let room = room(8);
        let message = Bytes::from(vec![7; 2 << 20]);
        let sent = message.clone();
        let service = hyper::service::service_fn(move |_| {
            let frames = vec![sent.clone()];
            async move { Ok::<_, std::convert::Infallible>(http::Response::new(paced(room, frames).await)) }
        });
        let (here, there) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move {
            let served = crate::server::transport().serve_connection(TokioIo::new(there), service).await;
            served.map_err(|error| error.to_string())
        });
        let mut client = http2::Builder::new(TokioExecutor::new());
        client.initial_stream_window_size(PIECE as u32);
        let (mut sender, connection) = client.handshake(TokioIo::new(here)).await.unwrap();
        tokio::spawn(connection);
        let mut ask = async || sender.send_request(http::Request::new(axum::body::Body::empty())).await.unwrap();
        let (taken, _untaken) = (ask().await, ask().await);
        assert_eq!(room.free.available_permits(), 4 << 10);
        let taken = axum::body::to_bytes(axum::body::Body::new(taken.into_body()), usize::MAX).await.unwrap();
        assert!(taken == message);
        sleep(SILENCE / 2).await;
        assert_eq!(room.free.available_permits(), 6 << 10);
        sleep(SILENCE).await;
        drop(room.enter(8 << 20).await);
        assert_eq!(room.free.available_permits(), 8 << 10);
    }
}
