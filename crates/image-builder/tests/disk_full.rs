//! A full disk is an answer, not an accident: nothing half-made, and the build goes through once there is room.
#![allow(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use dorian_image_builder::{BuildRequest, ContextEntry};
use support::fake_registry::{FakeRegistry, Faults};
use support::image::{Archive, Packing, TestImage};
use support::{Machine, request};

/// A file system of a few megabytes in place of a folder, taken away again at the end.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(folder: &Path, size: &str) -> Self {
        fs::create_dir_all(folder).unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "small"]).arg(folder).status();
        assert!(mounted.expect("Debian's package `mount` is installed").success());
        Self(folder.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazy: a container's end may still hold it for a moment.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// An image of a shell and a layer that unpacks to six megabytes.
fn large() -> TestImage {
    let mut archive = Archive::new();
    archive.file("large", &vec![7; 6 << 20], 0o644);
    let small = std::mem::take(&mut TestImage::small().plain);
    TestImage::of(small.into_iter().chain([(archive.finish(), Packing::Zstd)]).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_in_the_middle_of_a_layer_is_named_and_nothing_stays() {
    if !support::may_make_containers() {
        return;
    }
    let registry = FakeRegistry::start(&large(), Faults::default());
    let mut disk = None;
    let machine = Machine::with(|builder| disk = Some(SmallDisk::mount(&builder.data_dir, "16m"))).unwrap();
    let images = machine.dir.path().join("images");
    let ballast = images.join("ballast");
    fs::write(&ballast, vec![1; 12 << 20]).unwrap();

    let text = format!("FROM {}\nRUN true", registry.image("single"));
    let error = machine.dockerfile(&text).await.error();
    assert!(error.contains(&format!("the disk with `{}` is full", images.display())), "{error}");
    assert!(error.contains("unpack layer"), "{error}");
    // The three layers below it are whole and stay; of the fourth there is nothing.
    assert_eq!(fs::read_dir(images.join("layers")).unwrap().count(), 3);
    assert_eq!(fs::read_dir(images.join("tmp")).unwrap().count(), 0);

    fs::remove_file(&ballast).unwrap();
    machine.dockerfile(&text).await.ok();

    // A COPY that does not fit.
    let source = machine.dir.path().join("source");
    fs::write(&source, vec![9; 12 << 20]).unwrap();
    let context = vec![ContextEntry { path: "/big".to_owned(), digest: "big".to_owned(), mode: 0o644, source }];
    let copy = BuildRequest { context, ..request(&format!("{text}\nCOPY big /big")) };
    let error = machine.build(copy).await.error();
    assert!(error.contains("is full") && error.contains("dorian gc"), "{error}");
    machine.leave_nothing().await;
    drop(disk);
}
