//! Images from registries: Debian's on loopback, and one that misbehaves.
#![allow(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dorian_image_builder::{LayerLimits, RegistryConfig};
use support::Machine;
use support::fake_registry::{FakeRegistry, Faults};
use support::image::{Archive, Packing, TestImage};
use support::real_registry::RealRegistry;

const LOOK: &str =
    "RUN cat /data/kept /data/new /lib/linked && echo :$FROM_IMAGE && pwd && ls /data && stat -c %a /usr/lib";

#[tokio::test(flavor = "multi_thread")]
async fn an_index_and_a_single_manifest_give_the_same_image_with_all_packings() {
    let registry = RealRegistry::start(None);
    registry.push("some/image", &TestImage::small());
    let Some(machine) = Machine::new() else { return };
    let built = machine.dockerfile(&format!("FROM {}/some/image:index\n{LOOK}", registry.host())).await;
    let image = built.ok().clone();
    assert!(built.has_line("lowmiddletop:yes"), "{:?}", built.log);
    // Removed by the second layer.
    assert!(!built.has_line("gone"), "{:?}", built.log);
    assert!(built.has_line("/data"), "{:?}", built.log);
    // The third layer wrote through a link of the first, and left the folder behind it as it was.
    assert!(built.has_line("711"), "{:?}", built.log);
    assert_eq!(image.config.cmd, ["sh"]);
    assert_eq!(image.metadata.workdir.as_deref(), Some("/data"));
    let single = machine.dockerfile(&format!("FROM {}/some/image:single\n{LOOK}", registry.host())).await;
    assert_eq!(single.ok().layers, image.layers);
    assert_eq!(single.cached(), 1);

    // What was pulled once needs no registry any more.
    let host = registry.host();
    drop(registry);
    machine.dockerfile(&format!("FROM {host}/some/image:index\nRUN echo again")).await.ok();
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_goes_on_where_it_was() {
    let faults = Faults { break_after: Some(100_000), breaks_left: 3.into(), ..Faults::default() };
    let registry = FakeRegistry::start(&TestImage::small(), faults);
    let Some(machine) = Machine::new() else { return };
    let built = machine.dockerfile(&format!("FROM {}\nRUN true", registry.image("single"))).await;
    built.ok();
    let resumed = registry.requests().into_iter().filter(|request| request.contains("bytes=")).collect::<Vec<_>>();
    assert_eq!(resumed.len(), 3, "{resumed:?}");
    assert!(resumed[0].ends_with("bytes=100000-"), "{resumed:?}");
    assert!(built.log.iter().any(|line| line.contains("going on from 100000")), "{:?}", built.log);
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_with_another_digest_are_refused_and_not_kept() {
    let registry = FakeRegistry::start(&TestImage::small(), Faults::default());
    registry.faults().corrupt.store(true, Ordering::SeqCst);
    let Some(machine) = Machine::new() else { return };
    let text = format!("FROM {}\nRUN true", registry.image("single"));
    let error = machine.dockerfile(&text).await.error();
    assert!(error.contains("which is wrong"), "{error}");
    registry.faults().corrupt.store(false, Ordering::SeqCst);
    machine.dockerfile(&text).await.ok();
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_checked_against_the_digest_that_was_asked_for() {
    let image = TestImage::small();
    let registry = FakeRegistry::start(&image, Faults::default());
    let Some(machine) = Machine::new() else { return };
    let right = support::image::digest(&image.manifest);
    let name = registry.image("x");
    let name = name.rsplit_once(':').unwrap().0;
    machine.dockerfile(&format!("FROM {name}@{right}\nRUN true")).await.ok();
    let wrong = format!("sha256:{}", "0".repeat(64));
    let error = machine.dockerfile(&format!("FROM {name}@{wrong}\nRUN true")).await.error();
    assert!(error.contains("has no"), "{error}");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_asked_first_and_the_registry_when_it_fails() {
    let image = TestImage::small();
    let mirror = FakeRegistry::start(&image, Faults::default());
    let config = |hosts: Vec<String>| RegistryConfig {
        mirrors: BTreeMap::from([("registry.invalid".to_owned(), hosts)]),
        ..RegistryConfig::default()
    };
    let overloaded = FakeRegistry::start(&image, Faults::default());
    overloaded.faults().overloaded.store(true, Ordering::SeqCst);
    let hosts = vec!["127.0.0.1:1".to_owned(), overloaded.host(), mirror.host()];
    let Some(machine) = Machine::with(|builder| builder.registries = config(hosts)) else { return };
    machine.dockerfile("FROM registry.invalid/some/image:single\nRUN true").await.ok();
    assert!(!overloaded.requests().is_empty());
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_registry_one_sentence_says_what_was_tried_and_what_to_do() {
    let Some(machine) = Machine::new() else { return };
    let started = Instant::now();
    let error = machine.dockerfile("FROM registry.invalid/some/image:1\nRUN true").await.error();
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    let expected = "cannot get image `registry.invalid/some/image:1`: `registry.invalid` cannot be reached; to use a \
                    mirror, set `registries.mirrors.\"registry.invalid\"` in `config.toml` and start the server again";
    assert_eq!(error, expected);
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_climbs_out_fails_the_build_and_leaves_nothing() {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    header.as_gnu_mut().unwrap().name[..12].copy_from_slice(b"../../pwned!");
    header.set_cksum();
    archive.append(&header, &b"x"[..]).unwrap();
    let image = TestImage::of(vec![(archive.into_inner().unwrap(), Packing::Gzip)]);
    let registry = FakeRegistry::start(&image, Faults::default());
    let Some(machine) = Machine::new() else { return };
    let error = machine.dockerfile(&format!("FROM {}\nRUN true", registry.image("single"))).await.error();
    assert!(error.contains("leads outside of the image"), "{error}");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_goes_down_in_the_middle_is_waited_for() {
    let faults =
        Faults { break_after: Some(100_000), breaks_left: 1.into(), refusals_after_break: 3, ..Faults::default() };
    let registry = FakeRegistry::start(&TestImage::small(), faults);
    let Some(machine) = Machine::new() else { return };
    let built = machine.dockerfile(&format!("FROM {}\nRUN true", registry.image("single"))).await;
    built.ok();
    let resumed = registry.requests().into_iter().filter(|request| request.ends_with("bytes=100000-")).count();
    // The refusals may hit other layers than the one that broke.
    assert!(resumed >= 1, "{:?}", registry.requests());
    assert!(built.log.iter().any(|line| line.contains("cannot be reached")), "{:?}", built.log);
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_gives_no_parts_is_asked_for_the_whole_again() {
    let faults = Faults { break_after: Some(100_000), breaks_left: 1.into(), ..Faults::default() };
    let registry = FakeRegistry::start(&TestImage::small(), faults);
    registry.faults().no_ranges.store(true, Ordering::SeqCst);
    let Some(machine) = Machine::new() else { return };
    machine.dockerfile(&format!("FROM {}\nRUN true", registry.image("single"))).await.ok();
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_will_not_change_is_not_waited_for() {
    let registry = FakeRegistry::start(&TestImage::small(), Faults::default());
    let Some(machine) = Machine::new() else { return };
    let text = format!("FROM {}\nRUN true", registry.image("single"));
    *registry.faults().blobs_answer.lock() = Some("451 Unavailable For Legal Reasons");
    let error = machine.dockerfile(&text).await.error();
    assert!(error.contains("451"), "{error}");
    let blobs = registry.requests().iter().filter(|request| request.contains("/blobs/")).count();
    assert!(blobs <= 4, "{:?}", registry.requests());
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_abandoned_pull_has_got_is_where_the_next_goes_on() {
    let faults = Faults {
        break_after: Some(100_000),
        breaks_left: 1.into(),
        refusals_after_break: usize::MAX,
        ..Faults::default()
    };
    let registry = FakeRegistry::start(&TestImage::small(), faults);
    let Some(machine) = Machine::new() else { return };
    let text = format!("FROM {}\nRUN true", registry.image("single"));
    let given_up = tokio::time::timeout(Duration::from_secs(2), machine.dockerfile(&text)).await;
    assert!(given_up.is_err());
    registry.faults().refusals_left.store(0, Ordering::SeqCst);
    let before = registry.requests().len();
    machine.dockerfile(&text).await.ok();
    let after = registry.requests().split_off(before);
    assert!(after.iter().any(|request| request.ends_with("bytes=100000-")), "{after:?}");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_says_how_far_it_is_and_when_it_is_done() {
    let registry = FakeRegistry::start(&TestImage::small(), Faults::default());
    let Some(machine) = Machine::new() else { return };
    let built = machine.dockerfile(&format!("FROM {}\nRUN true", registry.image("single"))).await;
    built.ok();
    let find = |part: &str| built.log.iter().position(|line| line.contains(part));
    let begun = find(": 3 layers, ").unwrap_or_else(|| panic!("{:?}", built.log));
    let ended = find("   pulled 3 layers, ").unwrap_or_else(|| panic!("{:?}", built.log));
    assert!(begun < ended && built.log[ended].ends_with(" s"), "{:?}", built.log);
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_that_want_the_same_image_at_once_pull_it_once_and_both_see_it() {
    let registry = FakeRegistry::start(&TestImage::small(), Faults::default());
    let Some(machine) = Machine::new() else { return };
    let (one, two) = (registry.image("single"), registry.image("index"));
    let (one, two) = (format!("FROM {one}\nRUN true"), format!("FROM {two}\nRUN echo 2"));
    let (one, two) = tokio::join!(machine.dockerfile(&one), machine.dockerfile(&two));
    let layers: Vec<_> = one.ok().layers[..3].to_vec();
    assert_eq!(layers, two.ok().layers[..3]);
    // Three layers and the configuration.
    let blobs = registry.requests().iter().filter(|request| request.contains("/blobs/")).count();
    assert_eq!(blobs, 4, "{:?}", registry.requests());
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_or_a_repository_that_is_not_there_is_named_with_what_is() {
    let registry = RealRegistry::start(None);
    registry.push("some/image", &TestImage::small());
    let Some(machine) = Machine::new() else { return };
    let error = machine.dockerfile(&format!("FROM {}/some/image:nope\nRUN true", registry.host())).await.error();
    assert!(error.contains("has no `some/image:nope`; it has "), "{error}");
    assert!(error.contains("`single`") && error.contains("`index`"), "{error}");
    let error = machine.dockerfile(&format!("FROM {}/other/image:1\nRUN true", registry.host())).await.error();
    assert!(error.contains("has no `other/image:1`: there is no such repository"), "{error}");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_unpacks_to_too_much_fails_the_build_with_the_setting_to_change() {
    let mut archive = Archive::new();
    archive.file("zeros", &vec![0; 3_000_000], 0o644);
    let image = TestImage::of(vec![(archive.finish(), Packing::Gzip)]);
    let registry = FakeRegistry::start(&image, Faults::default());
    let limits = LayerLimits { bytes: 2_000_000, ..LayerLimits::default() };
    let config = RegistryConfig { layer_limits: limits, ..RegistryConfig::default() };
    let Some(machine) = Machine::with(|builder| builder.registries = config) else { return };
    let error = machine.dockerfile(&format!("FROM {}\nRUN true", registry.image("single"))).await.error();
    assert!(
        error.contains("more than 2000000 bytes; raise `registries.largest_layer_bytes` in `config.toml`"),
        "{error}"
    );
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_of_a_hundred_thousand_files_is_pulled_whole() {
    let mut archive = Archive::new();
    for number in 0..100_000 {
        archive.file(&format!("many/{}/{number}", number % 300), b"", 0o644);
    }
    let mut image = TestImage::small();
    let small = std::mem::take(&mut image.plain);
    let archives = small.into_iter().chain([(archive.finish(), Packing::Zstd)]).collect();
    let registry = FakeRegistry::start(&TestImage::of(archives), Faults::default());
    let Some(machine) = Machine::new() else { return };
    let text = format!("FROM {}\nRUN find /many -type f | wc -l", registry.image("single"));
    let built = machine.dockerfile(&text).await;
    built.ok();
    assert!(built.has_line("100000"), "{:?}", built.log);
    machine.leave_nothing().await;
}
