//! One build, from request to image.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use container_runtime::Runtime;
use image_plan::{Action, ContextFile, Facts, From, ImageConfig, KeyHasher, LayerKey, Recipe, Step, plan};

use crate::config::BuilderConfig;
use crate::container;
use crate::error::BuildError;
use crate::logs::LogSink;
use crate::once::{KeyedLock, OnceMap};
use crate::registry::Registries;
use crate::request::{BuildRequest, BuiltImage, ImageMetadata};
use crate::store::LayerStore;

/// Builds images. Cheap to clone; all clones share their work.
#[derive(Clone)]
pub struct ImageBuilder {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub config: BuilderConfig,
    pub runtime: Runtime,
    pub store: LayerStore,
    pub registries: Registries,
    /// Downloads being written, by digest.
    pub downloads: KeyedLock<String>,
    /// Layers being made right now.
    pub layers: OnceMap<LayerKey, ()>,
    /// Lowest layer of every build container, see [`container::make_mount_points`].
    pub mount_points: PathBuf,
}

/// What every step of one build needs besides its own action.
#[derive(Clone)]
pub(crate) struct StepContext {
    pub context: Arc<Vec<ContextSource>>,
    pub secret_env: Arc<Vec<(String, String)>>,
    pub deadline: Option<Instant>,
    pub limit: std::time::Duration,
}

/// Where the bytes of a context file are.
pub(crate) enum ContextSource {
    Disk(PathBuf, u32),
    Memory(bytes::Bytes),
}

impl ImageBuilder {
    /// Opens the data folder and clears away what a killed server left there. Blocks for as long as that takes.
    pub fn new(config: BuilderConfig, runtime: Runtime) -> Result<Self, BuildError> {
        let store = LayerStore::open(&config.data_dir)?;
        let mount_points = config.data_dir.join("mount-points");
        container::make_mount_points(&mount_points)?;
        let registries = Registries::new(config.registries.clone());
        let inner = Inner {
            config,
            runtime,
            store,
            registries,
            downloads: KeyedLock::new(),
            layers: OnceMap::new(),
            mount_points,
        };
        inner.write_apt_settings()?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The folder of a layer, for overlayfs.
    pub fn layer_path(&self, key: &LayerKey) -> PathBuf {
        self.inner.store.layer_path(key)
    }

    /// Whether all layers are on this machine's disk.
    pub fn has_layers(&self, image: &BuiltImage) -> bool {
        image.layers.iter().all(|key| self.inner.store.has(key))
    }

    /// Builds an image, or finds it built already.
    pub async fn build(&self, mut request: BuildRequest, logs: &LogSink) -> Result<BuiltImage, BuildError> {
        let started = Instant::now();
        let instructions = image_plan::parse(&request.dockerfile_commands)?;
        let recipe = Recipe::from_instructions(instructions, &request.build_args)?;
        let recipe = recipe.ok_or_else(|| BuildError::Refused("the Dockerfile has no `FROM`".to_owned()))?;
        logs.say(format!("=> Step 1: {}", recipe.from_instruction.text));
        let base = self.base(&recipe.from, &request, logs).await?;
        if let Some(python) = &request.standalone_python {
            let files = self.standalone_python(python, logs).await?;
            request.context.extend(files);
        }
        let (facts, context) = facts(&request, &base.config);
        let plan = plan(&recipe, &facts)?;
        let step_context = StepContext {
            context: Arc::new(context),
            secret_env: Arc::new(request.secret_env.clone()),
            deadline: request.timeout.map(|timeout| started + timeout),
            limit: request.timeout.unwrap_or_default(),
        };
        let mut layers = base.layers;
        for step in plan.steps {
            let key = self.step(&layers, step, &step_context, request.force, logs).await?;
            layers.extend(key);
        }
        let metadata = self.metadata(&layers, &plan.config).await?;
        Ok(BuiltImage { layers, config: plan.config, metadata })
    }

    async fn base(&self, from: &From, request: &BuildRequest, logs: &LogSink) -> Result<BuiltImage, BuildError> {
        match from {
            From::Scratch => Ok(BuiltImage {
                layers: Vec::new(),
                config: ImageConfig::default(),
                metadata: ImageMetadata::default(),
            }),
            From::Image(name) => match request.base_images.iter().find(|(tag, _)| tag == name) {
                Some((_, image)) => Ok(image.clone()),
                None => self.base_image(name, request.registry_credentials.as_ref(), request.force, logs).await,
            },
        }
    }

    /// Makes one step's layer unless it is there; `None` when the step turned out to change nothing.
    async fn step(
        &self,
        below: &[LayerKey],
        step: Step,
        context: &StepContext,
        force: bool,
        logs: &LogSink,
    ) -> Result<Option<LayerKey>, BuildError> {
        // All of them, not only the last: a layer's key need not say what is below it.
        let parent = KeyHasher::new("stack").list(below.iter().map(LayerKey::as_str)).finish();
        let store = &self.inner.store;
        let cause = parent.child(&step.fingerprint);
        let header = format!("=> Step {}: {}", step.number, step.title);
        if let Action::MakeFolder { path } = &step.action
            && self.is_folder(below, path)?
        {
            logs.say(header);
            return Ok(None);
        }
        // A forced layer gets a key of its own, so that containers on the old one keep it.
        let key = match force {
            true => KeyHasher::new("forced").field(cause.as_str()).field(random_bytes()).finish(),
            false => store.current(cause.clone()),
        };
        if store.has(&key) {
            logs.say(header);
            logs.say("   CACHED");
            return Ok(Some(key));
        }
        logs.say(header);
        let (this, below, context) = (self.clone(), below.to_vec(), context.clone());
        let wanted = key.clone();
        self.inner
            .layers
            .run(key.clone(), logs, move |logs| async move {
                this.make_layer(&below, &wanted, &step, &context, &logs).await
            })
            .await?;
        if force {
            store.replace(&cause, &key)?;
        }
        Ok(Some(key))
    }

    async fn make_layer(
        &self,
        below: &[LayerKey],
        key: &LayerKey,
        step: &Step,
        context: &StepContext,
        logs: &LogSink,
    ) -> Result<(), BuildError> {
        // Somebody else may have finished it between the look at the disk and now.
        if self.inner.store.has(key) {
            return Ok(());
        }
        let workspace = self.inner.store.workspace()?;
        match &step.action {
            Action::Run { argv, env, workdir, user, network } => {
                let run = crate::steps::run::Run { argv, env, workdir, user: user.as_deref(), network: *network };
                self.run_step(below, step, run, context, &workspace, logs).await?;
            }
            Action::Copy { items, owner, mode } => {
                self.copy_step(below, items, owner.as_deref(), *mode, context, &workspace).await?;
            }
            Action::CopyFromImage { image, sources, dest, dest_is_folder, owner, mode } => {
                let copy = crate::steps::from_image::CopyFromImage {
                    image,
                    sources,
                    dest,
                    dest_is_folder: *dest_is_folder,
                    owner: owner.as_deref(),
                    mode: *mode,
                };
                self.copy_from_image_step(below, copy, &workspace, logs).await?;
            }
            Action::MakeFolder { path } => self.make_folder_step(below, path, &workspace)?,
        }
        self.inner.store.commit(&workspace, key, &step.title)
    }

    /// For a build container: the layers above the places for its mounts.
    pub(crate) fn with_mount_points(&self, layers: &[LayerKey]) -> Vec<PathBuf> {
        let mut paths = vec![self.inner.mount_points.clone()];
        paths.extend(self.layer_paths(layers));
        paths
    }

    pub(crate) fn layer_paths(&self, layers: &[LayerKey]) -> Vec<PathBuf> {
        layers.iter().map(|key| self.layer_path(key)).collect()
    }
}

impl Inner {
    /// What `apt-get` in builds reads besides the image's own configuration.
    fn write_apt_settings(&self) -> Result<(), BuildError> {
        let path = self.apt_settings();
        let settings = crate::host::apt_settings(&self.config.host_env);
        std::fs::write(&path, settings).map_err(BuildError::on("write", &path))
    }

    pub(crate) fn apt_settings(&self) -> PathBuf {
        self.config.data_dir.join("apt.conf")
    }
}

/// The plan's view of the context, and beside it where each file's bytes are.
fn facts(request: &BuildRequest, base: &ImageConfig) -> (Facts, Vec<ContextSource>) {
    use sha2::{Digest, Sha256};
    let mut context = Vec::new();
    let mut sources = Vec::new();
    for (name, data) in &request.context_files {
        let digest = hex::encode(Sha256::digest(data));
        context.push(ContextFile { path: rooted(name), digest, mode: 0o644 });
        sources.push(ContextSource::Memory(data.clone()));
    }
    let mut mounted: Vec<_> = request.context.iter().collect();
    mounted.sort_by(|a, b| a.path.cmp(&b.path));
    for entry in mounted {
        context.push(ContextFile { path: rooted(&entry.path), digest: entry.digest.clone(), mode: entry.mode });
        sources.push(ContextSource::Disk(entry.source.clone(), entry.mode));
    }
    let secret_names = request.secret_env.iter().map(|(name, _)| name.clone()).collect();
    let facts = Facts { base: base.clone(), build_args: request.build_args.clone(), context, secret_names };
    (facts, sources)
}

fn rooted(path: &str) -> String {
    Path::new("/").join(path.trim_start_matches('/')).to_string_lossy().into_owned()
}

fn random_bytes() -> [u8; 16] {
    rand::random()
}
