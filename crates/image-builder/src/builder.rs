//! One build, from request to image.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use container_runtime::Runtime;
use image_plan::{
    Action, ContextFile, Facts, From, ImageConfig, Input, KeyHasher, LayerKey, Origin, Place, Plan, Recipe, Setting,
    StagePlan, Step, plan,
};

use crate::config::BuilderConfig;
use crate::container;
use crate::downloads::Downloaded;
use crate::error::BuildError;
use crate::logs::LogSink;
use crate::once::{KeyedLock, OnceMap};
use crate::registry::Registries;
use crate::request::{BuildRequest, BuiltImage, CacheUse};
use crate::steps::mounts::CacheMounts;
use crate::store::LayerStore;
use crate::volumes::BuildVolume;

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
    /// Cache mounts in use.
    pub cache_mounts: CacheMounts,
    /// Lowest layer of every build container, see [`container::make_mount_points`].
    pub mount_points: PathBuf,
    pub debs: crate::debs::Debs,
}

/// What every step of one build needs besides its own action.
#[derive(Clone)]
pub(crate) struct StepContext {
    pub context: Arc<Vec<ContextSource>>,
    pub secret_env: Arc<Vec<(String, String)>>,
    /// In the order of mounting.
    pub volumes: Arc<Vec<Arc<dyn BuildVolume>>>,
    /// Images that the request names, as in [`BuildRequest::base_images`].
    pub base_images: Arc<Vec<(String, BuiltImage)>>,
    /// The layers of stages that are finished.
    pub stages: Arc<BTreeMap<usize, Vec<LayerKey>>>,
    /// Content of URLs without a checksum, asked for in this build.
    pub downloads: Arc<BTreeMap<String, Downloaded>>,
    pub time: TimeLimit,
}

/// How long one build may take.
#[derive(Clone, Copy)]
pub(crate) struct TimeLimit {
    started: Instant,
    limit: Option<Duration>,
}

impl TimeLimit {
    fn deadline(self) -> Option<Instant> {
        self.limit.map(|limit| self.started + limit)
    }

    /// Ends the work when the build's time is over. Dropping a container's future kills it.
    async fn applied<T>(
        self,
        place: Place,
        title: &str,
        work: impl Future<Output = Result<T, BuildError>>,
    ) -> Result<T, BuildError> {
        let Some(limit) = self.limit else { return work.await };
        let left = limit.saturating_sub(self.started.elapsed());
        let over = |_| BuildError::Timeout { place: Box::new(place), title: title.to_owned(), limit };
        tokio::time::timeout(left, work).await.map_err(over)?
    }
}

impl StepContext {
    fn base_image(&self, name: &str) -> Option<&BuiltImage> {
        self.base_images.iter().find(|(tag, _)| tag == name).map(|(_, image)| image)
    }

    /// See [`TimeLimit`].
    pub async fn limited<T>(
        &self,
        step: &Step,
        work: impl Future<Output = Result<T, BuildError>>,
    ) -> Result<T, BuildError> {
        self.time.applied(step.place.clone(), &step.title, work).await
    }
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
        let debs = crate::debs::Debs::new(store.cache_dir("apt", "debs")?);
        let registries = Registries::new(config.registries.clone());
        let inner = Inner {
            config,
            runtime,
            store,
            registries,
            downloads: KeyedLock::new(),
            layers: OnceMap::new(),
            cache_mounts: CacheMounts::default(),
            mount_points,
            debs,
        };
        inner.write_apt_settings()?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The folder of a layer, for overlayfs.
    pub fn layer_path(&self, key: &LayerKey) -> PathBuf {
        self.inner.store.layer_path(key)
    }

    /// Whether all layers are on this machine's disk. It does not count as use.
    pub fn has_layers(&self, image: &BuiltImage) -> bool {
        image.layers.iter().all(|key| self.inner.store.exists(key))
    }

    /// Builds an image, or finds it built already.
    pub async fn build(&self, request: BuildRequest, logs: &LogSink) -> Result<BuiltImage, BuildError> {
        // Images that the request brings count as used from here on, and one that was collected is missed here.
        for (name, image) in &request.base_images {
            if !image.layers.iter().all(|key| self.inner.store.has(key)) {
                let error =
                    format!("a layer of the image that `FROM {name}` means was removed meanwhile; build it again");
                return Err(BuildError::Refused(error));
            }
        }
        let built = self.build_image(request, logs).await;
        built.map_err(|error| error.on_disk_of(&self.inner.config.data_dir))
    }

    async fn build_image(&self, mut request: BuildRequest, logs: &LogSink) -> Result<BuiltImage, BuildError> {
        let time = TimeLimit { started: Instant::now(), limit: request.timeout };
        let instructions = image_plan::parse(&request.dockerfile_commands)?;
        let tags: Vec<&str> = request.base_images.iter().map(|(tag, _)| tag.as_str()).collect();
        let recipe = Recipe::from_instructions(instructions, &request.build_args, &tags)?;
        let recipe = recipe.ok_or_else(|| BuildError::Refused("the Dockerfile has no `FROM`".to_owned()))?;
        let mut announced = BTreeSet::new();
        let bases = self.bases(&recipe, &request, time, &mut announced, logs).await?;
        if let Some(python) = &request.standalone_python {
            request.context.extend(self.standalone_python(python, logs).await?);
        }
        let (facts, context) = facts(&request, &bases);
        let plan = plan(&recipe, &facts)?;
        request.volumes.sort_by(|a, b| a.place().cmp(b.place()));
        let mut step_context = StepContext {
            context: Arc::new(context),
            secret_env: Arc::new(request.secret_env.clone()),
            volumes: Arc::new(request.volumes.clone()),
            base_images: Arc::new(request.base_images.clone()),
            stages: Arc::default(),
            downloads: Arc::default(),
            time,
        };
        let skipped =
            self.skipped_stages(&plan, &bases, &mut step_context, request.cache != CacheUse::Use, logs).await?;
        let mut config = ImageConfig::default();
        let mut layers = Vec::new();
        for stage in plan.stages {
            let from = &recipe.stages[stage.index].from_instruction;
            if !announced.contains(&stage.index) {
                logs.step(&recipe.place(stage.index, 1), &from.text);
            }
            if let Some(found) = skipped.get(&stage.index) {
                self.show_skipped(&stage, found, logs);
                Arc::make_mut(&mut step_context.stages).insert(stage.index, found.layers.clone());
                continue;
            }
            layers = layers_below(&stage, &bases, &step_context);
            for step in &stage.steps {
                announce(stage.settings_before(Some(step)), logs);
                let made = self.step(&layers, step.clone(), &mut step_context, request.cache, logs).await;
                layers.extend(made.map_err(|error| error.at(&step.position))?);
            }
            announce(stage.settings_before(None), logs);
            Arc::make_mut(&mut step_context.stages).insert(stage.index, layers.clone());
            config = stage.config;
        }
        let metadata = self.metadata(&layers, &config).await?;
        Ok(BuiltImage { layers, config, metadata })
    }

    /// Stages that need not be on disk, with the layers that they would have.
    async fn skipped_stages(
        &self,
        plan: &Plan,
        bases: &BTreeMap<String, BuiltImage>,
        context: &mut StepContext,
        force: bool,
        logs: &LogSink,
    ) -> Result<BTreeMap<usize, Predicted>, BuildError> {
        let mut predicted: BTreeMap<usize, Predicted> = BTreeMap::new();
        // Forced layers have new keys, which nobody can know.
        if plan.stages.len() < 2 || force {
            return Ok(predicted);
        }
        for stage in &plan.stages {
            let found = self.predict(stage, layers_below(stage, bases, context), context, logs).await?;
            Arc::make_mut(&mut context.stages).insert(stage.index, found.layers.clone());
            predicted.insert(stage.index, found);
        }
        context.stages = Arc::default();
        let is_missing =
            |stage: usize, step: usize| predicted.get(&stage).and_then(|found| found.is_there.get(step)) != Some(&true);
        let wanted = plan.stages_to_make(&is_missing);
        predicted.retain(|stage, _| !wanted.contains(stage));
        Ok(predicted)
    }

    /// The layers that a stage has once it is made. Wrong where nobody knows any more what a WORKDIR found; whatever was
    /// made from the right ones is then not found either, and all of it is made.
    async fn predict(
        &self,
        stage: &StagePlan,
        below: Vec<LayerKey>,
        context: &mut StepContext,
        logs: &LogSink,
    ) -> Result<Predicted, BuildError> {
        let store = &self.inner.store;
        let mut predicted = Predicted { layers: below, is_there: Vec::new() };
        for step in &stage.steps {
            let identities = self.identities(step, context, logs).await.map_err(|error| error.at(&step.position))?;
            let cause = stack_key(&predicted.layers).child(&step.cause(&identities));
            if matches!(step.action, Action::MakeFolder { .. }) && self.is_known_folder(&cause) {
                predicted.is_there.push(true);
                continue;
            }
            let key = store.current(cause);
            predicted.is_there.push(store.has(&key));
            predicted.layers.push(key);
        }
        Ok(predicted)
    }

    /// Whether a WORKDIR was seen to find its folder.
    fn is_known_folder(&self, cause: &LayerKey) -> bool {
        self.inner.store.read_record::<bool>(&format!("folder-{cause}")).unwrap_or_default()
    }

    fn show_skipped(&self, stage: &StagePlan, found: &Predicted, logs: &LogSink) {
        for (step, is_there) in stage.steps.iter().zip(&found.is_there) {
            announce(stage.settings_before(Some(step)), logs);
            logs.step(&step.place, &step.title);
            logs.say(if *is_there { "   CACHED" } else { "   not needed: what was taken from it is cached" });
        }
        announce(stage.settings_before(None), logs);
    }

    /// The images that stages start from, by name. All of them before the first step: their configurations are needed
    /// for a plan, and with a whole plan a mistake in a late stage is found before an early one is built.
    async fn bases(
        &self,
        recipe: &Recipe,
        request: &BuildRequest,
        time: TimeLimit,
        announced: &mut BTreeSet<usize>,
        logs: &LogSink,
    ) -> Result<BTreeMap<String, BuiltImage>, BuildError> {
        let mut bases: BTreeMap<String, BuiltImage> = BTreeMap::new();
        for index in recipe.needed() {
            let stage = &recipe.stages[index];
            let From::Image(name) = &stage.from else { continue };
            if bases.contains_key(name) {
                continue;
            }
            announced.insert(index);
            logs.step(&recipe.place(index, 1), &stage.from_instruction.text);
            let base = match request.base_images.iter().find(|(tag, _)| tag == name) {
                Some((_, image)) => Ok(image.clone()),
                None => {
                    let anew = request.cache != CacheUse::Use;
                    let pull = self.base_image(name, request.registry_credentials.as_ref(), anew, logs);
                    time.applied(recipe.place(index, 1), &stage.from_instruction.text, pull).await
                }
            };
            bases.insert(name.clone(), base.map_err(|error| error.at(&stage.from_instruction.position))?);
        }
        Ok(bases)
    }

    /// What a step's inputs are, in their order; downloads are made for it.
    async fn identities(
        &self,
        step: &Step,
        context: &mut StepContext,
        logs: &LogSink,
    ) -> Result<Vec<String>, BuildError> {
        let mut identities = Vec::with_capacity(step.inputs.len());
        for input in &step.inputs {
            identities.push(match input {
                Input::Origin(Origin::Stage(stage)) => {
                    let layers = context.stages.get(stage).map(Vec::as_slice).unwrap_or_default();
                    stack_key(layers).as_str().to_owned()
                }
                Input::Origin(Origin::Image(name)) => match context.base_image(name) {
                    Some(image) => stack_key(&image.layers).as_str().to_owned(),
                    // The name is in the fingerprint.
                    None => String::new(),
                },
                Input::Download(url) if context.downloads.contains_key(url) => {
                    context.downloads.get(url).map(|found| found.digest.clone()).unwrap_or_default()
                }
                Input::Download(url) => {
                    let found = context.limited(step, self.download(url, None, logs)).await?;
                    let digest = found.digest.clone();
                    Arc::make_mut(&mut context.downloads).insert(url.clone(), found);
                    digest
                }
            });
        }
        Ok(identities)
    }

    /// The layers of a stage or an image that files are taken from.
    pub(crate) async fn origin_layers(
        &self,
        origin: &Origin,
        context: &StepContext,
        logs: &LogSink,
    ) -> Result<Vec<LayerKey>, BuildError> {
        match origin {
            Origin::Stage(stage) => Ok(context.stages.get(stage).cloned().unwrap_or_default()),
            Origin::Image(name) => match context.base_image(name) {
                Some(image) => Ok(image.layers.clone()),
                None => self.image_to_copy_from(name, logs).await,
            },
        }
    }

    /// Makes one step's layer unless it is there; `None` when the step turned out to change nothing.
    async fn step(
        &self,
        below: &[LayerKey],
        step: Step,
        context: &mut StepContext,
        cache: CacheUse,
        logs: &LogSink,
    ) -> Result<Option<LayerKey>, BuildError> {
        let store = &self.inner.store;
        logs.step(&step.place, &step.title);
        if let Action::MakeFolder { path } = &step.action
            && self.is_folder(below, path)?
        {
            let cause = stack_key(below).child(&step.fingerprint);
            if step.place.stage.is_some() && !self.is_known_folder(&cause) {
                store.write_record(&format!("folder-{cause}"), &true)?;
            }
            return Ok(None);
        }
        let cause = stack_key(below).child(&step.cause(&self.identities(&step, context, logs).await?));
        // A layer that is made anew gets a key of its own, so that containers on the old one keep it.
        let key = match cache {
            CacheUse::Replace | CacheUse::PassBy => {
                KeyHasher::new("forced").field(cause.as_str()).field(random_bytes()).finish()
            }
            CacheUse::Use => store.current(cause.clone()),
        };
        if store.has(&key) {
            logs.say("   CACHED");
            return Ok(Some(key));
        }
        let (this, below, context) = (self.clone(), below.to_vec(), context.clone());
        let wanted = key.clone();
        self.inner
            .layers
            .run(key.clone(), logs, move |logs| async move {
                this.make_layer(&below, &wanted, &step, &context, &logs).await
            })
            .await?;
        if cache == CacheUse::Replace {
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
        let mut volumes = None;
        match &step.action {
            Action::Run { argv, env, unkeyed_env, workdir, user, network, mounts } => {
                let run = crate::steps::run::Run {
                    argv,
                    env,
                    unkeyed_env,
                    workdir,
                    user: user.as_deref(),
                    network: *network,
                    mounts,
                };
                let ran = self.run_step(below, step, run, context, &workspace, logs);
                volumes = Some(context.limited(step, ran).await?);
            }
            Action::Copy { items, owner, mode } => {
                let copy = self.copy_step(below, items, owner.as_deref(), mode.as_ref(), context, &workspace, logs);
                context.limited(step, copy).await?;
            }
            Action::CopyFrom(copy) => {
                context.limited(step, self.copy_from_step(below, copy, context, &workspace, logs)).await?;
            }
            Action::MakeFolder { path } => self.make_folder_step(below, path, &workspace)?,
        }
        self.compile_new_python(below, &step.action, &workspace, context.time.deadline(), logs).await;
        if let Some(volumes) = volumes {
            volumes.commit().await?;
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

/// What a stage is expected to be.
struct Predicted {
    layers: Vec<LayerKey>,
    /// For each step whether its layer is on disk.
    is_there: Vec<bool>,
}

/// Instructions without a layer are part of the count, so they are announced as well.
fn announce<'a>(settings: impl Iterator<Item = &'a Setting>, logs: &LogSink) {
    settings.for_each(|setting| logs.step(&setting.place, &setting.title));
}

/// What a stage starts from.
fn layers_below(stage: &StagePlan, bases: &BTreeMap<String, BuiltImage>, context: &StepContext) -> Vec<LayerKey> {
    match &stage.from {
        From::Scratch => Vec::new(),
        From::Image(name) => bases.get(name).map(|base| base.layers.clone()).unwrap_or_default(),
        From::Stage(earlier) => context.stages.get(earlier).cloned().unwrap_or_default(),
    }
}

/// All layers, not only the last: a layer's key need not say what is below it.
fn stack_key(layers: &[LayerKey]) -> LayerKey {
    KeyHasher::new("stack").list(layers.iter().map(LayerKey::as_str)).finish()
}

/// The plan's view of the context, and beside it where each file's bytes are.
fn facts(request: &BuildRequest, bases: &BTreeMap<String, BuiltImage>) -> (Facts, Vec<ContextSource>) {
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
    let bases = bases.iter().map(|(name, image)| (name.clone(), image.config.clone())).collect();
    let facts = Facts {
        bases,
        build_args: request.build_args.clone(),
        context,
        secret_names,
        volumes: request.volume_mounts(),
    };
    (facts, sources)
}

fn rooted(path: &str) -> String {
    Path::new("/").join(path.trim_start_matches('/')).to_string_lossy().into_owned()
}

fn random_bytes() -> [u8; 16] {
    rand::random()
}
