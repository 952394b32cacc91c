//! Images: built ones, and builds that run, each of them once however many ask.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use calls::Millis;
use dashmap::DashMap;
use image_builder::{BuiltImage, ImageBuilder};
use metadata_store::ImageRecord;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use types::ids::{AppId, ImageId, TaskId};

use crate::build_waiters::{GivenUp, Standing, Waiters};
use crate::clock::wall_ms;
use crate::image_names::ImageNames;

/// Build lines kept for those who join late, and their bytes: a build may print without end.
const MAX_LOG_LINES: usize = 20_000;
const MAX_LOG_BYTES: usize = 8 << 20;
/// Ended builds whose logs stay in memory, for those who still follow them, and the bytes of these logs together. Those of
/// images that were built are on disk as well.
const ENDED_KEPT: usize = 64;
const ENDED_BYTES_KEPT: usize = 8 << 20;

pub struct Images {
    pub builder: ImageBuilder,
    pub names: ImageNames,
    by_id: DashMap<ImageId, Arc<Image>>,
    by_key: DashMap<String, ImageId>,
    by_build: DashMap<TaskId, ImageId>,
    /// The oldest first.
    ended: Mutex<VecDeque<Arc<Image>>>,
}

pub struct Image {
    pub id: ImageId,
    /// The request's digest.
    pub key: String,
    pub builder_version: String,
    pub origin: Origin,
    last_used: AtomicU64,
    /// The last use that was written down.
    use_noted: AtomicU64,
    /// When somebody last got hold of it.
    found: Mutex<Instant>,
    /// When its build began, or this server.
    pub begun: Instant,
    state: Mutex<State>,
    news: Notify,
    /// Somebody began or stopped waiting, or cancelled it.
    attendance: Notify,
}

/// Where an image comes from.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The app that asked for the build.
    pub app: Option<AppId>,
    /// Id under which the build's log is asked for. (A build is no task, but this is what the client calls it there.)
    pub build_task: Option<TaskId>,
    /// Images that it was built on.
    pub bases: Vec<ImageId>,
    pub started_at: Millis,
}

struct State {
    log: Vec<LogLine>,
    log_bytes: usize,
    step: Option<StepNow>,
    waiters: Waiters,
    finished_at: Millis,
    result: Option<Result<Arc<BuiltImage>, String>>,
}

/// The step that a build is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepNow {
    pub number: usize,
    pub total: usize,
    /// As the log announces it.
    pub text: String,
}

/// Somebody waits for the build for as long as this lives.
pub struct Waiting(Arc<Image>);

impl Waiting {
    pub fn image(&self) -> &Arc<Image> {
        &self.0
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.state.lock().waiters.leave(Instant::now());
        self.0.attendance.notify_waiters();
    }
}

/// A line of a build's output with its newline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    pub at: Millis,
    pub text: String,
}

/// A build as one joins it.
pub struct Progress {
    pub lines: Vec<String>,
    pub result: Option<Result<Arc<BuiltImage>, String>>,
}

/// An answer to "build this".
pub enum Found {
    /// Built, or being built.
    Known(Arc<Image>),
    /// The caller has to build it.
    New(Arc<Image>),
}

impl Images {
    pub fn new(builder: ImageBuilder) -> Self {
        Self {
            builder,
            names: ImageNames::default(),
            by_id: DashMap::new(),
            by_key: DashMap::new(),
            by_build: DashMap::new(),
            ended: Mutex::default(),
        }
    }

    pub fn get(&self, id: &ImageId) -> Option<Arc<Image>> {
        let image = self.by_id.get(id)?;
        // While the map holds the entry: see `forget_unless_found`.
        *image.found.lock() = Instant::now();
        Some(image.clone())
    }

    /// All, without getting hold of any.
    pub fn all(&self) -> Vec<Arc<Image>> {
        self.by_id.iter().map(|image| image.clone()).collect()
    }

    /// Forgets the image unless somebody got hold of it since then; false if so.
    pub fn forget_unless_found(&self, id: &ImageId, since: Instant) -> bool {
        let Some((_, image)) = self.by_id.remove_if(id, |_, image| *image.found.lock() < since) else {
            return !self.by_id.contains_key(id);
        };
        self.drop_names_of(&image);
        true
    }

    pub fn by_build(&self, task: &TaskId) -> Option<Arc<Image>> {
        let id = self.by_build.get(task)?.clone();
        self.get(&id)
    }

    /// Takes up an image that an earlier server made.
    pub fn restore(&self, record: ImageRecord, built: BuiltImage) {
        let mut state = State::new(Instant::now());
        (state.finished_at, state.result) = (record.finished_at_ms, Some(Ok(Arc::new(built))));
        if !record.key.is_empty() {
            self.by_key.insert(record.key.clone(), record.id.clone());
        }
        let origin = Origin {
            app: record.app,
            build_task: record.build_task,
            bases: record.bases,
            started_at: record.created_at_ms,
        };
        self.insert(Image {
            id: record.id,
            key: record.key,
            builder_version: record.builder_version,
            origin,
            last_used: AtomicU64::new(record.last_used_ms),
            use_noted: AtomicU64::new(record.last_used_ms),
            found: Mutex::new(Instant::now()),
            begun: Instant::now(),
            state: Mutex::new(state),
            news: Notify::new(),
            attendance: Notify::new(),
        });
    }

    fn insert(&self, image: Image) -> Arc<Image> {
        let image = Arc::new(image);
        if let Some(build) = &image.origin.build_task {
            self.by_build.insert(build.clone(), image.id.clone());
        }
        self.by_id.insert(image.id.clone(), image.clone());
        image
    }

    /// Its build has ended. Failed builds are remembered for as long as their logs.
    pub fn on_end(&self, image: &Arc<Image>) {
        let mut ended = self.ended.lock();
        ended.push_back(image.clone());
        let mut bytes: usize = ended.iter().map(|image| image.log_bytes()).sum();
        let mut count = ended.len();
        ended.retain(|image| {
            let stays = (count <= ENDED_KEPT && bytes <= ENDED_BYTES_KEPT) || image.waiter_count() > 0;
            if !stays {
                count -= 1;
                bytes -= image.log_bytes();
                image.drop_log();
                if image.built().is_none() {
                    self.forget(&image.id);
                }
            }
            stays
        });
    }

    /// The image goes; who asks for its recipe again gets another, with another id.
    pub fn forget(&self, id: &ImageId) {
        if let Some((_, image)) = self.by_id.remove(id) {
            self.drop_names_of(&image);
        }
    }

    fn drop_names_of(&self, image: &Image) {
        self.by_key.remove_if(&image.key, |_, current| *current == image.id);
        if let Some(build) = &image.origin.build_task {
            self.by_build.remove(build);
        }
    }

    /// A build that nobody else is to find by its key.
    pub fn begin_apart(&self, builder_version: &str, origin: Origin) -> Arc<Image> {
        self.insert(Image::new(ImageId::random(), String::new(), builder_version, origin))
    }

    /// The image with this key, unless it failed, was given up, or is to be built anew.
    pub fn find_or_begin(&self, key: &str, builder_version: &str, force: bool, origin: Origin) -> Found {
        let mut id = self.by_key.entry(key.to_owned()).or_insert_with(ImageId::random);
        let known = self.get(&id);
        if let Some(image) = known {
            if image.ask() || (!force && image.built().is_some()) {
                return Found::Known(image);
            }
            *id = ImageId::random();
        }
        Found::New(self.insert(Image::new(id.clone(), key.to_owned(), builder_version, origin)))
    }
}

impl State {
    fn new(now: Instant) -> Self {
        let waiters = Waiters::new(now);
        Self { log: Vec::new(), log_bytes: 0, step: None, waiters, finished_at: 0, result: None }
    }
}

impl Image {
    fn new(id: ImageId, key: String, builder_version: &str, origin: Origin) -> Self {
        let builder_version = builder_version.to_owned();
        let (last_used, use_noted) = (AtomicU64::new(origin.started_at), AtomicU64::new(origin.started_at));
        let begun = Instant::now();
        let (found, state) = (Mutex::new(begun), Mutex::new(State::new(begun)));
        let (news, attendance) = (Notify::new(), Notify::new());
        Self { id, key, builder_version, origin, last_used, use_noted, found, begun, state, news, attendance }
    }

    pub fn built(&self) -> Option<Arc<BuiltImage>> {
        self.state.lock().result.as_ref()?.as_ref().ok().cloned()
    }

    /// The time to write down as that of its last use; nothing when one within the last minute was written down.
    pub fn note_use(&self, now: Millis) -> Option<Millis> {
        self.last_used.store(now, Ordering::Relaxed);
        let due = |noted: Millis| (now > noted + 60_000).then_some(now);
        self.use_noted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).ok().map(|_| now)
    }

    pub fn last_used(&self) -> Millis {
        self.last_used.load(Ordering::Relaxed)
    }

    pub fn is_running(&self) -> bool {
        self.state.lock().result.is_none()
    }

    pub fn result(&self) -> Option<Result<Arc<BuiltImage>, String>> {
        self.state.lock().result.clone()
    }

    /// When its build ended; 0 while it runs.
    pub fn finished_at(&self) -> Millis {
        self.state.lock().finished_at
    }

    /// Somebody asks for it who will wait; false unless it is being built.
    fn ask(&self) -> bool {
        let mut state = self.state.lock();
        state.result.is_none() && state.waiters.ask(Instant::now())
    }

    /// The build goes on for as long as the answer lives, unless it is cancelled.
    pub fn wait(self: &Arc<Self>) -> Waiting {
        self.state.lock().waiters.join();
        self.attendance.notify_waiters();
        Waiting(self.clone())
    }

    pub fn waiter_count(&self) -> usize {
        self.state.lock().waiters.count()
    }

    pub fn cancel(&self) {
        self.state.lock().waiters.cancel();
        self.attendance.notify_waiters();
    }

    /// Resolves when the build is to end early.
    pub async fn given_up(&self) -> GivenUp {
        loop {
            let attendance = self.attendance.notified();
            let standing = self.state.lock().waiters.decide(Instant::now());
            match standing {
                Standing::Over(why) => return why,
                Standing::EndsAt(time) => drop(tokio::time::timeout_at(time.into(), attendance).await),
                Standing::Wanted => attendance.await,
            }
        }
    }

    pub fn step(&self) -> Option<StepNow> {
        self.state.lock().step.clone()
    }

    pub fn set_step(&self, number: usize, total: usize, text: String) {
        self.state.lock().step = Some(StepNow { number, total, text });
    }

    fn log_bytes(&self) -> usize {
        self.state.lock().log_bytes
    }

    fn drop_log(&self) {
        self.state.lock().log = Vec::new();
    }

    /// What the build printed, as far as it is in memory.
    pub fn log(&self) -> Vec<LogLine> {
        self.state.lock().log.clone()
    }

    pub fn say(&self, text: String) {
        let at = wall_ms();
        let mut state = self.state.lock();
        if state.log.len() > MAX_LOG_LINES || state.log_bytes > MAX_LOG_BYTES {
            return;
        }
        state.log_bytes += text.len();
        state.log.push(LogLine { at, text });
        if state.log.len() > MAX_LOG_LINES || state.log_bytes > MAX_LOG_BYTES {
            let text = "[dorian] the build printed more than is kept; the rest of its output is cut\n".to_owned();
            state.log.push(LogLine { at, text });
        }
        drop(state);
        self.news.notify_waiters();
    }

    pub fn finish(&self, result: Result<Arc<BuiltImage>, String>) {
        {
            let mut state = self.state.lock();
            state.finished_at = wall_ms();
            state.result = Some(result);
        }
        self.news.notify_waiters();
    }

    /// Waits for lines after the first `seen`, or the result.
    pub async fn progress_after(&self, seen: usize) -> Progress {
        loop {
            let news = self.news.notified();
            {
                let state = self.state.lock();
                let lines: Vec<String> = state.log.iter().skip(seen).map(|line| line.text.clone()).collect();
                if !lines.is_empty() || state.result.is_some() {
                    return Progress { lines, result: state.result.clone() };
                }
            }
            news.await;
        }
    }

    /// Waits for the end of the build, which counts as wanting it.
    pub async fn wait_built(self: &Arc<Self>) -> Result<Arc<BuiltImage>, String> {
        if let Some(result) = self.result() {
            return result;
        }
        let waiting = self.wait();
        waiting.image().ended().await
    }

    /// Waits for the end of the build as an onlooker.
    pub async fn ended(&self) -> Result<Arc<BuiltImage>, String> {
        loop {
            let news = self.news.notified();
            if let Some(result) = self.result() {
                return result;
            }
            news.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_written_down_once_a_minute_however_often_it_comes() {
        let image = Image::new(ImageId::random(), String::new(), "2025.06", Origin::default());
        let written = (0..10).filter_map(|n| image.note_use(100_000 + n * 30_000));
        assert_eq!(written.collect::<Vec<_>>(), [100_000, 190_000, 280_000, 370_000]);
        assert_eq!(image.last_used(), 370_000);
    }
}
