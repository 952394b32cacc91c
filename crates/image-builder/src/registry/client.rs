//! Requests to one registry.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::header::{ACCEPT, AUTHORIZATION, RANGE, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use types::errors::with_causes;

use super::auth::Challenge;
use super::config::{Credentials, Endpoint};
use super::credentials::{RegistryAuth, secret_for};
use super::ecr;
use super::manifest::{self, Descriptor};
use super::progress::Progress;

/// Documents are small; whatever claims to be a larger one is not read.
const LARGEST_DOCUMENT: u64 = 16 << 20;
/// Connections that break are resumed; one that breaks this often in a row without a byte is given up. With the pauses in
/// between it is half a minute, which is what a registry needs to start again.
const ATTEMPTS: u32 = 8;

/// Why a registry did not give what was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error("`{host}` cannot be reached: {reason}")]
    Unreachable { host: String, reason: String },
    #[error("`{host}` has no `{what}`{}", hint.as_deref().unwrap_or_default())]
    NotFound { host: String, what: String, hint: Option<String> },
    /// It was asked without credentials. Many registries say this of a repository that is not there, too.
    #[error("`{host}` gives `{what}` only to those it knows: use {}, or check the name", secret_for(host))]
    Private { host: String, what: String },
    #[error("`{host}` refuses access to `{what}` with the credentials given: check them, and the name")]
    Denied { host: String, what: String },
    #[error("`{host}` answered `{status}` for `{what}`")]
    Status { host: String, what: String, status: StatusCode },
    #[error("{0}")]
    Bad(String),
    #[error("cannot write a downloaded layer: {0}")]
    Disk(#[source] Arc<io::Error>),
}

impl RegistryError {
    /// Whether it may be better in a moment.
    fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Status { status, .. } => {
                status.is_server_error()
                    || matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
            }
            _ => false,
        }
    }

    fn is_bad_range(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status == StatusCode::RANGE_NOT_SATISFIABLE)
    }

    /// Whether another host or a local base may do instead.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Status { .. })
    }
}

/// One registry host with the tokens it gave.
pub(crate) struct Registry {
    http: reqwest::Client,
    endpoint: Endpoint,
    auth: Option<RegistryAuth>,
    /// Instead of Amazon's own.
    ecr_endpoint: Option<String>,
    /// `Authorization` by repository.
    authorization: Mutex<HashMap<String, String>>,
}

/// The client for all registries: it keeps connections open.
pub(crate) fn http_client() -> Result<reqwest::Client, String> {
    // Fails only when one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .user_agent(concat!("dorian/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(Duration::from_secs(60));
    builder.build().map_err(|error| with_causes(&error))
}

impl Registry {
    pub fn new(
        http: reqwest::Client,
        endpoint: Endpoint,
        auth: Option<RegistryAuth>,
        ecr_endpoint: Option<String>,
    ) -> Self {
        Self { http, endpoint, auth, ecr_endpoint, authorization: Mutex::default() }
    }

    pub fn host(&self) -> &str {
        &self.endpoint.host
    }

    /// Whether it answers as a registry does, within `limit`.
    pub async fn is_reachable(&self, limit: Duration) -> bool {
        let asked = self.http.get(format!("{}/v2/", self.endpoint.url)).timeout(limit).send();
        match tokio::time::timeout(limit, asked).await {
            Ok(Ok(answer)) => answer.status().is_success() || answer.status() == StatusCode::UNAUTHORIZED,
            _ => false,
        }
    }

    /// The manifest or index, checked against its digest, and that digest.
    pub async fn manifest(&self, repository: &str, version: &str) -> Result<(Vec<u8>, String), RegistryError> {
        let url = format!("{}/v2/{repository}/manifests/{version}", self.endpoint.url);
        let what = format!("{repository}:{version}");
        let answer = self
            .get(repository, &what, &|| {
                self.http.get(&url).header(ACCEPT, manifest::ACCEPT).timeout(Duration::from_secs(60))
            })
            .await;
        let answer = match answer {
            Err(RegistryError::NotFound { host, what, .. }) => {
                return Err(RegistryError::NotFound { host, what, hint: self.hint_at_tags(repository).await });
            }
            answer => answer?,
        };
        let announced = answer.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        let announced = announced.map(str::to_owned);
        let body = self.small_body(answer, &what).await?;
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&body)));
        let expected = if version.starts_with("sha256:") { Some(version.to_owned()) } else { announced };
        if expected.as_ref().is_some_and(|expected| expected.starts_with("sha256:") && *expected != digest) {
            return Err(self.bad(format!("the manifest of `{what}` has digest `{digest}`, not the one asked for")));
        }
        Ok((body, digest))
    }

    /// For somebody whose tag is not there: whether the repository is, and which tags it has.
    async fn hint_at_tags(&self, repository: &str) -> Option<String> {
        #[derive(Deserialize)]
        struct Tags {
            tags: Option<Vec<String>>,
        }
        let url = format!("{}/v2/{repository}/tags/list", self.endpoint.url);
        let answer = self.get(repository, repository, &|| self.http.get(&url).timeout(Duration::from_secs(10))).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(RegistryError::NotFound { .. }) => return Some(": there is no such repository".to_owned()),
            Err(_) => return None,
        };
        let tags: Tags = serde_json::from_slice(&self.small_body(answer, repository).await.ok()?).ok()?;
        tags_hint(tags.tags.unwrap_or_default())
    }

    /// A small blob in memory, checked.
    pub async fn blob(&self, repository: &str, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let url = self.blob_url(repository, descriptor);
        let what = format!("{repository}@{}", descriptor.digest);
        let answer = self.get(repository, &what, &|| self.http.get(&url)).await?;
        let body = self.small_body(answer, &what).await?;
        self.check(&what, descriptor, body.len() as u64, &Sha256::digest(&body))?;
        Ok(body)
    }

    /// Downloads a blob to a file, going on where an earlier attempt stopped; checks size and digest.
    pub async fn download(
        &self,
        repository: &str,
        descriptor: &Descriptor,
        path: &Path,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        let what = format!("{repository}@{}", descriptor.digest);
        let (mut failures, mut restarts) = (0, 0);
        let mut hasher = Sha256::new();
        // A file that is there is a file's beginning: it is written in order, and a wrong end shows in the digest.
        let mut have = hash_existing(path, descriptor.size, &mut hasher).map_err(disk)?;
        progress.add(have);
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(disk)?;
        while have < descriptor.size {
            let before = have;
            let outcome =
                self.download_rest(repository, descriptor, &what, &mut file, &mut have, &mut hasher, progress).await;
            let error = match outcome {
                Ok(()) => continue,
                Err(error) => error,
            };
            let cannot_resume = error.is_bad_range() && have > 0;
            if !cannot_resume && !error.may_pass() {
                return Err(error);
            }
            failures = if have > before { 1 } else { failures + 1 };
            if cannot_resume {
                // Again from the start, and no more often than anything else.
                start_over(&mut file, &mut have, &mut hasher, progress)?;
                restarts += 1;
                failures = failures.max(restarts);
            }
            if failures >= ATTEMPTS {
                return Err(error);
            }
            progress.say(format!("   {error}; going on from {have} of {} bytes", descriptor.size));
            tokio::time::sleep(Duration::from_millis(200) * failures * failures).await;
        }
        let checked = self.check(&what, descriptor, have, &hasher.finalize());
        if checked.is_err() {
            // Wrong bytes must not be resumed from.
            let _ = std::fs::remove_file(path);
        }
        checked
    }

    #[expect(clippy::too_many_arguments, reason = "the running state of one download")]
    async fn download_rest(
        &self,
        repository: &str,
        descriptor: &Descriptor,
        what: &str,
        file: &mut File,
        have: &mut u64,
        hasher: &mut Sha256,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        let url = self.blob_url(repository, descriptor);
        let from = *have;
        let ask = || match from {
            0 => self.http.get(&url),
            _ => self.http.get(&url).header(RANGE, format!("bytes={from}-")),
        };
        let mut answer = self.get(repository, what, &ask).await?;
        if from > 0 && answer.status() != StatusCode::PARTIAL_CONTENT {
            // It does not resume: from the start.
            start_over(file, have, hasher, progress)?;
        }
        loop {
            let chunk = match answer.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) if *have < descriptor.size => return Err(self.unreachable("the connection ended early")),
                Ok(None) => return Ok(()),
                Err(error) => return Err(self.unreachable(&with_causes(&error))),
            };
            *have += chunk.len() as u64;
            if *have > descriptor.size {
                return Err(self.bad(format!("`{what}` is longer than the {} bytes announced", descriptor.size)));
            }
            file.write_all(&chunk).map_err(disk)?;
            hasher.update(&chunk);
            progress.add(chunk.len() as u64);
        }
    }

    fn blob_url(&self, repository: &str, descriptor: &Descriptor) -> String {
        format!("{}/v2/{repository}/blobs/{}", self.endpoint.url, descriptor.digest)
    }

    /// Sends, and once more with authorization when that is what the registry wants.
    async fn get(
        &self,
        repository: &str,
        what: &str,
        ask: &(dyn Fn() -> RequestBuilder + Sync),
    ) -> Result<Response, RegistryError> {
        let known = self.authorization.lock().get(repository).cloned();
        let with = |authorization: Option<&String>| match authorization {
            Some(value) => ask().header(AUTHORIZATION, value),
            None => ask(),
        };
        let mut answer = with(known.as_ref()).send().await.map_err(|error| self.unreachable(&with_causes(&error)))?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            let authorization = self.authorize(repository, what, &answer).await?;
            self.authorization.lock().insert(repository.to_owned(), authorization.clone());
            answer = with(Some(&authorization)).send().await.map_err(|error| self.unreachable(&with_causes(&error)))?;
        }
        let (host, shown) = (self.endpoint.host.clone(), what.to_owned());
        match answer.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::NOT_FOUND => Err(RegistryError::NotFound { host, what: shown, hint: None }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.denied(what)),
            status => Err(RegistryError::Status { host, what: shown, status }),
        }
    }

    /// The value of `Authorization` that the challenge asks for.
    async fn authorize(&self, repository: &str, what: &str, answer: &Response) -> Result<String, RegistryError> {
        let denied = || self.denied(what);
        let headers = answer.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenge = headers.filter_map(|value| Challenge::parse(value.to_str().ok()?)).next();
        let (realm, service, scope) = match challenge {
            None => return Err(denied()),
            Some(Challenge::Basic) => {
                let login = self.login().await?.ok_or_else(denied)?;
                return Ok(basic(&login));
            }
            Some(Challenge::Bearer { realm, service, scope }) => (realm, service, scope),
        };
        let mut query = vec![("scope", scope.unwrap_or_else(|| format!("repository:{repository}:pull")))];
        query.extend(service.map(|service| ("service", service)));
        let mut ask = self.http.get(&realm).query(&query).timeout(Duration::from_secs(30));
        if let Some(login) = self.login().await? {
            ask = ask.header(AUTHORIZATION, basic(&login));
        }
        let answer = ask.send().await.map_err(|error| self.unreachable(&with_causes(&error)))?;
        if !answer.status().is_success() {
            return Err(denied());
        }
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let body = self.small_body(answer, what).await?;
        let token: Token = serde_json::from_slice(&body)
            .map_err(|error| self.bad(format!("the token for `{what}` cannot be read: {error}")))?;
        let token = token.token.or(token.access_token).ok_or_else(denied)?;
        Ok(format!("Bearer {token}"))
    }

    fn denied(&self, what: &str) -> RegistryError {
        let (host, what) = (self.endpoint.host.clone(), what.to_owned());
        match self.auth {
            None => RegistryError::Private { host, what },
            Some(_) => RegistryError::Denied { host, what },
        }
    }

    /// User and password, asked of whoever gives them.
    async fn login(&self) -> Result<Option<Credentials>, RegistryError> {
        match &self.auth {
            None => Ok(None),
            Some(RegistryAuth::Basic(login)) => Ok(Some(login.clone())),
            Some(RegistryAuth::AwsEcr(keys)) => {
                let login = ecr::login(&self.http, keys, self.ecr_endpoint.as_deref()).await;
                login.map(Some).map_err(|error| RegistryError::Bad(error.to_string()))
            }
        }
    }

    async fn small_body(&self, mut answer: Response, what: &str) -> Result<Vec<u8>, RegistryError> {
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.unreachable(&with_causes(&error)))? {
            if (body.len() + chunk.len()) as u64 > LARGEST_DOCUMENT {
                return Err(self.bad(format!("the document for `{what}` is larger than {LARGEST_DOCUMENT} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn check(&self, what: &str, descriptor: &Descriptor, size: u64, sha256: &[u8]) -> Result<(), RegistryError> {
        let digest = format!("sha256:{}", hex::encode(sha256));
        if size != descriptor.size || digest != descriptor.digest {
            return Err(self.bad(format!("`{what}` arrived as {size} bytes with digest `{digest}`, which is wrong")));
        }
        Ok(())
    }

    fn unreachable(&self, reason: &str) -> RegistryError {
        RegistryError::Unreachable { host: self.endpoint.host.clone(), reason: reason.to_owned() }
    }

    fn bad(&self, what: String) -> RegistryError {
        RegistryError::Bad(format!("`{}`: {what}", self.endpoint.host))
    }
}

fn start_over(file: &mut File, have: &mut u64, hasher: &mut Sha256, progress: &Progress) -> Result<(), RegistryError> {
    file.set_len(0).map_err(disk)?;
    *hasher = Sha256::new();
    progress.take_back(*have);
    *have = 0;
    Ok(())
}

/// What of a file is there already, hashed. A file that is too long is not ours.
fn hash_existing(path: &Path, size: u64, hasher: &mut Sha256) -> io::Result<u64> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() > size {
        std::fs::remove_file(path)?;
        return Ok(0);
    }
    let mut buffer = vec![0; 1 << 20];
    let mut have = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(have);
        }
        hasher.update(&buffer[..count]);
        have += count as u64;
    }
}

/// The newest tags tend to be last in the registry's order.
fn tags_hint(mut tags: Vec<String>) -> Option<String> {
    const SHOWN: usize = 5;
    tags.retain(|tag| tag.len() <= 128 && tag.bytes().all(|b| b.is_ascii_graphic()));
    let more = if tags.len() > SHOWN { ", among others" } else { "" };
    let shown: Vec<String> = tags.iter().rev().take(SHOWN).map(|tag| format!("`{tag}`")).collect();
    (!shown.is_empty()).then(|| format!("; it has {}{more}", shown.join(", ")))
}

fn disk(error: io::Error) -> RegistryError {
    RegistryError::Disk(Arc::new(error))
}

fn basic(credentials: &Credentials) -> String {
    use base64::Engine;
    let pair = format!("{}:{}", credentials.user, credentials.password);
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}
