//! The volumes of one task: mounted with a folder for its writes, turned into layers on request, shown anew on request.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use container_runtime::{Container, LayeredMount, RemountOutcome};
use manifest::changes::Committed;
use parking_lot::{Condvar, Mutex};
use types::errors::with_causes;
use types::ids::{TaskId, VolumeId};
use volume_fs::commit::{Taking, collect};
use volume_fs::layer::BuiltLayer;
use volume_fs::unsaved::UnsavedFolder;
use volume_fs::{ContentStore, View, VolumeError};
use worker_protocol::{RequestId, Uncollected, VolumeAnswer, VolumeCommand, VolumeLayer, VolumeSpec, WorkerEvent};

use crate::Worker;

/// How long a container's end waits to hear what became of the layer before. Publishing one takes milliseconds.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// How long it is looked for who uses a volume: it is only for the message.
const LOOKED_FOR: Duration = Duration::from_secs(3);

/// A running container with its volumes.
pub struct Mounted {
    pub container: Container,
    pub volumes: TaskVolumes,
}

#[derive(Debug)]
pub struct TaskVolumes {
    volumes: Vec<Arc<TaskVolume>>,
}

#[derive(Debug)]
struct TaskVolume {
    spec: VolumeSpec,
    contents: ContentStore,
    /// Below it a folder for each mount that there has been.
    folder: PathBuf,
    /// Locked by one request at a time, on a blocking thread. The control plane sends no second one before the answer.
    state: Mutex<State>,
    /// Held from before the container sees a new generation until the state knows of it.
    moving: tokio::sync::Mutex<()>,
    /// Locked for a moment only: who says what became of a layer does not wait for the next one to be collected.
    latest: Mutex<Latest>,
    settled: Condvar,
}

/// The layer that was collected last.
#[derive(Debug, Default)]
enum Latest {
    #[default]
    Known,
    /// What will be committed when the control plane says that the layer was taken.
    Open(RequestId, Committed),
    Taken(Committed),
}

#[derive(Debug)]
struct State {
    generation: u32,
    layers: Vec<PathBuf>,
    committed: Committed,
    /// Earlier generations of which no layer could be made.
    kept: Vec<u32>,
    /// What the container wrote has been taken away: whoever looks now would find it deleted.
    is_over: bool,
}

impl State {
    fn new(generation: u32, layers: Vec<PathBuf>) -> Self {
        Self { generation, layers, committed: Committed::default(), kept: Vec::new(), is_over: false }
    }
}

impl TaskVolumes {
    /// `folder` must not exist; nothing is made here.
    pub fn new(specs: &[VolumeSpec], folder: &Path, contents: &ContentStore) -> Self {
        let volume = |(number, spec): (usize, &VolumeSpec)| {
            let state = Mutex::new(State::new(0, spec.layers.clone()));
            let (spec, contents, folder) = (spec.clone(), contents.clone(), folder.join(number.to_string()));
            let (moving, latest, settled) = (tokio::sync::Mutex::default(), Mutex::default(), Condvar::new());
            Arc::new(TaskVolume { spec, contents, folder, state, moving, latest, settled })
        };
        Self { volumes: specs.iter().enumerate().map(volume).collect() }
    }

    /// What the container is started with.
    pub fn mounts(&self) -> Vec<LayeredMount> {
        self.volumes.iter().map(|volume| volume.mount(0, volume.spec.layers.clone())).collect()
    }

    fn find(&self, id: &VolumeId) -> Option<Arc<TaskVolume>> {
        self.volumes.iter().find(|volume| volume.spec.volume == *id).cloned()
    }
}

impl TaskVolume {
    fn generation(&self, number: u32) -> PathBuf {
        self.folder.join(number.to_string())
    }

    /// Its number, and whether there is none, as the container has ended.
    fn next_generation(&self) -> (u32, bool) {
        let state = self.state.lock();
        (state.generation + 1, state.is_over)
    }

    fn mount(&self, generation: u32, layers: Vec<PathBuf>) -> LayeredMount {
        LayeredMount {
            target: self.spec.mount_path.clone(),
            layers,
            data: self.contents.data_layer().map(Path::to_owned),
            upper: (!self.spec.read_only).then(|| self.generation(generation)),
            sub_path: self.spec.sub_path.clone(),
            read_only: self.spec.read_only,
        }
    }

    /// # Errors
    /// Also after the container's end, when somebody waits for a commit. A commit in the background finds nothing then.
    fn collect(&self, request: RequestId, taking: Taking) -> VolumeAnswer {
        let mut state = self.state.lock();
        let collected = match taking {
            _ if !state.is_over => self.collect_in(&mut state, request, taking),
            Taking::WithoutOpenFiles => Ok(None),
            Taking::All | Taking::Final => return VolumeAnswer::Failed("the container has ended".to_owned()),
        };
        match collected {
            Ok(layer) => VolumeAnswer::Collected(layer),
            Err(error @ VolumeError::NoSpace(_)) => VolumeAnswer::NoSpace(with_causes(&error)),
            Err(error) => VolumeAnswer::Failed(with_causes(&error)),
        }
    }

    /// At the container's end: everything that was not committed. Nothing is collected after it.
    fn collect_last(&self) -> Result<Option<VolumeLayer>, String> {
        let _moved = self.moving.blocking_lock();
        let mut state = self.state.lock();
        state.is_over = true;
        let collected = self.collect_in(&mut state, RequestId::MAX, Taking::Final);
        let generation = state.generation;
        collected.inspect_err(|_| state.kept.push(generation)).map_err(|error| with_causes(&error))
    }

    /// As [`Self::collect_last`]. What could not be collected, now or at a reload, is moved out of the way of the folder's
    /// removal.
    fn take_last(&self, task: &TaskId, unsaved: &UnsavedFolder) -> Vec<Result<VolumeLayer, Uncollected>> {
        let collected = self.collect_last();
        let kept = std::mem::take(&mut self.state.lock().kept);
        let why = collected.as_ref().err().cloned();
        let why = why.unwrap_or_else(|| "it could not be read when the volume was reloaded".to_owned());
        let moved = kept.into_iter().map(|generation| {
            let moved = unsaved.set_aside(self.spec.volume.as_str(), task.as_str(), &self.generation(generation));
            let place = moved.inspect_err(|error| {
                tracing::error!(%task, volume = %self.spec.volume, %error, "what a container wrote could not be moved aside");
            });
            Err(Uncollected { why: why.clone(), place: place.ok() })
        });
        moved.chain(collected.ok().flatten().map(Ok)).collect()
    }

    fn collect_in(
        &self,
        state: &mut State,
        request: RequestId,
        taking: Taking,
    ) -> Result<Option<VolumeLayer>, VolumeError> {
        if self.spec.read_only {
            return Ok(None);
        }
        self.learn_latest(state, taking);
        let below = View::of(state.layers.iter().cloned());
        let upper = self.generation(state.generation).join("diff");
        let (layer, committed) =
            collect(&self.contents, &self.spec.building, &upper, &below, &state.committed, taking)?;
        match layer {
            Some(_) => *self.latest.lock() = Latest::Open(request, committed),
            None => state.committed = committed,
        }
        Ok(layer.map(volume_layer))
    }

    /// At a container's end the layer before may be on its way still: taking its files again would put them over what others
    /// have committed since.
    fn learn_latest(&self, state: &mut State, taking: Taking) {
        let mut latest = self.latest.lock();
        let deadline = Instant::now() + SETTLED_WITHIN;
        while taking == Taking::Final && matches!(*latest, Latest::Open(..)) {
            if self.settled.wait_until(&mut latest, deadline).timed_out() {
                break;
            }
        }
        if let Latest::Taken(committed) = std::mem::take(&mut *latest) {
            state.committed = committed;
        }
    }

    fn settle(&self, request: RequestId, is_taken: bool) {
        let mut latest = self.latest.lock();
        match std::mem::take(&mut *latest) {
            Latest::Open(open, committed) if open == request => {
                if is_taken {
                    *latest = Latest::Taken(committed);
                }
                self.settled.notify_all();
            }
            other => *latest = other,
        }
    }

    /// After the container shows `layers`: what it wrote before that and nobody has yet.
    fn moved_to(&self, layers: Vec<PathBuf>) -> Result<Option<VolumeLayer>, String> {
        let mut state = self.state.lock();
        let late = self.collect_in(&mut state, RequestId::MAX, Taking::Final);
        let old = self.generation(state.generation);
        let kept = std::mem::take(&mut state.kept);
        *state = State { kept, ..State::new(state.generation + 1, layers) };
        if late.is_err() {
            let kept = state.generation - 1;
            state.kept.push(kept);
        }
        *self.latest.lock() = Latest::Known;
        drop(state);
        // Kept when it could not be read: it holds what nobody else has. Otherwise the program need not wait: taking away
        // many files can take longer than writing them.
        if late.is_ok() {
            std::thread::spawn(move || trees::remove(&old));
        }
        late.map_err(|error| with_causes(&error))
    }
}

fn volume_layer(layer: BuiltLayer) -> VolumeLayer {
    VolumeLayer { folder: layer.folder, entries: layer.entries, removed: layer.removed }
}

impl Mounted {
    /// After the container's end: everything that was not committed.
    pub async fn collect_all(
        self: Arc<Self>,
        task: &TaskId,
        unsaved: &UnsavedFolder,
    ) -> Vec<(VolumeId, Result<VolumeLayer, Uncollected>)> {
        if self.volumes.volumes.is_empty() {
            return Vec::new();
        }
        let (task, unsaved) = (task.clone(), unsaved.clone());
        let collect = move || {
            let mut layers = Vec::new();
            for volume in &self.volumes.volumes {
                let collected = volume.take_last(&task, &unsaved);
                layers.extend(collected.into_iter().map(|layer| (volume.spec.volume.clone(), layer)));
            }
            layers
        };
        tokio::task::spawn_blocking(collect).await.unwrap_or_default()
    }

    async fn remount(&self, volume: &Arc<TaskVolume>, layers: Vec<PathBuf>) -> VolumeAnswer {
        let _moving = volume.moving.lock().await;
        let (generation, is_over) = volume.next_generation();
        if is_over {
            return VolumeAnswer::Failed("the container has ended".to_owned());
        }
        match self.container.remount(&volume.mount(generation, layers.clone())).await {
            RemountOutcome::Failed(error) => VolumeAnswer::Failed(error),
            RemountOutcome::Busy => {
                let (pid, target) = (self.container.pid(), volume.spec.mount_path.clone());
                let found = tokio::task::spawn_blocking(move || find_user(pid, &target));
                // The kernel lets nobody look at a process that hangs in the middle of an exec.
                let found = tokio::time::timeout(LOOKED_FOR, found).await;
                VolumeAnswer::Busy(found.ok().and_then(Result::ok).flatten())
            }
            RemountOutcome::Done => {
                let volume = volume.clone();
                let moved = tokio::task::spawn_blocking(move || volume.moved_to(layers)).await;
                match moved {
                    Ok(Ok(late)) => VolumeAnswer::Remounted(late),
                    Ok(Err(error)) => VolumeAnswer::Failed(error),
                    Err(error) => VolumeAnswer::Failed(error.to_string()),
                }
            }
        }
    }
}

/// Notes what became of a layer. Nobody else is at this volume: whoever asked for the layer is the one who says.
pub(crate) fn settle(mounted: Option<&Mounted>, volume: &VolumeId, request: RequestId, is_taken: bool) {
    if let Some(volume) = mounted.and_then(|mounted| mounted.volumes.find(volume)) {
        volume.settle(request, is_taken);
    }
}

/// Carries out a command and answers it. Without a running container there is nothing to be done: what it wrote comes
/// with its end.
pub(crate) async fn execute(worker: Arc<Worker>, mounted: Option<Arc<Mounted>>, command: VolumeCommand) {
    let Some((mounted, volume)) = mounted.and_then(|m| m.volumes.find(command.volume()).map(|v| (m, v))) else {
        if let VolumeCommand::Collect { request, .. } | VolumeCommand::Remount { request, .. } = command {
            let answer = VolumeAnswer::Failed("the container is not running".to_owned());
            let _ = worker.events.send(WorkerEvent::Volume { request, answer }).await;
        }
        return;
    };
    let (request, answer) = match command {
        VolumeCommand::Collect { request, leave_open, .. } => {
            let taking = if leave_open { Taking::WithoutOpenFiles } else { Taking::All };
            let collected = tokio::task::spawn_blocking(move || volume.collect(request, taking)).await;
            (request, collected.unwrap_or_else(|error| VolumeAnswer::Failed(error.to_string())))
        }
        VolumeCommand::Remount { request, layers, .. } => (request, mounted.remount(&volume, layers).await),
        // Done by `settle`.
        VolumeCommand::Settle { .. } => return,
    };
    let _ = worker.events.send(WorkerEvent::Volume { request, answer }).await;
}

/// Something in the container that uses what is below `target`, in words.
fn find_user(container: u32, target: &str) -> Option<String> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let wanted = namespace(&container.to_string())?;
    let processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let inside =
        processes.filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()) && namespace(pid).as_ref() == Some(&wanted));
    inside.filter_map(|pid| use_of(&pid, Path::new(target))).next()
}

/// Paths below the volume's root are told as the volume names them, and the root by where it is mounted.
fn use_of(pid: &str, target: &Path) -> Option<String> {
    let below = |link: PathBuf| fs::read_link(link).ok()?.strip_prefix(target).ok().map(Path::to_owned);
    let named = |path: PathBuf| if path.as_os_str().is_empty() { target.to_owned() } else { path };
    if let Some(folder) = below(format!("/proc/{pid}/cwd").into()) {
        return Some(format!("cwd is inside volume, in {}", named(folder).display()));
    }
    let mut open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    if let Some(open) = open.find_map(|fd| below(fd.path())) {
        return Some(format!("path {} is open", named(open).display()));
    }
    // A file may be closed and still be mapped.
    let mut maps = fs::read_dir(format!("/proc/{pid}/map_files")).ok()?.flatten();
    let mapped = maps.find_map(|map| below(map.path()))?;
    Some(format!("path {} is mapped into memory", mapped.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container's volume with one file written to it.
    fn written(folder: &Path) -> Arc<TaskVolume> {
        let contents = ContentStore::open(&folder.join("volumes")).unwrap();
        let building = folder.join("building");
        fs::create_dir_all(&building).unwrap();
        let spec = VolumeSpec {
            volume: VolumeId::random(),
            mount_path: "/v".to_owned(),
            layers: Vec::new(),
            building,
            read_only: false,
            sub_path: None,
        };
        let volume = TaskVolumes::new(&[spec], &folder.join("task"), &contents).volumes[0].clone();
        let upper = volume.generation(0).join("diff");
        fs::create_dir_all(&upper).unwrap();
        fs::write(upper.join("file"), "x").unwrap();
        volume
    }

    #[track_caller]
    fn collected(answer: VolumeAnswer) -> Option<VolumeLayer> {
        let VolumeAnswer::Collected(layer) = answer else { panic!("{answer:?}") };
        layer
    }

    #[test]
    fn the_end_of_a_container_waits_to_hear_what_became_of_the_layer_before() {
        for (is_taken, is_left) in [(true, false), (false, true)] {
            let folder = tempfile::tempdir_in("/var/tmp").unwrap();
            let volume = written(folder.path());
            assert!(collected(volume.collect(1, Taking::All)).is_some());
            let ending = volume.clone();
            let last = std::thread::spawn(move || collected(ending.collect(RequestId::MAX, Taking::Final)));
            std::thread::sleep(Duration::from_millis(30));
            volume.settle(1, is_taken);
            assert_eq!(last.join().unwrap().is_some(), is_left);
        }
    }

    #[test]
    fn whoever_uses_a_volume_is_told_with_what_also_when_it_is_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::write(root.join("file"), "x").unwrap();
        fs::create_dir(root.join("inner")).unwrap();
        let said = |script: &str| {
            let script = format!("cd / && {script} && echo ready && exec sleep 30");
            let mut command = std::process::Command::new("sh");
            command.args(["-c", &script]).current_dir(&root).stdout(std::process::Stdio::piped());
            let mut started = command.spawn().unwrap();
            let mut line = String::new();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(started.stdout.as_mut().unwrap()), &mut line)
                .unwrap();
            let said = use_of(&started.id().to_string(), &root);
            started.kill().unwrap();
            started.wait().unwrap();
            said
        };
        let root = root.display();
        assert_eq!(said(&format!("exec 3<{root}")), Some(format!("path {root} is open")));
        assert_eq!(said(&format!("cd {root}")), Some(format!("cwd is inside volume, in {root}")));
        assert_eq!(said(&format!("cd {root}/inner")), Some("cwd is inside volume, in inner".to_owned()));
        assert_eq!(said(&format!("exec 3<{root}/file")), Some("path file is open".to_owned()));
        assert_eq!(said("true"), None);
    }

    #[test]
    fn nothing_is_collected_after_the_end_of_a_container() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let volume = written(folder.path());
        assert!(collected(volume.collect(1, Taking::WithoutOpenFiles)).is_some());
        volume.settle(1, true);
        fs::write(volume.generation(0).join("diff/file"), "y").unwrap();
        assert!(volume.collect_last().unwrap().is_some());
        // What was taken away looks deleted now.
        assert!(collected(volume.collect(2, Taking::WithoutOpenFiles)).is_none());
        assert!(matches!(volume.collect(3, Taking::All), VolumeAnswer::Failed(why) if why.contains("has ended")));
    }

    #[test]
    fn what_no_layer_could_be_made_of_is_moved_aside() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let volume = written(folder.path());
        let store = volume_fs::Volumes::open(&folder.path().join("store")).unwrap();
        // The layers' folder is gone: no layer can be made, neither at the reload nor at the end.
        fs::remove_dir(&volume.spec.building).unwrap();
        fs::write(&volume.spec.building, "").unwrap();
        assert!(volume.moved_to(Vec::new()).is_err());
        let upper = volume.generation(1).join("diff");
        fs::create_dir_all(&upper).unwrap();
        fs::write(upper.join("later"), "y").unwrap();
        let taken = volume.take_last(&TaskId::random(), store.unsaved());
        let places: Vec<PathBuf> = taken.into_iter().map(|taken| taken.unwrap_err().place.unwrap()).collect();
        assert_eq!(fs::read_to_string(places[0].join("diff/file")).unwrap(), "x");
        assert_eq!(fs::read_to_string(places[1].join("diff/later")).unwrap(), "y");
        assert!(!volume.generation(0).exists() && !volume.generation(1).exists());
        assert_eq!(store.unsaved().list().unwrap().len(), 2);
    }

    #[test]
    fn what_became_of_a_layer_is_heard_while_the_next_is_collected() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let volume = written(folder.path());
        assert!(collected(volume.collect(1, Taking::All)).is_some());
        let collecting = volume.state.lock();
        volume.settle(1, true);
        drop(collecting);
        assert!(collected(volume.collect(2, Taking::All)).is_none());
    }
}
