//! Carrying out a collection: what `collect.rs` decides, in an order in which nothing in use is ever without its files.
//!
//! 1. A time is noted: now, or the beginning of the oldest build or start that goes on. What was found since then stays,
//!    whatever was decided, because somebody may be about to use it.
//! 2. Images are forgotten, in memory first, unless somebody got hold of one meanwhile; then their records.
//! 3. It is decided again, with the images that are left, and layers go one by one, each unless it was found meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use client_protocol::{Passthrough, wire};
use image_builder::LayerKey;
use metadata_store::AppState;
use serde::{Deserialize, Serialize};
use types::errors::with_causes;
use types::ids::{DefinitionId, ImageId};

use crate::apps::App;
use crate::clock::wall_ms;
use crate::collect::{ImageView, LayerView, Plan, Reason, StoreView, plan_collection};
use crate::deployments::IMAGES_KEPT_FOR;
use crate::shared::Shared;

/// A layer as a person sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRow {
    pub key: String,
    pub bytes: u64,
    pub created_ms: u64,
    pub used_ms: u64,
    /// What made it.
    pub title: String,
    /// Images that have it.
    pub images: Vec<ImageId>,
    /// Why it stays; empty for one that a collection would remove.
    pub kept: Vec<Reason>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerList {
    /// Newest first.
    pub layers: Vec<LayerRow>,
}

/// What a collection reports while it goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum GarbageEvent {
    Planned {
        images: Vec<ImageId>,
        layers: Vec<LayerRow>,
    },
    /// So far.
    Removed {
        layers: usize,
        bytes: u64,
    },
    Finished(GarbageReport),
    Failed {
        error: String,
    },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GarbageReport {
    pub images: usize,
    pub layers: usize,
    pub layer_bytes: u64,
    /// Planned, and then found by somebody before they were removed.
    pub layers_wanted_meanwhile: usize,
    pub layers_left: usize,
    pub bytes_left: u64,
    pub caches: usize,
    pub cache_bytes: u64,
    /// Of files that volumes do not refer to any more.
    #[serde(default)]
    pub volume_bytes: u64,
}

/// Which images keep their layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ImagesThatStay {
    /// Those that are used, or were lately.
    ByUse,
    /// All that were not forgotten: somebody may have asked for one that was to go, or stopped the app of another.
    Remaining,
}
use ImagesThatStay::{ByUse, Remaining};

/// What is looked at, and what is decided on it.
struct Looked {
    rows: Vec<LayerRow>,
    plan: Plan,
    unused_since: Instant,
}

impl Shared {
    /// The layers with the reasons why they stay when what was used within `keep` does.
    pub async fn list_layers(self: &Arc<Self>, keep: Duration) -> Result<LayerList, String> {
        self.note_layers_in_use().await;
        Ok(LayerList { layers: self.look(keep, ByUse).await?.rows })
    }

    /// Removes what nothing in use needs and nobody used within `keep`; with `dry_run` it only says what that is.
    pub async fn collect_garbage(
        self: &Arc<Self>,
        keep: Duration,
        dry_run: bool,
        say: impl Fn(GarbageEvent) + Send + Sync + 'static,
    ) -> Result<GarbageReport, String> {
        let _alone = self.collecting.lock().await;
        self.note_layers_in_use().await;
        let looked = self.look(keep, ByUse).await?;
        let goes: Vec<LayerRow> = looked.rows.iter().filter(|row| row.kept.is_empty()).cloned().collect();
        say(GarbageEvent::Planned { images: looked.plan.forget.clone(), layers: goes.clone() });
        if dry_run {
            return Ok(report(looked.plan.forget.len(), &goes, &looked.rows));
        }
        let mut forgotten = 0;
        for id in &looked.plan.forget {
            if self.images.forget_unless_found(id, looked.unused_since) {
                // Its record, before any of its layers.
                let done = self.forget_image(id).await;
                done.map_err(|error| format!("cannot delete the record of image `{id}`: {error}"))?;
                forgotten += 1;
            }
        }
        let mut again = self.look(keep, Remaining).await?;
        again.unused_since = looked.unused_since;
        let report = self.remove(keep, forgotten, again, say).await?;
        Ok(GarbageReport { volume_bytes: self.give_back_volume_space().await?, ..report })
    }

    async fn remove(
        self: &Arc<Self>,
        keep: Duration,
        forgotten: usize,
        looked: Looked,
        say: impl Fn(GarbageEvent) + Send + Sync + 'static,
    ) -> Result<GarbageReport, String> {
        let this = self.clone();
        let work = move || {
            let builder = &this.images.builder;
            let mut gone: Vec<LayerRow> = Vec::new();
            let mut wanted = 0;
            let mut last = Instant::now();
            for row in looked.rows.iter().filter(|row| row.kept.is_empty()) {
                let Some(key) = LayerKey::parse(&row.key) else { continue };
                match builder.remove_layer(&key, looked.unused_since).map_err(|e| with_causes(&e))? {
                    true => gone.push(row.clone()),
                    false => wanted += 1,
                }
                if last.elapsed() > Duration::from_millis(500) {
                    last = Instant::now();
                    say(GarbageEvent::Removed { layers: gone.len(), bytes: gone.iter().map(|row| row.bytes).sum() });
                }
            }
            let mut report = report(forgotten, &gone, &looked.rows);
            report.layers_wanted_meanwhile = wanted;
            // A build uses its downloads for longer than it takes to find them.
            if !this.images.all().iter().any(|image| image.is_running()) {
                let before = SystemTime::now().checked_sub(keep).unwrap_or(SystemTime::UNIX_EPOCH);
                let swept = builder.sweep(before, looked.unused_since).map_err(|e| with_causes(&e))?;
                (report.caches, report.cache_bytes) = (swept.caches, swept.cache_bytes);
            }
            Ok(report)
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| format!("the collection ended early: {error}"))?
    }

    /// Notes that the layers of running containers and of live apps are in use at this moment.
    pub async fn note_layers_in_use(self: &Arc<Self>) {
        let mut images: BTreeSet<ImageId> = BTreeSet::new();
        let mut layers: BTreeSet<String> = BTreeSet::new();
        for task in self.tasks.all() {
            images.extend(task.owner.definition().image.clone());
            layers.extend(task.layers.lock().iter().flatten().cloned());
        }
        let live = self.owners.iter().filter(|owner| owner.app.is_running());
        images.extend(live.filter_map(|owner| owner.definition().image.clone()));
        let all = self.images.all();
        let built = all.iter().filter(|image| images.contains(&image.id)).filter_map(|image| image.built());
        layers.extend(built.flat_map(|built| built.layers.iter().map(ToString::to_string).collect::<Vec<_>>()));
        let builder = self.images.builder.clone();
        let note = move || {
            for key in layers.iter().filter_map(|layer| LayerKey::parse(layer)) {
                // To find it is to use it; one that is missing is whoever starts the container's to report.
                builder.find_layer(&key);
            }
        };
        let _ = tokio::task::spawn_blocking(note).await;
    }

    async fn look(self: &Arc<Self>, keep: Duration, images_that_stay: ImagesThatStay) -> Result<Looked, String> {
        let now = Instant::now();
        let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        let keep_since_ms = wall_ms().saturating_sub(keep_ms);
        let images = self.images.all();
        let mut view = StoreView { keep_since_ms, ..StoreView::default() };
        let mut unused_since = now;
        for image in &images {
            if image.is_running() {
                unused_since = unused_since.min(image.begun);
                view.image_users.extend(image.origin.bases.iter().map(|base| (base.clone(), Reason::InProgress)));
            }
            let Some(built) = image.built() else { continue };
            let layers = built.layers.iter().map(ToString::to_string).collect();
            if images_that_stay == Remaining {
                view.image_users.push((image.id.clone(), Reason::InProgress));
            }
            view.images.push(ImageView { id: image.id.clone(), layers, used_ms: image.last_used() });
        }
        self.add_users(&mut view, &mut unused_since);
        self.add_versions(&mut view).await?;
        let builder = self.images.builder.clone();
        let look = move || {
            let layers = builder.layers().map_err(|error| with_causes(&error))?;
            if unused_since < now {
                let found = builder.layers_found_since(unused_since);
                view.layer_users.extend(found.into_iter().map(|key| (key.to_string(), Reason::InProgress)));
            }
            view.layers = layers
                .iter()
                .map(|layer| LayerView {
                    key: layer.key.to_string(),
                    bytes: layer.bytes,
                    used_ms: layer.used_unix.saturating_mul(1000),
                })
                .collect();
            let plan = plan_collection(&view);
            let row = |layer: image_builder::LayerInfo| {
                let key = layer.key.to_string();
                let images = view.images.iter().filter(|image| image.layers.contains(&key));
                LayerRow {
                    bytes: layer.bytes,
                    created_ms: layer.created_unix.saturating_mul(1000),
                    used_ms: layer.used_unix.saturating_mul(1000),
                    title: layer.title,
                    images: images.map(|image| image.id.clone()).collect(),
                    kept: plan.kept_layers.get(&key).into_iter().flatten().cloned().collect(),
                    key,
                }
            };
            let rows = layers.into_iter().map(row).collect();
            Ok(Looked { rows, plan, unused_since })
        };
        tokio::task::spawn_blocking(look)
            .await
            .map_err(|error| format!("the look at the layers ended early: {error}"))?
    }

    /// What a rollback of an app would need.
    async fn add_versions(&self, view: &mut StoreView) -> Result<(), String> {
        let apps: Vec<Arc<App>> = self.apps.iter().map(|app| app.clone()).collect();
        for app in apps.into_iter().filter(|app| app.state() == AppState::Deployed) {
            let doing =
                |error: metadata_store::StoreError| format!("cannot read the versions of app `{}`: {error}", app.id);
            let history = self.store.deployments(&app.id).await.map_err(doing)?;
            let lately: BTreeSet<DefinitionId> = history
                .iter()
                .rev()
                .take(IMAGES_KEPT_FOR)
                .flat_map(|version| version.definition_ids.values().cloned())
                .collect();
            let name = app.record().name.unwrap_or_default();
            for record in self.store.definitions(&app.id).await.map_err(doing)? {
                if !lately.contains(&record.id) {
                    continue;
                }
                let view_of = Passthrough::<wire::Function>::from_bytes(&record.definition).view();
                let image = view_of.ok().and_then(|function| ImageId::parse(&function.image_id));
                view.image_users.extend(image.map(|image| (image, Reason::App(app.id.clone(), name.clone()))));
            }
        }
        Ok(())
    }

    /// Who needs what: containers, functions of apps that run or are deployed, published names.
    fn add_users(&self, view: &mut StoreView, unused_since: &mut Instant) {
        for task in self.tasks.all() {
            let reason = Reason::Container(task.id.clone());
            view.image_users.extend(task.owner.definition().image.clone().map(|image| (image, reason.clone())));
            match &*task.layers.lock() {
                Some(layers) => {
                    view.layer_users.extend(layers.iter().map(|layer| (layer.clone(), reason.clone())));
                }
                None => *unused_since = (*unused_since).min(task.begun),
            }
        }
        for owner in self.owners.iter().filter(|owner| owner.app.is_running()) {
            let record = owner.app.record();
            let reason = Reason::App(record.id, record.name.unwrap_or(record.description));
            view.image_users.extend(owner.definition().image.clone().map(|image| (image, reason)));
        }
        for app in self.apps.iter() {
            let record = app.record();
            let name = record.name.clone().unwrap_or(record.description.clone());
            let drafts = app.drafts.all().into_iter().filter_map(|definition| definition.image.clone());
            let reason = Reason::App(record.id.clone(), name);
            view.image_users.extend(drafts.map(|image| (image, reason.clone())));
            // Its images were asked for, and no function has them yet.
            let loads = record.function_ids.is_empty();
            if loads && matches!(record.state, AppState::Initializing | AppState::Ephemeral | AppState::Detached) {
                view.keep_since_ms = view.keep_since_ms.min(record.created_at_ms);
            }
        }
        for (name, image) in self.images.names.named_images() {
            view.image_users.push((image, Reason::Name(name)));
        }
    }
}

fn report(images: usize, gone: &[LayerRow], all: &[LayerRow]) -> GarbageReport {
    let bytes = |rows: &[LayerRow]| rows.iter().map(|row| row.bytes).sum::<u64>();
    GarbageReport {
        images,
        layers: gone.len(),
        layer_bytes: bytes(gone),
        layers_left: all.len() - gone.len(),
        bytes_left: bytes(all).saturating_sub(bytes(gone)),
        ..GarbageReport::default()
    }
}
