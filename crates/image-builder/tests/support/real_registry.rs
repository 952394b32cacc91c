//! Debian's `docker-registry` on loopback, filled over its own protocol.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::image::{INDEX_TYPE, MANIFEST_TYPE, TestImage, digest};

/// Who may read a private registry. The hash is of the password, by bcrypt; `htpasswd -nbB user password` writes it.
pub struct Login {
    pub user: &'static str,
    pub password: &'static str,
    pub hash: &'static str,
}

pub struct RealRegistry {
    child: Child,
    port: u16,
    login: Option<&'static Login>,
    _dir: tempfile::TempDir,
}

impl RealRegistry {
    pub fn start(login: Option<&'static Login>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Free now; taken by the registry at once. A clash shows as a registry that does not come up.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            dir.path().join("store").display()
        );
        if let Some(login) = login {
            let users = dir.path().join("htpasswd");
            fs::write(&users, format!("{}:{}\n", login.user, login.hash)).unwrap();
            config.push_str(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", users.display()));
        }
        let path = dir.path().join("config.yml");
        fs::write(&path, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("`docker-registry`: {error}; install it with `apt-get install docker-registry`")
            });
        let registry = Self { child, port, login, _dir: dir };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "the registry does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Under `name:single` the manifest, under `name:index` the index.
    pub fn push(&self, name: &str, image: &TestImage) {
        let blobs = image.layers.iter().map(|(bytes, _)| bytes).chain([&image.config]);
        for blob in blobs {
            let (status, location) = self.ask("POST", &format!("/v2/{name}/blobs/uploads/"), "", b"");
            assert_eq!(status, 202);
            let path = location.split_once(&self.host()).map_or(location.as_str(), |(_, path)| path);
            let separator = if path.contains('?') { '&' } else { '?' };
            let path = format!("{path}{separator}digest={}", digest(blob));
            assert_eq!(self.ask("PUT", &path, "application/octet-stream", blob).0, 201);
        }
        let manifest = format!("/v2/{name}/manifests/");
        let by_digest = format!("{manifest}{}", digest(&image.manifest));
        assert_eq!(self.ask("PUT", &by_digest, MANIFEST_TYPE, &image.manifest).0, 201);
        assert_eq!(self.ask("PUT", &format!("{manifest}single"), MANIFEST_TYPE, &image.manifest).0, 201);
        assert_eq!(self.ask("PUT", &format!("{manifest}index"), INDEX_TYPE, &image.index).0, 201);
    }

    /// Status and `Location` of one request.
    fn ask(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> (u16, String) {
        use base64::Engine;
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.host());
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        if !content_type.is_empty() {
            head.push_str(&format!("Content-Type: {content_type}\r\n"));
        }
        if let Some(login) = self.login {
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", login.user, login.password));
            head.push_str(&format!("Authorization: Basic {pair}\r\n"));
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let location = answer.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap_or_default();
        (status, location.trim().to_owned())
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
