//! `run_function`: a function whose container's writes become a layer.
//!
//! It runs like any other function (one call with one input, which the runner is told is its last), except that its
//! output goes to the image's log and that the worker keeps what the container wrote.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use calls::{CallKind, CallSpec, FinishedOutput, Millis, NewInput, OutcomeStatus, PageRequest, Payload};
use image_builder::{BuiltImage, KeyHasher, LayerKey, VolumeMount};
use parking_lot::Mutex;
use tokio::sync::watch;
use types::errors::with_causes;
use types::ids::{FunctionCallId, InputId, TaskId};

use crate::clock::{steady_ms, wall_ms};
use crate::images::Image;
use crate::owner::{Begun, Owner};
use crate::shared::Shared;
use crate::tasks::STOP_GRACE_MS;
use crate::volumes::VolumeUse;

/// The container of a finished input runs its exit hooks and writes its files; then it is gone.
const LEAVING_PATIENCE: Duration = Duration::from_secs(120);

/// How long a function that no build uses stays known. A client asks for the image at once, and asks again when it did
/// not hear the answer; in between it may send files, which takes minutes, not hours.
const UNUSED_KEPT_MS: Millis = 3_600_000;

/// What an owner that makes images knows of its builds.
#[derive(Default)]
pub struct FunctionBuild {
    image: Mutex<Option<Arc<Image>>>,
    uses: Mutex<Uses>,
    /// The last container that ended, and what it left.
    ended: watch::Sender<Option<(TaskId, Option<Arc<Left>>)>>,
}

/// What a container wrote: `<task>/root/diff`. The task's folder goes with this.
struct Left(PathBuf);

impl Drop for Left {
    fn drop(&mut self) {
        let Some(folder) = self.0.parent().and_then(Path::parent).map(Path::to_owned) else { return };
        let removal = move || {
            if let Err(error) = trees::remove(&folder) {
                tracing::warn!(folder = %folder.display(), %error, "the folder of a build's container stays");
            }
        };
        // Without the thread it stays until the next start.
        let _ = std::thread::Builder::new().name("build-cleanup".to_owned()).spawn(removal);
    }
}

/// Which builds need a function.
#[derive(Default)]
struct Uses {
    now: usize,
    last_ended: Millis,
}

impl Uses {
    /// `known_since`: when the function was made.
    fn are_over(&self, known_since: Millis, now: Millis) -> bool {
        self.now == 0 && self.last_ended.max(known_since) + UNUSED_KEPT_MS <= now
    }
}

/// One build's use of a function, which stays known for as long.
pub struct BuildUse(Arc<FunctionBuild>);

impl BuildUse {
    pub fn of(build: &Arc<FunctionBuild>) -> Self {
        build.uses.lock().now += 1;
        Self(build.clone())
    }
}

impl Drop for BuildUse {
    fn drop(&mut self) {
        let mut uses = self.0.uses.lock();
        uses.now -= 1;
        uses.last_ended = steady_ms();
        if uses.now == 0 {
            self.0.ended.send_replace(None);
        }
    }
}

impl FunctionBuild {
    pub fn say(&self, text: String) {
        if let Some(image) = &*self.image.lock() {
            image.say(text);
        }
    }

    /// What it left goes at once when no build wants it any more.
    pub fn on_task_end(&self, task: &TaskId, changes: Option<PathBuf>) {
        let left = changes.map(|changes| Arc::new(Left(changes)));
        let uses = self.uses.lock();
        if uses.now > 0 {
            self.ended.send_replace(Some((task.clone(), left)));
        }
    }

    fn is_anothers_too(&self) -> bool {
        self.uses.lock().now > 1
    }
}

/// What is to be run on what.
pub struct FunctionRun {
    pub owner: Arc<Owner>,
    pub build: BuildUse,
    pub base: Arc<BuiltImage>,
    pub payload: Payload,
    pub data_format: i32,
    pub method_name: String,
    /// See [`layer_key`].
    pub image_key: LayerKey,
    /// The same, or another one when it is to be made anew.
    pub layer: LayerKey,
}

/// A build's call. When the build is given up, its container ends with it.
struct OpenCall<'a> {
    shared: &'a Arc<Shared>,
    run: &'a FunctionRun,
    id: FunctionCallId,
    has_output: bool,
}

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        let owner = &self.run.owner;
        owner.forget_call(self.shared, &self.id);
        // With a build that shares the function, its container stays; what ran in it was told to stop.
        if self.has_output || self.run.build.0.is_anothers_too() {
            return;
        }
        for task in owner.task_ids() {
            self.shared.stop_task(&task, STOP_GRACE_MS, "its build was stopped".to_owned());
        }
    }
}

/// All that can change the result: what it runs on, its code, the globals and arguments that it sees, the names of its
/// secrets, and which volumes it sees where. What those hold, and what it writes to them, is no part of the image.
pub fn layer_key(
    base: &BuiltImage,
    definition: &str,
    globals: &[u8],
    input: &[u8],
    secrets: &[String],
    volumes: &[VolumeUse],
) -> LayerKey {
    let mut places: Vec<VolumeMount> = volumes.iter().map(VolumeUse::place).collect();
    places.sort();
    let hasher = KeyHasher::new("function 1")
        .list(base.layers.iter().map(LayerKey::as_str))
        .field(serde_json::to_vec(&base.config).unwrap_or_default())
        .field(definition)
        .field(globals)
        .field(input)
        .list(secrets);
    places.iter().fold(hasher, |hasher, place| place.add_to(hasher)).finish()
}

impl Shared {
    /// Runs the function and makes the layer, unless that was done before.
    pub async fn run_build_function(
        self: &Arc<Self>,
        image: &Arc<Image>,
        run: FunctionRun,
    ) -> Result<BuiltImage, String> {
        let builder = &self.images.builder;
        let name = run.owner.tag.clone();
        let title = format!("run_function {name}");
        image.set_step(1, 1, format!("Step 1/1: {title}"));
        image.say(format!("=> Step 1/1: {title}\n"));
        let found = builder.find_with_layer(&run.base, &run.layer).await.map_err(|e| with_causes(&e))?;
        match found {
            Some(found) => {
                image.say("   CACHED\n".to_owned());
                Ok(found)
            }
            None => self.run_and_commit(image, &run, &title).await,
        }
    }

    /// Forgets functions that made images and are not asked for any more. Those of a stopped app go with it.
    ///
    /// Rejected: with the end of the build (the client may ask for the image again, by this function), and with the
    /// publishing of the app (another deployment of it may have begun, and is about to build).
    pub fn forget_builders(self: &Arc<Self>) {
        let now = steady_ms();
        let is_over =
            |owner: &Owner| owner.build.as_ref().is_some_and(|build| build.uses.lock().are_over(owner.created_at, now));
        let over: Vec<_> = self.owners.iter().filter(|owner| is_over(owner)).map(|owner| owner.id.clone()).collect();
        for id in over {
            if let Some((_, owner)) = self.owners.remove_if(&id, |_, owner| is_over(owner)) {
                // Its loop ends with that.
                owner.close(self);
            }
        }
    }

    async fn run_and_commit(
        self: &Arc<Self>,
        image: &Arc<Image>,
        run: &FunctionRun,
        title: &str,
    ) -> Result<BuiltImage, String> {
        let owner = &run.owner;
        let build = &run.build.0;
        *build.image.lock() = Some(image.clone());
        let mut call = OpenCall { shared: self, run, id: FunctionCallId::random(), has_output: false };
        let output = self.call_once(run, &call.id).await;
        call.has_output = output.is_ok();
        drop(call);
        let output = output?;
        let outcome = &output.outcome;
        if outcome.status != OutcomeStatus::Success {
            if !outcome.traceback.is_empty() {
                image.say(format!("{}\n", outcome.traceback.trim_end()));
            }
            return Err(format!("{title} failed: {}", outcome.exception));
        }
        let mut ended = build.ended.subscribe();
        let is_it =
            |end: &Option<(TaskId, Option<Arc<Left>>)>| end.as_ref().map(|(task, _)| task) == output.task.as_ref();
        let end = tokio::time::timeout(LEAVING_PATIENCE, ended.wait_for(is_it)).await;
        let left = end.ok().and_then(Result::ok).and_then(|end| end.as_ref()?.1.clone());
        let left = left.ok_or_else(|| {
            format!("{title} returned, but its container did not end well afterwards, so its files were not kept")
        })?;
        let builder = &self.images.builder;
        let laid_over = self.mounted_paths(owner);
        let made = builder.commit_changes(&run.base, &run.layer, (&left.0, left.clone()), title, &laid_over).await;
        made.map_err(|e| with_causes(&e))
    }

    /// One call with one input, waited for.
    async fn call_once(self: &Arc<Self>, run: &FunctionRun, call: &FunctionCallId) -> Result<FinishedOutput, String> {
        let owner = &run.owner;
        let spec = CallSpec {
            id: call.clone(),
            kind: CallKind::Unary,
            durable: false,
            parent_input: None,
            created_at: wall_ms(),
            invocation_type: 0,
        };
        let input = NewInput {
            id: InputId::random(),
            idx: 0,
            payload: run.payload.clone(),
            data_format: run.data_format,
            method_name: run.method_name.clone(),
        };
        if owner.begin_call(self, spec, vec![input], false) != Begun::Yes {
            return Err(format!("function `{}` takes no inputs now", owner.tag));
        }
        let stopped = || format!("the app was stopped while function `{}` ran", owner.tag);
        let (_asking, watcher) = owner.ask(self, call).ok_or_else(stopped)?;
        let page = PageRequest { after: 0, range: None, limit: 1 };
        loop {
            let news = watcher.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            match owner.read(|calls| calls.outputs(call, page)) {
                Some(mut found) if !found.outputs.is_empty() => return Ok(found.outputs.remove(0)),
                Some(_) => news.await,
                None => return Err(stopped()),
            }
        }
    }

    /// Files that a container of this function sees above its image.
    fn mounted_paths(&self, owner: &Owner) -> Vec<String> {
        let definition = owner.definition();
        let mounts = definition.mounts.iter().filter_map(|id| self.mounts.get(id));
        mounts.flat_map(|mount| mount.record.files.iter().map(|file| file.path.clone()).collect::<Vec<_>>()).collect()
    }
}

#[cfg(test)]
mod tests {
    use types::ids::VolumeId;

    use super::*;

    #[test]
    fn a_function_that_makes_images_stays_known_while_a_build_uses_it_and_for_an_hour_after() {
        let build = Arc::new(FunctionBuild::default());
        let (hour, made) = (UNUSED_KEPT_MS, steady_ms());
        let is_over = |now| build.uses.lock().are_over(made, now);
        assert!(!is_over(made + hour - 1) && is_over(made + hour));
        let (first, second) = (BuildUse::of(&build), BuildUse::of(&build));
        drop(first);
        assert!(!is_over(made + 1000 * hour), "another build uses it");
        drop(second);
        let ended = build.uses.lock().last_ended;
        assert!(!is_over(ended + hour - 1) && is_over(ended + hour));
    }

    #[test]
    fn code_globals_arguments_and_secret_names_are_the_key_and_so_is_the_base() {
        let base = BuiltImage { layers: vec![], config: Default::default(), metadata: Default::default() };
        let other = BuiltImage { layers: vec![LayerKey::empty()], ..base.clone() };
        let token = vec!["TOKEN".to_owned()];
        let keys = [
            layer_key(&base, "code", b"globals", b"input", &[], &[]),
            layer_key(&other, "code", b"globals", b"input", &[], &[]),
            layer_key(&base, "code2", b"globals", b"input", &[], &[]),
            layer_key(&base, "code", b"globals2", b"input", &[], &[]),
            layer_key(&base, "code", b"globals", b"input2", &[], &[]),
            layer_key(&base, "code", b"globals", b"input", &token, &[]),
        ];
        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[..at].contains(key), "{at}");
        }
        assert_eq!(keys[0], layer_key(&base, "code", b"globals", b"input", &[], &[]));
    }

    #[test]
    fn which_volumes_are_where_is_the_key_and_their_order_is_not() {
        let base = BuiltImage { layers: vec![], config: Default::default(), metadata: Default::default() };
        let volume = |path: &str, read_only| VolumeUse {
            volume: VolumeId::parse("vo-1").unwrap(),
            mount_path: path.to_owned(),
            read_only,
            sub_path: None,
            background_commits: true,
        };
        let key = |volumes: &[VolumeUse]| layer_key(&base, "code", b"globals", b"input", &[], volumes);
        let (a, b) = (|| volume("/a", false), || volume("/b", false));
        let keys = [key(&[]), key(&[a()]), key(&[b()]), key(&[volume("/a", true)]), key(&[a(), b()])];
        for (at, one) in keys.iter().enumerate() {
            assert!(!keys[..at].contains(one), "{at}");
        }
        assert_eq!(keys[4], key(&[b(), a()]));
    }
}
