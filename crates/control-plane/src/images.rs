//! Images: built ones, and builds that run, each of them once however many ask.

use std::sync::Arc;

use dashmap::DashMap;
use image_builder::{BuiltImage, ImageBuilder};
use parking_lot::Mutex;
use tokio::sync::Notify;
use types::ids::ImageId;

/// Build lines kept for those who join late.
const MAX_LOG_LINES: usize = 20_000;

pub struct Images {
    pub builder: ImageBuilder,
    by_id: DashMap<ImageId, Arc<Image>>,
    by_key: DashMap<String, ImageId>,
}

pub struct Image {
    pub id: ImageId,
    /// The request's digest.
    pub key: String,
    pub builder_version: String,
    state: Mutex<State>,
    news: Notify,
}

#[derive(Default)]
struct State {
    log: Vec<String>,
    result: Option<Result<Arc<BuiltImage>, String>>,
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
        Self { builder, by_id: DashMap::new(), by_key: DashMap::new() }
    }

    pub fn get(&self, id: &ImageId) -> Option<Arc<Image>> {
        self.by_id.get(id).map(|i| i.clone())
    }

    pub fn restore(&self, id: ImageId, key: String, builder_version: String, built: BuiltImage) {
        let state = State { log: Vec::new(), result: Some(Ok(Arc::new(built))) };
        self.by_key.insert(key.clone(), id.clone());
        let image = Image { id: id.clone(), key, builder_version, state: Mutex::new(state), news: Notify::new() };
        self.by_id.insert(id, Arc::new(image));
    }

    /// The image with this key, unless it failed or is to be built anew.
    pub fn find_or_begin(&self, key: &str, builder_version: &str, force: bool) -> Found {
        let mut id = self.by_key.entry(key.to_owned()).or_insert_with(ImageId::random);
        let known = self.by_id.get(&*id).map(|i| i.clone());
        if let Some(image) = known {
            let running = image.is_running();
            if running || (!force && image.built().is_some()) {
                return Found::Known(image);
            }
            *id = ImageId::random();
        }
        let image = Arc::new(Image {
            id: id.clone(),
            key: key.to_owned(),
            builder_version: builder_version.to_owned(),
            state: Mutex::default(),
            news: Notify::new(),
        });
        self.by_id.insert(id.clone(), image.clone());
        Found::New(image)
    }
}

impl Image {
    pub fn built(&self) -> Option<Arc<BuiltImage>> {
        self.state.lock().result.as_ref()?.as_ref().ok().cloned()
    }

    fn is_running(&self) -> bool {
        self.state.lock().result.is_none()
    }

    pub fn result(&self) -> Option<Result<Arc<BuiltImage>, String>> {
        self.state.lock().result.clone()
    }

    pub fn say(&self, line: String) {
        let mut state = self.state.lock();
        match state.log.len() {
            n if n < MAX_LOG_LINES => state.log.push(line),
            MAX_LOG_LINES => {
                state.log.push("[dorian] the build printed more lines than are kept; the rest is cut\n".into())
            }
            _ => return,
        }
        drop(state);
        self.news.notify_waiters();
    }

    pub fn finish(&self, result: Result<Arc<BuiltImage>, String>) {
        self.state.lock().result = Some(result);
        self.news.notify_waiters();
    }

    /// Waits for lines after the first `seen`, or the result.
    pub async fn progress_after(&self, seen: usize) -> Progress {
        loop {
            let news = self.news.notified();
            {
                let state = self.state.lock();
                let lines: Vec<String> = state.log.iter().skip(seen).cloned().collect();
                if !lines.is_empty() || state.result.is_some() {
                    return Progress { lines, result: state.result.clone() };
                }
            }
            news.await;
        }
    }

    /// Waits for the end of the build.
    pub async fn wait_built(&self) -> Result<Arc<BuiltImage>, String> {
        loop {
            let news = self.news.notified();
            if let Some(result) = self.result() {
                return result;
            }
            news.await;
        }
    }
}
