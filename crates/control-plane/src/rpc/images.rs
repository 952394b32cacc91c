//! Image recipes and builds.

use std::collections::BTreeMap;
use std::sync::Arc;

use client_protocol::wire;
use futures::Stream;
use image_builder::{
    BuildLog, BuildRequest, BuiltImage, CacheUse, ContextEntry, KeyHasher, LayerKey, LogSink, LogStream, RegistryAuth,
    RegistryAuthKind, StandalonePython,
};
use metadata_store::{ImageRecord, StoreError, Write};
use prost::Message;
use prost_types::Timestamp;
use tokio::time::{Duration, Instant};
use tonic::{Request, Response, Status};
use types::errors::with_causes;
use types::ids::{AppId, ImageId, MountId, TaskId};
use wire::generic_result::GenericStatus;

use crate::build_logs::BuildLogs;
use crate::builds::{BuildUse, FunctionRun, layer_key};
use crate::caller::Caller;
use crate::clip::clip_names;
use crate::clock::{patience, wall_ms};
use crate::convert;
use crate::environment_size;
use crate::images::{Found, Image, Origin, Waiting};
use crate::mounts::content_path;
use crate::rpc::{Api, store_status};
use crate::shared::Shared;

/// Longest that one build of steps may take.
const BUILD_LIMIT: Duration = Duration::from_secs(3600);

pub type JoinStream = std::pin::Pin<Box<dyn Stream<Item = Result<wire::ImageJoinStreamingResponse, Status>> + Send>>;

impl Api {
    pub(crate) async fn image_get_or_create(
        &self,
        request: Request<wire::ImageGetOrCreateRequest>,
    ) -> Result<Response<wire::ImageGetOrCreateResponse>, Status> {
        let asked = Instant::now();
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let builder_version = match request.builder_version.as_str() {
            "" => caller.version.image_builder_version(),
            version => version,
        };
        let recipe = request.image.unwrap_or_default();
        let origin = Origin {
            app: AppId::parse(&request.app_id),
            build_task: Some(TaskId::at(wall_ms())),
            bases: recipe.base_images.iter().filter_map(|base| ImageId::parse(&base.image_id)).collect(),
            started_at: wall_ms(),
        };
        let cache = match (request.force_build, request.ignore_cache) {
            (true, _) => CacheUse::Replace,
            (false, true) => CacheUse::PassBy,
            (false, false) => CacheUse::Use,
        };
        let build = self.build(recipe, &request.build_function_id, cache).await?;
        let image = if cache == CacheUse::PassBy {
            // Built again for this caller only: everybody else goes on with what the cache has.
            Found::New(self.shared.images.begin_apart(builder_version, origin))
        } else {
            // The builder's version is part of what the image is: the client is told it back.
            let key = format!("{}-{builder_version}", build.image_key());
            self.shared.images.find_or_begin(&key, builder_version, cache == CacheUse::Replace, origin)
        };
        let image = match image {
            Found::Known(image) => image,
            Found::New(image) => {
                tokio::spawn(build_image(self.clone(), image.clone(), build));
                image
            }
        };
        let mut reply = wire::ImageGetOrCreateResponse { image_id: image.id.to_string(), ..Default::default() };
        if let Some(built) = image.built() {
            self.note_use(&image);
            reply.result = Some(success());
            reply.metadata = Some(metadata(&image, &built));
        } else {
            reply.result = Some(wire::GenericResult::default());
        }
        tracing::debug!(image = %image.id, took_us = asked.elapsed().as_micros(), "an image was asked for");
        Ok(Response::new(reply))
    }

    /// From the wire's recipe to the builder's, with everything that it names looked up.
    async fn build(&self, recipe: wire::Image, function_id: &str, cache: CacheUse) -> Result<Build, Status> {
        refuse_unserved(&recipe)?;
        let mut base_images = Vec::new();
        for base in &recipe.base_images {
            let image = self.image(&base.image_id)?;
            let built = image.wait_built().await.map_err(|e| {
                Status::failed_precondition(format!("the base image `{}` could not be built: {e}", base.image_id))
            })?;
            base_images.push((base.docker_tag.clone(), built));
        }
        if let Some(function) = recipe.build_function {
            return self.function_build(function, function_id, base_images, cache).map(Build::Function);
        }
        let registry_credentials = match &recipe.image_registry_config {
            Some(config) => self.registry_credentials(config)?,
            None => None,
        };
        Ok(Build::Dockerfile(Box::new(BuildRequest {
            base_images: base_images.into_iter().map(|(tag, built)| (tag, built.as_ref().clone())).collect(),
            dockerfile_commands: recipe.dockerfile_commands,
            context_files: recipe.context_files.into_iter().map(|f| (f.filename, f.data)).collect(),
            context: self.context(&recipe.context_mount_id).await?,
            standalone_python: self.standalone_python(&recipe.context_mount_id),
            build_args: recipe.build_args.into_iter().collect(),
            secret_env: self.variables_of(&recipe.secret_ids)?.into_iter().collect(),
            volumes: self.shared.build_volumes(&recipe.volume_mounts)?,
            registry_credentials,
            cache,
            timeout: Some(BUILD_LIMIT),
        })))
    }

    fn function_build(
        &self,
        function: wire::BuildFunction,
        function_id: &str,
        base_images: Vec<(String, Arc<BuiltImage>)>,
        cache: CacheUse,
    ) -> Result<FunctionRun, Status> {
        let owner = self.owner(function_id)?;
        let Some(build) = &owner.build else {
            let text = format!("function `{function_id}` was not created as one that builds an image");
            return Err(Status::invalid_argument(text));
        };
        let build = BuildUse::of(build);
        let [(_, base)] = base_images.as_slice() else {
            return Err(Status::invalid_argument("a function that builds an image runs on exactly one base image"));
        };
        let definition = owner.definition();
        let mut names: Vec<String> = Vec::new();
        for id in &definition.secrets {
            names.extend(self.secret(id.as_str())?.keys.iter().cloned());
        }
        let input = function.input.unwrap_or_default();
        let key = layer_key(
            base,
            &function.definition,
            &function.globals,
            &input.encode_to_vec(),
            &names,
            &definition.volumes,
        );
        let layer = match cache {
            CacheUse::Use => key.clone(),
            _ => KeyHasher::new("forced").field(key.as_str()).field(ImageId::random().as_str()).finish(),
        };
        Ok(FunctionRun {
            owner,
            build,
            base: base.clone(),
            data_format: input.data_format,
            method_name: input.method_name.clone().unwrap_or_default(),
            payload: convert::payload(input.args_oneof)?,
            image_key: key,
            layer,
        })
    }

    fn variables_of(&self, secret_ids: &[String]) -> Result<BTreeMap<String, String>, Status> {
        let ids: Result<Vec<_>, Status> = secret_ids.iter().map(|id| Ok(self.secret(id)?.id.clone())).collect();
        let ids = ids?;
        let variables = self.shared.secret_variables(&ids).map_err(Status::failed_precondition)?;
        let pairs = variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        environment_size::check(pairs, || self.shared.secret_sizes(&ids)).map_err(Status::failed_precondition)?;
        Ok(variables)
    }

    fn registry_credentials(&self, config: &wire::ImageRegistryConfig) -> Result<Option<RegistryAuth>, Status> {
        if config.secret_id.is_empty() {
            return Ok(None);
        }
        let variables = self.variables_of(std::slice::from_ref(&config.secret_id))?;
        let kind = match config.registry_auth_type() {
            wire::RegistryAuthType::Aws => RegistryAuthKind::Aws,
            wire::RegistryAuthType::Gcp => RegistryAuthKind::Gcp,
            wire::RegistryAuthType::Public => RegistryAuthKind::Public,
            wire::RegistryAuthType::StaticCreds | wire::RegistryAuthType::Unspecified => RegistryAuthKind::Static,
        };
        RegistryAuth::from_secret(kind, &variables).map_err(Status::failed_precondition)
    }

    fn standalone_python(&self, mount: &str) -> Option<StandalonePython> {
        self.shared.mounts.get(&MountId::parse(mount)?)?.standalone_python()
    }

    async fn context(&self, mount: &str) -> Result<Vec<ContextEntry>, Status> {
        if mount.is_empty() {
            return Ok(Vec::new());
        }
        let found = MountId::parse(mount).and_then(|id| self.shared.mounts.get(&id));
        let found = found.ok_or_else(|| Status::not_found(format!("context mount `{mount}` does not exist")))?;
        let mut entries = Vec::with_capacity(found.record.files.len());
        for file in &found.record.files {
            let source = content_path(&self.shared.blobs, &file.sha256).await.map_err(Status::failed_precondition)?;
            let (path, digest) = (file.path.clone(), file.sha256.clone());
            entries.push(ContextEntry { path, digest, mode: file.mode, source });
        }
        Ok(entries)
    }

    pub(crate) fn image(&self, id: &str) -> Result<Arc<Image>, Status> {
        let parsed = ImageId::parse(id);
        let parsed = parsed.ok_or_else(|| Status::invalid_argument(format!("`{id}` is not an image id")))?;
        self.shared.images.get(&parsed).ok_or_else(|| Status::not_found(format!("Could not find image with ID {id}")))
    }

    pub(crate) fn image_join(&self, request: &wire::ImageJoinStreamingRequest) -> Result<JoinStream, Status> {
        let image = self.image(&request.image_id)?;
        let seen: usize = request.last_entry_id.parse().unwrap_or(0);
        let skip_log = image.built().is_some() && !request.include_logs_for_finished;
        let patience = patience(request.timeout, Duration::from_secs(60));
        let state =
            JoinState { waiting: image.wait(), seen, skip_log, deadline: Instant::now() + patience, ended: false };
        Ok(Box::pin(futures::stream::unfold(state, JoinState::next)))
    }

    pub(crate) fn image_from_id(&self, id: &str) -> Result<Response<wire::ImageFromIdResponse>, Status> {
        let image = self.image(id)?;
        let built = image.built().ok_or_else(|| Status::failed_precondition(format!("image `{id}` is not built")))?;
        self.note_use(&image);
        let metadata = Some(metadata(&image, &built));
        Ok(Response::new(wire::ImageFromIdResponse { image_id: id.to_owned(), metadata }))
    }

    pub(crate) async fn image_delete(&self, id: &str) -> Result<Response<()>, Status> {
        let found = ImageId::parse(id).and_then(|parsed| self.shared.images.get(&parsed));
        let image = found.ok_or_else(|| Status::not_found(format!("No Image with ID {id}")))?;
        if image.result().is_none() {
            return Err(Status::failed_precondition(format!(
                "image `{id}` is being built; delete it when that has ended, or stop that with `dorian builds cancel {id}`"
            )));
        }
        self.shared.forget_image(&image.id).await.map_err(|e| store_status(&e))?;
        Ok(Response::new(()))
    }

    /// The builds that led to an image, first to last.
    pub(crate) fn image_build_chain_get(&self, id: &str) -> Result<Response<wire::ImageBuildChainGetResponse>, Status> {
        let mut build_steps = Vec::new();
        let mut next = Some(self.image(id)?);
        while let Some(image) = next {
            let (origin, finished_at) = (&image.origin, image.finished_at());
            build_steps.push(wire::ImageBuildStep {
                image_id: image.id.to_string(),
                started_at: Some(timestamp(origin.started_at)),
                // Of one that still runs: what there is by now.
                finished_at: Some(timestamp(if finished_at == 0 { wall_ms() } else { finished_at } + 1)),
                builder_app_id: origin.app.as_ref().map(ToString::to_string).unwrap_or_default(),
                builder_task_id: origin.build_task.as_ref().map(ToString::to_string).unwrap_or_default(),
            });
            // A base is older than what was built on it, so this ends.
            next = origin.bases.first().and_then(|base| self.shared.images.get(base));
        }
        build_steps.reverse();
        Ok(Response::new(wire::ImageBuildChainGetResponse { build_steps }))
    }

    /// For garbage collection: an image counts as used when somebody asks for it. To the minute.
    fn note_use(&self, image: &Image) {
        if let Some(at) = image.note_use(wall_ms()) {
            self.shared.store.write_later(vec![Write::TouchImage(image.id.clone(), at)]);
        }
    }
}

impl Shared {
    pub async fn forget_image(&self, id: &ImageId) -> Result<(), StoreError> {
        self.store.write(vec![Write::DeleteImage(id.clone())]).await?;
        self.images.forget(id);
        self.build_logs().remove(id).await;
        Ok(())
    }

    pub fn build_logs(&self) -> BuildLogs {
        BuildLogs::new(&self.config.data_dir)
    }
}

/// What an image is made from.
enum Build {
    Dockerfile(Box<BuildRequest>),
    Function(FunctionRun),
}

impl Build {
    fn image_key(&self) -> LayerKey {
        match self {
            Self::Dockerfile(request) => request.image_key(),
            Self::Function(run) => run.image_key.clone(),
        }
    }
}

struct JoinState {
    waiting: Waiting,
    seen: usize,
    skip_log: bool,
    deadline: Instant,
    ended: bool,
}

impl JoinState {
    async fn next(mut self) -> Option<(Result<wire::ImageJoinStreamingResponse, Status>, Self)> {
        if self.ended {
            return None;
        }
        let waited = tokio::time::timeout_at(self.deadline, self.waiting.image().progress_after(self.seen)).await;
        let progress = waited.ok()?;
        self.seen += progress.lines.len();
        let mut reply = wire::ImageJoinStreamingResponse { entry_id: self.seen.to_string(), ..Default::default() };
        if !self.skip_log {
            reply.task_logs = progress.lines.into_iter().map(log_item).collect();
        }
        if let Some(result) = progress.result {
            self.ended = true;
            reply.eof = true;
            match result {
                Ok(built) => {
                    reply.metadata = Some(metadata(self.waiting.image(), &built));
                    reply.result = Some(success());
                }
                Err(error) => reply.result = Some(failure(error)),
            }
        }
        Some((Ok(reply), self))
    }
}

async fn build_image(api: Api, image: Arc<Image>, build: Build) {
    // What is given up is dropped, and with it the containers and downloads of its steps.
    let result = tokio::select! {
        result = make_image(&api, &image, build) => result,
        why = image.given_up() => Err(why.message()),
    };
    let result = match result {
        Ok(built) => store_built(&api, &image, built).await,
        Err(error) => Err(error),
    };
    if result.is_err() {
        // Why stands in the build's own log: it repeats what programs of the user's have printed.
        tracing::info!(image = %image.id, "an image build failed; `modal image logs {}` tells more", image.id);
    }
    image.finish(result.map_err(|error| clip_names(&error)));
    api.shared.images.on_end(&image);
}

async fn make_image(api: &Api, image: &Arc<Image>, build: Build) -> Result<BuiltImage, String> {
    let request = match build {
        Build::Function(run) => return api.shared.run_build_function(image, run).await,
        Build::Dockerfile(request) => request,
    };
    let sink_image = image.clone();
    let sink = LogSink::new(move |log: BuildLog| {
        if let LogStream::Step { number, total } = log.stream {
            sink_image.set_step(number, total, log.text.trim_start_matches("=> ").to_owned());
        }
        sink_image.say(format!("{}\n", log.text));
    });
    let built = api.shared.images.builder.build(*request, &sink).await;
    built.map_err(|error| with_causes(&error))
}

async fn store_built(api: &Api, image: &Image, built: BuiltImage) -> Result<Arc<BuiltImage>, String> {
    let record = ImageRecord {
        id: image.id.clone(),
        key: image.key.clone(),
        built_json: serde_json::to_string(&built).map_err(|e| e.to_string())?,
        builder_version: image.builder_version.clone(),
        created_at_ms: image.origin.started_at,
        finished_at_ms: wall_ms(),
        last_used_ms: wall_ms(),
        bases: image.origin.bases.clone(),
        build_task: image.origin.build_task.clone(),
        app: image.origin.app.clone(),
    };
    api.shared.build_logs().write(&image.id, &image.log()).await;
    let written = api.shared.store.write(vec![Write::Image(record)]).await;
    written.map_err(|e| store_status(&e).message().to_owned())?;
    Ok(Arc::new(built))
}

fn refuse_unserved(recipe: &wire::Image) -> Result<(), Status> {
    let gpu = recipe.gpu_config.as_ref().is_some_and(|g| g.count > 0);
    match gpu {
        true => Err(Status::unimplemented(
            "the image uses a GPU during the build (`gpu=`), which this version of Dorian does not serve yet",
        )),
        false => Ok(()),
    }
}

fn success() -> wire::GenericResult {
    wire::GenericResult { status: GenericStatus::Success as i32, ..Default::default() }
}

/// Also for a build that took too long: of that status the client shows no text of ours.
fn failure(exception: String) -> wire::GenericResult {
    wire::GenericResult { status: GenericStatus::Failure as i32, exception, ..Default::default() }
}

fn log_item(data: String) -> wire::TaskLogs {
    wire::TaskLogs { data, file_descriptor: wire::FileDescriptor::Stdout as i32, ..Default::default() }
}

fn metadata(image: &Image, built: &BuiltImage) -> wire::ImageMetadata {
    let m = &built.metadata;
    wire::ImageMetadata {
        python_version_info: m.python_version_info.clone(),
        python_packages: m.python_packages.clone().into_iter().collect(),
        workdir: m.workdir.clone(),
        libc_version_info: m.libc_version_info.clone(),
        image_builder_version: Some(image.builder_version.clone()),
    }
}

fn timestamp(ms: u64) -> Timestamp {
    Timestamp { seconds: (ms / 1000) as i64, nanos: (ms % 1000) as i32 * 1_000_000 }
}
