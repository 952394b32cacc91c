//! Dockerfiles as people write them: stages, mounts, ADD, and what is said when they are wrong.
#![allow(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use dorian_image_builder::{BuildError, BuildRequest, ContextEntry};
use support::bench::Bench;
use support::fake_registry::{FakeRegistry, Faults};
use support::image::{Archive, Packing, TestImage, digest};
use support::web::Web;
use support::{Built, Machine, recorder};

/// A request whose context has these files; each is given with its mode.
fn with_context(bench: &Bench, text: &str, files: &[(&str, &[u8], u32)]) -> BuildRequest {
    let folder = bench.machine.dir.path().join("context");
    fs::create_dir_all(&folder).unwrap();
    let context = files.iter().map(|(path, bytes, mode)| {
        let source = folder.join(&digest(bytes)[7..]);
        fs::write(&source, bytes).unwrap();
        ContextEntry { path: (*path).to_owned(), digest: digest(bytes), mode: *mode, source }
    });
    BuildRequest { context: context.collect(), ..bench.request(text) }
}

#[track_caller]
fn assert_lines(built: &Built, lines: &[&str]) {
    built.ok();
    for line in lines {
        assert!(built.has_line(line), "{line}: {:?}", built.log);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_that_are_not_needed_are_not_built_and_unchanged_ones_are_cached() {
    let Some(bench) = Bench::new() else { return };
    let text = "FROM IMAGE AS tools\nWORKDIR /out\nRUN echo tool > tool && echo ran-tools\n\
                FROM IMAGE AS unused\nRUN echo never\nFROM tools AS more\nRUN echo more > more && pwd\n\
                FROM IMAGE\nRUN echo last > /last\nCOPY --from=TOOLS /out/tool /a/\nCOPY --from=2 /out/ /b/\n\
                RUN cat /a/tool /b/tool /b/more && ls /";
    let first = bench.build(text).await;
    assert_lines(&first, &["=> [tools 3/3] RUN echo tool > tool && echo ran-tools", "ran-tools", "/out"]);
    assert_lines(&first, &["=> [stage-3 5/5] RUN cat /a/tool /b/tool /b/more && ls /", "tool", "more"]);
    assert!(!first.has_line("never") && !first.has_line("out"), "{:?}", first.log);
    let again = bench.build(text).await;
    // WORKDIR's folder is a layer, too.
    assert_eq!((again.cached(), again.ok()), (7, first.ok()));
    // Another name, another stage before it, nothing else.
    let renamed = text.replace("AS tools", "AS other").replace("TOOLS", "other").replace("FROM tools", "FROM other");
    let renamed = bench.build(&renamed).await;
    assert_eq!((renamed.cached(), renamed.ok()), (7, first.ok()));
    // A change in a stage rebuilds what takes files from it, and what stands before that stays.
    let changed = bench.build(&text.replace("echo more >", "echo else >")).await;
    assert!(changed.has_line("else"));
    assert_eq!(changed.cached(), 4, "{:?}", changed.log);
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_was_collected_is_made_again_only_for_a_step_that_needs_it() {
    let Some(bench) = Bench::new() else { return };
    let text = "FROM IMAGE AS compile\nWORKDIR /data\nWORKDIR /new\nRUN echo slow > result && echo ran-slow\n\
                FROM IMAGE\nCOPY --from=compile /new /got\nRUN cat /got/result && echo first";
    let first = bench.build(text).await;
    assert_lines(&first, &["ran-slow", "slow"]);
    let needed = first.ok().layers.clone();
    let layers = bench.machine.dir.path().join("images/layers");
    let collect = || {
        for layer in fs::read_dir(&layers).unwrap().flatten() {
            if !needed.iter().any(|key| layer.file_name() == key.as_str()) {
                fs::remove_dir_all(layer.path()).unwrap();
            }
        }
    };
    collect();
    let later = bench.build(&text.replace("first", "second")).await;
    assert_lines(&later, &["second", "slow", "   not needed: what was taken from it is cached"]);
    assert!(!later.has_line("ran-slow"), "{:?}", later.log);
    // A new step that takes something else needs the stage.
    collect();
    let other = bench.build(&text.replace("RUN cat", "COPY --from=compile /new/result /more\nRUN cat")).await;
    assert_lines(&other, &["ran-slow", "first"]);
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_in_the_last_stage_is_found_before_the_first_is_built() {
    let Some(bench) = Bench::new() else { return };
    let failed =
        bench.build("FROM IMAGE AS one\nRUN echo ran\nFROM IMAGE\nCOPY missing /x\nCOPY --from=one / /y").await;
    let error = failed.error();
    assert!(
        error.starts_with("line 4: the build context has no file or folder `missing`\n4 | COPY missing /x"),
        "{error}"
    );
    assert!(!failed.has_line("ran"), "{:?}", failed.log);
    // What only the stage itself can tell is shown where it is, too.
    let error = bench.build("FROM IMAGE AS one\nRUN true\nFROM IMAGE\nCOPY --from=one /missing /x").await.error();
    assert_eq!(error, "line 4: the stage has no `/missing`\n4 | COPY --from=one /missing /x\n  | ^^^^");
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_from_a_stage_keep_what_they_are_unless_told_otherwise() {
    let Some(bench) = Bench::new() else { return };
    let text = "FROM IMAGE AS from\n\
        RUN mkdir -p /t/deep /t/skip && cd /t && echo 1 > a.txt && echo 2 > b.txt && echo 3 > c.md && ln -s a.txt link \\\n\
          && chown 1000:1001 a.txt deep && chmod 4711 a.txt && chmod 750 deep && echo 4 > deep/x.pyc && echo 5 > deep/y \\\n\
          && touch -d '2001-02-03 04:05:06' b.txt && touch \"$(printf 'na\\377me')\" && echo 6 > skip/z\n\
        FROM IMAGE\n\
        COPY --from=from /t/ /all\n\
        COPY --from=from /t/*.txt /t/c.md /some/\n\
        COPY --from=from --exclude=**/*.pyc --exclude=skip /t /less\n\
        COPY --from=from --chown=user --chmod=u=rw,go=r /t/*.txt /owned/\n\
        RUN stat -c '%a %u:%g %n' /all/a.txt /all/deep /owned/a.txt && stat -c '%Y %n' /all/b.txt && ls -l /all/link \\\n\
          && ls /some && find /less && stat -c %s /all/na*me";
    let built = bench.build(text).await;
    assert_lines(&built, &["4711 1000:1001 /all/a.txt", "750 1000:1001 /all/deep", "644 1000:1001 /owned/a.txt"]);
    assert_lines(&built, &["981173106 /all/b.txt", "a.txt", "b.txt", "c.md", "/less/deep/y", "0"]);
    assert!(built.log.iter().any(|line| line.ends_with("/all/link -> a.txt")), "{:?}", built.log);
    for gone in ["/less/deep/x.pyc", "/less/skip", "/less/skip/z"] {
        assert!(!built.has_line(gone), "{gone}: {:?}", built.log);
    }
    bench.build("FROM IMAGE AS a\nRUN true\nFROM IMAGE\nCOPY --from=a /no/*.x /y/").await.ok();
    let error = bench.build("FROM IMAGE AS a\nRUN true\nFROM IMAGE\nCOPY --from=a /no/x /y/").await.error();
    assert!(error.contains("has no `/no/x`"), "{error}");
    let error = bench.build("FROM IMAGE AS a\nRUN true\nFROM IMAGE\nCOPY --from=a /data/* /y").await.error();
    assert!(error.contains("several sources need a folder"), "{error}");
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_is_kept_between_builds_and_is_in_no_layer() {
    let Some(bench) = Bench::new() else { return };
    let run = |n: u32, options: &str| {
        format!(
            "FROM IMAGE\nRUN --mount=type=cache,target=/cache/it{options} ls /cache/it; stat -c %a:%u /cache/it; echo x > /cache/it/from-{n}; touch /made-{n}"
        )
    };
    let first = bench.build(&run(1, "")).await;
    assert_lines(&first, &["755:0"]);
    let names: Vec<_> = fs::read_dir(bench.top(&first)).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["made-1"]);
    assert_lines(&bench.build(&run(2, "")).await, &["from-1"]);
    // The same step is cached whatever the cache holds by now.
    assert_eq!(bench.build(&run(1, "")).await.cached(), 1);
    // Another target with the same id, and another id.
    assert_lines(&bench.build(&run(3, "-else,id=/cache/it").replace("/it;", "/it-else;")).await, &["from-1", "from-2"]);
    let other = bench.build(&run(4, ",id=other,mode=0700,uid=1000")).await;
    assert_lines(&other, &["700:1000"]);
    assert!(!other.has_line("from-1"), "{:?}", other.log);
    let error = bench.build(&run(5, ",ro").replace("touch", "true && touch /cache/it/x &&")).await.error();
    assert!(error.contains("Read-only file system"), "{error}");
    bench.leave_nothing().await;
}

/// Whether two steps with this cache, started together, ran at the same time.
async fn overlap(bench: &Bench, sharing: &str) -> (bool, Built, Built) {
    let text = |n: u32| {
        format!(
            "FROM IMAGE\nRUN --mount=type=cache,target=/c,id={sharing},sharing={sharing} echo start-{n}; ls /c; touch /c/{n}; sleep 1; ls /c; echo {sharing}"
        )
    };
    let (one_text, two_text) = (text(1), text(2));
    let started = Instant::now();
    let (one, two) = tokio::join!(bench.build(&one_text), bench.build(&two_text));
    one.ok();
    two.ok();
    (started.elapsed() < Duration::from_millis(1900), one, two)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_cache_is_used_together_a_locked_one_in_turn_and_a_private_one_alone() {
    let Some(bench) = Bench::new() else { return };
    bench.build("FROM IMAGE\nRUN true").await.ok();
    let (_, one, two) = overlap(&bench, "shared").await;
    assert!(one.has_line("2") && two.has_line("1"), "{:?} {:?}", one.log, two.log);
    let (together, one, two) = overlap(&bench, "locked").await;
    assert!(!together);
    // The second finds what the first left, and the first saw nothing of the second.
    assert!(one.has_line("2") != two.has_line("1"), "{:?} {:?}", one.log, two.log);
    assert!(one.log.iter().chain(&two.log).any(|line| line.contains("waiting for another step")));
    let (_, one, two) = overlap(&bench, "private").await;
    assert!(!one.has_line("2") && !two.has_line("1"), "{:?} {:?}", one.log, two.log);
    // Afterwards nothing is in use, and the first folder is the next one's.
    let next = bench.build("FROM IMAGE\nRUN --mount=type=cache,target=/c,id=private,sharing=private ls /c").await;
    assert!(next.has_line("1") != next.has_line("2"), "{:?}", next.log);
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_a_file_or_a_variable_of_one_step_and_stays_nowhere() {
    let Some(bench) = Bench::new() else { return };
    let text = "FROM IMAGE\nRUN --mount=type=secret,id=TOKEN --mount=type=secret,id=TOKEN,env=COPY_OF_IT \\\n\
                --mount=type=secret,id=TOKEN,target=/srv/token,mode=0440,uid=1000 \\\n\
                --mount=type=secret,id=ABSENT \\\n\
                test \"$(cat /run/secrets/TOKEN)\" = \"$TOKEN\" && test \"$COPY_OF_IT\" = \"$TOKEN\" \\\n\
                && stat -c '%a %u %n' /run/secrets/* /srv/token && touch /done\n\
                RUN ls /run/secrets /work; echo \"[$COPY_OF_IT]\"";
    let with =
        |value: &str| BuildRequest { secret_env: vec![("TOKEN".to_owned(), value.to_owned())], ..bench.request(text) };
    let built = bench.machine.build(with("hunter2-in-a-file")).await;
    assert_lines(&built, &["400 0 /run/secrets/TOKEN", "440 1000 /srv/token", "[]"]);
    assert_eq!(built.ok().layers.len(), 5);
    for layer in &built.ok().layers[3..] {
        let folder = bench.machine.builder.layer_path(layer);
        let names: Vec<_> = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert!(names.is_empty() || names == ["done"], "{names:?}");
    }
    let found = Command::new("grep").args(["-rl", "hunter2-in-a-file"]).arg(bench.machine.dir.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    assert_eq!(bench.machine.build(with("rotated")).await.cached(), 2);
    let error = bench.build("FROM IMAGE\nRUN --mount=type=secret,id=TOKEN,required true").await.error();
    assert!(error.starts_with("line 2: the build has no secret `TOKEN`") && error.ends_with('^'), "{error}");
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bind_shows_a_stage_an_image_or_the_context_and_changes_none() {
    let Some(bench) = Bench::new() else { return };
    let text = "FROM IMAGE AS made\nRUN mkdir /one /two && echo 1 > /one/a && echo 2 > /two/b && chown 1000 /two/b\n\
                RUN echo 3 > /two/c && rm /two/b && echo 4 > /two/b && chmod 751 /two\n\
                FROM IMAGE\n\
                RUN --mount=from=made,source=/one,target=/m/one --mount=from=made,source=/two,target=/m/two \\\n\
                  --mount=from=made,source=/one/a,target=/m/file --mount=from=IMAGE,source=/data,target=/m/data \\\n\
                  cat /m/one/a /m/two/b /m/two/c /m/file /m/data/kept; stat -c %a /m/two; ls /m/data; echo x > /m/one/x || true\n\
                RUN --mount=from=made,source=/two,target=/m,rw echo changed > /m/c && echo new > /m/d && cat /m/c\n\
                RUN --mount=source=src,target=/src --mount=source=run.sh,target=/bin/mine \\\n\
                  mine && cat /src/deep/x && stat -c %a /src/deep/x; ls /m || true\n\
                COPY --from=made /two/c /c\nRUN cat /c";
    let request = with_context(
        &bench,
        text,
        &[("/src/deep/x", b"deep\n", 0o640), ("/run.sh", b"#!/bin/sh\necho ran-it\n", 0o755), ("/other", b"o", 0o644)],
    );
    let built = bench.machine.build(request.clone()).await;
    assert_lines(&built, &["1", "4", "3", "low751", "kept", "new", "changed", "ran-it", "deep", "640"]);
    assert!(!built.has_line("gone"), "{:?}", built.log);
    assert!(built.log.iter().any(|line| line.contains("/m/one/x") && line.contains("Read-only")), "{:?}", built.log);
    // The writable one was thrown away, and nothing of it is in the image.
    assert!(built.log.iter().any(|line| line.contains("/m: No such file")), "{:?}", built.log);
    assert_eq!(built.log.last().unwrap(), "3");
    // A file of the context that no mount shows changes nothing, one that a mount shows does.
    let change = |path: &str| {
        let mut request = request.clone();
        request.context.iter_mut().find(|entry| entry.path == path).unwrap().digest = "new".to_owned();
        request
    };
    let all = bench.machine.build(change("/other")).await.cached();
    assert_eq!(all, 7);
    assert_eq!(bench.machine.build(change("/src/deep/x")).await.cached(), 4);
    let error =
        bench.build("FROM IMAGE AS a\nRUN true\nFROM IMAGE\nRUN --mount=from=a,source=/no,target=/x true").await;
    assert!(error.error().contains("there is no `/no`"), "{}", error.error());
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tmpfs_mount_is_empty_limited_and_gone_afterwards() {
    let Some(bench) = Bench::new() else { return };
    let text = "FROM IMAGE\nRUN --mount=type=tmpfs,target=/data,size=1m ls /data; echo x > /data/x && \
                dd if=/dev/zero of=/data/big bs=1024 count=4096\n";
    let failed = bench.build(text).await;
    let BuildError::Step { hint, tail, .. } = failed.outcome.as_ref().unwrap_err() else {
        panic!("{}", failed.error())
    };
    assert!(hint.unwrap().contains("tmpfs") && !tail.contains(&"kept".to_owned()), "{hint:?} {tail:?}");
    let built = bench.build("FROM IMAGE\nRUN --mount=type=tmpfs,target=/data echo x > /data/x\nRUN ls /data").await;
    assert_lines(&built, &["kept"]);
    assert!(!built.has_line("x"), "{:?}", built.log);
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn add_unpacks_archives_of_every_packing_and_nothing_else() {
    let Some(bench) = Bench::new() else { return };
    let folder = bench.machine.dir.path().join("tree");
    fs::create_dir_all(folder.join("top/deep")).unwrap();
    fs::write(folder.join("top/deep/file"), "content\n").unwrap();
    fs::set_permissions(folder.join("top/deep/file"), fs::Permissions::from_mode(0o751)).unwrap();
    std::os::unix::fs::symlink("deep/file", folder.join("top/link")).unwrap();
    let pack = |option: &str| {
        let path = bench.machine.dir.path().join("packed");
        let mut tar = Command::new("tar");
        tar.arg("--owner=1000").arg("--group=1001").arg("--mtime=@981173106").arg(option).arg("-cf").arg(&path);
        assert!(tar.arg("-C").arg(&folder).arg("top").status().unwrap().success());
        fs::read(path).unwrap()
    };
    for (option, name) in
        [("--format=gnu", "a.tar"), ("-z", "a.tgz"), ("-j", "b"), ("-J", "a.tar.xz"), ("--zstd", "z.zst")]
    {
        let packed = pack(option);
        let text = format!(
            "FROM IMAGE\nADD {name} /opt/new\nADD {name} other /kept/\nADD --unpack=false {name} /plain\nCOPY {name} /copied\n\
             RUN cat /opt/new/top/link && stat -c '%a %u:%g %Y' /opt/new/top/deep/file && ls /kept && stat -c %s /plain /copied"
        );
        let built = bench
            .machine
            .build(with_context(&bench, &text, &[(&format!("/{name}"), &packed, 0o644), ("/other", b"x", 0o644)]))
            .await;
        assert_lines(&built, &["content", "751 1000:1001 981173106", "top", "other", &packed.len().to_string()]);
    }
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_cannot_write_outside_of_its_folder_nor_be_damaged_in_silence() {
    let Some(bench) = Bench::new() else { return };
    let mut archive = Archive::new();
    archive.link("way", "/etc");
    archive.file("way/passwd", b"through a link", 0o644);
    archive.file(".wh.odd", b"", 0o644);
    let through = archive.finish();
    let text = "FROM IMAGE\nADD a.tar /x/\nRUN head -n 1 /etc/passwd; ls -l /x /x/etc";
    let built = bench.machine.build(with_context(&bench, text, &[("/a.tar", &through, 0o644)])).await;
    // As with a registry's layer: the link is followed inside of the archive's own tree.
    assert_lines(&built, &["root:x:0:0::/root:/bin/sh"]);
    let mut archive = Archive::new();
    archive.file("aaaaaaaaaaaaaa", b"up", 0o644);
    let mut up = archive.finish();
    up[..14].copy_from_slice(b"../../../../up");
    let sum: u32 = up[..512]
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
        .sum();
    up[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let error =
        bench.machine.build(with_context(&bench, "FROM IMAGE\nADD a.tar /x/", &[("/a.tar", &up, 0o644)])).await.error();
    assert!(
        error.starts_with("line 2: cannot unpack the archive: entry `../../../../up`") && error.ends_with('^'),
        "{error}"
    );
    let mut archive = Archive::new();
    archive.file("file", &[b'x'; 100_000], 0o644);
    let cut = &archive.finish()[..50_000];
    let error =
        bench.machine.build(with_context(&bench, "FROM IMAGE\nADD a.tar /x/", &[("/a.tar", cut, 0o644)])).await.error();
    assert!(error.contains("cannot unpack the archive"), "{error}");
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_is_asked_for_again_and_taken_again_only_when_it_changed() {
    let Some(bench) = Bench::new() else { return };
    let web = Web::start();
    let url = web.put("/some/file.txt?x=1", b"first\n");
    let text = format!(
        "FROM IMAGE\nADD {url} /here/\nADD --chmod=755 --chown=user {url} /named\nRUN cat /here/file.txt && stat -c '%a %u' /here/file.txt /named"
    );
    let built = bench.build(&text).await;
    assert_lines(&built, &["first", "600 0", "755 1000"]);
    let path = "/some/file.txt?x=1";
    // One build sees one content, however often it is named.
    assert_eq!(web.answers(), [format!("{path} 200")]);
    let again = bench.build(&text).await;
    assert_eq!((again.cached(), again.ok()), (3, built.ok()));
    assert_eq!(web.answers(), [format!("{path} 304")]);
    web.put(path, b"second\n");
    let changed = bench.build(&text).await;
    assert_eq!(changed.cached(), 0);
    assert!(changed.has_line("second"), "{:?}", changed.log);
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checksum_is_checked_and_saves_the_question() {
    let Some(bench) = Bench::new() else { return };
    let web = Web::start();
    let url = web.put("/file", b"content\n");
    let sum = digest(b"content\n");
    let text = format!("FROM IMAGE\nADD --checksum={sum} {url} /file\nRUN cat /file");
    assert_lines(&bench.build(&text).await, &["content"]);
    assert_eq!(web.answers(), ["/file 200"]);
    // Neither for the cached step, nor for another one with the same content.
    assert_eq!(bench.build(&text).await.cached(), 2);
    assert_lines(&bench.build(&text.replace("/file\nRUN cat /file", "/else\nRUN cat /else")).await, &["content"]);
    assert!(web.answers().is_empty());
    let wrong = text.replace(&sum, &digest(b"other"));
    let error = bench.build(&wrong).await.error();
    assert!(error.starts_with("line 2:") && error.contains(&format!("has digest `{sum}`")), "{error}");
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_cannot_be_says_why() {
    let Some(bench) = Bench::with(|config| config.largest_download = 100_000) else { return };
    let web = Web::start();
    let url = web.put("/file", b"content\n");
    // Broken off twice, whole the third time.
    web.break_off(2);
    let built = bench.build(&format!("FROM IMAGE\nADD {url} /file\nRUN cat /file")).await;
    assert_lines(&built, &["content"]);
    assert_eq!(web.answers().len(), 3);
    let error = bench.build(&format!("FROM IMAGE\nADD {url}-missing /x")).await.error();
    assert!(error.contains("404") && error.contains("/file-missing"), "{error}");
    let large = web.put("/large", &vec![0; 200_000]);
    let error = bench.build(&format!("FROM IMAGE\nADD {large} /x")).await.error();
    assert!(error.contains("larger than 0.1 MB, the limit"), "{error}");
    let error = bench.build("FROM IMAGE\nADD http://127.0.0.1:1/x /x").await.error();
    assert!(error.contains("cannot download `http://127.0.0.1:1/x`"), "{error}");
    let error = bench.build("FROM IMAGE\nADD ftp://127.0.0.1/x /x").await.error();
    assert!(error.starts_with("line 2: `ADD ftp://127.0.0.1/x`: only `https` and `http`"), "{error}");
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn here_documents_are_scripts_files_and_programs() {
    let Some(bench) = Bench::new() else { return };
    let text = "FROM IMAGE\nARG NAME=you\nCOPY <<one <<-'two' /docs/\nhello $NAME\none\n\thello $NAME\n\ttwo\n\
                ADD --chmod=700 <<EOF /script\n#!/bin/sh\necho from-script\nEOF\n\
                RUN <<EOF cat > /c\nplain\nEOF\nRUN <<EOF\nset -e\ncat /docs/one /docs/two /c\n/script\nEOF\n\
                RUN <<EOF\n#!/bin/sh\necho own-program $0\nEOF";
    let built = bench.build(text).await;
    assert_lines(&built, &["hello you", "hello $NAME", "plain", "from-script"]);
    assert!(built.log.iter().any(|line| line.starts_with("own-program")), "{:?}", built.log);
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_reach_from_and_steps_and_proxies_need_no_declaration() {
    let Some(bench) = Bench::new() else { return };
    let text = "# syntax=docker/dockerfile:1\nARG BASE=nothing/at/all\nARG LATE=default\nFROM $BASE AS one\nARG LATE\n\
                ARG UNSET\nRUN echo late=$LATE unset=[$UNSET] proxy=$HTTPS_PROXY arch=[$TARGETARCH]\n\
                FROM one\nARG TARGETARCH\nRUN echo inherited=$LATE arch=[$TARGETARCH]";
    let with = |proxy: &str| {
        let mut request = bench.request(text);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        request.build_args = [pair("BASE", &bench.image), pair("HTTPS_PROXY", proxy)].into();
        request
    };
    let built = bench.machine.build(with("http://p:1")).await;
    assert_lines(&built, &["late=default unset=[] proxy=http://p:1 arch=[]", "inherited=default arch=[amd64]"]);
    assert_eq!(bench.machine.build(with("http://other:1")).await.cached(), 2);
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_built_image_that_the_request_names_can_be_copied_from_and_mounted() {
    let Some(bench) = Bench::new() else { return };
    let base = bench.build("FROM IMAGE\nRUN echo v1 > /version").await.ok().clone();
    let text = "FROM base AS base\nRUN true\nFROM IMAGE\nCOPY --from=base /version /a\n\
                RUN --mount=from=base,source=/version,target=/b cat /a /b";
    let with = |base| BuildRequest { base_images: vec![("base".to_owned(), base)], ..bench.request(text) };
    let built = bench.machine.build(with(base)).await;
    assert_eq!(built.log.iter().filter(|line| *line == "v1").count(), 2, "{:?}", built.log);
    let base = bench.build("FROM IMAGE\nRUN echo v2 > /version").await.ok().clone();
    assert!(bench.machine.build(with(base)).await.has_line("v2"));
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_several_packed_layers_is_mounted_as_one_tree() {
    let Some(machine) = Machine::new() else { return };
    let layer = |path: &str, text: &str| {
        let mut archive = Archive::new();
        archive.file(path, text.as_bytes(), 0o604);
        (archive.finish(), Packing::Gzip)
    };
    let other = FakeRegistry::start(&TestImage::of(vec![layer("d/a", "1\n"), layer("d/b", "2\n")]), Faults::default());
    let small = FakeRegistry::start(&TestImage::small(), Faults::default());
    let text = format!(
        "FROM {}\nRUN --mount=from={},target=/whole cat /whole/d/a /whole/d/b && stat -c '%a %u' /whole/d/a; echo x > /whole/d/a",
        small.image("single"),
        other.image("single")
    );
    let failed = machine.dockerfile(&text).await;
    for line in ["1", "2", "604 0"] {
        assert!(failed.has_line(line), "{line}: {:?}", failed.log);
    }
    assert!(failed.error().contains("Read-only file system"), "{}", failed.error());
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_step_of_a_stage_is_named_with_its_stage_and_a_hint() {
    let Some(bench) = Bench::new() else { return };
    let text = "FROM IMAGE AS build\nRUN python setup.py\nFROM IMAGE\nCOPY --from=build /x /x";
    let error = bench.build(text).await.error();
    assert!(error.starts_with("step build 2/2 (`RUN python setup.py`) failed: exit code 127"), "{error}");
    assert!(error.contains("python: not found") && error.contains("hint: the image has no `python`"), "{error}");
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_waits_for_a_locked_cache_ends_with_its_time() {
    let Some(bench) = Bench::new() else { return };
    bench.build("FROM IMAGE\nRUN true").await.ok();
    let text = |script: &str| format!("FROM IMAGE\nRUN --mount=type=cache,target=/c,sharing=locked {script}");
    let long = bench.request(&text("echo mine-now; sleep 6"));
    let mut short = bench.request(&text("echo mine"));
    short.timeout = Some(Duration::from_millis(1500));
    let builder = &bench.machine;
    let (sink, log) = recorder();
    let held = async {
        while !log.lock().iter().any(|line| line == "mine-now") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let second = async {
        tokio::time::timeout(Duration::from_secs(60), held).await.unwrap();
        builder.build(short).await
    };
    let (first, second) = tokio::join!(builder.builder.build(long, &sink), second);
    first.unwrap();
    assert!(matches!(second.outcome, Err(BuildError::Timeout { .. })), "{:?}", second.log);
    bench.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_waits_for_the_web_ends_with_its_time() {
    let Some(bench) = Bench::new() else { return };
    bench.build("FROM IMAGE\nRUN true").await.ok();
    // Takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut request = bench.request(&format!("FROM IMAGE\nADD http://{}/x /x", silent.local_addr().unwrap()));
    request.timeout = Some(Duration::from_secs(2));
    let started = Instant::now();
    let error = bench.machine.build(request).await.error();
    assert!(error.starts_with("step 2/2 (`ADD http") && error.ends_with("limit of 2 s"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    bench.leave_nothing().await;
}
