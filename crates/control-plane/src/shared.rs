//! Everything the API's handlers and the loops share, and the acts that span several of its parts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blob_store::sign::UrlKey;
use blob_store::{BlobStore, DiskBlobs};
use calls::{Millis, Outcome, OutcomeStatus};
use contents_store::ContentsStore;
use dashmap::DashMap;
use metadata_store::{AppState, EnvironmentRecord, MetadataStore, StoreError};
use parking_lot::RwLock;
use shared_files::SharedFiles;
use tokio::sync::Notify;
use types::ids::{AppId, FunctionCallId, FunctionId, TaskId};
use volume_fs::Need;
use worker_protocol::{Descriptor, TaskExit, WorkerCommand, WorkerEvent, WorkerHandle};

use crate::apps::App;
use crate::capacity::CapacityPool;
use crate::children::Children;
use crate::clock::{steady_ms, wall_ms};
use crate::generators::Generators;
use crate::images::Images;
use crate::logs::{LogKeeper, LogLimits, MAX_TASK_BYTES, Origin};
use crate::mounts::Mounts;
use crate::objects::Objects;
use crate::owner::Owner;
use crate::passing_blobs::{PassingBlobs, PassingContents};
use crate::queues::Queues;
use crate::rpc::listings::Listings;
use crate::schedules::Schedules;
use crate::secrets::Secrets;
use crate::sent_contents::SentContents;
use crate::tasks::{EndedTask, EndedTasks, Ending, STOP_GRACE_MS, Task, Tasks, decide_ending};
use crate::unheard::Unheard;
use crate::volumes::VolumeShell;

/// Output of an input may arrive this long after its result: the two come on different ways.
const OUTPUT_GRACE_MS: Millis = 500;

/// Also how often the [steady clock](crate::clock) is read at least.
pub const REAPER_LOOKS_EVERY: Duration = Duration::from_secs(2);

/// What the operator chose.
#[derive(Debug, Clone)]
pub struct Config {
    pub data_dir: PathBuf,
    pub token_id: String,
    pub token_secret: String,
    /// Random text of this data directory, from which keys are derived.
    pub salt: String,
    /// Variables that every container gets from the host: proxies, certificate settings.
    pub host_env: Vec<(String, String)>,
    /// How much of what apps print is kept on disk.
    pub log_limits: LogLimits,
    /// CPU is a share and not a need: a function's first container does not wait for it.
    pub cpu_overcommit: bool,
}

pub struct Shared {
    pub config: Config,
    pub store: MetadataStore,
    pub blobs: DiskBlobs,
    pub blob_key: UrlKey,
    pub passing_blobs: PassingBlobs,
    /// Files that clients sent for volumes, which have them now.
    pub passing_contents: PassingContents,
    pub sent_contents: SentContents,
    pub worker: WorkerHandle,
    pub capacity: CapacityPool,
    pub environments: RwLock<BTreeMap<String, EnvironmentRecord>>,
    pub apps: DashMap<AppId, Arc<App>>,
    pub owners: DashMap<FunctionId, Arc<Owner>>,
    pub calls: DashMap<FunctionCallId, Arc<Owner>>,
    /// Calls made by the code of an input, for the call graph.
    pub children: Children,
    pub tasks: Tasks,
    pub tasks_changed: Notify,
    pub ended_tasks: EndedTasks,
    pub images: Images,
    pub logs: Arc<LogKeeper>,
    pub mounts: Mounts,
    pub secrets: Secrets,
    pub objects: Objects,
    pub shared_files: SharedFiles,
    pub listings: Listings,
    /// What is in dicts and queues.
    pub contents: ContentsStore,
    pub queues: Queues,
    pub volumes: VolumeShell,
    pub generators: Generators,
    pub schedules: Schedules,
    /// Held by the one publication that goes on: deploying is rare, and two at once must not mix.
    pub publishing: tokio::sync::Mutex<()>,
    /// Held by the one collection of garbage that goes on.
    pub collecting: tokio::sync::Mutex<()>,
    /// Containers end because the server does.
    pub shutting_down: AtomicBool,
    /// Calls of the last server whose callers have not been heard since.
    pub unheard: Unheard,
}

impl Shared {
    // ------------------------------------------------------------------------------------------- tasks

    /// Begins containers for a function as far as the machine has room. For the rest the function waits, and is woken when
    /// there is some. True if it waits.
    pub fn start_tasks(self: &Arc<Self>, owner: &Arc<Owner>, count: usize) -> bool {
        if count == 0 {
            self.capacity.stop_waiting(&owner.id, self);
            return false;
        }
        // A busy function is looked at with each input that ends; it waits all the same.
        let request = owner.definition().request();
        self.capacity.still_waits(owner, request, count)
            || !(0..count).all(|begun| self.clone().start_task(owner, count - begun))
    }

    /// The first of `wanted` containers. False when the machine has no room for it now.
    fn start_task(self: Arc<Self>, owner: &Arc<Owner>, wanted: usize) -> bool {
        let (version, definition) = owner.live_version();
        let request = definition.request();
        if let Err(sentence) = self.capacity.could_ever_fit(request) {
            let sentence = format!("the function cannot run here: {sentence}");
            owner.fail_waiting(&self, &Outcome::of(OutcomeStatus::InitFailure, sentence));
            return true;
        }
        let Some(reserved) = self.capacity.reserve(request, owner, wanted, steady_ms()) else { return false };
        let enqueued_at = wall_ms();
        let id = TaskId::at(enqueued_at);
        if !owner.add_task(id.clone(), version) {
            // Deployed anew in this moment: the next look starts one of that.
            self.capacity.release(reserved, &self);
            owner.wake(&self);
            return true;
        }
        let task = Arc::new(Task::new(id, owner.clone(), definition, enqueued_at, reserved));
        self.tasks.insert(task.clone());
        tokio::spawn(async move {
            let prepared = tokio::select! {
                prepared = crate::start::task_spec(&self, &task) => Some(prepared),
                // Its image may take minutes, which nobody waits for any more.
                () = task.stopped() => None,
            };
            let spec = match prepared {
                Some(Ok(spec)) => spec,
                Some(Err(error)) => return self.on_task_end(&task.id, &not_started(error)),
                None => return self.on_task_end(&task.id, &TaskExit::default()),
            };
            *task.layers.lock() = Some(spec.layers.clone());
            let patience = Duration::from_millis(task.definition.startup_timeout_ms());
            if self.worker.commands.send(WorkerCommand::Start(Box::new(spec))).await.is_err() {
                return self.on_task_end(&task.id, &not_started("the worker is gone".to_owned()));
            }
            if task.is_stopped() {
                // The word may have come to the worker before the task did.
                self.send_stop(&task.id, false, 0);
            }
            tokio::spawn(self.clone().background_commit_loop(task.clone()));
            // A task that has ended meanwhile is not kept for this, nor the volumes that it holds.
            let waiting = Arc::downgrade(&task);
            drop(task);
            tokio::time::sleep(patience).await;
            let Some(task) = waiting.upgrade() else { return };
            if !task.owner.is_ready(&task.id) && self.tasks.get(&task.id).is_some() {
                let seconds = patience.as_secs_f64();
                let text =
                    format!("the container did not become ready within {seconds} s; raise it with `startup_timeout=`");
                task.reported.lock().get_or_insert(Outcome::of(OutcomeStatus::InitFailure, text.clone()));
                self.interrupt_start(&task, text);
            }
        });
        true
    }

    /// Ends a task, with a grace for its exit hooks. Those that run have entered first: a container that has not asked for an
    /// input is killed at once. One that works on nothing has been told to leave, and does so by itself. An interrupt would
    /// show in a run that needs nothing of either: it can meet the runner where that prints a traceback.
    pub fn stop_task(self: &Arc<Self>, id: &TaskId, grace_ms: u64, why: String) {
        let Some(task) = self.tasks.get(id) else { return };
        task.stop(why);
        // From here on it is handed nothing more.
        task.owner.on_stop(self, id);
        let grace_ms = if task.owner.is_ready(id) { grace_ms } else { 0 };
        self.send_stop(id, task.owner.read(|calls| calls.is_busy(id)), grace_ms);
    }

    /// With a signal, and so a traceback: it shows what the start hangs in.
    fn interrupt_start(self: &Arc<Self>, task: &Task, why: String) {
        task.stop(why);
        task.owner.on_stop(self, &task.id);
        self.send_stop(&task.id, true, STOP_GRACE_MS);
    }

    fn send_stop(self: &Arc<Self>, task: &TaskId, interrupt: bool, grace_ms: u64) {
        let (shared, task) = (self.clone(), task.clone());
        tokio::spawn(async move {
            let _ = shared.worker.commands.send(WorkerCommand::Stop { task, interrupt, grace_ms }).await;
        });
    }

    /// Takes events from the worker until it is gone. One consumer keeps a task's output in order.
    pub async fn worker_event_loop(self: Arc<Self>, mut events: tokio::sync::mpsc::Receiver<WorkerEvent>) {
        while let Some(event) = events.recv().await {
            match event {
                WorkerEvent::Started { task, create_us } => {
                    tracing::debug!(%task, create_us, "container runs");
                    if let Some(task) = self.tasks.get(&task) {
                        task.started_at.store(wall_ms(), Ordering::Relaxed);
                    }
                }
                WorkerEvent::Output { task, descriptor, text } => self.on_output(&task, descriptor, text),
                WorkerEvent::Volume { request, answer } => self.volumes.on_answer(request, answer),
                WorkerEvent::Ended { task, mut end } if !end.volumes.is_empty() => {
                    // Before the end is known: a retry sees what this one has left.
                    let shared = self.clone();
                    tokio::spawn(async move {
                        shared.take_last_writes(&task, std::mem::take(&mut end.volumes)).await;
                        shared.on_task_end(&task, &end);
                    });
                }
                WorkerEvent::Ended { task, end } => self.on_task_end(&task, &end),
            }
        }
    }

    fn on_output(&self, id: &TaskId, descriptor: Descriptor, text: String) {
        let Some(task) = self.tasks.get(id) else { return };
        let before = task.printed_bytes.fetch_add(text.len() as u64, Ordering::Relaxed);
        if before > MAX_TASK_BYTES {
            return;
        }
        let cut = before + text.len() as u64 > MAX_TASK_BYTES;
        if let Some(build) = &task.owner.build {
            return build.say(text);
        }
        let log = &task.owner.app.log;
        let now = wall_ms();
        let call = task.owner.read(|calls| calls.printing_on(id, steady_ms(), OUTPUT_GRACE_MS));
        let origin = Origin { task: Some(id.clone()), ..task.owner.origin() };
        log.append(now, Origin { call, ..origin.clone() }, descriptor, text);
        if cut {
            let limit = MAX_TASK_BYTES >> 20;
            let text =
                format!("[dorian] container {id} printed more than {limit} MiB; the rest of its output is cut\n");
            log.append(now, origin, Descriptor::System, text);
        }
    }

    fn on_task_end(self: &Arc<Self>, id: &TaskId, exit: &TaskExit) {
        if self.shutting_down.load(Ordering::Acquire) {
            // Its inputs are not over: the next server runs them again.
            return;
        }
        let Some(task) = self.tasks.remove(id) else { return };
        self.capacity.release(task.reserved, self);
        let reported = task.reported.lock().clone();
        let stop_reason = task.stop_reason.lock().clone();
        let owner = &task.owner;
        if let Some(build) = &owner.build {
            build.on_task_end(id, exit.changes.clone());
        }
        owner.on_task_end(self, id, |was_ready| {
            let ending = decide_ending(exit, was_ready, reported.as_ref(), stop_reason.as_deref());
            tracing::debug!(task = %id, ?exit, ?ending, "task ended");
            if let Ending::FailedStart(_, outcome) = &ending {
                // Before anybody is told of a failure: the app may end with that, and its log with it.
                self.say(owner, id, &outcome.exception);
                self.say_hint(&task, outcome);
            }
            ending
        });
        self.ended_tasks.add(EndedTask {
            id: id.clone(),
            app: owner.app.id.clone(),
            enqueued_at: task.enqueued_at,
            started_at: task.started_at.load(Ordering::Relaxed),
            // Clients ask for what was said before this time, and what the platform has said of the end belongs to it.
            finished_at: wall_ms() + 1,
        });
        self.tasks_changed.notify_waiters();
    }

    /// A line with the cure, if the failure is of a kind that has one. Once for each container: an input's failure can
    /// repeat as often as there are inputs.
    pub fn say_hint(&self, task: &Task, outcome: &Outcome) {
        let is_legacy = task.definition.client.is_legacy_runner();
        if let Some(hint) = crate::hints::missing_module(&outcome.exception, is_legacy)
            && task.is_first_hint()
        {
            self.say(&task.owner, &task.id, &hint);
        }
    }

    /// A line from the platform in the app's log.
    pub fn say(&self, owner: &Owner, task: &TaskId, text: &str) {
        self.say_of_function(owner, Some(task.clone()), text);
    }

    pub fn say_of_function(&self, owner: &Owner, task: Option<TaskId>, text: &str) {
        self.say_from(owner, Origin { task, ..owner.origin() }, text);
    }

    pub fn say_from(&self, owner: &Owner, origin: Origin, text: &str) {
        let line = format!("[dorian] function `{}`: {text}\n", owner.tag);
        if let Some(build) = &owner.build {
            return build.say(line);
        }
        owner.app.log.append(wall_ms(), origin, Descriptor::System, line);
    }

    // ------------------------------------------------------------------------------------------- apps

    pub fn owners_of(&self, app: &AppId) -> Vec<Arc<Owner>> {
        self.owners.iter().filter(|o| o.app.id == *app).map(|o| o.clone()).collect()
    }

    pub fn tasks_of(&self, app: &AppId) -> Vec<Arc<Task>> {
        self.tasks.all().into_iter().filter(|t| t.owner.app.id == *app).collect()
    }

    /// The rest of a stop: containers are stopped, the log is closed behind the last output.
    pub async fn see_app_out(self: Arc<Self>, app: Arc<App>, why: &'static str) {
        loop {
            let changed = self.tasks_changed.notified();
            let tasks = self.tasks_of(&app.id);
            if tasks.is_empty() {
                break;
            }
            for task in tasks {
                if task.stop_reason.lock().is_none() {
                    self.stop_task(&task.id, task.owner.stop_grace_ms(), format!("the app was stopped: {why}"));
                }
            }
            // The timer covers a task that came to be between the look and the wait.
            let _ = tokio::time::timeout(Duration::from_secs(1), changed).await;
        }
        self.on_app_ended(&app, wall_ms()).await;
        app.log.close();
        // Late readers find outputs for a little while; then only durable ones, in the store. Calls leave by themselves.
        tokio::time::sleep(Duration::from_millis(calls::STOPPED_KEPT_MS)).await;
        if app.state() == AppState::Stopped {
            for owner in self.owners_of(&app.id) {
                self.owners.remove(&owner.id);
            }
            self.forget_secrets(|secret| secret.app.as_ref() == Some(&app.id));
            self.forget_objects_of(&app.id);
            self.logs.flush().await;
            app.log.put_away();
        }
    }

    /// Looks for apps whose client fell silent and detached apps that have run out.
    pub async fn app_reaper_loop(self: Arc<Self>) {
        use crate::apps::{Departure, Leaving, decide_departure};
        loop {
            tokio::time::sleep(REAPER_LOOKS_EVERY).await;
            // Before anything is asked: it is what tells a pause of the server from a silent client.
            let now = steady_ms();
            let apps: Vec<Arc<App>> = self.apps.iter().map(|a| a.clone()).collect();
            for app in apps {
                let state = app.state();
                if state == AppState::DetachedDisconnected && self.has_run_out(&app) {
                    tokio::spawn(self.clone().stop_app(app, "its last call has ended"));
                } else if app.is_abandoned(now) && decide_departure(state, Leaving::Silent) != Departure::Nothing {
                    tokio::spawn(self.clone().depart(app, Leaving::Silent));
                }
            }
        }
    }

    /// # Errors
    /// When the disk does not take what follows. It is tried again as if the client had fallen silent.
    pub async fn depart(self: Arc<Self>, app: Arc<App>, leaving: crate::apps::Leaving) -> Result<(), StoreError> {
        use crate::apps::ending::NotChanged;
        use crate::apps::life::Event;
        use crate::apps::{Departure, decide_departure};
        let left = match decide_departure(app.state(), leaving) {
            Departure::Stop => self.stop_app(app.clone(), leaving.why()).await,
            Departure::RunOut => match self.change_app(&app, Event::RunOut, |_| {}).await {
                Ok(()) if self.has_run_out(&app) => self.stop_app(app.clone(), "its last call has ended").await,
                Ok(()) | Err(NotChanged::Refused(_)) => Ok(()),
                Err(NotChanged::Store(error)) => Err(error),
            },
            Departure::Nothing => Ok(()),
        };
        if left.is_err() {
            app.fall_silent();
        }
        left
    }

    fn has_run_out(&self, app: &App) -> bool {
        self.owners_of(&app.id).iter().all(|o| o.is_idle())
    }
}

/// How long finished durable calls, and blobs that nothing names, are kept.
const RESULTS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Stopped apps stay in lists, with the end of their logs, this long.
pub const STOPPED_APPS_LISTED_MS: Millis = 24 * 3_600_000;
/// An upload that nobody has continued for so long will not be.
const UPLOADS_KEPT: Duration = Duration::from_secs(24 * 3600);

impl Shared {
    /// Deletes, at the start and every hour, what has expired: results, uploads that were given up, blobs that no
    /// record names.
    pub async fn expiry_loop(self: Arc<Self>) {
        loop {
            // At once: a server that is often restarted has no hour.
            if let Err(error) = self.expire_blobs().await {
                tracing::warn!(error, "could not delete everything that has expired");
            }
            tokio::time::sleep(Duration::from_secs(3600)).await;
            // A layer that was in use for weeks is not old when its container ends.
            self.note_layers_in_use().await;
            self.forget_what_is_over();
            if let Err(error) = self.forget_mounts().await {
                tracing::warn!(%error, "could not look for mounts that nothing needs");
            }
        }
    }

    /// Takes what quiet apps have printed out of memory.
    pub async fn quiet_logs_loop(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_secs(60)).await;
            // What is old enough by now is on the disk after this.
            let now = wall_ms();
            self.logs.flush().await;
            self.apps.iter().for_each(|app| app.log.put_away_if_quiet(now));
        }
    }

    /// Deletes what is kept of the output of apps that are not listed any more.
    pub fn forget_logs(&self) {
        // An app is known before it prints, so none of these is a new one.
        for app in self.logs.apps() {
            if !self.apps.contains_key(&app) {
                self.logs.forget(app);
            }
        }
    }

    fn forget_what_is_over(self: &Arc<Self>) {
        let listed_since = wall_ms().saturating_sub(STOPPED_APPS_LISTED_MS);
        self.apps.retain(|_, app| app.record().stopped_at_ms.is_none_or(|at| at > listed_since));
        self.forget_logs();
        self.forget_secrets(|secret| self.is_abandoned(secret));
        self.forget_variants();
        self.forget_builders();
        self.shrink_tables();
    }

    /// Gives back the room that a burst of calls took.
    fn shrink_tables(&self) {
        if self.calls.capacity() / 4 > self.calls.len() {
            self.calls.shrink_to_fit();
        }
        self.children.shrink();
        self.generators.shrink();
    }

    async fn expire_blobs(&self) -> Result<(), String> {
        let swept = self.volumes.with(|store| store.sweep_all(std::time::SystemTime::now(), store.need())).await;
        swept.map_err(|error| types::errors::with_causes(&error))?;
        let now = std::time::SystemTime::now();
        let text = |e: &dyn std::error::Error| e.to_string();
        self.blobs.sweep_uploads(now - UPLOADS_KEPT).await.map_err(|e| text(&e))?;
        let before = wall_ms().saturating_sub(RESULTS_KEPT.as_millis() as u64);
        let expired = self.store.expire_calls(before).await.map_err(|e| text(&e))?;
        let in_use: std::collections::HashSet<_> =
            self.store.blobs_in_use().await.map_err(|e| text(&e))?.into_iter().collect();
        // A day more than results live: calls that are only in memory are long answered by then.
        let old = self.blobs.blobs_before(now - RESULTS_KEPT - UPLOADS_KEPT).await.map_err(|e| text(&e))?;
        for blob in expired.blobs.into_iter().chain(old).filter(|b| !in_use.contains(b)) {
            if let Err(error) = self.blobs.delete(&blob).await {
                tracing::warn!(%blob, %error, "a blob that nobody needs could not be deleted");
            }
        }
        // Files that came for volumes and never got there, and for mounts that are no more.
        let contents = self.blobs.contents_before(now - UPLOADS_KEPT).await.map_err(|e| text(&e))?;
        self.delete_sent_contents(&contents, Need::Usual).await;
        Ok(())
    }
}

impl Shared {
    /// Deletes the [passing](crate::passing_blobs) blobs whose time is over.
    pub async fn delete_passing_blobs(&self) -> Result<(), String> {
        let passing = self.passing_blobs.take_over(steady_ms());
        if passing.is_empty() {
            return Ok(());
        }
        let in_use: std::collections::HashSet<_> =
            self.store.blobs_in_use().await.map_err(|error| error.to_string())?.into_iter().collect();
        for blob in passing.into_iter().filter(|blob| !in_use.contains(blob)) {
            if let Err(error) = self.blobs.delete(&blob).await {
                tracing::warn!(%blob, %error, "a blob that nobody needs could not be deleted");
            }
        }
        Ok(())
    }
}

fn not_started(error: String) -> TaskExit {
    TaskExit { start_error: Some(error), ..TaskExit::default() }
}
