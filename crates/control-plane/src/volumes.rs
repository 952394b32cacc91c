//! Volumes in running containers: what a task mounts, commits on request, on a timer and at the end, reloads.
//!
//! Per task and volume one thing happens at a time. A commit is: the worker makes a layer of what the container changed, the
//! layer becomes part of the volume, the worker is told. If anything fails on the way, the changes stay where they are and
//! come with the next commit.

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client_protocol::wire;
use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tonic::Status;
use types::errors::with_causes;
use types::ids::{TaskId, VolumeId};
use types::objects::ObjectKind;
use volume_fs::layer::{Attributes, BuiltLayer};
use volume_fs::store::Layers;
use volume_fs::{Kind, Pinned, VolumeError, Volumes};
use worker_protocol::{RequestId, Uncollected, VolumeAnswer, VolumeCommand, VolumeLayer, VolumeSpec, WorkerCommand};

use crate::shared::Shared;
use crate::tasks::Task;

/// Between two commits that nobody asked for. The client's documentation says "every few seconds".
const COMMIT_EVERY: Duration = Duration::from_secs(5);
/// Committing takes at most one part in so many of a container's time.
const COMMIT_SHARE: u32 = 10;
/// Files that are being written are left out of such commits, except every so many times: a log that is always open must
/// get there too.
const OPEN_FILES_EVERY: u32 = 12;
/// A commit may have written while the mount was being replaced; then it is replaced again. More than a few rounds mean a
/// program that never stops writing, whose last changes it will see with the next reload.
const MOST_REMOUNTS: usize = 3;

/// What the client looks for in the answer, to the letter.
const OPEN_FILES: &str = "there are open files preventing the operation";

/// A volume in a function's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeUse {
    pub volume: VolumeId,
    pub mount_path: String,
    pub read_only: bool,
    pub sub_path: Option<String>,
    pub background_commits: bool,
}

impl VolumeUse {
    /// # Errors
    /// `INVALID_ARGUMENT` for ids of other kinds and for paths that cannot be mounted on.
    pub fn of(mount: &wire::VolumeMount) -> Result<Self, Status> {
        let bad = |what: String| Status::invalid_argument(what);
        let volume = VolumeId::parse(&mount.volume_id)
            .ok_or_else(|| bad(format!("`{}` is not the id of a volume", mount.volume_id)))?;
        let inside = |path: &str| manifest::path::normalize(path).map_err(|error| bad(error.to_string()));
        let place = inside(&mount.mount_path)?;
        if !mount.mount_path.starts_with('/') || place.as_os_str().is_empty() {
            let path = &mount.mount_path;
            return Err(bad(format!("a volume cannot be mounted on `{path}`: name a folder by its absolute path")));
        }
        let sub_path = mount.sub_path.as_deref().map(inside).transpose()?;
        Ok(Self {
            volume,
            mount_path: format!("/{}", place.display()),
            read_only: mount.read_only,
            sub_path: sub_path.filter(|path| !path.as_os_str().is_empty()).map(|path| path.display().to_string()),
            background_commits: mount.allow_background_commits,
        })
    }
}

/// A volume in a running task.
pub struct TaskMount {
    pub usage: VolumeUse,
    /// What the container sees stays on disk.
    /// Of what the container shows. While it is being shown something newer, of both.
    pinned: Mutex<Vec<Pinned>>,
    /// Held while something happens to it.
    turn: tokio::sync::Mutex<()>,
}

pub struct VolumeShell {
    pub store: Volumes,
    /// Changes that were made already: clients repeat a request when the answer got lost.
    made: Mutex<Recent>,
    next: AtomicU64,
    waiting: DashMap<RequestId, oneshot::Sender<VolumeAnswer>>,
}

/// The latest of a kind of text, so many of them.
#[derive(Default)]
struct Recent {
    known: HashSet<String>,
    oldest_first: VecDeque<String>,
}

impl Recent {
    /// A client repeats within a minute or two; so many changes are not made meanwhile.
    const MOST: usize = 4096;

    /// False when it is known already.
    fn add(&mut self, text: String) -> bool {
        if !self.known.insert(text.clone()) {
            return false;
        }
        self.oldest_first.push_back(text);
        if self.oldest_first.len() > Self::MOST
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// Why a volume could not be committed or reloaded.
#[derive(Debug, thiserror::Error)]
pub enum VolumeFailure {
    #[error(transparent)]
    Store(#[from] VolumeError),
    #[error("{OPEN_FILES}{}", .0.as_ref().map(|what| format!(": {what}")).unwrap_or_default())]
    Busy(Option<String>),
    #[error("{0}")]
    Worker(String),
}

impl VolumeShell {
    pub fn new(store: Volumes) -> Self {
        Self { store, made: Mutex::default(), next: AtomicU64::new(0), waiting: DashMap::new() }
    }

    /// True when this request has been carried out.
    pub fn is_made(&self, request: &str) -> bool {
        self.made.lock().known.contains(request)
    }

    /// False when that was known.
    pub fn note_made(&self, request: String) -> bool {
        self.made.lock().add(request)
    }

    /// On a thread that may block.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Volumes) -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, VolumeError> {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(done) => done,
            // The runtime is going down.
            Err(_) => Err(VolumeError::Stopping),
        }
    }

    pub fn on_answer(&self, request: RequestId, answer: VolumeAnswer) {
        if let Some((_, waiting)) = self.waiting.remove(&request) {
            let _ = waiting.send(answer);
        }
    }
}

impl Shared {
    /// What a task needs of volumes, and what keeps it on disk.
    ///
    /// # Errors
    /// A sentence that names the volume.
    pub async fn volume_specs(&self, uses: &[VolumeUse]) -> Result<(Vec<VolumeSpec>, Vec<Arc<TaskMount>>), String> {
        let (mut specs, mut mounts) = (Vec::new(), Vec::new());
        for usage in uses {
            let record = self.objects.get(ObjectKind::Volume, usage.volume.as_str());
            let record = record.ok_or_else(|| {
                format!(
                    "volume `{}` does not exist (any more); deploy the program again to use it as it is now",
                    usage.volume
                )
            })?;
            let name = record.name.clone().unwrap_or_else(|| record.id.clone());
            let wanted = usage.clone();
            let (spec, mount) = self
                .volumes
                .with(move |store| mount_of(store, wanted))
                .await
                .map_err(|error| format!("volume `{name}` cannot be mounted: {}", with_causes(&error)))?;
            specs.push(spec);
            mounts.push(mount);
        }
        Ok((specs, mounts))
    }

    async fn ask_worker(&self, command: impl FnOnce(RequestId) -> VolumeCommand) -> (RequestId, VolumeAnswer) {
        let request = self.volumes.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.volumes.waiting.insert(request, sender);
        let gone = || VolumeAnswer::Failed("the worker is gone".to_owned());
        if self.worker.commands.send(WorkerCommand::Volume(command(request))).await.is_err() {
            self.volumes.waiting.remove(&request);
            return (request, gone());
        }
        (request, answer.await.unwrap_or_else(|_| gone()))
    }

    /// Makes what a task has changed part of its volume. Goes on when the caller does not wait any more: half of it would
    /// leave a layer that nobody says anything of.
    pub async fn commit_volume(
        self: &Arc<Self>,
        task: &Arc<Task>,
        mount: &Arc<TaskMount>,
        leave_open: bool,
    ) -> Result<(), VolumeFailure> {
        let (shared, task, mount) = (self.clone(), task.clone(), mount.clone());
        to_the_end(async move {
            let _turn = mount.turn.lock().await;
            shared.commit_in_turn(&task.id, &mount.usage.volume, leave_open).await
        })
        .await
    }

    async fn commit_in_turn(
        self: &Arc<Self>,
        task: &TaskId,
        volume: &VolumeId,
        leave_open: bool,
    ) -> Result<(), VolumeFailure> {
        // A container goes on with the files of a deleted volume, as long as it lives.
        if self.objects.get(ObjectKind::Volume, volume.as_str()).is_none() {
            return Err(VolumeError::Deleted.into());
        }
        let (task, volume) = (task.clone(), volume.clone());
        let mut asked = self.collect_layer(&task, &volume, leave_open).await;
        if matches!(asked, (_, VolumeAnswer::NoSpace(_))) && self.has_made_room_for_a_commit().await {
            asked = self.collect_layer(&task, &volume, leave_open).await;
        }
        let (request, layer) = match asked {
            (_, VolumeAnswer::Collected(None)) => return Ok(()),
            (request, VolumeAnswer::Collected(Some(layer))) => (request, layer),
            (_, VolumeAnswer::Failed(error) | VolumeAnswer::NoSpace(error)) => {
                return Err(VolumeFailure::Worker(error));
            }
            (_, answer) => return Err(VolumeFailure::Worker(format!("the worker gave another answer: {answer:?}"))),
        };
        let published = self.publish_volume(&volume, layer).await;
        let settle = VolumeCommand::Settle { task, volume, request, is_taken: published.is_ok() };
        let _ = self.worker.commands.send(WorkerCommand::Volume(settle)).await;
        Ok(published?)
    }

    async fn collect_layer(&self, task: &TaskId, volume: &VolumeId, leave_open: bool) -> (RequestId, VolumeAnswer) {
        let (task, volume) = (task.clone(), volume.clone());
        self.ask_worker(|request| VolumeCommand::Collect { task, volume, request, leave_open }).await
    }

    /// Makes a layer part of a volume, or throws it away.
    pub async fn publish_volume(self: &Arc<Self>, volume: &VolumeId, layer: VolumeLayer) -> Result<(), VolumeError> {
        let (shared, volume, layer) = (self.clone(), volume.clone(), built(layer));
        self.volumes.with(move |_| shared.publish_layer(&volume, &layer)).await
    }

    /// As [`Shared::publish_volume`]. Blocks, on a thread of the runtime.
    pub fn publish_layer(self: &Arc<Self>, volume: &VolumeId, layer: &BuiltLayer) -> Result<(), VolumeError> {
        let published = self.try_publish(volume, layer);
        published.inspect_err(|_| layer.discard(self.volumes.store.contents()))
    }

    /// A layer that could not be published stays where it is.
    pub fn try_publish(self: &Arc<Self>, volume: &VolumeId, layer: &BuiltLayer) -> Result<(), VolumeError> {
        let is_known = self.objects.get(ObjectKind::Volume, volume.as_str()).is_some();
        let publish = || self.volumes.store.publish(volume.as_str(), layer);
        let published = if is_known { publish() } else { Err(VolumeError::Deleted) };
        published.map(|_| self.tidy_volume(volume.to_string()))
    }

    /// Commits, and shows the task the newest version of its volume. As [`Shared::commit_volume`], to the end.
    pub async fn reload_volume(
        self: &Arc<Self>,
        task: &Arc<Task>,
        mount: &Arc<TaskMount>,
    ) -> Result<(), VolumeFailure> {
        let (shared, task, mount) = (self.clone(), task.clone(), mount.clone());
        to_the_end(async move { shared.reload_in_turn(&task, &mount).await }).await
    }

    async fn reload_in_turn(self: &Arc<Self>, task: &Task, mount: &TaskMount) -> Result<(), VolumeFailure> {
        let _turn = mount.turn.lock().await;
        let volume = &mount.usage.volume;
        self.commit_in_turn(&task.id, volume, false).await?;
        for _ in 0..MOST_REMOUNTS {
            let id = volume.clone();
            let layers = self.volumes.with(move |store| store.layers(id.as_str())).await?;
            let folders = layers.folders.clone();
            mount.pinned.lock().push(layers.pinned);
            let asked = self.ask_worker(|request| VolumeCommand::Remount {
                task: task.id.clone(),
                volume: volume.clone(),
                request,
                layers: folders,
            });
            let late = match asked.await.1 {
                VolumeAnswer::Remounted(late) => late,
                VolumeAnswer::Busy(what) => {
                    mount.pinned.lock().pop();
                    return Err(VolumeFailure::Busy(what));
                }
                // Whichever of the two it shows now.
                VolumeAnswer::Failed(error) | VolumeAnswer::NoSpace(error) => return Err(VolumeFailure::Worker(error)),
                answer @ VolumeAnswer::Collected(_) => {
                    return Err(VolumeFailure::Worker(format!("the worker gave another answer: {answer:?}")));
                }
            };
            mount.unpin_older();
            match late {
                None => return Ok(()),
                Some(layer) => self.take_written(&task.id, volume, Ok(layer)).await,
            }
        }
        Ok(())
    }

    /// Commits a task's volumes as long as it runs.
    pub async fn background_commit_loop(self: Arc<Self>, task: Arc<Task>) {
        let mut mounts: Vec<_> =
            task.mounts.lock().iter().filter(|mount| mount.is_committed_by_itself()).cloned().collect();
        if mounts.is_empty() {
            return;
        }
        let mut pause = COMMIT_EVERY;
        for round in 1_u32.. {
            tokio::time::sleep(pause).await;
            if self.tasks.get(&task.id).is_none() {
                return;
            }
            let begun = Instant::now();
            mounts.retain(|mount| self.objects.get(ObjectKind::Volume, mount.usage.volume.as_str()).is_some());
            for mount in &mounts {
                let leave_open = !round.is_multiple_of(OPEN_FILES_EVERY);
                if let Err(error) = self.commit_volume(&task, mount, leave_open).await
                    && self.tasks.get(&task.id).is_some()
                {
                    let text =
                        format!("volume `{}` was not committed: {}", mount.usage.mount_path, with_causes(&error));
                    self.say(&task.owner, &task.id, &text);
                }
            }
            pause = COMMIT_EVERY.max(begun.elapsed() * COMMIT_SHARE);
        }
    }

    /// Before the server ends its containers: what they have written by now is kept.
    pub async fn commit_all_volumes(self: &Arc<Self>) {
        for task in self.tasks.all() {
            let mounts = task.mounts.lock().clone();
            for mount in mounts.iter().filter(|mount| mount.is_committed_by_itself()) {
                if let Err(error) = self.commit_volume(&task, mount, false).await {
                    tracing::error!(task = %task.id, error = with_causes(&error), "a volume was not committed at the end");
                }
            }
        }
    }

    /// Keeps what a container has left uncommitted at its end.
    pub async fn take_last_writes(
        self: &Arc<Self>,
        task: &TaskId,
        layers: Vec<(VolumeId, Result<VolumeLayer, Uncollected>)>,
    ) {
        for (volume, layer) in layers {
            self.take_written(task, &volume, layer).await;
        }
    }
}

pub fn built(layer: VolumeLayer) -> BuiltLayer {
    BuiltLayer { folder: layer.folder, entries: layer.entries, removed: layer.removed }
}

/// Does it apart from whoever asked.
async fn to_the_end(
    work: impl Future<Output = Result<(), VolumeFailure>> + Send + 'static,
) -> Result<(), VolumeFailure> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(VolumeFailure::Worker(error.to_string())))
}

impl TaskMount {
    fn unpin_older(&self) {
        let mut pinned = self.pinned.lock();
        let newest = pinned.len().saturating_sub(1);
        let older: Vec<Pinned> = pinned.drain(..newest).collect();
        drop(pinned);
        drop(older);
    }

    fn is_committed_by_itself(&self) -> bool {
        self.usage.background_commits && !self.usage.read_only
    }
}

/// A volume as it is now, for a mount.
pub struct Opened {
    pub layers: Layers,
    pub building: PathBuf,
}

/// A folder that the definition names and that is not there is made first.
pub fn open(store: &Volumes, usage: &VolumeUse) -> Result<Opened, VolumeError> {
    let id = usage.volume.as_str();
    if let Some(path) = &usage.sub_path {
        ensure_folder(store, id, path)?;
    }
    Ok(Opened { layers: store.layers(id)?, building: store.building(id)? })
}

fn mount_of(store: &Volumes, usage: VolumeUse) -> Result<(VolumeSpec, Arc<TaskMount>), VolumeError> {
    let Opened { layers, building } = open(store, &usage)?;
    let spec = VolumeSpec {
        volume: usage.volume.clone(),
        mount_path: usage.mount_path.clone(),
        layers: layers.folders,
        building,
        read_only: usage.read_only,
        sub_path: usage.sub_path.clone(),
    };
    let mount = TaskMount { usage, pinned: Mutex::new(vec![layers.pinned]), turn: Default::default() };
    Ok((spec, Arc::new(mount)))
}

fn ensure_folder(store: &Volumes, id: &str, path: &str) -> Result<(), VolumeError> {
    if store.view(id)?.find(path.as_ref())?.is_some_and(|node| node.kind == Kind::Folder) {
        return Ok(());
    }
    let made = store.change(id, |view, mut layer| match view.find(path.as_ref())? {
        Some(node) if node.kind == Kind::Folder => Ok(None),
        Some(_) => Err(VolumeError::NotFolder(path.into())),
        None => {
            layer.folder(path.as_ref(), &Attributes { mode: 0o755, ..Attributes::now() })?;
            layer.finish()
        }
    });
    made.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(path: &str, sub_path: Option<&str>) -> wire::VolumeMount {
        wire::VolumeMount {
            volume_id: "vo-1".to_owned(),
            mount_path: path.to_owned(),
            sub_path: sub_path.map(str::to_owned),
            ..Default::default()
        }
    }

    #[test]
    fn a_volume_is_mounted_on_a_plain_absolute_path_or_not_at_all() {
        assert_eq!(VolumeUse::of(&mount("/data/", Some("/a/b/"))).unwrap().mount_path, "/data");
        assert_eq!(VolumeUse::of(&mount("/data", Some("/a/b/"))).unwrap().sub_path.as_deref(), Some("a/b"));
        assert_eq!(VolumeUse::of(&mount("/data", Some("/"))).unwrap().sub_path, None);
        for bad in [mount("/", None), mount("data", None), mount("/a/../b", None), mount("/a", Some("../b"))] {
            assert!(VolumeUse::of(&bad).is_err(), "{bad:?}");
        }
    }
}
