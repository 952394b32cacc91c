//! Image recipes and builds.

use std::sync::Arc;

use client_protocol::wire;
use futures::Stream;
use image_builder::{BuildLog, BuildRequest, BuiltImage, ContextEntry, LogSink};
use metadata_store::{ImageRecord, Write};
use tokio::time::{Duration, Instant};
use tonic::{Request, Response, Status};
use types::ids::{ImageId, MountId};
use wire::generic_result::GenericStatus;

use crate::caller::Caller;
use crate::clock::{now_ms, patience};
use crate::images::{Found, Image};
use crate::mounts::content_path;
use crate::rpc::{Api, store_status};

pub type JoinStream = std::pin::Pin<Box<dyn Stream<Item = Result<wire::ImageJoinStreamingResponse, Status>> + Send>>;

impl Api {
    pub(crate) async fn image_get_or_create(
        &self,
        request: Request<wire::ImageGetOrCreateRequest>,
    ) -> Result<Response<wire::ImageGetOrCreateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let builder_version = match request.builder_version.as_str() {
            "" => caller.version.image_builder_version(),
            version => version,
        };
        let recipe = request.image.clone().unwrap_or_default();
        let force = request.force_build || request.ignore_cache;
        let mut build = self.build_request(recipe).await?;
        build.force = force;
        // The builder's version is part of what the image is: the client is told it back.
        let key = format!("{}-{builder_version}", build.image_key());
        let image = match self.shared.images.find_or_begin(&key, builder_version, force) {
            Found::Known(image) => image,
            Found::New(image) => {
                tokio::spawn(build_image(self.clone(), image.clone(), build));
                image
            }
        };
        let mut reply = wire::ImageGetOrCreateResponse { image_id: image.id.to_string(), ..Default::default() };
        if let Some(built) = image.built() {
            reply.result = Some(success());
            reply.metadata = Some(metadata(&image, &built));
        } else {
            reply.result = Some(wire::GenericResult::default());
        }
        Ok(Response::new(reply))
    }

    /// From the wire's recipe to the builder's, with everything that it names looked up.
    async fn build_request(&self, recipe: wire::Image) -> Result<BuildRequest, Status> {
        refuse_unserved(&recipe)?;
        let mut base_images = Vec::new();
        for base in &recipe.base_images {
            let image = self.image(&base.image_id)?;
            let built = image.wait_built().await.map_err(|e| {
                Status::failed_precondition(format!("the base image `{}` could not be built: {e}", base.image_id))
            })?;
            base_images.push((base.docker_tag.clone(), built.as_ref().clone()));
        }
        Ok(BuildRequest {
            base_images,
            dockerfile_commands: recipe.dockerfile_commands,
            context_files: recipe.context_files.into_iter().map(|f| (f.filename, f.data)).collect(),
            context: self.context(&recipe.context_mount_id).await?,
            build_args: recipe.build_args.into_iter().collect(),
            timeout: Some(Duration::from_secs(3600)),
            ..BuildRequest::default()
        })
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

    fn image(&self, id: &str) -> Result<Arc<Image>, Status> {
        let parsed = ImageId::parse(id);
        let parsed = parsed.ok_or_else(|| Status::invalid_argument(format!("`{id}` is not an image id")))?;
        self.shared.images.get(&parsed).ok_or_else(|| Status::not_found(format!("Could not find image with ID {id}")))
    }

    pub(crate) fn image_join(&self, request: &wire::ImageJoinStreamingRequest) -> Result<JoinStream, Status> {
        let image = self.image(&request.image_id)?;
        let seen: usize = request.last_entry_id.parse().unwrap_or(0);
        let skip_log = image.built().is_some() && !request.include_logs_for_finished;
        let patience = patience(request.timeout, Duration::from_secs(60));
        let state = JoinState { image, seen, skip_log, deadline: Instant::now() + patience, ended: false };
        Ok(Box::pin(futures::stream::unfold(state, JoinState::next)))
    }

    pub(crate) fn image_from_id(&self, id: &str) -> Result<Response<wire::ImageFromIdResponse>, Status> {
        let image = self.image(id)?;
        let built = image.built().ok_or_else(|| Status::failed_precondition(format!("image `{id}` is not built")))?;
        let metadata = Some(metadata(&image, &built));
        Ok(Response::new(wire::ImageFromIdResponse { image_id: id.to_owned(), metadata }))
    }
}

struct JoinState {
    image: Arc<Image>,
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
        let waited = tokio::time::timeout_at(self.deadline, self.image.progress_after(self.seen)).await;
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
                    reply.metadata = Some(metadata(&self.image, &built));
                    reply.result = Some(success());
                }
                Err(text) => reply.result = Some(failure(text)),
            }
        }
        Some((Ok(reply), self))
    }
}

async fn build_image(api: Api, image: Arc<Image>, request: BuildRequest) {
    let started = now_ms();
    let sink_image = image.clone();
    let sink = LogSink::new(move |log: BuildLog| sink_image.say(format!("{}\n", log.text)));
    let result = api.shared.images.builder.build(request, &sink).await;
    let result = match result {
        Ok(built) => store_built(&api, &image, built, started).await,
        Err(error) => Err(chain(&error)),
    };
    if let Err(error) = &result {
        tracing::info!(image = %image.id, %error, "an image build failed");
    }
    image.finish(result);
}

async fn store_built(api: &Api, image: &Image, built: BuiltImage, started: u64) -> Result<Arc<BuiltImage>, String> {
    let record = ImageRecord {
        id: image.id.clone(),
        key: image.key.clone(),
        built_json: serde_json::to_string(&built).map_err(|e| e.to_string())?,
        builder_version: image.builder_version.clone(),
        created_at_ms: started,
        last_used_ms: now_ms(),
    };
    let written = api.shared.store.write(vec![Write::Image(record)]).await;
    written.map_err(|e| store_status(&e).message().to_owned())?;
    Ok(Arc::new(built))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

fn refuse_unserved(recipe: &wire::Image) -> Result<(), Status> {
    let gpu = recipe.gpu_config.as_ref().is_some_and(|g| g.count > 0);
    let registry_secret = recipe.image_registry_config.as_ref().is_some_and(|c| !c.secret_id.is_empty());
    let unserved = [
        (gpu, "a GPU during the build"),
        (recipe.build_function.is_some(), "`run_function`"),
        (!recipe.secret_ids.is_empty(), "build secrets"),
        (registry_secret, "registry credentials"),
        (!recipe.volume_mounts.is_empty(), "volumes during the build"),
    ];
    match unserved.iter().find(|(present, _)| *present) {
        Some((_, what)) => Err(Status::unimplemented(format!(
            "the image uses {what}, which this version of Dorian does not serve yet"
        ))),
        None => Ok(()),
    }
}

fn success() -> wire::GenericResult {
    wire::GenericResult { status: GenericStatus::Success as i32, ..Default::default() }
}

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
