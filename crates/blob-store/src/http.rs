//! The HTTP face of blobs: what the client's uploads and downloads meet.
//!
//! | request | answer |
//! |---|---|
//! | `PUT /blobs/{id}?…` | all of it at once: 200, `ETag: "<md5>"` |
//! | `PUT /blobs/{id}/{part}?…` | one part: 200, `ETag: "<md5>"` |
//! | `POST /blobs/{id}/complete?…` | 200, a small XML text that holds `<md5 of the md5s>-<n>` |
//! | `GET /blobs/{id}?…` | 200, `Content-Length`, the bytes; 206 and some of them for a `Range` |
//!
//! What breaks off is gone on with: an upload by sending the part again, a download by asking for the range that is
//! missing.
//!
//! Errors are one sentence of plain text: the client shows it to the user. 503 is never used for trouble of ours: to
//! the client it means to slow down and try again.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio::sync::Mutex;
use types::ids::BlobId;

use crate::digest::Md5Digest;
use crate::error::BlobError;
use crate::range::{Asked, asked_range};
use crate::sign::{Operation, SignatureError, UrlKey};
use crate::store::{BlobStore, ByteStream};

/// Bytes of a refused upload that are read all the same, so that the client, which sends before it listens, hears the
/// answer instead of a broken connection.
const MAX_DISCARDED_BYTES: u64 = 1 << 30;
/// A sender that sends nothing for so long has gone without a word; its connection need not be kept. Longer than a
/// laptop's short sleep or a network's hiccup.
const SILENCE_ENDS: Duration = Duration::from_secs(300);

#[derive(Clone)]
struct Blobs {
    store: Arc<dyn BlobStore>,
    key: UrlKey,
}

/// Serves the URLs that [`crate::urls::BlobUrls`] makes with the same key.
pub fn router(store: Arc<dyn BlobStore>, key: UrlKey) -> Router {
    Router::new()
        .route("/blobs/{id}", get(download).put(put_whole))
        .route("/blobs/{id}/complete", post(complete))
        .route("/blobs/{id}/{part}", put(put_part))
        .with_state(Blobs { store, key })
}

async fn put_whole(
    State(blobs): State<Blobs>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, Refusal> {
    let upload = Incoming::new(body);
    let received = async {
        let blob = blobs.check(Operation::PutWhole, &id, query)?;
        Ok(blobs.store.put_whole(&blob, upload.stream()).await?)
    };
    upload.answer(received.await).await
}

async fn put_part(
    State(blobs): State<Blobs>,
    Path((id, part)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, Refusal> {
    let upload = Incoming::new(body);
    let received = async {
        // What is no number was never signed.
        let part = part.parse().map_err(|_| SignatureError::Wrong)?;
        let blob = blobs.check(Operation::PutPart(part), &id, query)?;
        Ok(blobs.store.put_part(&blob, part, upload.stream()).await?)
    };
    upload.answer(received.await).await
}

/// The list of parts in the request is not read: the store knows its parts, and the client compares the answer.
async fn complete(
    State(blobs): State<Blobs>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let blob = blobs.check(Operation::Complete, &id, query)?;
    let tag = blobs.store.complete(&blob).await?;
    let body = format!("<CompleteMultipartUploadResult><ETag>\"{tag}\"</ETag></CompleteMultipartUploadResult>\n");
    let headers = [(header::CONTENT_TYPE, "application/xml".to_owned()), (header::ETAG, format!("\"{tag}\""))];
    Ok((headers, body).into_response())
}

async fn download(
    State(blobs): State<Blobs>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let blob = blobs.check(Operation::Get, &id, query)?;
    let length = blobs.store.length(&blob).await?;
    // A blob never changes, so its id says which bytes these are.
    let etag = format!("\"{blob}\"");
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let of_these_bytes = text(header::IF_RANGE).is_none_or(|wanted| wanted == etag);
    let asked = text(header::RANGE).filter(|_| of_these_bytes).map_or(Asked::All, |range| asked_range(range, length));
    let (status, range) = match asked {
        Asked::All => (StatusCode::OK, 0..length),
        Asked::Some(range) => (StatusCode::PARTIAL_CONTENT, range),
        Asked::Outside => return Err(Refusal::Range { length }),
    };
    let mut answer = Response::builder()
        .status(status)
        .header(header::CONTENT_LENGTH, range.end - range.start)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, etag);
    if status == StatusCode::PARTIAL_CONTENT {
        answer = answer.header(header::CONTENT_RANGE, format!("bytes {}-{}/{length}", range.start, range.end - 1));
    }
    let content = blobs.store.open_range(&blob, range).await?;
    answer.body(Body::from_stream(content)).map_err(|_| Refusal::Signature(SignatureError::Wrong))
}

impl Blobs {
    fn check(&self, operation: Operation, id: &str, query: Option<String>) -> Result<BlobId, Refusal> {
        let blob = BlobId::parse(id).ok_or(SignatureError::Wrong)?;
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
        self.key.check(operation, &blob, query.as_deref().unwrap_or_default(), now_s)?;
        Ok(blob)
    }
}

/// The body of an upload, of which the rest can still be read when the store wants no more of it.
struct Incoming {
    /// The store and the answer take turns; nobody ever waits for this.
    body: Arc<Mutex<BodyDataStream>>,
}

impl Incoming {
    fn new(body: Body) -> Self {
        Self { body: Arc::new(Mutex::new(body.into_data_stream())) }
    }

    fn stream(&self) -> ByteStream {
        Box::pin(stream::unfold(self.body.clone(), |body| async move {
            let chunk = next_chunk(&mut *body.lock().await, SILENCE_ENDS).await?;
            Some((chunk, body))
        }))
    }

    async fn answer(&self, received: Result<Md5Digest, Refusal>) -> Result<Response, Refusal> {
        match received {
            Ok(md5) => Ok(([(header::ETAG, format!("\"{md5}\""))], ()).into_response()),
            // Nobody is there to hear it.
            Err(Refusal::Blob(error @ BlobError::BrokenOff(_))) => Err(Refusal::Blob(error)),
            Err(refusal) => {
                self.discard_rest().await;
                Err(refusal)
            }
        }
    }

    async fn discard_rest(&self) {
        let mut body = self.body.lock().await;
        let mut discarded = 0;
        while let Some(Ok(chunk)) = next_chunk(&mut *body, SILENCE_ENDS).await {
            discarded += chunk.len() as u64;
            if discarded > MAX_DISCARDED_BYTES {
                return;
            }
        }
    }
}

async fn next_chunk<E: Into<axum::BoxError>>(
    body: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
    silence_ends: Duration,
) -> Option<io::Result<Bytes>> {
    match tokio::time::timeout(silence_ends, body.next()).await {
        Ok(chunk) => chunk.map(|chunk| chunk.map_err(io::Error::other)),
        Err(_) => Some(Err(io::Error::new(io::ErrorKind::TimedOut, "its sender fell silent"))),
    }
}

/// Why a request is not done.
enum Refusal {
    /// What was asked for begins after the blob's end.
    Range {
        length: u64,
    },
    Signature(SignatureError),
    Blob(BlobError),
}

impl From<SignatureError> for Refusal {
    fn from(error: SignatureError) -> Self {
        Self::Signature(error)
    }
}

impl From<BlobError> for Refusal {
    fn from(error: BlobError) -> Self {
        Self::Blob(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, sentence) = match self {
            Self::Range { length } => {
                let unsatisfied = [(header::CONTENT_RANGE, format!("bytes */{length}"))];
                let sentence = format!("the blob has {length} bytes, and the range asked for begins after them\n");
                return (StatusCode::RANGE_NOT_SATISFIABLE, unsatisfied, sentence).into_response();
            }
            Self::Signature(error) => (StatusCode::FORBIDDEN, error.to_string()),
            Self::Blob(error) => (status_of(&error), sentence_of(&error)),
        };
        (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], sentence + "\n").into_response()
    }
}

fn status_of(error: &BlobError) -> StatusCode {
    match error {
        BlobError::NotFound(_) | BlobError::NoContent(_) | BlobError::NoSuchPart { .. } => StatusCode::NOT_FOUND,
        BlobError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        BlobError::WrongLength { .. }
        | BlobError::PartsMissing { .. }
        | BlobError::WrongDigest { .. }
        | BlobError::BrokenOff(_) => StatusCode::BAD_REQUEST,
        BlobError::Complete(_) | BlobError::Superseded { .. } => StatusCode::CONFLICT,
        BlobError::NoSpace(_) => StatusCode::INSUFFICIENT_STORAGE,
        BlobError::Io { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The user's sentence; the operator's goes to the log, where paths and system errors belong.
fn sentence_of(error: &BlobError) -> String {
    match error {
        BlobError::Io { source, .. } => {
            tracing::error!(error = %error, source = %source, "a blob request failed");
            "the server could not use its disk; its log says why".to_owned()
        }
        BlobError::NoSpace(path) => {
            tracing::error!(path = %path.display(), "a blob found the disk full");
            "the server's disk is full, so nothing of this upload was kept; free some space there and try again"
                .to_owned()
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[tokio::test]
    async fn a_sender_that_falls_silent_is_given_up() {
        let first = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"half"))]);
        let mut body = Box::pin(first.chain(stream::pending()));
        assert_eq!(next_chunk(&mut body, SILENCE_ENDS).await.unwrap().unwrap(), "half");
        let given_up = next_chunk(&mut body, Duration::from_millis(10)).await.unwrap().unwrap_err();
        assert_eq!(given_up.kind(), io::ErrorKind::TimedOut);
    }
}
