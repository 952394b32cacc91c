//! A web server whose files can change, break off and go away.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

pub struct Web {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    files: Mutex<HashMap<String, Vec<u8>>>,
    /// Method, path and status of each answer so far.
    answers: Mutex<Vec<String>>,
    /// Answers to be broken off in the middle.
    breaks: AtomicUsize,
    stopped: AtomicBool,
}

impl Web {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let shared = serving.clone();
                // An error means that the client has gone, which is its right.
                std::thread::spawn(move || shared.answer(stream).unwrap_or(()));
            }
        });
        Self { address, shared }
    }

    /// Serves `bytes` at `path` from now on.
    pub fn put(&self, path: &str, bytes: &[u8]) -> String {
        self.shared.files.lock().insert(path.to_owned(), bytes.to_vec());
        format!("http://{}{path}", self.address)
    }

    pub fn break_off(&self, answers: usize) {
        self.shared.breaks.store(answers, Ordering::SeqCst);
    }

    /// `path status` of each answer since the last time.
    pub fn answers(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.answers.lock())
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the loop so that it sees the mark.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut known = String::new();
        for line in lines {
            let line = line?;
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("if-none-match: ") {
                known = value.to_owned();
            }
        }
        let file = self.files.lock().get(&path).cloned();
        let etag = file.as_deref().map(|bytes| format!("\"{}\"", &super::image::digest(bytes)[7..]));
        let status = match &etag {
            None => "404 Not Found",
            Some(etag) if *etag == known => "304 Not Modified",
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
