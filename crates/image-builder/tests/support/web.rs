//! A web server whose files can change, break off and go away.

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::http::{Request, Serving};

pub struct Web {
    serving: Serving,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    files: Mutex<HashMap<String, Vec<u8>>>,
    /// Method, path and status of each answer so far.
    answers: Mutex<Vec<String>>,
    /// Answers to be broken off in the middle.
    breaks: AtomicUsize,
}

impl Web {
    pub fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let answering = shared.clone();
        Self { serving: Serving::start(move |stream, request| answering.answer(stream, &request)), shared }
    }

    pub fn url(&self) -> String {
        self.serving.url()
    }

    /// Serves `bytes` at `path` from now on.
    pub fn put(&self, path: &str, bytes: &[u8]) -> String {
        self.shared.files.lock().insert(path.to_owned(), bytes.to_vec());
        format!("{}{path}", self.url())
    }

    pub fn break_off(&self, answers: usize) {
        self.shared.breaks.store(answers, Ordering::SeqCst);
    }

    /// `path status` of each answer since the last time.
    pub fn answers(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.answers.lock())
    }
}

impl Shared {
    fn answer(&self, stream: &mut TcpStream, request: &Request) -> std::io::Result<()> {
        let path = &request.path;
        let file = self.files.lock().get(path).cloned();
        let etag = file.as_deref().map(|bytes| format!("\"{}\"", &super::image::digest(bytes)[7..]));
        let status = match &etag {
            None => "404 Not Found",
            Some(etag) if etag == request.header("if-none-match") => "304 Not Modified",
            Some(_) => "200 OK",
        };
        self.answers.lock().push(format!("{path} {}", &status[..3]));
        let body = file.filter(|_| status.starts_with("200")).unwrap_or_default();
        write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n", body.len())?;
        write!(stream, "ETag: {}\r\n\r\n", etag.unwrap_or_default())?;
        let less = |left: usize| left.checked_sub(1);
        let broken = self.breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok();
        stream.write_all(if broken { &body[..body.len() / 2] } else { &body })
    }
}
