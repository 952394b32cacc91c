//! The HTTP face, by a client that is as plain as possible.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{MIB, pattern};
use dorian_blob_store::sign::UrlKey;
use dorian_blob_store::urls::BlobUrls;
use dorian_blob_store::{BlobStore, DiskBlobs, Md5Digest, http, multipart_etag};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use types::ids::BlobId;

const FAR: u64 = 1 << 40;

struct Server {
    _folder: tempfile::TempDir,
    store: DiskBlobs,
    urls: BlobUrls,
}

impl Server {
    async fn start() -> Self {
        let (folder, store) = common::temporary();
        let key = UrlKey::from_bytes([1; 32]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/", listener.local_addr().unwrap());
        let router = http::router(Arc::new(store.clone()), key.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { _folder: folder, store, urls: BlobUrls::new(base, key) }
    }
}

struct Answer {
    status: u16,
    head: String,
    body: Bytes,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap().trim_end()
    }
}

async fn request(method: &str, url: &str, body: &[u8]) -> Answer {
    request_with(method, url, "", body).await
}

/// `headers`: whole lines.
async fn request_with(method: &str, url: &str, headers: &str, body: &[u8]) -> Answer {
    let mut connection = send(method, url, headers, body, body.len()).await;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: Bytes::from(answer).slice(end + 4..) }
}

/// A request that says that its body is `length` long.
async fn send(method: &str, url: &str, headers: &str, body: &[u8], length: usize) -> TcpStream {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut connection = TcpStream::connect(host).await.unwrap();
    let head = format!("{method} /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}");
    connection.write_all(format!("{head}content-length: {length}\r\n\r\n").as_bytes()).await.unwrap();
    connection.write_all(body).await.unwrap();
    connection
}

#[tokio::test]
async fn parts_are_put_completed_and_downloaded() {
    let server = Server::start().await;
    let bytes = pattern(5 * MIB + 1, 1);
    let upload = server.store.create(bytes.len() as u64, None).await.unwrap();
    let urls = server.urls.upload(&upload, FAR);
    let mut md5s = Vec::new();
    for (url, chunk) in urls.parts.iter().zip(bytes.chunks(2 * MIB)) {
        let answer = request("PUT", url, chunk).await;
        md5s.push(Md5Digest::of(chunk));
        assert_eq!(answer.status, 200);
        assert!(answer.head.contains(&format!("etag: \"{}\"", Md5Digest::of(chunk))), "{}", answer.head);
    }
    let answer = request("POST", &urls.complete, b"<CompleteMultipartUpload></CompleteMultipartUpload>").await;
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains(&multipart_etag(&md5s)));
    let answer = request("GET", &server.urls.download(&upload.blob, FAR), b"").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains(&format!("content-length: {}", bytes.len())));
    assert!(answer.body == bytes);
}

#[tokio::test]
async fn one_put_is_a_whole_upload() {
    let server = Server::start().await;
    let bytes = pattern(3 * MIB, 2);
    let upload = server.store.create(bytes.len() as u64, None).await.unwrap();
    let answer = request("PUT", &server.urls.upload(&upload, FAR).whole, &bytes).await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains(&format!("etag: \"{}\"", Md5Digest::of(&bytes))));
    assert!(server.store.read(&upload.blob, FAR).await.unwrap() == bytes);
}

#[tokio::test]
async fn an_upload_that_broke_off_goes_on_with_the_same_urls() {
    let server = Server::start().await;
    let bytes = pattern(4 * MIB, 4);
    let upload = server.store.create(bytes.len() as u64, None).await.unwrap();
    let urls = server.urls.upload(&upload, FAR);
    assert_eq!(request("PUT", &urls.parts[0], &bytes[..2 * MIB]).await.status, 200);
    // The second part's connection ends when half of it has come.
    drop(send("PUT", &urls.parts[1], "", &bytes[2 * MIB..3 * MIB], 2 * MIB).await);
    let refused = request("POST", &urls.complete, b"").await;
    assert!(refused.status == 400 && refused.text().contains("part 2"), "{}", refused.text());
    assert_eq!(request("PUT", &urls.parts[1], &bytes[2 * MIB..]).await.status, 200);
    assert_eq!(request("POST", &urls.complete, b"").await.status, 200);
    assert!(server.store.read(&upload.blob, FAR).await.unwrap() == bytes);
}

#[tokio::test]
async fn a_download_that_broke_off_goes_on_where_it_was() {
    let server = Server::start().await;
    let bytes = pattern(3 * MIB, 5);
    let blob = server.store.put(bytes.clone()).await.unwrap();
    let url = server.urls.download(&blob, FAR);
    let whole = request("GET", &url, b"").await;
    assert!(whole.status == 200 && whole.head.contains("accept-ranges: bytes") && whole.body == bytes);

    let at = MIB + 7;
    let range = format!("range: bytes={at}-\r\n");
    let rest = request_with("GET", &url, &format!("{range}if-range: \"{blob}\"\r\n"), b"").await;
    assert_eq!(rest.status, 206);
    let said = format!("content-range: bytes {at}-{}/{}", bytes.len() - 1, bytes.len());
    assert!(rest.head.contains(&said), "{}", rest.head);
    assert!(rest.body == bytes[at..]);
    let some = request_with("GET", &url, "range: bytes=1-3\r\n", b"").await;
    assert!(some.status == 206 && some.body == bytes[1..4]);

    let of_another = request_with("GET", &url, &format!("{range}if-range: \"another\"\r\n"), b"").await;
    assert!(of_another.status == 200 && of_another.body == bytes);
    let outside = request_with("GET", &url, &format!("range: bytes={}-\r\n", bytes.len()), b"").await;
    assert_eq!((outside.status, outside.text().contains("begins after")), (416, true));
    assert!(outside.head.contains(&format!("content-range: bytes */{}", bytes.len())), "{}", outside.head);
}

#[tokio::test]
async fn refusals_are_a_status_and_one_sentence_even_in_the_middle_of_a_large_upload() {
    let server = Server::start().await;
    let large = pattern(20 * MIB, 3);
    let upload = server.store.create(3 * MIB as u64, None).await.unwrap();
    let urls = server.urls.upload(&upload, FAR);
    let expired = server.urls.upload(&upload, 1);
    let other = BlobUrls::new("http://x", UrlKey::from_bytes([2; 32])).download(&upload.blob, FAR);
    let forged = urls.complete.split('?').next().unwrap().to_owned() + "?" + other.split('?').nth(1).unwrap();
    let unknown = server.urls.download(&BlobId::random(), FAR);
    let odd = urls.parts[0].replace("/1?", "/one?");
    let sentence = "the URL has no valid signature for this; ask the server for a new one";
    let cases = [
        ("PUT", urls.parts[0].clone(), 400, format!("part 1 of blob `{}` must have 2097152 bytes", upload.blob)),
        ("PUT", expired.parts[0].clone(), 403, "the URL has expired; ask the server for a new one".to_owned()),
        ("PUT", odd, 403, sentence.to_owned()),
        ("POST", forged, 403, sentence.to_owned()),
        ("GET", urls.whole.clone(), 403, sentence.to_owned()),
        ("GET", unknown, 404, "does not exist (any more)".to_owned()),
        ("POST", urls.complete.clone(), 400, "part 1 and 1 others have not been uploaded".to_owned()),
    ];
    for (method, url, status, words) in cases {
        let answer = request(method, &url, if method == "PUT" { &large } else { b"" }).await;
        assert_eq!(answer.status, status, "{method} {url}: {}", answer.text());
        assert!(answer.text().contains(&words), "{method} {url}: {}", answer.text());
        assert!(!answer.text().contains('\n'));
    }
}

#[tokio::test]
async fn a_full_disk_is_507() {
    let Some(disk) = common::SmallDisk::mount("4m") else {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    };
    let store = common::open(disk.path());
    let key = UrlKey::from_bytes([1; 32]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let urls = BlobUrls::new(format!("http://{}", listener.local_addr().unwrap()), key.clone());
    let router = http::router(Arc::new(store.clone()), key);
    tokio::spawn(async move { axum::serve(listener, router).await });
    let upload = store.create(3 * MIB as u64, None).await.unwrap();
    std::fs::write(disk.path().join("ballast"), vec![1; 2 * MIB]).unwrap();
    for _ in 0..2 {
        let answer = request("PUT", &urls.upload(&upload, FAR).whole, &pattern(3 * MIB, 1)).await;
        assert_eq!(answer.status, 507);
        assert!(answer.text().starts_with("the server's disk is full"), "{}", answer.text());
    }
}
