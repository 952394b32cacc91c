//! One request at a time: signed, with bounds on every wait, tried again where that may help.
//!
//! A program waits in a system call meanwhile, so nothing here may wait without end: a store that is down or wrong ends in
//! an error within [`ASK_LIMIT`], one that stops in the middle after [`SILENT_TRIES`] times [`PATIENCE`] (uploads of a part:
//! [`UPLOAD_PATIENCE`]), and no try of anything takes longer than [`SLOWEST`] allows. What moves is waited for: several
//! parts share a link.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout_at};
use types::errors::with_causes;

use super::answers::{self, Object, Page};
use super::places::Places;
use super::progress::{Moves, Progress, Sending};
use super::sign::{self, EMPTY_SHA256, Keys, ToSign};
use super::{S3Error, Target};

/// While nothing moves. Stores answer in milliseconds, and in a second or two when they are busy.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a request that carries a part of a file: the kernel takes up to 4 MiB of it at once, which need 34 s at 1 Mbit/s.
pub const UPLOAD_PATIENCE: Duration = Duration::from_secs(40);
/// Until the last try begins; and until it has ended, but for what a file's bytes may take.
const ASK_LIMIT: Duration = Duration::from_secs(20);
/// Until the last try of an upload begins, besides its patience and what its bytes may take: one that broke off late is
/// tried again, too.
const UPLOAD_LIMIT: Duration = Duration::from_secs(10);
/// Tries that end in silence: the first may have met a connection that had died unnoticed, the second tells of the store.
const SILENT_TRIES: u32 = 2;
/// Bytes of a file per second, of one request. Whoever gets fewer is better told.
const SLOWEST: u64 = 64 << 10;
/// For making one object of thousands of parts; and a store that is asked twice at once makes a mess of it.
const COMPLETION_PATIENCE: Duration = Duration::from_secs(60);
const COMPLETION_LIMIT: Duration = Duration::from_secs(130);
/// For whoever asks when the store has just given no answer: one system call may be several requests, and a program makes
/// several calls, and each would wait again.
const LIMIT_AFTER_FAILURE: Duration = Duration::from_secs(3);
const FAILURE_COUNTS_FOR: Duration = Duration::from_secs(5);
const TRIES: u32 = 4;
/// Before the second try; four times as long before each further one.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Bodies that are hashed where they are; larger ones on a thread that may block.
const HASHED_IN_PLACE: usize = 256 << 10;
/// A page of a listing: a thousand of the longest keys, encoded, with what is said of each.
const MAX_TEXT: usize = 16 << 20;
/// Answers that are parsed where they are; larger ones on a thread that may block.
const PARSED_IN_PLACE: usize = 64 << 10;
/// The answer to anything else, with a few keys and an upload's id in it.
const MAX_SHORT_TEXT: usize = 64 << 10;
/// Entries that such an answer may list.
const FEW: usize = 2;
/// What is read of a refusal.
const MAX_REFUSAL: usize = 64 << 10;

pub struct S3 {
    http: reqwest::Client,
    target: Target,
    keys: Option<Keys>,
    requester_pays: bool,
    /// When the store gave no answer last in all the time that there is for one, if it has given none since.
    failed_at: Mutex<Option<Instant>>,
    moves: Moves,
    places: Places,
}

/// What to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListAsk<'a> {
    pub prefix: &'a str,
    /// Whether what lies deeper is shown as its folder only.
    pub by_folder: bool,
    /// At most 1,000.
    pub limit: usize,
    pub token: Option<&'a str>,
}

#[derive(Default)]
struct Ask<'a> {
    method: Method,
    key: &'a str,
    query: Vec<(&'a str, &'a str)>,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    /// The longest body that a good answer has.
    most: usize,
    /// Bytes of a file, in the request or in its answer.
    carries: usize,
    completes: bool,
}

/// How long a request may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// While nothing moves.
    patience: Duration,
    /// Until the last try begins.
    begin: Duration,
    /// Until the last try has ended.
    end: Duration,
    /// Less than there usually is, because of a failure just before.
    is_short: bool,
}

impl Ask<'_> {
    fn is_upload(&self) -> bool {
        self.body.len() > HASHED_IN_PLACE
    }

    fn limits(&self, just_failed: bool) -> Limits {
        let bytes_take = Duration::from_secs(self.carries as u64 / SLOWEST);
        let (patience, begin) = match self {
            _ if self.completes => (COMPLETION_PATIENCE, COMPLETION_LIMIT),
            _ if self.is_upload() => (UPLOAD_PATIENCE, UPLOAD_PATIENCE + UPLOAD_LIMIT + bytes_take),
            _ if just_failed => (PATIENCE, LIMIT_AFTER_FAILURE),
            _ => (PATIENCE, ASK_LIMIT),
        };
        let waits_after_all = if self.is_upload() { patience } else { Duration::ZERO };
        Limits { patience, begin, end: begin + waits_after_all + bytes_take, is_short: begin == LIMIT_AFTER_FAILURE }
    }
}

impl S3 {
    pub fn new(http: reqwest::Client, target: Target, keys: Option<Keys>, requester_pays: bool) -> Self {
        let moves = Moves::default();
        let places = Places::new(moves.any.clone());
        Self { http, target, keys, requester_pays, failed_at: Mutex::new(None), moves, places }
    }

    /// Grows while a file's bytes go to the store.
    pub fn sent(&self) -> Arc<AtomicU64> {
        self.moves.sent.clone()
    }

    /// What is known of the object.
    pub async fn head(&self, key: &str) -> Result<Object, S3Error> {
        let (_, headers, _) = self.ask(Ask { method: Method::HEAD, key, ..Default::default() }).await?;
        answers::object(&headers)
    }

    pub async fn list(&self, ask: ListAsk<'_>) -> Result<Page, S3Error> {
        let limit = ask.limit.to_string();
        let most = if ask.limit <= FEW { MAX_SHORT_TEXT } else { MAX_TEXT };
        let mut query =
            vec![("list-type", "2"), ("prefix", ask.prefix), ("max-keys", &limit), ("encoding-type", "url")];
        query.extend(ask.by_folder.then_some(("delimiter", "/")));
        query.extend(ask.token.map(|token| ("continuation-token", token)));
        let (_, _, body) = self.ask(Ask { query, most, ..Default::default() }).await?;
        parse(body, answers::page).await
    }

    /// These bytes of the object whose content `etag` names; another content is refused.
    pub async fn get(&self, key: &str, range: Range<u64>, etag: &str) -> Result<Bytes, S3Error> {
        let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut headers = vec![("range", format!("bytes={}-{}", range.start, range.end - 1))];
        headers.extend((!etag.is_empty()).then(|| ("if-match", etag.to_owned())));
        let (status, _, body) =
            self.ask(Ask { key, headers, most: wanted, carries: wanted, ..Default::default() }).await?;
        if body.len() != wanted || (status != StatusCode::PARTIAL_CONTENT && range.start != 0) {
            let text = format!("{} bytes with `{status}` instead of {wanted} from {}", body.len(), range.start);
            return Err(S3Error::Malformed(text));
        }
        Ok(body)
    }

    /// Makes or replaces the object; its new etag.
    pub async fn put(&self, key: &str, body: Bytes) -> Result<String, S3Error> {
        let (_, headers, _) =
            self.ask(Ask { method: Method::PUT, key, carries: body.len(), body, ..Default::default() }).await?;
        answers::etag(&headers)
    }

    pub async fn delete(&self, key: &str) -> Result<(), S3Error> {
        self.ask(Ask { method: Method::DELETE, key, ..Default::default() }).await.map(drop)
    }

    /// Begins an object of many parts; the upload's id.
    pub async fn begin_upload(&self, key: &str) -> Result<String, S3Error> {
        let query = vec![("uploads", "")];
        let (_, _, body) =
            self.ask(Ask { method: Method::POST, key, query, most: MAX_SHORT_TEXT, ..Default::default() }).await?;
        parse(body, answers::upload_id).await
    }

    /// The part's etag. Numbers begin with 1.
    pub async fn upload_part(&self, key: &str, upload: &str, number: usize, body: Bytes) -> Result<String, S3Error> {
        let number = number.to_string();
        let query = vec![("partNumber", number.as_str()), ("uploadId", upload)];
        let carries = body.len();
        let ask = Ask { method: Method::PUT, key, query, body, carries, ..Default::default() };
        let (_, headers, _) = self.ask(ask).await?;
        answers::etag(&headers)
    }

    /// The whole object's etag.
    pub async fn complete_upload(&self, key: &str, upload: &str, parts: &[String]) -> Result<String, S3Error> {
        let query = vec![("uploadId", upload)];
        let body = Bytes::from(answers::completion(parts));
        let (method, most) = (Method::POST, MAX_SHORT_TEXT);
        match self.ask(Ask { method, key, query, body, most, completes: true, ..Default::default() }).await {
            Ok((_, _, body)) => parse(body, answers::completed).await,
            // A try whose answer was lost may have completed it; then there is nothing left to complete.
            Err(error) => match (answers::whole_etag(parts), self.head(key).await) {
                (Some(etag), Ok(now)) if now.etag.trim_matches('"') == etag => Ok(now.etag),
                _ => Err(error),
            },
        }
    }

    pub async fn abort_upload(&self, key: &str, upload: &str) -> Result<(), S3Error> {
        let query = vec![("uploadId", upload)];
        self.ask(Ask { method: Method::DELETE, key, query, ..Default::default() }).await.map(drop)
    }

    async fn ask(&self, ask: Ask<'_>) -> Result<(StatusCode, HeaderMap, Bytes), S3Error> {
        let limits = ask.limits(counts_still(*self.failed_at.lock(), Instant::now()));
        let answer = self.ask_within(limits, ask).await;
        let is_failure = answer.as_ref().err().is_some_and(S3Error::is_no_answer);
        let mut failed_at = self.failed_at.lock();
        *failed_at = failed_at_after(*failed_at, is_failure, limits.is_short, Instant::now());
        answer
    }

    async fn ask_within(&self, limits: Limits, ask: Ask<'_>) -> Result<(StatusCode, HeaderMap, Bytes), S3Error> {
        let hash = hash(&ask.body).await;
        let mut begun = Instant::now();
        let (mut wait, mut silent) = (FIRST_WAIT, 0);
        for left in (0..TRIES).rev() {
            let in_line = Instant::now();
            let patience = limits.patience.min(limits.begin);
            let Some(place) = self.places.take(ask.is_upload(), patience).await else {
                return Err(S3Error::Silent(patience));
            };
            // The time that the store takes for others is not counted.
            begun += in_line.elapsed();
            let tried = timeout_at(begun + limits.end, self.attempt(&ask, &hash, limits.patience)).await;
            drop(place);
            let error = match tried {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(_) => break,
            };
            silent += u32::from(matches!(error, S3Error::Silent(_)));
            let may_pass = error.may_pass() && silent < SILENT_TRIES;
            if left == 0 || !may_pass || Instant::now() + wait >= begun + limits.begin {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
            wait *= 4;
        }
        Err(S3Error::Unreachable(format!("the store gave no whole answer within {} s", limits.end.as_secs())))
    }

    async fn attempt(
        &self,
        ask: &Ask<'_>,
        hash: &str,
        patience: Duration,
    ) -> Result<(StatusCode, HeaderMap, Bytes), S3Error> {
        let progress = Arc::new(Progress::new(self.moves.clone()));
        progress.watch(patience, self.exchange(ask, hash, &progress)).await.ok_or(S3Error::Silent(patience))?
    }

    async fn exchange(
        &self,
        ask: &Ask<'_>,
        hash: &str,
        progress: &Arc<Progress>,
    ) -> Result<(StatusCode, HeaderMap, Bytes), S3Error> {
        let failed = |error: reqwest::Error| {
            S3Error::Unreachable(format!("the store cannot be reached ({})", with_causes(&error.without_url())))
        };
        let mut answer = self.request(ask, hash, progress).send().await.map_err(failed)?;
        progress.note();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let most = if status.is_success() { ask.most } else { MAX_REFUSAL };
        let mut body = BytesMut::with_capacity(most.min(answer.content_length().unwrap_or(0) as usize));
        while let Some(piece) = answer.chunk().await.map_err(failed)? {
            progress.note();
            if body.len() + piece.len() > most {
                if !status.is_success() {
                    break;
                }
                return Err(S3Error::Malformed(format!("more than {most} bytes")));
            }
            body.extend_from_slice(&piece);
        }
        if !status.is_success() {
            return Err(answers::refused(status, &String::from_utf8_lossy(&body), &headers));
        }
        if ask.completes {
            // A good status may come with a refusal, and another try may help as with any.
            answers::completed(&String::from_utf8_lossy(&body))?;
        }
        Ok((status, headers, body.freeze()))
    }

    fn request(&self, ask: &Ask<'_>, hash: &str, progress: &Arc<Progress>) -> reqwest::RequestBuilder {
        let path = self.target.path(ask.key);
        let query = sign::query_string(&ask.query);
        let mut request = self.http.request(ask.method.clone(), self.target.url(&path, &query));
        let mut signed: Vec<(&str, &str)> = vec![("host", &self.target.host)];
        let time = sign::timestamp(jiff::Timestamp::now());
        if let Some(keys) = &self.keys {
            signed.extend([("x-amz-content-sha256", hash), ("x-amz-date", &time)]);
            signed.extend(self.requester_pays.then_some(("x-amz-request-payer", "requester")));
            signed.extend(keys.session_token.as_deref().map(|token| ("x-amz-security-token", token)));
            let to_sign = ToSign {
                method: ask.method.as_str(),
                path: &path,
                query: &query,
                headers: &signed,
                body_sha256: hash,
                region: &self.target.region,
                time: &time,
            };
            request = request.header("authorization", sign::authorization(keys, &to_sign));
        }
        for (name, value) in &signed[1..] {
            request = request.header(*name, *value);
        }
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        match ask.method {
            Method::PUT if ask.is_upload() => {
                request.body(reqwest::Body::wrap(Sending::new(ask.body.clone(), progress.clone())))
            }
            Method::PUT | Method::POST => request.body(ask.body.clone()),
            _ => request,
        }
    }

    /// Where the store is, for people.
    pub fn endpoint(&self) -> String {
        self.target.endpoint()
    }
}

/// Whether a failure is a reason to wait only shortly.
fn counts_still(failed_at: Option<Instant>, now: Instant) -> bool {
    failed_at.is_some_and(|at| now.saturating_duration_since(at) < FAILURE_COUNTS_FOR)
}

/// What is remembered of failures after a request. One that had only a short time tells nothing new of a store that is
/// slow: if it counted, no request would ever have the whole time again.
fn failed_at_after(before: Option<Instant>, is_failure: bool, is_short: bool, now: Instant) -> Option<Instant> {
    match (is_failure, is_short) {
        (false, _) => None,
        (true, true) => before,
        (true, false) => Some(now),
    }
}

async fn hash(body: &Bytes) -> String {
    let of = |body: &Bytes| hex::encode(Sha256::digest(body));
    match body.len() {
        0 => EMPTY_SHA256.to_owned(),
        1..=HASHED_IN_PLACE => of(body),
        _ => {
            let shared = body.clone();
            let hashed = tokio::task::spawn_blocking(move || of(&shared)).await;
            hashed.unwrap_or_else(|_| of(body))
        }
    }
}

async fn parse<T: Send + 'static>(body: Bytes, as_what: fn(&str) -> Result<T, S3Error>) -> Result<T, S3Error> {
    let is_small = body.len() <= PARSED_IN_PLACE;
    let parse = move || {
        let text = std::str::from_utf8(&body).map_err(|_| S3Error::Malformed("no UTF-8".to_owned()))?;
        as_what(text)
    };
    if is_small {
        return parse();
    }
    let stopped = |_| Err(S3Error::Malformed("reading it was stopped".to_owned()));
    tokio::task::spawn_blocking(parse).await.unwrap_or_else(stopped)
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::sync::atomic::Ordering;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::BucketSpec;
    use crate::testing::Store;

    #[test]
    fn patience_is_short_right_after_a_failure_and_comes_back() {
        let now = Instant::now();
        assert!(!counts_still(None, now) && counts_still(Some(now), now));
        assert!(!counts_still(Some(now), now + FAILURE_COUNTS_FOR));
        let look = |just_failed| Ask::default().limits(just_failed);
        assert_eq!((look(false).begin, look(false).is_short), (ASK_LIMIT, false));
        assert_eq!((look(true).begin, look(true).is_short), (LIMIT_AFTER_FAILURE, true));
    }

    #[test]
    fn a_failure_within_a_short_time_does_not_keep_the_time_short() {
        let (first, later) = (Instant::now(), Instant::now() + Duration::from_secs(4));
        assert_eq!(failed_at_after(Some(first), true, true, later), Some(first));
        assert_eq!(failed_at_after(None, true, false, later), Some(later));
        assert_eq!(failed_at_after(Some(first), false, true, later), None);
    }

    #[test]
    fn a_part_may_take_as_long_as_a_slow_link_needs_and_an_answer_without_a_file_may_not() {
        let part = Ask { method: Method::PUT, body: vec![0; 8 << 20].into(), carries: 8 << 20, ..Default::default() };
        let (limits, bytes_take) = (part.limits(false), Duration::from_secs(128));
        assert!(limits.begin > UPLOAD_PATIENCE + bytes_take, "one that broke off late is tried again");
        assert_eq!(limits.end, limits.begin + UPLOAD_PATIENCE + bytes_take);
        let piece = Ask { carries: 1 << 20, most: 1 << 20, ..Default::default() };
        assert_eq!(piece.limits(false).end, ASK_LIMIT + Duration::from_secs(16));
        let list = Ask { most: MAX_TEXT, ..Default::default() };
        assert_eq!(list.limits(false).end, ASK_LIMIT);
    }

    /// A store in which the connections that `answer` is given are its own matter.
    async fn odd_store<F: Future<Output = ()> + Send>(answer: impl Fn(TcpStream, usize) -> F + Send + 'static) -> S3 {
        let store = Store::start().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
        tokio::spawn(async move {
            for number in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await;
                answer(stream, number).await;
            }
        });
        let spec = BucketSpec { endpoint, ..store.spec(Duration::ZERO) };
        S3::new(crate::mount::http_client(true).unwrap(), Target::new(&spec, None).unwrap(), None, false)
    }

    /// One that answers with ten bytes, one each 100 ms, of `announced`, and goes on with nothing.
    async fn dribbling(announced: usize) -> S3 {
        let answer = move |mut stream: TcpStream, _| async move {
            tokio::spawn(async move {
                let head = format!("HTTP/1.1 206 x\r\ncontent-length: {announced}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                for _ in 0..10 {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    let _ = stream.write_all(b"x").await;
                }
                std::future::pending::<()>().await;
            });
        };
        odd_store(answer).await
    }

    fn limits(patience_ms: u64, begin_s: u64) -> Limits {
        let (patience, begin) = (Duration::from_millis(patience_ms), Duration::from_secs(begin_s));
        Limits { patience, begin, end: Duration::from_secs(60), is_short: false }
    }

    #[tokio::test]
    async fn an_answer_is_waited_for_while_it_comes() {
        let ask = || Ask { most: 20, ..Default::default() };
        let (_, _, body) = dribbling(10).await.ask_within(limits(700, 0), ask()).await.unwrap();
        assert_eq!(body, vec![b'x'; 10]);
        let stopped = dribbling(11).await.ask_within(limits(700, 0), ask()).await.unwrap_err();
        assert_eq!(stopped.to_string(), "the store was silent for 0 s");
    }

    #[tokio::test]
    async fn a_silent_connection_is_tried_once_more_and_a_silent_store_is_given_up() {
        for (silent, is_answered) in [(1, true), (2, false)] {
            let seen = Arc::new(AtomicU64::new(0));
            let counted = seen.clone();
            let answer = move |mut stream: TcpStream, number| {
                counted.fetch_add(1, Ordering::Relaxed);
                async move {
                    if number >= silent {
                        stream.write_all(b"HTTP/1.1 200 x\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                    }
                    // Open, so that its end tells nothing.
                    std::mem::forget(stream);
                }
            };
            let asked = odd_store(answer).await.ask_within(limits(150, 60), Ask::default()).await;
            assert_eq!((asked.is_ok(), seen.load(Ordering::Relaxed)), (is_answered, 2), "{asked:?}");
        }
    }

    #[tokio::test]
    async fn so_many_requests_are_with_the_store_at_once_and_no_more() {
        let store = Store::start().await;
        let s3 = Arc::new(store.s3());
        store.shut();
        let asked: Vec<_> = (0..100)
            .map(|number| {
                let s3 = s3.clone();
                tokio::spawn(async move { s3.put(&number.to_string(), Bytes::from_static(b"x")).await })
            })
            .collect();
        store.holds(64).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(store.held(), 64);
        store.open();
        assert!(futures::future::join_all(asked).await.into_iter().all(|put| put.unwrap().is_ok()));
    }

    #[tokio::test]
    async fn an_upload_whose_end_is_refused_late_is_ended_again() {
        let store = Store::start().await;
        let s3 = store.s3();
        let upload = s3.begin_upload("f").await.unwrap();
        let part = s3.upload_part("f", &upload, 1, Bytes::from_static(b"x")).await.unwrap();
        store.refuse_completions(2);
        s3.complete_upload("f", &upload, &[part]).await.unwrap();
        assert_eq!(store.get("f").unwrap(), "x");
    }
}
