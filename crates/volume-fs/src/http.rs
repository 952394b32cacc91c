//! The HTTP face of volumes: where clients send blocks and fetch them.
//!
//! | request | answer |
//! |---|---|
//! | `PUT /volume-blocks/{content}/{index}?…` | 200, no body |
//! | `GET /volume-files/{token}?…` | 200, the bytes that the token names |
//!
//! The URL is the permission: clients send no credentials here. A token names a stretch of a content or of a small file in
//! a layer, neither of which ever changes, so all blocks of one answer are of one version of the file.

use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blob_store::sign::UrlKey;
use futures::{StreamExt, stream};
use manifest::content::{BLOCK_BYTES, ContentId};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::error::VolumeError;
use crate::fetching::{Fetched, Fetching, Sending};
use crate::store::Volumes;
use crate::view::Node;

/// How long a URL is good for. Clients use them at once; a large file over a slow line takes a while.
const VALID_S: u64 = manifest::keeping::SENT_KEPT.as_secs();
/// A sender that sends nothing for so long has gone without a word.
const SILENCE_ENDS: Duration = Duration::from_secs(300);
/// Bytes read from disk, or written to it, at a time.
const PIECE: usize = 256 << 10;

#[derive(Clone)]
struct Face {
    volumes: Volumes,
    key: UrlKey,
}

/// Serves the URLs that [`Urls`] makes with the same key.
pub fn router(volumes: Volumes, key: UrlKey) -> Router {
    Router::new()
        .route("/volume-blocks/{content}/{index}", put(put_block))
        .route("/volume-files/{token}", get(read))
        .with_state(Face { volumes, key })
}

/// Makes URLs below one base, such as `http://127.0.0.1:9900`.
pub struct Urls {
    pub base: String,
    pub key: UrlKey,
    pub fetching: Fetching,
}

/// What a token names.
#[derive(Serialize, Deserialize)]
enum Place {
    Content(String),
    Layer { volume: String, layer: String, path: PathBuf },
}

impl Place {
    fn fetched(&self) -> Fetched {
        match self {
            // One that is not the name of a content is none of ours.
            Self::Content(id) => ContentId::parse(id).map_or(Fetched::Layer(String::new()), Fetched::Content),
            Self::Layer { layer, .. } => Fetched::Layer(layer.clone()),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Stretch {
    place: Place,
    start: u64,
    length: u64,
}

impl Urls {
    pub fn put_block(&self, id: &ContentId, index: usize) -> String {
        let what = put_permission(id.as_str(), index);
        format!("{}/volume-blocks/{id}/{index}?{}", self.base, self.key.query_for(&what, now_s() + VALID_S))
    }

    /// What it names stays for as long as somebody goes on fetching it, also when the caller's view is gone.
    ///
    /// # Errors
    /// When the node cannot be read.
    pub fn read(&self, volume: &str, node: &Node, (start, length): (u64, u64)) -> Result<String, VolumeError> {
        let place = match node.content()? {
            Some(id) => Place::Content(id.to_string()),
            None => layer_place(volume, node.path()),
        };
        self.fetching.note(place.fetched());
        let token = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&Stretch { place, start, length }).unwrap_or_default());
        let query = self.key.query_for(&read_permission(&token), now_s() + VALID_S);
        Ok(format!("{}/volume-files/{token}?{query}", self.base))
    }
}

/// `…/layers/<layer>/diff/<path>` taken apart.
fn layer_place(volume: &str, real: &FilePath) -> Place {
    let parts: Vec<_> = real.iter().collect();
    let at = parts.iter().rposition(|part| *part == "layers").unwrap_or(0);
    // The user's own path may hold a folder `layers`: the volume's is the one behind the volume's id.
    let at = parts.iter().position(|part| part.to_str() == Some(volume)).map_or(at, |volume| volume + 1);
    let layer = parts.get(at + 1).map(|part| part.to_string_lossy().into_owned()).unwrap_or_default();
    Place::Layer { volume: volume.to_owned(), layer, path: parts.iter().skip(at + 3).collect() }
}

fn put_permission(content: &str, index: usize) -> String {
    format!("volume block put\n{content}\n{index}")
}

fn read_permission(token: &str) -> String {
    format!("volume file read\n{token}")
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

async fn put_block(
    State(face): State<Face>,
    Path((content, index)): Path<(String, usize)>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Response {
    let permission = put_permission(&content, index);
    if let Err(error) = face.key.check_for(&permission, query.as_deref().unwrap_or_default(), now_s()) {
        return refuse(StatusCode::FORBIDDEN, &error.to_string());
    }
    let Some(id) = ContentId::parse(&content) else { return refuse(StatusCode::NOT_FOUND, "no such content") };
    let mut body = body.into_data_stream();
    match take_block(&face, id, index, &mut body).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(NotTaken::BrokenOff(what)) => {
            refuse(StatusCode::BAD_REQUEST, &format!("the block did not arrive whole: {what}"))
        }
        Err(NotTaken::Refused(error)) => {
            // The client sends before it listens.
            let _ = discard(&mut body).await;
            refuse(status_of(&error), &sentence_of(&error))
        }
        Err(NotTaken::Stopping) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the server is being stopped"),
    }
}

enum NotTaken {
    BrokenOff(String),
    Refused(VolumeError),
    Stopping,
}

/// A piece at a time, each on a thread that may wait for the disk: clients send over a hundred blocks at once.
async fn take_block(face: &Face, id: ContentId, index: usize, body: &mut BodyDataStream) -> Result<(), NotTaken> {
    let volumes = face.volumes.clone();
    let begun = blocking(move || volumes.uploads().begin_block(&id, index)).await?;
    let Some(mut writer) = begun else { return discard(body).await };
    let mut piece = Vec::new();
    while let Some(chunk) = next_chunk(body).await? {
        piece.extend_from_slice(&chunk);
        if piece.len() >= PIECE {
            let full = std::mem::take(&mut piece);
            writer = blocking(move || writer.write(&full).map(|()| writer)).await?;
        }
    }
    let volumes = face.volumes.clone();
    blocking(move || {
        writer.write(&piece)?;
        volumes.uploads().finish_block(writer)
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, NotTaken> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| NotTaken::Stopping)?;
    done.map_err(NotTaken::Refused)
}

async fn next_chunk(body: &mut BodyDataStream) -> Result<Option<Bytes>, NotTaken> {
    match tokio::time::timeout(SILENCE_ENDS, body.next()).await {
        Ok(chunk) => chunk.transpose().map_err(|error| NotTaken::BrokenOff(error.to_string())),
        Err(_) => Err(NotTaken::BrokenOff("its sender fell silent".to_owned())),
    }
}

async fn discard(body: &mut BodyDataStream) -> Result<(), NotTaken> {
    let mut left = BLOCK_BYTES as usize;
    while let Some(chunk) = next_chunk(body).await? {
        left = left.saturating_sub(chunk.len());
        if left == 0 {
            break;
        }
    }
    Ok(())
}

async fn read(State(face): State<Face>, Path(token): Path<String>, RawQuery(query): RawQuery) -> Response {
    let permission = read_permission(&token);
    if let Err(error) = face.key.check_for(&permission, query.as_deref().unwrap_or_default(), now_s()) {
        return refuse(StatusCode::FORBIDDEN, &error.to_string());
    }
    let decoded = URL_SAFE_NO_PAD.decode(&token).ok();
    let stretch: Option<Stretch> = decoded.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let fetching = face.volumes.fetching().clone();
    // It may have to open the volume first.
    let found = tokio::task::spawn_blocking(move || stretch.and_then(|stretch| Some((face.path(&stretch)?, stretch))));
    let Some((path, stretch)) = found.await.ok().flatten() else {
        return refuse(StatusCode::NOT_FOUND, "this version of the file is gone; read the file again");
    };
    match open(&path, &stretch).await {
        Ok(file) => {
            let sending = Sending::begin(fetching, stretch.place.fetched());
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_LENGTH, stretch.length.into());
            headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/octet-stream"));
            (headers, pieces(file, stretch.length, sending)).into_response()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            refuse(StatusCode::NOT_FOUND, "this version of the file is gone; read the file again")
        }
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "a file of a volume could not be read");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "the server could not read its disk; its log says why")
        }
    }
}

impl Face {
    fn path(&self, stretch: &Stretch) -> Option<PathBuf> {
        match &stretch.place {
            Place::Content(id) => Some(self.volumes.contents().path(&ContentId::parse(id)?)),
            Place::Layer { volume, layer, path } => self.volumes.file_of_layer(volume, layer, path),
        }
    }
}

async fn open(path: &FilePath, stretch: &Stretch) -> io::Result<tokio::fs::File> {
    let mut file = tokio::fs::File::open(path).await?;
    file.seek(io::SeekFrom::Start(stretch.start)).await?;
    Ok(file)
}

/// A piece at a time: memory does not grow with the length.
fn pieces(file: tokio::fs::File, length: u64, sending: Sending) -> Body {
    Body::from_stream(stream::try_unfold((file, length, sending), |(mut file, left, sending)| async move {
        if left == 0 {
            return Ok::<_, io::Error>(None);
        }
        let mut piece = vec![0; PIECE.min(left as usize)];
        let read = file.read(&mut piece).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        piece.truncate(read);
        Ok(Some((Bytes::from(piece), (file, left - read as u64, sending))))
    }))
}

fn refuse(status: StatusCode, sentence: &str) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], format!("{sentence}\n")).into_response()
}

fn status_of(error: &VolumeError) -> StatusCode {
    match error {
        VolumeError::WrongBlock => StatusCode::BAD_REQUEST,
        VolumeError::UnknownBlock => StatusCode::NOT_FOUND,
        VolumeError::NoSpace(_) => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn sentence_of(error: &VolumeError) -> String {
    match error {
        VolumeError::Io { path, source, .. } => {
            tracing::error!(path = %path.display(), %error, %source, "a block could not be taken");
            "the server could not use its disk; its log says why".to_owned()
        }
        VolumeError::NoSpace(path) => {
            tracing::error!(path = %path.display(), "a block found the disk full");
            "the server's disk is full; free some space there and try again".to_owned()
        }
        error => error.to_string(),
    }
}
