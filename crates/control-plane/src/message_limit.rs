//! How long a request may be, decided from its first five bytes: a gRPC message says its length before it comes.
//!
//! So a request that is too long costs no memory, and is refused in words of ours. The library's own limit is one for all
//! calls, and as high as the longest of them needs: hundreds of large secrets at once would fill the memory.
//!
//! Only a call's first message is looked at: no call that we serve takes more than one.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tonic::Status;

/// The client puts up to 49 inputs of 2 MiB into one request; its own limit for a message is 100 MiB.
pub const MAX_MESSAGE: usize = 128 << 20;
/// A flag for compression and four bytes of length.
const PREFIX: usize = 5;

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
fn refusal(limit: &Limit, length: u64) -> Option<Status> {
    if length <= limit.bytes as u64 {
        return None;
    }
    Some(Status::invalid_argument(format!("{} {} MiB", limit.says, length.div_ceil(1 << 20))))
}

/// A request's body that ends with a refusal, before anything of it is kept, when its message is too long.
pub struct Measured<B: Body<Data = Bytes> + Send + Unpin + 'static> {
    /// Taken when the request is refused.
    body: Option<B>,
    limit: &'static Limit,
    prefix: [u8; PREFIX],
    read: usize,
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Measured<B> {
    pub fn new(body: B, method: &str) -> Self {
        Self { body: Some(body), limit: limit_of(method), prefix: [0; PREFIX], read: 0 }
    }

    /// Looks at the message's length once enough of it is there.
    fn look(&mut self, data: &[u8]) -> Option<Status> {
        if self.read == PREFIX {
            return None;
        }
        let more = data.len().min(PREFIX - self.read);
        self.prefix[self.read..self.read + more].copy_from_slice(&data[..more]);
        self.read += more;
        if self.read < PREFIX {
            return None;
        }
        let [_, a, b, c, d] = self.prefix;
        refusal(self.limit, u64::from(u32::from_be_bytes([a, b, c, d])))
    }
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Body for Measured<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = match ready!(Pin::new(body).poll_frame(context)) {
            // What the transport says of a broken connection is for the operator; the caller has gone.
            Some(Err(_)) => return Poll::Ready(Some(Err(Status::cancelled("the request broke off").into()))),
            Some(Ok(frame)) => frame,
            None => return Poll::Ready(None),
        };
        let refused = frame.data_ref().and_then(|data| self.look(data));
        let Some(refused) = refused else { return Poll::Ready(Some(Ok(frame))) };
        // The sender is told with the answer that the rest is not wanted.
        self.body = None;
        Poll::Ready(Some(Err(refused.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

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
        Measured::new(Chunks(chunks.into_iter()), method)
    }

    async fn read(body: &mut Measured<Chunks>) -> Result<Vec<u8>, Status> {
        let mut all = Vec::new();
        while let Some(frame) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
            match frame {
                Ok(frame) => all.extend(frame.into_data().unwrap()),
                Err(error) => return Err(*error.downcast().unwrap()),
            }
        }
        Ok(all)
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
}
