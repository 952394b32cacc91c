//! The HTTP face of blobs: what the client's uploads and downloads meet.
//!
//! | request | answer |
//! |---|---|
//! | `PUT /blobs/{id}?…` | all of it at once: 200, `ETag: "<md5>"` |
//! | `PUT /blobs/{id}/{part}?…` | one part: 200, `ETag: "<md5>"` |
//! | `POST /blobs/{id}/complete?…` | 200, a small XML text that holds `<md5 of the md5s>-<n>` |
//! | `GET /blobs/{id}?…` | 200, `Content-Length`, the bytes |
//!
//! Errors are one sentence of plain text: the client shows it to the user. 503 is never used for trouble of ours: to
//! the client it means to slow down and try again.

use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use futures::{StreamExt, stream};
use tokio::sync::Mutex;
use types::ids::BlobId;

use crate::digest::Md5Digest;
use crate::error::BlobError;
use crate::sign::{Operation, SignatureError, UrlKey};
use crate::store::{BlobStore, ByteStream};

/// Bytes of a refused upload that are read all the same, so that the client, which sends before it listens, hears the
/// answer instead of a broken connection.
const MAX_DISCARDED_BYTES: u64 = 1 << 30;

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
) -> Result<Response, Refusal> {
    let blob = blobs.check(Operation::Get, &id, query)?;
    let (length, content) = blobs.store.open(&blob).await?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/octet-stream"));
    Ok((headers, Body::from_stream(content)).into_response())
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
            let chunk = body.lock().await.next().await?;
            Some((chunk.map_err(io::Error::other), body))
        }))
    }

    async fn answer(&self, received: Result<Md5Digest, Refusal>) -> Result<Response, Refusal> {
        match received {
            Ok(md5) => Ok(([(header::ETAG, format!("\"{md5}\""))], ()).into_response()),
            Err(refusal) => {
                self.discard_rest().await;
                Err(refusal)
            }
        }
    }

    async fn discard_rest(&self) {
        let mut body = self.body.lock().await;
        let mut discarded = 0;
        while let Some(Ok(chunk)) = body.next().await {
            discarded += chunk.len() as u64;
            if discarded > MAX_DISCARDED_BYTES {
                return;
            }
        }
    }
}

/// Why a request is not done.
enum Refusal {
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
