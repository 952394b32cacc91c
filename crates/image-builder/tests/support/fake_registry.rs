//! A registry that misbehaves on request: broken connections, wrong bytes, tokens.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

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
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    address: SocketAddr,
    /// Path to content type and bytes.
    content: Mutex<HashMap<String, (String, Vec<u8>)>>,
    faults: Faults,
    requests: Mutex<Vec<String>>,
    stopped: AtomicBool,
}

impl FakeRegistry {
    /// Serves `image` as `<host>/some/image` with tags `single` and `index`.
    pub fn start(image: &TestImage, faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
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
        let shared = Arc::new(Shared {
            address,
            content: Mutex::new(content),
            faults,
            requests: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let shared = serving.clone();
                std::thread::spawn(move || shared.answer(stream));
            }
        });
        Self { address, shared }
    }

    pub fn image(&self, tag: &str) -> String {
        format!("{}/some/image:{tag}", self.address)
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// `METHOD path range` of each request so far.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().clone()
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the loop so that it sees the mark.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn answer(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut first = String::new();
        if reader.read_line(&mut first).is_err() {
            return;
        }
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).is_err() || line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
        }
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let range = headers.get("range").cloned().unwrap_or_default();
        self.requests.lock().push(format!("{} {range}", first.split(" HTTP").next().unwrap_or_default()));
        let authorization = headers.get("authorization").map(String::as_str);
        // Errors mean that the client has gone, which is its right.
        let _ = self.respond(&mut stream, &path, &range, authorization);
    }

    fn respond(
        &self,
        stream: &mut TcpStream,
        path: &str,
        range: &str,
        authorization: Option<&str>,
    ) -> std::io::Result<()> {
        let head = |status: &str, more: &str, length: usize| {
            format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{more}\r\n")
        };
        if path.starts_with("/token") {
            // `user:secret`.
            let body = format!("{{\"token\": \"{TOKEN}\"}}");
            let allowed = authorization == Some("Basic dXNlcjpzZWNyZXQ=");
            let (status, body) = if allowed { ("200 OK", body) } else { ("401 Unauthorized", String::new()) };
            stream.write_all(head(status, "", body.len()).as_bytes())?;
            return stream.write_all(body.as_bytes());
        }
        let bearer = format!("Bearer {TOKEN}");
        if self.faults.wants_token.load(Ordering::SeqCst) && authorization != Some(bearer.as_str()) {
            let more = format!(
                "WWW-Authenticate: Bearer realm=\"http://{}/token\",service=\"test\",scope=\"repository:some/image:pull\"\r\n",
                self.address
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
