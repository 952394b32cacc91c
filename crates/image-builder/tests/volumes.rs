//! Volumes in RUN steps: what a step sees, what becomes of its writes, and that none of them is in the image.

#![allow(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use dorian_image_builder::{BuildRequest, BuildVolume, OpenVolume, VolumeMount, VolumeTree};
use manifest::changes::Committed;
use support::Built;
use support::bench::Bench;
use volume_fs::commit::{Taking, collect};
use volume_fs::layer::BuiltLayer;
use volume_fs::store::Layers;
use volume_fs::{View, Volumes};

struct TestVolume {
    store: Volumes,
    place: VolumeMount,
    is_deleted: bool,
}

struct Opened {
    store: Volumes,
    id: String,
    layers: Layers,
    collected: Option<BuiltLayer>,
}

impl BuildVolume for TestVolume {
    fn place(&self) -> &VolumeMount {
        &self.place
    }

    fn open(&self) -> Result<Box<dyn OpenVolume>, String> {
        if self.is_deleted {
            return Err("volume `v` was deleted".to_owned());
        }
        let (store, id) = (self.store.clone(), self.place.id.clone());
        let layers = store.layers(&id).unwrap();
        Ok(Box::new(Opened { store, id, layers, collected: None }))
    }
}

impl OpenVolume for Opened {
    fn tree(&self) -> VolumeTree {
        VolumeTree { layers: self.layers.folders.clone(), data: self.store.contents().data_layer().map(Path::to_owned) }
    }

    fn collect(&mut self, upper: &Path) -> Result<(), String> {
        let (contents, building) = (self.store.contents(), self.store.building(&self.id).unwrap());
        let below = View::of(self.layers.folders.iter().cloned());
        self.collected = collect(contents, &building, upper, &below, &Committed::default(), Taking::Final).unwrap().0;
        Ok(())
    }

    fn publish(&mut self) -> Result<(), String> {
        if let Some(layer) = self.collected.take() {
            self.store.publish(&self.id, &layer).unwrap();
        }
        Ok(())
    }
}

/// A bench with a volume store.
struct Shelf {
    bench: Bench,
    store: Volumes,
}

impl Shelf {
    fn new() -> Option<Self> {
        let bench = Bench::new()?;
        let store = Volumes::open(&bench.machine.dir.path().join("volumes")).unwrap();
        Some(Self { bench, store })
    }

    fn volume(&self, target: &str, read_only: bool, sub_path: Option<&str>) -> Arc<dyn BuildVolume> {
        let (target, sub_path) = (target.to_owned(), sub_path.map(str::to_owned));
        let place = VolumeMount { target, id: "vo-1".to_owned(), read_only, sub_path };
        Arc::new(TestVolume { store: self.store.clone(), place, is_deleted: false })
    }

    async fn build(&self, steps: &str, volumes: &[Arc<dyn BuildVolume>]) -> Built {
        let request = BuildRequest { volumes: volumes.to_vec(), ..self.bench.request_steps(steps) };
        self.bench.machine.build(request).await
    }

    fn has(&self, path: &str) -> bool {
        self.store.view("vo-1").unwrap().find(path.as_ref()).unwrap().is_some()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_sees_what_those_before_it_wrote_to_a_volume_and_the_image_has_none_of_it() {
    let Some(shelf) = Shelf::new() else { return };
    let volumes = [shelf.volume("/new/place", false, None)];
    let steps = "RUN mkdir -p /new/place/deep && echo one > /new/place/deep/a && dd if=/dev/zero of=/new/place/big bs=1M count=1\n\
                 RUN cat /new/place/deep/a && rm /new/place/big && echo two > /new/place/b && echo three > /new/kept";
    let built = shelf.build(steps, &volumes).await;
    assert!(built.ok().layers.len() >= 3 && built.has_line("one"), "{:?}", built.log);
    assert!(shelf.has("deep/a") && shelf.has("b") && !shelf.has("big"));
    let [first, second] = built.ok().layers.last_chunk::<2>().unwrap();
    let names = |layer, below: &str| -> Vec<_> {
        let listed = fs::read_dir(shelf.bench.machine.builder.layer_path(layer).join(below)).unwrap().flatten();
        listed.map(|entry| entry.file_name()).collect()
    };
    assert!(names(first, "").is_empty(), "{:?}", names(first, ""));
    assert_eq!(names(second, "new"), ["kept"]);
    // Again: nothing runs, whatever the volume holds, until it is another volume or another place.
    shelf.store.delete("vo-1").unwrap();
    assert_eq!(shelf.build(steps, &volumes).await.cached(), 2);
    assert_eq!(shelf.build(steps, &[]).await.cached(), 0);
    shelf.bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_leaves_volumes_as_the_steps_before_it_left_them() {
    let Some(shelf) = Shelf::new() else { return };
    let volumes = [shelf.volume("/v", false, None)];
    let failed = shelf.build("RUN echo 1 > /v/first\nRUN echo 2 > /v/second && rm /v/first && false", &volumes).await;
    assert!(failed.error().contains("exit code 1"), "{}", failed.error());
    assert!(shelf.has("first") && !shelf.has("second"));
    let again = shelf.build("RUN echo 1 > /v/first\nRUN ls /v", &volumes).await;
    assert!(again.has_line("first") && again.cached() == 1, "{:?}", again.log);
    shelf.bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_may_be_read_only_or_show_one_of_its_folders_and_lie_in_another() {
    let Some(shelf) = Shelf::new() else { return };
    let (all, part) = ([shelf.volume("/v", false, None)], [shelf.volume("/v", true, Some("sub"))]);
    shelf.build("RUN mkdir /v/sub && echo in > /v/sub/x && echo out > /v/y", &all).await.ok();
    let seen = shelf.build("RUN ls /v; cat /v/x; echo no > /v/x || echo refused", &part).await;
    assert!(seen.has_line("in") && seen.has_line("refused") && !seen.has_line("y"), "{:?}", seen.log);
    let written = shelf.build("RUN echo more > /v/z", &[shelf.volume("/v", false, Some("sub"))]).await;
    written.ok();
    assert!(shelf.has("sub/z") && !shelf.has("z"));
    // The outer one is mounted first, whatever the order they come in.
    let nested = [shelf.volume("/v/sub", true, Some("sub")), shelf.volume("/v", true, None)];
    let seen = shelf.build("RUN cat /v/y /v/sub/x", &nested).await;
    assert!(seen.has_line("in") && seen.has_line("out"), "{:?}", seen.log);
    shelf.bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_volume_and_a_mount_that_would_be_hidden_are_named_with_the_line() {
    let Some(shelf) = Shelf::new() else { return };
    let place = VolumeMount { target: "/v".to_owned(), id: "vo-1".to_owned(), read_only: false, sub_path: None };
    let deleted: Arc<dyn BuildVolume> = Arc::new(TestVolume { store: shelf.store.clone(), place, is_deleted: true });
    let error = shelf.build("RUN true", &[deleted]).await.error();
    assert!(error.starts_with("line 2: volume `v` was deleted\n2 | RUN true"), "{error}");
    let hidden = shelf.build("RUN --mount=type=cache,target=/v/cache true", &[shelf.volume("/v", false, None)]).await;
    assert!(
        hidden.error().starts_with("line 2: the volume on `/v` would hide `--mount=target=/v/cache`"),
        "{}",
        hidden.error()
    );
    shelf.bench.leave_nothing().await;
}
