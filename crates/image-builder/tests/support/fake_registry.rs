//! A registry that misbehaves on request: broken connections, wrong bytes, tokens.

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::http::{Request, Serving};
use super::image::{INDEX_TYPE, MANIFEST_TYPE, TestImage, digest};

const TOKEN: &str = "a-token";

#[derive(Default)]
pub struct Faults {
    /// Close the connection after this many bytes of a blob, so often.
    pub break_after: Option<usize>,
    pub breaks_left: AtomicUsize,
    /// After such a break, hang up on so many requests without a word: the registry is down.
    pub refusals_after_break: usize,
    pub refusals_left: AtomicUsize,
    /// Answer `416` to whom asks for a part.
    pub no_ranges: AtomicBool,
    /// Answer this to every blob.
    pub blobs_answer: Mutex<Option<&'static str>>,
    /// Change one byte of every layer.
    pub corrupt: AtomicBool,
    /// Answer only with a token, given to whom has the password.
    pub wants_token: AtomicBool,
    /// Answer `429` to everything but `/v2/`.
    pub overloaded: AtomicBool,
}

pub struct FakeRegistry {
    serving: Serving,
    shared: Arc<Shared>,
}

struct Shared {
    /// Path to content type and bytes.
    content: Mutex<HashMap<String, (String, Vec<u8>)>>,
    faults: Faults,
    requests: Mutex<Vec<String>>,
}

impl FakeRegistry {
    /// Serves `image` as `<host>/some/image` with tags `single` and `index`.
    pub fn start(image: &TestImage, faults: Faults) -> Self {
        let mut content = HashMap::new();
        let manifests = "/v2/some/image/manifests/";
        for name in ["single".to_owned(), digest(&image.manifest)] {
            content.insert(format!("{manifests}{name}"), (MANIFEST_TYPE.to_owned(), image.manifest.clone()));
        }
        content.insert(format!("{manifests}index"), (INDEX_TYPE.to_owned(), image.index.clone()));
        for blob in image.layers.iter().map(|(bytes, _)| bytes).chain([&image.config]) {
            let path = format!("/v2/some/image/blobs/{}", digest(blob));
            content.insert(path, ("application/octet-stream".to_owned(), blob.clone()));
        }
        let shared = Arc::new(Shared { content: Mutex::new(content), faults, requests: Mutex::default() });
        let answering = shared.clone();
        Self { serving: Serving::start(move |stream, request| answering.answer(stream, &request)), shared }
    }

    pub fn image(&self, tag: &str) -> String {
        format!("{}/some/image:{tag}", self.host())
    }

    pub fn host(&self) -> String {
        self.serving.address.to_string()
    }

    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// `METHOD path range` of each request so far.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().clone()
    }
}

impl Shared {
    fn answer(&self, stream: &mut TcpStream, request: &Request) -> std::io::Result<()> {
        let (path, range) = (request.path.as_str(), request.header("range"));
        let authorization = request.header("authorization");
        self.requests.lock().push(format!("{} {path} {range}", request.method));
        let head = |status: &str, more: &str, length: usize| {
            format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{more}\r\n")
        };
        if path.starts_with("/token") {
            // `user:secret`.
            let body = format!("{{\"token\": \"{TOKEN}\"}}");
            let allowed = authorization == "Basic dXNlcjpzZWNyZXQ=";
            let (status, body) = if allowed { ("200 OK", body) } else { ("401 Unauthorized", String::new()) };
            stream.write_all(head(status, "", body.len()).as_bytes())?;
            return stream.write_all(body.as_bytes());
        }
        let bearer = format!("Bearer {TOKEN}");
        if self.faults.wants_token.load(Ordering::SeqCst) && authorization != bearer {
            let more = format!(
                "WWW-Authenticate: Bearer realm=\"http://{}/token\",service=\"test\",scope=\"repository:some/image:pull\"\r\n",
                request.header("host")
            );
            return stream.write_all(head("401 Unauthorized", &more, 0).as_bytes());
        }
        if path == "/v2/" {
            return stream.write_all(head("200 OK", "", 0).as_bytes());
        }
        if self.faults.overloaded.load(Ordering::SeqCst) {
            return stream.write_all(head("429 Too Many Requests", "", 0).as_bytes());
        }
        let Some((kind, mut bytes)) = self.content.lock().get(path).cloned() else {
            return stream.write_all(head("404 Not Found", "", 0).as_bytes());
        };
        let is_blob = path.contains("/blobs/");
        if is_blob && self.faults.corrupt.load(Ordering::SeqCst) {
            bytes[0] ^= 1;
        }
        let take =
            |left: &AtomicUsize| left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if take(&self.faults.refusals_left) {
            return Ok(());
        }
        let from: usize = range.strip_prefix("bytes=").and_then(|r| r.strip_suffix('-')?.parse().ok()).unwrap_or(0);
        if let Some(status) = *self.faults.blobs_answer.lock()
            && is_blob
        {
            return stream.write_all(head(status, "", 0).as_bytes());
        }
        if from > 0 && self.faults.no_ranges.load(Ordering::SeqCst) {
            return stream.write_all(head("416 Range Not Satisfiable", "", 0).as_bytes());
        }
        let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
        let rest = &bytes[from..];
        stream.write_all(head(status, &format!("Content-Type: {kind}\r\n"), rest.len()).as_bytes())?;
        let breaks = is_blob
            && self.faults.break_after.is_some_and(|after| after < rest.len())
            && take(&self.faults.breaks_left);
        if breaks {
            self.faults.refusals_left.store(self.faults.refusals_after_break, Ordering::SeqCst);
        }
        let sent = if breaks { &rest[..self.faults.break_after.unwrap_or(0)] } else { rest };
        stream.write_all(sent)
    }
}
