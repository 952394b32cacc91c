//! Steps, caching and failures, on a small image.
#![allow(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dorian_image_builder::{
    BuildError, BuildRequest, BuilderConfig, BuiltImage, CacheUse, ContextEntry, ImageBuilder, LayerKey, TreeEntry,
};
use futures::FutureExt;
use support::bench::Bench;
use support::{Built, Machine, recorder, request};

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_image_is_not_built_again_and_a_change_rebuilds_from_its_layer_on() {
    let Some(bench) = Bench::new() else { return };
    let text = "RUN echo one > /one\nENV A=1\nRUN echo two > /two\nRUN echo three > /three";
    let first = bench.build_steps(text).await;
    assert_eq!((first.cached(), first.ok().layers.len()), (0, 6));
    let again = bench.build_steps(text).await;
    assert_eq!((again.cached(), again.ok()), (3, first.ok()));
    let changed = bench.build_steps(&text.replace("echo two", "echo 2")).await;
    assert_eq!(changed.cached(), 1);
    assert!(changed.log.iter().any(|line| line == "=> Step 4/5: RUN echo 2 > /two"), "{:?}", changed.log);
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_see_arguments_environment_folder_and_user() {
    let Some(bench) = Bench::new() else { return };
    let text = "ARG WHO=nobody\nENV HELLO=hi\nRUN echo $HELLO $WHO\nWORKDIR /srv/app\nRUN pwd && echo x > here\n\
                SHELL [\"/bin/sh\", \"-e\", \"-c\"]\nRUN [\"/bin/echo\", \"$HELLO\"]\nRUN <<EOF\necho doc-$HELLO\nEOF";
    let mut request = bench.request_steps(text);
    request.build_args.insert("WHO".to_owned(), "you".to_owned());
    let built = bench.machine.build(request).await;
    built.ok();
    for line in ["hi you", "/srv/app", "$HELLO", "doc-hi"] {
        assert!(built.has_line(line), "{line}: {:?}", built.log);
    }
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_holds_what_the_step_changed_and_nothing_of_the_builders_own() {
    let Some(bench) = Bench::new() else { return };
    let built = bench.build_steps("RUN mkdir /made && echo x > /made/file && rm /data/kept && touch /tmp/t").await;
    let layer = bench.top(&built);
    let mut names: Vec<String> =
        fs::read_dir(&layer).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["data", "made", "tmp"]);
    assert_eq!(fs::metadata(layer.join("made/file")).unwrap().uid(), 0);
    assert_eq!(fs::symlink_metadata(layer.join("data/kept")).unwrap().rdev(), 0);
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_step_shows_its_last_lines_and_exit_code_and_is_tried_again() {
    let Some(bench) = Bench::new() else { return };
    let text = "RUN echo before\nRUN echo almost; echo 'No space left on device' >&2; false\nRUN echo never";
    let failed = bench.build_steps(text).await;
    let BuildError::Step { place, reason, tail, hint, .. } = failed.outcome.as_ref().unwrap_err() else { panic!() };
    assert_eq!((place.to_string().as_str(), reason.as_str()), ("3/4", "exit code 1"));
    assert!(tail.contains(&"almost".to_owned()) && tail.len() == 2, "{tail:?}");
    assert!(hint.unwrap().contains("full"));
    assert!(!failed.has_line("never"));
    let again = bench.build_steps(text).await;
    assert_eq!(again.cached(), 1);
    assert!(again.has_line("almost"));
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_fails_its_step() {
    let Some(bench) = Bench::new() else { return };
    let error = bench.build_steps("RUN [\"/no/such/program\"]").await.error();
    assert!(error.contains("/no/such/program"), "{error}");
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_over_its_time_is_killed() {
    let Some(bench) = Bench::new() else { return };
    let mut request = bench.request_steps("RUN echo quick\nRUN sleep 100");
    request.timeout = Some(Duration::from_secs(3));
    let started = Instant::now();
    let built = bench.machine.build(request).await;
    assert!(matches!(built.outcome, Err(BuildError::Timeout { .. })), "{:?}", built.outcome);
    let error = built.error();
    assert_eq!(error, "step 3/3 (`RUN sleep 100`) was stopped: the build took longer than its limit of 3 s");
    assert!(started.elapsed() < Duration::from_secs(10));
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_builds_of_the_same_layer_run_it_once_and_both_see_its_output() {
    let Some(bench) = Bench::new() else { return };
    bench.build_steps("RUN true").await.ok();
    // Random content would differ if it ran twice.
    let text = "RUN sleep 1; echo made-$(head -c 6 /dev/urandom | od -An -tx1 2>/dev/null || cat /proc/sys/kernel/random/uuid)";
    let (one, two) = tokio::join!(bench.build_steps(text), bench.build_steps(text));
    assert_eq!(one.ok(), two.ok());
    let printed = |built: &Built| built.log.iter().find(|line| line.starts_with("made-")).cloned();
    assert!(printed(&one).is_some());
    assert_eq!(printed(&one), printed(&two));
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_build_stops_and_leaves_nothing() {
    let Some(bench) = Bench::new() else { return };
    bench.build_steps("RUN true").await.ok();
    let build = bench.machine.builder.clone();
    let request = bench.request_steps("RUN echo started; sleep 1000");
    let (sink, log) = recorder();
    let waiting = tokio::spawn(async move { build.build(request, &sink).await });
    let start = Instant::now();
    while !log.lock().iter().any(|line| line == "started") {
        assert!(start.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    waiting.abort();
    let _ = waiting.await;
    let tmp = bench.machine.dir.path().join("images/tmp");
    while fs::read_dir(&tmp).unwrap().next().is_some() {
        assert!(start.elapsed() < Duration::from_secs(20), "the step's folder stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_nobody_waits_for_reads_no_further_and_leaves_nothing() {
    let Some(bench) = Bench::new() else { return };
    bench.build_steps("RUN true").await.ok();
    // A file without an end.
    let entry = ContextEntry { path: "/big".into(), digest: "zeros".into(), mode: 0o644, source: "/dev/zero".into() };
    let request = BuildRequest { context: vec![entry], ..bench.request_steps("COPY big /big") };
    let build = bench.machine.builder.clone();
    let (sink, _) = recorder();
    let waiting = tokio::spawn(async move { build.build(request, &sink).await });
    let tmp = bench.machine.dir.path().join("images/tmp");
    let start = Instant::now();
    let is_copying = || fs::read_dir(&tmp).unwrap().any(|found| found.unwrap().path().join("diff/big").exists());
    while !is_copying() {
        assert!(start.elapsed() < Duration::from_secs(20) && !waiting.is_finished());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    waiting.abort();
    while fs::read_dir(&tmp).unwrap().next().is_some() {
        assert!(start.elapsed() < Duration::from_secs(60), "the step's folder stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_build_makes_new_layers_that_later_builds_use() {
    let Some(bench) = Bench::new() else { return };
    let text = "RUN cat /proc/sys/kernel/random/uuid > /id\nRUN echo after";
    let first = bench.build_steps(text).await;
    let forced = bench.machine.build(BuildRequest { cache: CacheUse::Replace, ..bench.request_steps(text) }).await;
    assert_eq!(forced.cached(), 0);
    assert_ne!(first.ok().layers.last(), forced.ok().layers.last());
    // The old layers stay for the containers that run on them.
    assert!(bench.machine.builder.has_layers(first.ok()));
    let later = bench.build_steps(text).await;
    assert_eq!((later.cached(), later.ok()), (2, forced.ok()));
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_past_the_cache_leaves_it_as_it_was() {
    let Some(bench) = Bench::new() else { return };
    let text = "RUN cat /proc/sys/kernel/random/uuid > /id\nRUN echo after";
    let first = bench.build_steps(text).await;
    let aside = bench.machine.build(BuildRequest { cache: CacheUse::PassBy, ..bench.request_steps(text) }).await;
    assert_eq!(aside.cached(), 0);
    assert_ne!(first.ok().layers.last(), aside.ok().layers.last());
    let later = bench.build_steps(text).await;
    assert_eq!((later.cached(), later.ok()), (2, first.ok()));
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_seen_by_run_and_kept_nowhere() {
    let Some(bench) = Bench::new() else { return };
    let text = "RUN test -n \"$TOKEN\" && echo length ${#TOKEN}\nRUN env > /env";
    let with = |value: &str| BuildRequest {
        secret_env: vec![("TOKEN".to_owned(), value.to_owned())],
        ..bench.request_steps("RUN test -n \"$TOKEN\" && echo length ${#TOKEN}")
    };
    bench.build_steps(text).await.error();
    let built = bench.machine.build(with("hunter2")).await;
    assert!(built.has_line("length 7"), "{:?}", built.log);
    assert!(built.ok().config.env.iter().all(|(name, _)| name != "TOKEN"));
    // A new value of the same secret rebuilds nothing.
    assert_eq!(bench.machine.build(with("changed")).await.cached(), 1);
    assert_eq!(with("hunter2").image_key(), with("changed").image_key());
    assert!(!format!("{:?}", with("hunter2")).contains("hunter2"));
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machines_settings_reach_a_step_and_stay_out_of_the_image() {
    let change = |config: &mut BuilderConfig| {
        let bundle = config.data_dir.with_file_name("bundle.pem");
        fs::write(&bundle, "certificates").unwrap();
        config.host_env.ca_bundle = Some(bundle);
        config.host_env.variables = [("HTTPS_PROXY".to_owned(), "http://proxy:1".to_owned())].into();
    };
    let Some(bench) = Bench::with(change) else { return };
    let text = "ENV PIP_CERT=mine\nRUN cat $SSL_CERT_FILE && echo && echo $HTTPS_PROXY $PIP_CERT && touch /x";
    let built = bench.build_steps(text).await;
    for line in ["certificates", "http://proxy:1 mine"] {
        assert!(built.has_line(line), "{line}: {:?}", built.log);
    }
    let names: Vec<String> = built.ok().config.env.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, ["PATH", "FROM_IMAGE", "PIP_CERT"]);
    let layer: Vec<_> = fs::read_dir(bench.top(&built)).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(layer, ["x"]);
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_follow_links_and_keep_modes_and_owners() {
    let Some(bench) = Bench::new() else { return };
    let folder = bench.machine.dir.path().join("context");
    fs::create_dir(&folder).unwrap();
    let mut context = Vec::new();
    for (path, text, mode) in [("/app/run.sh", "run", 0o755), ("/app/lib/a.txt", "a", 0o640), ("/other", "o", 0o600)] {
        let source = folder.join(path.replace('/', "_"));
        fs::write(&source, text).unwrap();
        context.push(ContextEntry { path: path.to_owned(), digest: format!("of {text}"), mode, source });
    }
    let text = "COPY app /srv/app\nCOPY --chown=user --chmod=700 other /lib/\nCOPY req.txt /data\n\
                RUN stat -c '%a %u:%g %n' /srv/app/run.sh /srv/app/lib/a.txt /usr/lib/other /data/req.txt && stat -c %a /usr/lib";
    let mut request = bench.request_steps(text);
    request.context = context.clone();
    request.context_files = vec![("/req.txt".to_owned(), "six".into())];
    let built = bench.machine.build(request.clone()).await;
    built.ok();
    for line in [
        "755 0:0 /srv/app/run.sh",
        "640 0:0 /srv/app/lib/a.txt",
        "700 1000:1001 /usr/lib/other",
        "644 0:0 /data/req.txt",
        "711",
    ] {
        assert!(built.has_line(line), "{line}: {:?}", built.log);
    }
    // Another content of a file that only the second COPY takes.
    request.context[2].digest = "new".to_owned();
    assert_eq!(bench.machine.build(request).await.cached(), 1);
    let missing = bench.build_steps("COPY nothing /x").await.error();
    assert!(missing.starts_with("line 2: the build context has no file or folder `nothing`"), "{missing}");
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_another_image_can_be_copied() {
    let Some(bench) = Bench::new() else { return };
    let image = bench.image.clone();
    let text =
        format!("COPY --from={image} /data/ /copied/\nCOPY --from={image} /lib/linked /x\nRUN ls /copied && cat /x");
    let built = bench.build_steps(&text).await;
    built.ok();
    for line in ["kept", "new", "top"] {
        assert!(built.has_line(line), "{line}: {:?}", built.log);
    }
    assert!(!built.has_line("gone"), "{:?}", built.log);
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_is_not_text_and_lines_without_end_are_bearable() {
    let Some(bench) = Bench::new() else { return };
    let built = bench.build_steps("RUN printf 'a\\377b\\n50%%\\r100%%\\nlast'; yes | head -c 100000 | cat | while read l; do :; done; head -c 40000 /dev/zero").await;
    built.ok();
    for line in ["a\u{fffd}b", "100%"] {
        assert!(built.has_line(line), "{line}: {:?}", built.log.iter().map(|line| line.len()).collect::<Vec<_>>());
    }
    assert!(built.log.iter().all(|line| line.len() < 60_000));
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_builder_clears_what_was_unfinished_and_resumes_after_the_last_layer() {
    let Some(bench) = Bench::new() else { return };
    let built = bench.build_steps("RUN echo one\nRUN echo two").await;
    let images = bench.machine.dir.path().join("images");
    // As a killed server leaves it: something half-done, and a layer that is missing.
    fs::create_dir_all(images.join("tmp/half/diff/a")).unwrap();
    let top = bench.top(&built);
    fs::remove_dir_all(top.parent().unwrap()).unwrap();
    let again = ImageBuilder::new(BuilderConfig::new(&images), bench.machine.runtime.clone()).unwrap();
    assert!(!images.join("tmp/half").exists());
    assert!(!again.has_layers(built.ok()));
    let (sink, log) = recorder();
    let rebuilt = again.build(bench.request_steps("RUN echo one\nRUN echo two"), &sink).await.unwrap();
    assert_eq!(&rebuilt, built.ok());
    assert_eq!(log.lock().iter().filter(|line| line.trim() == "CACHED").count(), 1);
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_files_is_one_layer_by_its_content() {
    let Some(machine) = Machine::new() else { return };
    let folder = machine.dir.path().join("blobs");
    fs::create_dir(&folder).unwrap();
    let files: Vec<TreeEntry> = (0..100)
        .map(|index| {
            let source = folder.join(index.to_string());
            fs::write(&source, format!("content {index}")).unwrap();
            let path = format!("/root/package/part{}/file{index}.py", index % 7);
            TreeEntry { path, mode: 0o644, digest: index.to_string(), source }
        })
        .collect();
    let started = Instant::now();
    let key = machine.builder.tree_layer(&files).await.unwrap();
    let took = started.elapsed();
    let layer = machine.builder.layer_path(&key);
    assert_eq!(fs::read_to_string(layer.join("root/package/part1/file1.py")).unwrap(), "content 1");
    assert_eq!(fs::metadata(layer.join("root")).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(machine.builder.tree_layer(&files).await.unwrap(), key);
    assert!(took < Duration::from_millis(500), "{took:?}");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_from_nothing_holds_only_what_is_copied() {
    let Some(machine) = Machine::new() else { return };
    let mut from_scratch = request("FROM scratch\nCOPY a /b/c\nENV X=1");
    from_scratch.context_files = vec![("a".to_owned(), "text".into())];
    let built = machine.build(from_scratch).await;
    let image = built.ok();
    assert_eq!((image.layers.len(), image.metadata.python_version_info.as_deref()), (1, None));
    // A later image builds on it under the name that the client gives it.
    let mut next = request("FROM base\nCOPY a /d");
    next.base_images = vec![("base".to_owned(), image.clone())];
    next.context_files = vec![("a".to_owned(), "text".into())];
    let next = machine.build(next).await;
    assert_eq!((next.ok().layers.len(), next.ok().config.env("X")), (2, Some("1")));
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_python_keeps_its_sources_uncompiled() {
    let Some(bench) = Bench::new() else { return };
    let built = bench.build_steps("RUN mkdir -p /opt/lib/python3.11 && echo 'x = 1' > /opt/lib/python3.11/a.py").await;
    let names = fs::read_dir(bench.top(&built).join("opt/lib/python3.11")).unwrap().count();
    assert_eq!(names, 1);
    bench.leave_nothing().await;
}

#[test]
fn what_a_container_left_is_not_removed_under_the_work_of_a_build_that_was_given_up() {
    let mut executor = tokio::runtime::Builder::new_multi_thread();
    // One thread for blocking work, which is held: the builder's work waits behind it.
    let tokio = executor.worker_threads(1).max_blocking_threads(1).enable_all().build().unwrap();
    tokio.block_on(async {
        let Some(machine) = Machine::new() else { return };
        let (let_go, held) = std::sync::mpsc::channel::<()>();
        let holder = tokio::task::spawn_blocking(move || held.recv());
        let base = BuiltImage { layers: Vec::new(), config: Default::default(), metadata: Default::default() };
        let (owner, changes) = (Arc::new(()), machine.dir.path().join("changes"));
        fs::create_dir(&changes).unwrap();
        let key = LayerKey::empty();
        let mut commit =
            Box::pin(machine.builder.commit_changes(&base, &key, (&changes, owner.clone()), "a function", &[]));
        assert!(commit.as_mut().now_or_never().is_none(), "it waits for its thread");
        drop(commit);
        assert_eq!(Arc::strong_count(&owner), 2, "the work has still to come");
        let_go.send(()).unwrap();
        holder.await.unwrap().unwrap();
        // The thread is free again when the work is over.
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        assert_eq!(Arc::strong_count(&owner), 1);
        machine.leave_nothing().await;
    });
}
