//! A store for tests: HTTP as stores speak it, with objects in memory and a gate that holds uploads back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::BucketSpec;
use crate::operations::Mount;
use crate::s3::{S3, Target};

pub struct Store {
    port: u16,
    state: Arc<State>,
    /// What the mounts said to the program's author.
    pub said: Arc<Mutex<Vec<String>>>,
}

/// By the page's token.
type Listing = Box<dyn Fn(&str) -> String + Send>;

#[derive(Default)]
struct State {
    objects: Mutex<BTreeMap<String, Bytes>>,
    uploads: Mutex<HashMap<String, BTreeMap<usize, Bytes>>>,
    /// Uploads so far.
    begun: AtomicUsize,
    /// Answers every listing, once there is one.
    listing: Mutex<Option<Listing>>,
    is_shut: watch::Sender<bool>,
    held: watch::Sender<usize>,
    /// Ends of uploads that are refused after a good status.
    refused_completions: AtomicUsize,
}

struct Asked {
    method: String,
    key: String,
    query: HashMap<String, String>,
    body: Bytes,
}

impl Store {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let serving = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(serving.clone(), stream));
            }
        });
        Self { port, state, said: Arc::default() }
    }

    pub fn mount(&self) -> Arc<Mount> {
        self.mount_with(Duration::from_secs(1))
    }

    pub fn mount_with(&self, metadata_ttl: Duration) -> Arc<Mount> {
        let spec = self.spec(metadata_ttl);
        let s3 = s3(&spec);
        let said = self.said.clone();
        Arc::new(Mount::new(spec, 0, s3, Arc::new(move |text| said.lock().push(text))))
    }

    pub fn spec(&self, metadata_ttl: Duration) -> BucketSpec {
        BucketSpec {
            bucket: "b".to_owned(),
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            prefix: String::new(),
            credentials: Vec::new().into(),
            read_only: false,
            requester_pays: false,
            force_path_style: false,
            metadata_ttl,
        }
    }

    pub fn s3(&self) -> S3 {
        s3(&self.spec(Duration::ZERO))
    }

    pub fn put(&self, key: &str, content: &[u8]) {
        self.state.objects.lock().insert(key.to_owned(), Bytes::copy_from_slice(content));
    }

    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.state.objects.lock().get(key).cloned()
    }

    pub fn keys(&self) -> Vec<String> {
        self.state.objects.lock().keys().cloned().collect()
    }

    /// Unfinished ones.
    pub fn uploads(&self) -> usize {
        self.state.uploads.lock().len()
    }

    pub fn answer_listings(&self, answer: impl Fn(&str) -> String + Send + 'static) {
        *self.state.listing.lock() = Some(Box::new(answer));
    }

    /// From now on nothing is taken.
    pub fn shut(&self) {
        self.state.is_shut.send_replace(true);
    }

    pub fn open(&self) {
        self.state.is_shut.send_replace(false);
    }

    /// The next so many ends of uploads are answered with 200 and an error.
    pub fn refuse_completions(&self, times: usize) {
        self.state.refused_completions.store(times, Ordering::Relaxed);
    }

    /// Requests that wait at the gate.
    pub fn held(&self) -> usize {
        *self.state.held.borrow()
    }

    /// Until so many requests wait at the gate.
    pub async fn holds(&self, requests: usize) {
        self.state.held.subscribe().wait_for(|held| *held >= requests).await.unwrap();
    }
}

fn s3(spec: &BucketSpec) -> S3 {
    S3::new(crate::mount::http_client(true).unwrap(), Target::new(spec, None).unwrap(), None, false)
}

async fn serve(state: Arc<State>, stream: TcpStream) {
    let mut stream = BufReader::new(stream);
    while let Some(asked) = read(&mut stream).await {
        if asked.method == "PUT" || asked.method == "POST" {
            let mut gate = state.is_shut.subscribe();
            if *gate.borrow() {
                state.held.send_modify(|held| *held += 1);
                gate.wait_for(|is_shut| !is_shut).await.unwrap();
                state.held.send_modify(|held| *held -= 1);
            }
        }
        let (status, headers, body) = state.answer(&asked);
        let length = if headers.contains("content-length") {
            String::new()
        } else {
            format!("content-length: {}\r\n", body.len())
        };
        // At once: the second of two small pieces would wait for the first to be acknowledged.
        let answer = [format!("HTTP/1.1 {status} x\r\n{headers}{length}\r\n").as_bytes(), &body].concat();
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|bytes| *bytes > 0)?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let length = lines.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    let mut first = lines[0].split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let query = pairs.map(|(name, value)| (name.to_owned(), value.replace("%2F", "/"))).collect();
    Some(Asked { method, key: path.trim_start_matches("/b/").to_owned(), query, body: body.into() })
}

type Answer = (u16, String, Bytes);

impl State {
    fn answer(&self, asked: &Asked) -> Answer {
        let Asked { method, key, query, body } = asked;
        let ok = |body: String| (200, String::new(), Bytes::from(body));
        let stored = |content: &Bytes| (200, format!("etag: {}\r\n", etag(content)), Bytes::new());
        let mut uploads = self.uploads.lock();
        let upload = query.get("uploadId");
        match (method.as_str(), upload) {
            ("GET", _) if query.contains_key("list-type") => {
                let token = query.get("continuation-token").map_or("", String::as_str);
                let told = self.listing.lock().as_ref().map(|answer| answer(token));
                ok(told.unwrap_or_else(|| self.list(query)))
            }
            ("GET" | "HEAD", _) => match self.objects.lock().get(key) {
                None => (404, String::new(), Bytes::new()),
                Some(content) => {
                    let headers = format!("etag: {}\r\ncontent-length: {}\r\n", etag(content), content.len());
                    (200, headers, if method == "GET" { content.clone() } else { Bytes::new() })
                }
            },
            ("POST", None) => {
                let id = self.begun.fetch_add(1, Ordering::Relaxed).to_string();
                uploads.insert(id.clone(), BTreeMap::new());
                ok(format!("<R><UploadId>{id}</UploadId></R>"))
            }
            ("PUT", Some(id)) => match uploads.get_mut(id) {
                None => (404, String::new(), "<Error><Code>NoSuchUpload</Code></Error>".into()),
                Some(parts) => {
                    parts.insert(query["partNumber"].parse().unwrap(), body.clone());
                    stored(body)
                }
            },
            ("POST", Some(_)) if self.refuses_completion() => ok("<Error><Code>SlowDown</Code></Error>".to_owned()),
            ("POST", Some(id)) => {
                let whole: Vec<u8> = uploads.remove(id).unwrap_or_default().into_values().flatten().collect();
                let etag = etag(&whole);
                self.objects.lock().insert(key.clone(), whole.into());
                ok(format!("<R><ETag>{}</ETag></R>", etag.replace('"', "&quot;")))
            }
            ("PUT", None) => {
                self.objects.lock().insert(key.clone(), body.clone());
                stored(body)
            }
            ("DELETE", Some(id)) => {
                uploads.remove(id);
                (204, String::new(), Bytes::new())
            }
            _ => {
                self.objects.lock().remove(key);
                (204, String::new(), Bytes::new())
            }
        }
    }

    fn refuses_completion(&self) -> bool {
        let one_less = |left: usize| left.checked_sub(1);
        self.refused_completions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }

    fn list(&self, query: &HashMap<String, String>) -> String {
        let (prefix, by_folder) = (&query["prefix"], query.contains_key("delimiter"));
        let (mut files, mut folders) = (String::new(), BTreeSet::new());
        for (key, content) in self.objects.lock().iter() {
            let Some(rest) = key.strip_prefix(prefix.as_str()) else { continue };
            match rest.split_once('/') {
                Some((folder, _)) if by_folder => {
                    folders.insert(format!("<CommonPrefixes><Prefix>{prefix}{folder}/</Prefix></CommonPrefixes>"));
                }
                _ => files += &format!("<Contents><Key>{key}</Key><Size>{}</Size></Contents>", content.len()),
            }
        }
        format!("<ListBucketResult>{files}{}</ListBucketResult>", folders.into_iter().collect::<String>())
    }
}

fn etag(content: &[u8]) -> String {
    use md5::Digest;
    format!("\"{}\"", hex::encode(md5::Md5::digest(content)))
}
