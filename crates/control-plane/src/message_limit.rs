//! How long a request may be, decided from its first five bytes: a gRPC message says its length before it comes.
//!
//! So a request that is too long costs no memory, and is refused in words of ours. The library's own limit is one for all
//! calls, and as high as the longest of them needs: hundreds of large secrets at once would fill the memory.
//!
//! Requests of many megabytes are allowed, thousands of them could come at once, and each is collected in memory before it
//! is handled. So a large one first takes its length from what all of them share, waits for others if need be (the
//! transport then stops its sender), and may not fall silent meanwhile. It keeps that until its handler has answered, not
//! only until its body is read: a handler may itself wait, with all of the message in its hands. What a waiting one has
//! sent already stays with the transport and uses up the window that it shares with all calls of its connection, so only
//! so many wait as leave room in that (see `server.rs`). Small ones touch none of this. What they amount to is bounded by
//! the number of calls that a connection may have open, not here.
//!
//! A request is one message: no call that we serve takes more.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};
use tokio::time::{Instant, Sleep, sleep};
use tonic::Status;

/// The client puts up to 49 inputs of 2 MiB into one request; its own limit for a message is 100 MiB.
pub const MAX_MESSAGE: usize = 128 << 20;
/// A flag for compression and four bytes of length.
const PREFIX: usize = 5;
const MIB: u64 = 1 << 20;
/// Requests up to here are small.
const SMALL: u64 = MIB;
/// Large requests that are in memory at once: eight of the longest.
static ROOM: Room = Room::new(1 << 30, MAX_WAITING);
/// Large requests that wait at once. Old clients upload up to 512 files at a time, of up to 4 MiB each: half of those fit
/// into the room.
pub const MAX_WAITING: usize = 256;
/// How long a large request may be silent. It has room that others wait for.
const SILENCE: Duration = Duration::from_secs(60);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

struct Limit {
    bytes: usize,
    /// What is too large, and what to do instead.
    says: &'static str,
}

/// Above what `rpc/secrets.rs` accepts, so that it can say itself what is wrong with one that is a little too large.
static SECRET: Limit =
    Limit { bytes: 1 << 20, says: "a secret holds at most 256 KiB; put large data into a file: this one came with" };
/// Of dicts and queues. Clients have an exception of their own for these, and know it by the words in brackets.
static CONTENTS: Limit = Limit {
    bytes: MAX_MESSAGE,
    says: "a request has at most 128 MiB (status = '413'); put less at once, or keep large data in a volume: this one has",
};
static ANY: Limit = Limit {
    bytes: MAX_MESSAGE,
    says: "a request has at most 128 MiB; pass large data in parts or through a volume: this one has",
};

fn limit_of(method: &str) -> &'static Limit {
    match method {
        "SecretGetOrCreate" | "SecretUpdate" => &SECRET,
        "DictGetOrCreate" | "DictUpdate" | "QueuePut" => &CONTENTS,
        _ => &ANY,
    }
}

/// `length`: what the message says of itself.
fn check(limit: &Limit, length: u64) -> Result<(), Status> {
    match length <= limit.bytes as u64 {
        true => Ok(()),
        false => Err(Status::invalid_argument(format!("{} {} MiB", limit.says, length.div_ceil(MIB)))),
    }
}

/// What large requests share.
struct Room {
    kib: u32,
    free: Semaphore,
    waiting: Semaphore,
}

type Entry = Pin<Box<dyn Future<Output = Result<SemaphorePermit<'static>, AcquireError>> + Send>>;

impl Room {
    const fn new(bytes: u32, max_waiting: usize) -> Self {
        let kib = bytes >> 10;
        Self { kib, free: Semaphore::const_new(kib as usize), waiting: Semaphore::const_new(max_waiting) }
    }

    /// Room for a message, in the order of asking. One that is longer than all there is takes all.
    fn enter(&'static self, length: u64) -> Result<Entry, Status> {
        let kib = length.div_ceil(1 << 10).min(u64::from(self.kib)) as u32;
        if let Ok(room) = self.free.try_acquire_many(kib) {
            return Ok(Box::pin(std::future::ready(Ok(room))));
        }
        let waiting = self.waiting.try_acquire();
        let waiting = waiting.map_err(|_| {
            Status::unavailable("the server receives as many large requests as it can take, and more wait; try again")
        })?;
        Ok(Box::pin(async move {
            let room = self.free.acquire_many(kib).await;
            drop(waiting);
            room
        }))
    }
}

/// What a large request has taken of the room. It goes when the request is refused, and otherwise with the last of those who
/// have this: the body, and whoever handles what was in it.
#[derive(Clone, Default)]
pub struct Hold(Arc<Mutex<Option<SemaphorePermit<'static>>>>);

impl Hold {
    /// Whoever handles the request keeps what was in it elsewhere, where it counts.
    pub fn release(&self) {
        *self.0.lock() = None;
    }
}

/// A request that needs room.
enum Large {
    /// `first`: the frame that said how long it is.
    Waiting {
        first: Bytes,
        entry: Entry,
    },
    Inside {
        silence: Pin<Box<Sleep>>,
    },
}

/// A request's body that ends with a refusal, before anything of it is kept, when its message is too long, and that waits
/// until there is room for it.
pub struct Measured<B: Body<Data = Bytes> + Send + Unpin + 'static> {
    /// Taken when the request is refused.
    body: Option<B>,
    limit: &'static Limit,
    room: &'static Room,
    prefix: [u8; PREFIX],
    read: usize,
    /// Bytes of the message that are still to come, once its length is known.
    left: u64,
    large: Option<Large>,
    hold: Hold,
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Measured<B> {
    /// `hold` is to be kept by the caller until the request is handled.
    pub fn new(body: B, method: &str, hold: Hold) -> Self {
        Self::within(&ROOM, body, method, hold)
    }

    fn within(room: &'static Room, body: B, method: &str, hold: Hold) -> Self {
        let limit = limit_of(method);
        Self { body: Some(body), limit, room, prefix: [0; PREFIX], read: 0, left: 0, large: None, hold }
    }

    /// The message's length, when these bytes complete what says it.
    fn look(&mut self, mut data: &[u8]) -> Result<Option<u64>, Status> {
        let mut length = None;
        if self.read < PREFIX {
            let more = data.len().min(PREFIX - self.read);
            self.prefix[self.read..self.read + more].copy_from_slice(&data[..more]);
            self.read += more;
            if self.read < PREFIX {
                return Ok(None);
            }
            data = &data[more..];
            let [_, a, b, c, d] = self.prefix;
            self.left = u64::from(u32::from_be_bytes([a, b, c, d]));
            check(self.limit, self.left)?;
            length = Some(self.left);
        }
        let left = self.left.checked_sub(data.len() as u64);
        // The library would read on and collect whatever comes.
        self.left = left.ok_or_else(|| Status::invalid_argument("a request is one message, and this one goes on"))?;
        Ok(length)
    }

    /// The sender is told with the answer that the rest is not wanted.
    fn end(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        (self.body, self.large) = (None, None);
        self.hold.release();
        Poll::Ready(Some(Err(status.into())))
    }
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Body for Measured<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        if let Some(Large::Waiting { first, entry }) = &mut this.large {
            let Ok(room) = ready!(entry.as_mut().poll(context)) else {
                return this.end(Status::unavailable("the server is being stopped"));
            };
            let first = std::mem::take(first);
            *this.hold.0.lock() = Some(room);
            this.large = Some(Large::Inside { silence: Box::pin(sleep(SILENCE)) });
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let polled = Pin::new(body).poll_frame(context);
        if let Some(Large::Inside { silence }) = &mut this.large {
            match &polled {
                Poll::Ready(_) => silence.as_mut().reset(Instant::now() + SILENCE),
                Poll::Pending if silence.as_mut().poll(context).is_ready() => {
                    let seconds = SILENCE.as_secs();
                    let text = format!("nothing more of the request came for {seconds} s; send it again");
                    return this.end(Status::unavailable(text));
                }
                Poll::Pending => {}
            }
        }
        let frame = match ready!(polled) {
            // What the transport says of a broken connection is for the operator; the caller has gone.
            Some(Err(_)) => return Poll::Ready(Some(Err(Status::cancelled("the request broke off").into()))),
            Some(Ok(frame)) => frame,
            None => return Poll::Ready(None),
        };
        let Some(data) = frame.data_ref() else { return Poll::Ready(Some(Ok(frame))) };
        match this.look(data) {
            Err(status) => this.end(status),
            Ok(Some(length)) if length > SMALL => {
                let entry = match this.room.enter(length) {
                    Ok(entry) => entry,
                    Err(status) => return this.end(status),
                };
                this.large = Some(Large::Waiting { first: data.clone(), entry });
                self.poll_frame(context)
            }
            Ok(_) => Poll::Ready(Some(Ok(frame))),
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_held_back = matches!(self.large, Some(Large::Waiting { .. }));
        !is_held_back && self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.body, &self.large) {
            // The frame that is held back has left the body.
            (None, _) | (_, Some(Large::Waiting { .. })) => SizeHint::default(),
            (Some(body), _) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt;
    use futures::future::join_all;
    use hyper::client::conn::http2::{SendRequest, handshake};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::sync::mpsc;

    use super::*;

    /// Chunks of a message.
    struct Chunks(std::vec::IntoIter<Bytes>);

    impl Body for Chunks {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Ready(self.0.next().map(|chunk| Ok(Frame::data(chunk))))
        }
    }

    fn sent(method: &str, length: u32, cut_at: usize) -> Measured<Chunks> {
        let mut start = vec![0];
        start.extend(length.to_be_bytes());
        start.extend(b"content");
        let rest = start.split_off(cut_at);
        let chunks = vec![start.into(), rest.into(), Bytes::from_static(b"more"), Bytes::from_static(b"and more")];
        Measured::new(Chunks(chunks.into_iter()), method, Hold::default())
    }

    type Next = Option<Result<Frame<Bytes>, BoxError>>;

    async fn next<B: Body<Data = Bytes> + Send + Unpin>(body: &mut Measured<B>) -> Next {
        poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
    }

    async fn read<B: Body<Data = Bytes> + Send + Unpin>(body: &mut Measured<B>) -> Result<Vec<u8>, Status> {
        let mut all = Vec::new();
        while let Some(frame) = next(body).await {
            match frame {
                Ok(frame) => all.extend(frame.into_data().unwrap()),
                Err(error) => return Err(*error.downcast().unwrap()),
            }
        }
        Ok(all)
    }

    /// What comes of a message when it comes.
    struct Arriving(mpsc::UnboundedReceiver<Bytes>);

    impl Body for Arriving {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            self.0.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
        }
    }

    fn room(mib: u32) -> &'static Room {
        Box::leak(Box::new(Room::new(mib << 20, MAX_WAITING)))
    }

    /// A message of which only the length has come.
    fn begun(room: &'static Room, length: u64) -> (mpsc::UnboundedSender<Bytes>, Measured<Arriving>) {
        begun_with(room, length, Hold::default())
    }

    fn begun_with(room: &'static Room, length: u64, hold: Hold) -> (mpsc::UnboundedSender<Bytes>, Measured<Arriving>) {
        let (chunks, arriving) = mpsc::unbounded_channel();
        chunks.send([&[0], &(length as u32).to_be_bytes()[..]].concat().into()).unwrap();
        (chunks, Measured::within(room, Arriving(arriving), "FunctionMap", hold))
    }

    #[tokio::test]
    async fn a_request_within_its_limit_is_handed_on_unchanged() {
        for cut_at in 0..12 {
            let mut body = sent("SecretGetOrCreate", SECRET.bytes as u32, cut_at);
            let all = read(&mut body).await.unwrap();
            assert!(all.ends_with(b"contentmoreand more") && all.len() == 24, "{all:?}");
        }
    }

    #[tokio::test]
    async fn a_longer_one_is_refused_once_and_none_of_it_is_kept() {
        for cut_at in 0..12 {
            let mut body = sent("SecretGetOrCreate", u32::MAX, cut_at);
            let refused = read(&mut body).await.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().contains("this one came with 4096 MiB"), "{refused}");
            assert_eq!(read(&mut body).await.unwrap(), b"");
        }
    }

    #[tokio::test]
    async fn most_requests_may_be_as_long_as_the_client_makes_them() {
        assert!(read(&mut sent("FunctionMap", 100 << 20, 3)).await.is_ok());
        assert!(read(&mut sent("FunctionMap", (128 << 20) + 1, 3)).await.is_err());
    }

    #[tokio::test]
    async fn a_request_that_goes_on_after_its_message_is_refused() {
        for rest in [&b"x"[..], &[0; 4096][..]] {
            let (chunks, mut body) = begun(&ROOM, 3);
            chunks.send(Bytes::from_static(b"abc")).unwrap();
            assert!(next(&mut body).await.unwrap().is_ok() && next(&mut body).await.unwrap().is_ok());
            chunks.send(rest.into()).unwrap();
            assert_eq!(read(&mut body).await.unwrap_err().code(), tonic::Code::InvalidArgument);
        }
    }

    #[tokio::test]
    async fn large_requests_share_the_room_in_turn_and_small_ones_pass() {
        let (room, inside) = (room(8), std::cell::Cell::new(0));
        let one = async |length: u64| {
            let (chunks, mut body) = begun(room, length);
            chunks.send(vec![7; length as usize].into()).unwrap();
            drop(chunks);
            next(&mut body).await.unwrap().unwrap();
            inside.set(inside.get() + 1);
            let now = inside.get();
            // The others get as far as they can.
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            let (small, mut passing) = begun(room, SMALL);
            small.send(vec![7; SMALL as usize].into()).unwrap();
            drop(small);
            assert_eq!(read(&mut passing).now_or_never().unwrap().unwrap().len() as u64, 5 + SMALL);
            assert_eq!(read(&mut body).await.unwrap(), vec![7; length as usize]);
            inside.set(inside.get() - 1);
            now
        };
        let most = join_all((0..9).map(|_| one(3 * MIB))).await;
        assert_eq!(most.iter().max(), Some(&2), "{most:?}");
        assert_eq!(room.free.available_permits(), 8 << 10);
    }

    #[tokio::test]
    async fn nothing_of_a_large_request_is_read_before_there_is_room() {
        let room = room(8);
        let ((_a, mut first), (_b, mut second)) = (begun(room, 5 * MIB), begun(room, 5 * MIB));
        next(&mut first).await.unwrap().unwrap();
        assert!(next(&mut second).now_or_never().is_none() && !second.is_end_stream());
        drop(first);
        assert_eq!(next(&mut second).await.unwrap().unwrap().into_data().unwrap().len(), PREFIX);
    }

    #[tokio::test]
    async fn a_large_request_keeps_its_room_until_its_handler_has_answered() {
        let (room, handling) = (room(8), Hold::default());
        let (chunks, mut first) = begun_with(room, 5 * MIB, handling.clone());
        chunks.send(vec![7; 5 << 20].into()).unwrap();
        drop(chunks);
        read(&mut first).await.unwrap();
        // The message is decoded, and its handler waits for something.
        drop(first);
        let (_b, mut second) = begun(room, 5 * MIB);
        assert!(next(&mut second).now_or_never().is_none());
        drop(handling);
        next(&mut second).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_refused_request_leaves_its_room_at_once() {
        let (room, handling) = (room(8), Hold::default());
        let (chunks, mut body) = begun_with(room, 5 * MIB, handling.clone());
        chunks.send(vec![7; (5 << 20) + 1].into()).unwrap();
        read(&mut body).await.unwrap_err();
        assert_eq!(room.free.available_permits(), 8 << 10);
    }

    #[tokio::test]
    async fn a_request_larger_than_all_the_room_passes_alone() {
        let room = room(2);
        let ((_a, mut first), (_b, mut second)) = (begun(room, 100 * MIB), begun(room, 2 * MIB));
        next(&mut first).await.unwrap().unwrap();
        assert!(next(&mut second).now_or_never().is_none());
        drop(first);
        next(&mut second).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn more_large_requests_than_may_wait_are_told_to_come_again() {
        let room: &Room = Box::leak(Box::new(Room::new(8 << 20, 1)));
        let ((_a, mut inside), (_b, mut waiting), (_c, mut refused)) =
            (begun(room, 8 * MIB), begun(room, 2 * MIB), begun(room, 2 * MIB));
        next(&mut inside).await.unwrap().unwrap();
        assert!(next(&mut waiting).now_or_never().is_none());
        assert_eq!(read(&mut refused).await.unwrap_err().code(), tonic::Code::Unavailable);
        drop(inside);
        next(&mut waiting).await.unwrap().unwrap();
        // Whoever is inside, or has left, waits no more.
        assert_eq!(room.waiting.available_permits(), 1);
        let (_d, mut leaving) = begun(room, 8 * MIB);
        assert!(next(&mut leaving).now_or_never().is_none());
        drop(leaving);
        assert_eq!(room.waiting.available_permits(), 1);
    }

    #[tokio::test]
    async fn requests_that_wait_do_not_stop_the_others_of_their_connection() {
        let room = room(8);
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
            let mut body = Measured::within(room, request.into_body(), "FunctionMap", Hold::default());
            let read = read(&mut body).await;
            read.map(|all| http::Response::new(axum::body::Body::from(all.len().to_string())))
        });
        let (here, there) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move {
            let served = crate::server::transport().serve_connection(TokioIo::new(there), service).await;
            served.map_err(|error| error.to_string())
        });
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(here)).await.unwrap();
        tokio::spawn(connection);
        let one = async |mut sender: SendRequest<axum::body::Body>| {
            let mut message = vec![0; PREFIX + 4 * MIB as usize];
            message[1..PREFIX].copy_from_slice(&(4 * MIB as u32).to_be_bytes());
            let answer = sender.send_request(http::Request::new(message.into())).await.unwrap();
            let answer = axum::body::to_bytes(axum::body::Body::new(answer.into_body()), 100).await.unwrap();
            assert_eq!(answer, (PREFIX + 4 * MIB as usize).to_string());
        };
        join_all((0..24).map(|_| one(sender.clone()))).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_request_that_falls_silent_is_ended_and_leaves_its_room() {
        let room = room(8);
        let (chunks, mut body) = begun(room, 5 * MIB);
        let silent = read(&mut body).await.unwrap_err();
        assert_eq!(silent.code(), tonic::Code::Unavailable, "{silent}");
        assert_eq!(room.free.available_permits(), 8 << 10);
        assert!(chunks.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_request_is_waited_for() {
        for length in [SMALL, 5 * MIB] {
            let (chunks, mut body) = begun(room(8), length);
            let slowly = async move {
                for _ in 0..10 {
                    sleep(SILENCE * 9 / 10).await;
                    chunks.send(Bytes::from_static(b"ten bytes.")).unwrap();
                }
            };
            let (all, ()) = tokio::join!(read(&mut body), slowly);
            assert_eq!(all.unwrap().len(), PREFIX + 100);
        }
    }
}
