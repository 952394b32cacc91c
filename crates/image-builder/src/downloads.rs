//! `ADD https://...`: files from the web, by content.
//!
//! What was downloaded is kept by its digest. With a checksum in the Dockerfile a kept file is as good as a new one.
//! Without, the server is asked at every build whether the file is still the same (`ETag`, `Last-Modified`), because the
//! step's key is the content's digest: a build must not go on with what was true last month.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use image_plan::KeyHasher;
use reqwest::header::{ETAG, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use types::errors::with_causes;

use crate::builder::ImageBuilder;
use crate::error::BuildError;
use crate::logs::LogSink;

/// A connection that breaks, or a server that is overloaded, is tried so often.
const ATTEMPTS: u32 = 3;

#[derive(Debug, Clone)]
pub(crate) struct Downloaded {
    pub path: PathBuf,
    /// Hexadecimal SHA-256 of the content.
    pub digest: String,
}

/// What a server said about a URL's content.
#[derive(Serialize, Deserialize)]
struct Remembered {
    url: String,
    etag: Option<String>,
    last_modified: Option<String>,
    digest: String,
}

/// What one attempt gave.
enum Got {
    Unchanged,
    File(Remembered),
}

enum Failure {
    /// May be better the next time.
    Passing(String),
    Final(BuildError),
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        Self::Final(error)
    }
}

impl ImageBuilder {
    /// `checksum`: `sha256:` and 64 digits.
    pub(crate) async fn download(
        &self,
        url: &str,
        checksum: Option<&str>,
        logs: &LogSink,
    ) -> Result<Downloaded, BuildError> {
        let folder = self.inner.store.cache_dir("downloads", "")?;
        let record = format!("download-{}", KeyHasher::new("url").field(url).finish());
        let _lock = self.inner.downloads.lock(record.clone()).await;
        let expected = checksum.and_then(|checksum| checksum.strip_prefix("sha256:"));
        if let Some(digest) = expected
            && folder.join(digest).exists()
        {
            return Ok(Downloaded { path: folder.join(digest), digest: digest.to_owned() });
        }
        let known: Option<Remembered> = self.inner.store.read_record(&record);
        let known = known.filter(|known| expected.is_none() && folder.join(&known.digest).exists());
        let mut attempt = 1;
        let got = loop {
            match self.fetch(url, expected, known.as_ref(), &folder, logs).await {
                Ok(got) => break got,
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(reason)) if attempt >= ATTEMPTS => {
                    return Err(BuildError::Base(format!("cannot download `{url}`: {reason}")));
                }
                Err(Failure::Passing(reason)) => {
                    logs.say(format!("   {reason}; trying again"));
                    tokio::time::sleep(Duration::from_millis(300) * attempt).await;
                    attempt += 1;
                }
            }
        };
        let digest = match (got, known) {
            (Got::File(found), _) => {
                self.inner.store.write_record(&record, &found)?;
                found.digest
            }
            (Got::Unchanged, Some(known)) => known.digest,
            (Got::Unchanged, None) => {
                return Err(BuildError::Base(format!("cannot download `{url}`: the server says that nothing is new")));
            }
        };
        Ok(Downloaded { path: folder.join(&digest), digest })
    }

    async fn fetch(
        &self,
        url: &str,
        expected: Option<&str>,
        known: Option<&Remembered>,
        folder: &Path,
        logs: &LogSink,
    ) -> Result<Got, Failure> {
        let client = self.inner.registries.http().map_err(BuildError::Base)?;
        let answer = ask(&client, url, known).send().await.map_err(|error| passing(url, &error))?;
        match answer.status() {
            StatusCode::NOT_MODIFIED => return Ok(Got::Unchanged),
            status if status.is_success() => {}
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(Failure::Passing(format!("the server answered `{status}`")));
            }
            status => {
                return Err(BuildError::Base(format!("cannot download `{url}`: the server answered `{status}`")).into());
            }
        }
        let header = |name: HeaderName| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let (etag, last_modified) = (header(ETAG).map(str::to_owned), header(LAST_MODIFIED).map(str::to_owned));
        let workspace = self.inner.store.workspace()?;
        let path = workspace.path().join("download");
        let digest = self.receive(url, answer, &path, logs).await?;
        if let Some(expected) = expected
            && digest != expected
        {
            let message = format!("`{url}` has digest `sha256:{digest}`, not `sha256:{expected}` as `--checksum` says");
            return Err(BuildError::Refused(message).into());
        }
        fs::rename(&path, folder.join(&digest)).map_err(BuildError::on("keep the download", &path))?;
        Ok(Got::File(Remembered { url: url.to_owned(), etag, last_modified, digest }))
    }

    /// Writes the body to `path`; answers with its digest.
    async fn receive(&self, url: &str, mut answer: Response, path: &Path, logs: &LogSink) -> Result<String, Failure> {
        let limit = self.inner.config.largest_download;
        let too_large = || {
            let limit = limit as f64 / 1e6;
            BuildError::Refused(format!("`{url}` is larger than {limit:.1} MB, the limit for one download"))
        };
        let announced = answer.content_length();
        if announced.is_some_and(|size| size > limit) {
            return Err(too_large().into());
        }
        let mut file = File::create(path).map_err(BuildError::on("create", path))?;
        let (mut hasher, mut have, mut said) = (Sha256::new(), 0, Instant::now());
        while let Some(chunk) = answer.chunk().await.map_err(|error| passing(url, &error))? {
            have += chunk.len() as u64;
            if have > limit {
                return Err(too_large().into());
            }
            hasher.update(&chunk);
            file.write_all(&chunk).map_err(BuildError::on("write", path))?;
            if said.elapsed() > Duration::from_secs(2) {
                said = Instant::now();
                let of = announced.map_or(String::new(), |size| format!(" of {:.1}", size as f64 / 1e6));
                logs.say(format!("   {url} {:.1}{of} MB", have as f64 / 1e6));
            }
        }
        Ok(hex::encode(hasher.finalize()))
    }
}

fn ask(client: &Client, url: &str, known: Option<&Remembered>) -> RequestBuilder {
    let ask = client.get(url);
    match known {
        Some(Remembered { etag: Some(etag), .. }) => ask.header(IF_NONE_MATCH, etag),
        Some(Remembered { last_modified: Some(when), .. }) => ask.header(IF_MODIFIED_SINCE, when),
        _ => ask,
    }
}

fn passing(url: &str, error: &reqwest::Error) -> Failure {
    // A URL that is none, or a redirect without end, stays one.
    if error.is_builder() || error.is_redirect() {
        return BuildError::Refused(format!("cannot download `{url}`: {}", with_causes(error))).into();
    }
    Failure::Passing(with_causes(error))
}
