//! A reference to layers on disk.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use image_plan::{KeyHasher, LayerKey, Reference};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::client::{self, Registry, RegistryError};
use super::config::{Endpoint, RegistryConfig};
use super::credentials::RegistryAuth;
use super::manifest::{ConfigFile, Descriptor, Document, Parsed};
use super::unpack::{self, Limits};
use crate::builder::ImageBuilder;
use crate::error::BuildError;
use crate::logs::LogSink;
use crate::request::{BuiltImage, ImageMetadata};

/// Long enough for any registry that is worth waiting for; this is what an offline machine pays once.
const REACHABILITY_LIMIT: Duration = Duration::from_secs(2);
/// How long an unreachable host is not asked again.
const UNREACHABLE_FOR: Duration = Duration::from_secs(300);

/// Registries as this server has found them.
pub(crate) struct Registries {
    config: RegistryConfig,
    http: Result<reqwest::Client, String>,
    /// When a host was last found reachable or not.
    seen: Mutex<HashMap<Endpoint, (bool, Instant)>>,
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
        Self { config, http: client::http_client(), seen: Mutex::default() }
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
            let registry = Registry::new(http.clone(), endpoint.clone(), auth, ecr_endpoint);
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
        registry: &Registry,
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
        let (config, layers) = match parse(&body)? {
            Parsed::Image { config, layers } => (config, layers),
            Parsed::Elsewhere(found) => match parse(&registry.manifest(repository, &found.digest).await?.0)? {
                Parsed::Image { config, layers } => (config, layers),
                Parsed::Elsewhere(_) => return Err(bad("a list of lists of images".to_owned()).into()),
            },
        };
        let record = format!("image-{}", KeyHasher::new("registry image").field(&digest).finish());
        let known: Option<Pulled> = self.inner.store.read_record(&record);
        if let Some(known) = known.filter(|known| known.layers.iter().all(|key| self.inner.store.has(key))) {
            return Ok(image_of(known));
        }
        let total: u64 = layers.iter().map(|layer| layer.size).sum();
        logs.say(format!(
            "   pulling {reference} from `{}`: {} layers, {:.1} MB",
            registry.host(),
            layers.len(),
            total as f64 / 1e6
        ));
        let config_file: ConfigFile = serde_json::from_slice(&registry.blob(repository, &config).await?)
            .map_err(|error| bad(format!("its configuration cannot be read: {error}")))?;
        let diff_ids = &config_file.rootfs.diff_ids;
        if diff_ids.len() != layers.len() {
            return Err(bad(format!("it has {} layers and {} digests for them", layers.len(), diff_ids.len())).into());
        }
        let mut keys: Vec<LayerKey> = Vec::new();
        for (layer, diff_id) in layers.iter().zip(diff_ids) {
            let parent = keys.last().cloned().unwrap_or_else(LayerKey::empty);
            // Of what it holds and of all below it: links on the way to a file may lead elsewhere on another base.
            let key = parent.child(&KeyHasher::new("registry layer").field(diff_id).finish());
            if !self.inner.store.has(&key) {
                self.pull_layer(registry, repository, layer, diff_id, &keys, &key, logs).await?;
            }
            keys.push(key);
        }
        let config = config_file.config.unwrap_or_default().into_image_config();
        let pulled = Pulled { layers: keys, config };
        self.inner.store.write_record(&record, &pulled)?;
        Ok(image_of(pulled))
    }

    #[expect(clippy::too_many_arguments, reason = "one layer's whole circumstances")]
    async fn pull_layer(
        &self,
        registry: &Registry,
        repository: &str,
        layer: &Descriptor,
        diff_id: &str,
        below: &[LayerKey],
        key: &LayerKey,
        logs: &LogSink,
    ) -> Result<(), PullError> {
        let digest = layer
            .digest
            .strip_prefix("sha256:")
            .filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(digest) = digest else {
            return Err(RegistryError::Bad(format!("layer digest `{}` is not a SHA-256", layer.digest)).into());
        };
        // Kept by its digest until it is unpacked, so that a restarted server goes on where it was. The lock is held
        // while it is written: two images may share a layer.
        let path = self.inner.store.cache_dir("blobs", "")?.join(digest);
        let lock = self.inner.downloads.lock(digest.to_owned()).await;
        if self.inner.store.has(key) {
            return Ok(());
        }
        registry.download(repository, layer, &path, logs).await?;
        let (store, key, below) = (self.inner.store.clone(), key.clone(), self.layer_paths(below));
        let (title, diff_id, shown) = (format!("layer {diff_id}"), diff_id.to_owned(), layer.digest.clone());
        let unpack = move || {
            let workspace = store.workspace()?;
            let unpacked = unpack::unpack(&path, &workspace.diff(), &below, &diff_id, Limits::default());
            if let Err(error) = unpacked {
                // It would be no better the next time.
                let _ = std::fs::remove_file(&path);
                return Err(BuildError::Base(format!("cannot unpack layer `{shown}`: {error}")));
            }
            store.commit(&workspace, &key, &title)?;
            std::fs::remove_file(&path).map_err(BuildError::on("remove", &path))
        };
        let done = tokio::task::spawn_blocking(unpack).await.unwrap_or(Err(BuildError::Abandoned));
        drop(lock);
        Ok(done?)
    }
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
        Self::Registry(error)
    }
}

impl From<BuildError> for PullError {
    fn from(error: BuildError) -> Self {
        Self::Build(error)
    }
}
