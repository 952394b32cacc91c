//! A reference to layers on disk.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::StreamExt;
use image_plan::{KeyHasher, LayerKey, Reference};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use types::words::counted;

use super::client::{self, Registry, RegistryError};
use super::config::{Endpoint, RegistryConfig};
use super::credentials::RegistryAuth;
use super::manifest::{ConfigFile, Descriptor, Document, Parsed};
use super::progress::{Progress, megabytes};
use super::unpack::{self, UnpackError};
use crate::blocking::{Stop, StopOnDrop};
use crate::builder::ImageBuilder;
use crate::error::BuildError;
use crate::logs::LogSink;
use crate::once::OnceMap;
use crate::request::{BuiltImage, ImageMetadata};

/// Long enough for any registry that is worth waiting for; this is what an offline machine pays once.
const REACHABILITY_LIMIT: Duration = Duration::from_secs(2);
/// How long an unreachable host is not asked again.
const UNREACHABLE_FOR: Duration = Duration::from_secs(300);

/// Enough to keep a fast line busy, few enough that registries do not mind.
const DOWNLOADS_AT_ONCE: usize = 3;

/// Registries as this server has found them.
pub(crate) struct Registries {
    config: RegistryConfig,
    http: Result<reqwest::Client, String>,
    /// When a host was last found reachable or not.
    seen: Mutex<HashMap<Endpoint, (bool, Instant)>>,
    /// Images being pulled right now.
    pulls: OnceMap<LayerKey, Result<Pulled, RegistryError>>,
}

/// Why a registry's image cannot be had.
#[derive(Debug)]
pub(crate) struct PullFailure {
    /// What was tried, for people.
    pub tried: Vec<String>,
    /// Nobody could be asked; a base made here may do instead.
    pub is_absence: bool,
}

#[derive(Clone, Serialize, Deserialize)]
struct Pulled {
    layers: Vec<LayerKey>,
    config: image_plan::ImageConfig,
}

impl Registries {
    pub fn new(config: RegistryConfig) -> Self {
        Self { config, http: client::http_client(), seen: Mutex::default(), pulls: OnceMap::new() }
    }

    /// The client that pulls: its connections, certificates and proxies serve other downloads as well.
    pub fn http(&self) -> Result<reqwest::Client, String> {
        self.http.clone()
    }

    async fn is_reachable(&self, registry: &Registry, endpoint: &Endpoint) -> bool {
        let known = self.seen.lock().get(endpoint).copied();
        if let Some((reachable, when)) = known
            && (reachable || when.elapsed() < UNREACHABLE_FOR)
        {
            return reachable;
        }
        let reachable = registry.is_reachable(REACHABILITY_LIMIT).await;
        self.seen.lock().insert(endpoint.clone(), (reachable, Instant::now()));
        reachable
    }

    fn auth(&self, endpoint: &Endpoint, given: Option<&RegistryAuth>) -> Option<RegistryAuth> {
        let given = given.filter(|_| !endpoint.is_mirror).cloned();
        given.or_else(|| self.config.credentials.get(&endpoint.host).cloned().map(RegistryAuth::Basic))
    }
}

impl ImageBuilder {
    /// Asks the mirrors, then the registry.
    pub(crate) async fn pull(
        &self,
        reference: &Reference,
        auth: Option<&RegistryAuth>,
        logs: &LogSink,
    ) -> Result<Result<BuiltImage, PullFailure>, BuildError> {
        let registries = &self.inner.registries;
        let mut tried = Vec::new();
        let http = registries.http.clone().map_err(BuildError::Base)?;
        let endpoints = registries.config.endpoints(&reference.registry);
        if endpoints.is_empty() {
            tried.push(format!("`{}` has no mirror, and only mirrors may be asked", reference.registry));
        }
        for endpoint in endpoints {
            let auth = registries.auth(&endpoint, auth);
            let ecr_endpoint = registries.config.ecr_endpoint.clone();
            let registry = Arc::new(Registry::new(http.clone(), endpoint.clone(), auth, ecr_endpoint));
            if !registries.is_reachable(&registry, &endpoint).await {
                tried.push(format!("`{}` cannot be reached", endpoint.host));
                continue;
            }
            match self.pull_from(&registry, reference, logs).await {
                Ok(image) => return Ok(Ok(image)),
                Err(PullError::Registry(error)) if error.is_absence() || endpoint.is_mirror => {
                    tried.push(error.to_string());
                }
                Err(PullError::Registry(error)) => {
                    tried.push(error.to_string());
                    return Ok(Err(PullFailure { tried, is_absence: false }));
                }
                Err(PullError::Build(error)) => return Err(error),
            }
        }
        Ok(Err(PullFailure { tried, is_absence: true }))
    }

    async fn pull_from(
        &self,
        registry: &Arc<Registry>,
        reference: &Reference,
        logs: &LogSink,
    ) -> Result<BuiltImage, PullError> {
        let repository = reference.repository.as_str();
        let bad = |reason: String| RegistryError::Bad(format!("`{}`: image `{reference}`: {reason}", registry.host()));
        let (body, digest) = registry.manifest(repository, reference.version()).await?;
        let parse = |body: &[u8]| {
            let document: Document = serde_json::from_slice(body).map_err(|error| bad(error.to_string()))?;
            document.choose().map_err(bad)
        };
        let (config, layers, digest) = match parse(&body)? {
            Parsed::Image { config, layers } => (config, layers, digest),
            Parsed::Elsewhere(found) => {
                let (body, digest) = registry.manifest(repository, &found.digest).await?;
                match parse(&body)? {
                    Parsed::Image { config, layers } => (config, layers, digest),
                    Parsed::Elsewhere(_) => return Err(bad("a list of lists of images".to_owned()).into()),
                }
            }
        };
        let record = KeyHasher::new("registry image").field(&digest).finish();
        if let Some(known) = self.pulled(&record) {
            return Ok(image_of(known));
        }
        let (this, registry, wanted) = (self.clone(), registry.clone(), reference.clone());
        let found = record.clone();
        let make = move |logs: LogSink| async move {
            if let Some(known) = this.pulled(&found) {
                return Ok(Ok(known));
            }
            match this.pull_layers(&registry, &wanted, &config, &layers, &logs).await {
                Ok(pulled) => this.inner.store.write_record(&record_name(&found), &pulled).map(|()| Ok(pulled)),
                Err(PullError::Registry(error)) => Ok(Err(error)),
                Err(PullError::Build(error)) => Err(error),
            }
        };
        // One pull of an image at a time, and everybody who wants it sees its lines.
        Ok(image_of(self.inner.registries.pulls.run(record, logs, make).await??))
    }

    /// What an earlier pull left, if all of it is still there.
    fn pulled(&self, record: &LayerKey) -> Option<Pulled> {
        let known: Pulled = self.inner.store.read_record(&record_name(record))?;
        known.layers.iter().all(|key| self.inner.store.has(key)).then_some(known)
    }

    async fn pull_layers(
        &self,
        registry: &Arc<Registry>,
        reference: &Reference,
        config: &Descriptor,
        layers: &[Descriptor],
        logs: &LogSink,
    ) -> Result<Pulled, PullError> {
        let bad = |reason: String| RegistryError::Bad(format!("`{}`: image `{reference}`: {reason}", registry.host()));
        let config_file: ConfigFile = serde_json::from_slice(&registry.blob(&reference.repository, config).await?)
            .map_err(|error| bad(format!("its configuration cannot be read: {error}")))?;
        let run_config = config_file.config.unwrap_or_default();
        run_config.check().map_err(bad)?;
        let diff_ids = &config_file.rootfs.diff_ids;
        if diff_ids.len() != layers.len() {
            return Err(bad(format!(
                "it has {} and {} for them",
                counted(layers.len(), "layer"),
                counted(diff_ids.len(), "digest")
            ))
            .into());
        }
        let mut keys: Vec<LayerKey> = Vec::new();
        let mut missing = Vec::new();
        for (layer, diff_id) in layers.iter().zip(diff_ids) {
            let parent = keys.last().cloned().unwrap_or_else(LayerKey::empty);
            // Of what it holds and of all below it: links on the way to a file may lead elsewhere on another base.
            let key = parent.child(&KeyHasher::new("registry layer").field(diff_id).finish());
            let digest = sha256_of(&layer.digest).map_err(bad)?.to_owned();
            if !self.inner.store.has(&key) {
                let layer = layer.clone();
                missing.push(MissingLayer {
                    layer,
                    digest,
                    diff_id: diff_id.clone(),
                    key: key.clone(),
                    below: keys.clone(),
                });
            }
            keys.push(key);
        }
        self.pull_missing(registry, reference, missing, layers.len(), logs).await?;
        Ok(Pulled { layers: keys, config: run_config.into_image_config() })
    }

    /// Downloads several at a time; unpacks them from below, each as soon as it is there.
    async fn pull_missing(
        &self,
        registry: &Arc<Registry>,
        reference: &Reference,
        missing: Vec<MissingLayer>,
        all: usize,
        logs: &LogSink,
    ) -> Result<(), PullError> {
        let total: u64 = missing.iter().map(|wanted| wanted.layer.size).sum();
        let here = match all - missing.len() {
            0 => String::new(),
            known => format!(", {known} of them here already"),
        };
        logs.say(format!(
            "   pulling {reference} from `{}`: {}{here}, {} MB",
            registry.host(),
            counted(all, "layer"),
            megabytes(total)
        ));
        let progress = Arc::new(Progress::new(total, missing.len(), logs.clone()));
        // Kept by their digests until they are unpacked, so that a restarted server goes on where it was. Two images may
        // share layers: all locks are taken first and in one order, so that no pull waits for another in a circle.
        let mut digests: Vec<&String> = missing.iter().map(|wanted| &wanted.digest).collect();
        digests.sort();
        digests.dedup();
        let mut locks = Vec::new();
        for digest in digests {
            locks.push(self.inner.downloads.lock(digest.clone()).await);
        }
        // Held by the work that unpacks, too: it ends a little later than whoever waits for it.
        let locks = Arc::new(locks);
        let folder = self.inner.store.cache_dir("blobs", "")?;
        // Loops of their own: a download goes on while nobody looks, because a layer is being unpacked.
        let start = |wanted: MissingLayer| {
            let (path, progress) = (folder.join(&wanted.digest), progress.clone());
            let (store, registry) = (self.inner.store.clone(), registry.clone());
            let repository = reference.repository.clone();
            Download(tokio::spawn(async move {
                if !store.has(&wanted.key) {
                    registry.download(&repository, &wanted.layer, &path, &progress).await?;
                }
                Ok((wanted, path))
            }))
        };
        let mut archives = futures::stream::iter(missing).map(start).buffered(DOWNLOADS_AT_ONCE);
        let mut unpacking = None;
        while let Some(arrived) = archives.next().await {
            finish(unpacking.take()).await?;
            let (wanted, path) = arrived?;
            unpacking = Some(self.unpack(wanted, path, &locks, &progress));
        }
        finish(unpacking).await?;
        progress.finish();
        Ok(())
    }

    fn unpack(
        &self,
        wanted: MissingLayer,
        path: PathBuf,
        locks: &Arc<Vec<tokio::sync::OwnedMutexGuard<()>>>,
        progress: &Arc<Progress>,
    ) -> Unpacking {
        let (store, below) = (self.inner.store.clone(), self.layer_paths(&wanted.below));
        let limits = self.inner.registries.config.layer_limits;
        let (locks, progress) = (locks.clone(), progress.clone());
        let settings_file = self.inner.config.settings_file.clone();
        let stop = Stop::default();
        let stop_when_dropped = StopOnDrop(stop.clone());
        let work = move || {
            let _locks = locks;
            if store.has(&wanted.key) {
                progress.layer_done();
                return Ok(());
            }
            let workspace = store.workspace()?;
            let unpacked = unpack::unpack(&path, &workspace.diff(), &below, &wanted.diff_id, limits, &stop);
            if let Err(error) = unpacked {
                workspace.remove_now();
                if stop.is_asked() {
                    return Err(BuildError::Abandoned);
                }
                let shown = format!("unpack layer `{}`", wanted.layer.digest);
                if let UnpackError::Disk(source) = error {
                    return Err(BuildError::io(shown)(source));
                }
                // It would be no better the next time.
                let _ = std::fs::remove_file(&path);
                let mut message = format!("cannot {shown}: {error}");
                if let UnpackError::TooLarge { setting, .. } = error {
                    let file = settings_file.display();
                    message += &format!("; raise `{setting}` in `{file}` if that is what it should hold");
                }
                return Err(BuildError::Base(message));
            }
            store.commit(&workspace, &wanted.key, &format!("layer {}", wanted.diff_id))?;
            progress.layer_done();
            match std::fs::remove_file(&path) {
                // The same archive twice in one image.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                removed => removed.map_err(BuildError::on("remove", &path)),
            }
        };
        Unpacking { work: tokio::task::spawn_blocking(work), _stop_when_dropped: stop_when_dropped }
    }
}

/// A layer that is not on disk yet.
struct MissingLayer {
    layer: Descriptor,
    /// Of the archive, in hexadecimal.
    digest: String,
    /// Of what is in it.
    diff_id: String,
    key: LayerKey,
    /// The layers under it, lowest first.
    below: Vec<LayerKey>,
}

/// Stopped when nobody waits for it any more.
struct Download(tokio::task::JoinHandle<Result<(MissingLayer, PathBuf), RegistryError>>);

impl Future for Download {
    type Output = Result<(MissingLayer, PathBuf), PullError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let abandoned = |_| PullError::Build(BuildError::Abandoned);
        Pin::new(&mut self.0).poll(context).map(|done| done.map_err(abandoned)?.map_err(PullError::from))
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A layer being unpacked; asked to stop when dropped. Its archive stays, so that another pull starts from there.
struct Unpacking {
    work: tokio::task::JoinHandle<Result<(), BuildError>>,
    _stop_when_dropped: StopOnDrop,
}

async fn finish(unpacking: Option<Unpacking>) -> Result<(), BuildError> {
    match unpacking {
        Some(unpacking) => unpacking.work.await.unwrap_or(Err(BuildError::Abandoned)),
        None => Ok(()),
    }
}

fn record_name(record: &LayerKey) -> String {
    format!("image-{record}")
}

/// It becomes a file's name.
fn sha256_of(digest: &str) -> Result<&str, String> {
    let hex = digest.strip_prefix("sha256:");
    let hex = hex.filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
    hex.ok_or_else(|| format!("layer digest `{digest}` is not a SHA-256"))
}

fn image_of(pulled: Pulled) -> BuiltImage {
    BuiltImage { layers: pulled.layers, config: pulled.config, metadata: ImageMetadata::default() }
}

enum PullError {
    Registry(RegistryError),
    Build(BuildError),
}

impl From<RegistryError> for PullError {
    fn from(error: RegistryError) -> Self {
        match error {
            // Another registry would not help.
            RegistryError::Disk(source) => {
                Self::Build(BuildError::Io { action: "write a downloaded layer".to_owned(), source })
            }
            error => Self::Registry(error),
        }
    }
}

impl From<BuildError> for PullError {
    fn from(error: BuildError) -> Self {
        Self::Build(error)
    }
}
