//! Bases from a Debian mirror, and the client package. Slow the first time: what is made stays in the cache folder.
#![allow(clippy::unwrap_used, reason = "a panic is the report of a test")]

mod support;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use container_runtime::{Runtime, RuntimeConfig};
use dorian_image_builder::{BuilderConfig, ImageBuilder, RegistryConfig};
use support::{Built, Machine, cache, may_make_containers, recorder, request};

struct Shared {
    builder: ImageBuilder,
    runtime: Runtime,
    _lock: std::fs::File,
}

/// One builder for all tests of this file, on a folder that stays. No registry can be reached from it.
async fn shared() -> Option<Shared> {
    if !may_make_containers() {
        return None;
    }
    static ONE_AT_A_TIME: OnceLock<tokio::sync::Mutex<()>> = OnceLock::new();
    let _turn = ONE_AT_A_TIME.get_or_init(Default::default).lock().await;
    let lock = tokio::task::spawn_blocking(|| {
        let lock = std::fs::File::create(cache().join("debian.lock")).unwrap();
        lock.lock().unwrap();
        lock
    });
    let lock = lock.await.unwrap();
    let dir = cache().join("debian");
    std::fs::create_dir_all(&dir).unwrap();
    let runtime = Runtime::start(RuntimeConfig::new(dir.join("runtime"))).unwrap();
    let mut config = BuilderConfig::new(dir.join("images"));
    config.registries = RegistryConfig { mirrors_only: true, ..RegistryConfig::default() };
    Some(Shared { builder: ImageBuilder::new(config, runtime.clone()).unwrap(), runtime, _lock: lock })
}

impl Shared {
    async fn build(&self, text: &str) -> Built {
        let (sink, log) = recorder();
        let outcome = self.builder.build(request(text), &sink).await;
        let log = log.lock().clone();
        Built { outcome, log }
    }

    async fn end(self) {
        self.runtime.shutdown().await;
    }
}

const LOOK: &str = "RUN for p in python python3 pip pip3; do command -v $p; done; python -VV && echo home:$HOME lang:$LANG && ls /root && \
                    test ! -e /etc/resolv.conf -o -r /etc/resolv.conf && python -c 'import venv, ssl, sqlite3, ctypes, lzma'";

#[tokio::test(flavor = "multi_thread")]
async fn every_reference_to_a_known_python_is_one_base_that_looks_like_the_official_image() {
    let Some(shared) = shared().await else { return };
    let built = shared.build(&format!("FROM python:3.11.12-slim-bookworm\n{LOOK}")).await;
    let image = built.ok().clone();
    if built.cached() == 0 {
        for line in ["/usr/local/bin/python", "/usr/local/bin/python3", "/usr/local/bin/pip", "home:/root lang:C.UTF-8"]
        {
            assert!(built.has_line(line), "{line}: {:?}", built.log);
        }
    }
    assert!(image.metadata.python_version_info.as_deref().unwrap().starts_with("Python 3.11."));
    assert_eq!(image.metadata.libc_version_info.as_deref(), Some("2.36"));
    assert!(image.metadata.python_packages.contains_key("pip"));
    let other = shared.build(&format!("FROM python:3.11\n{LOOK}")).await;
    assert_eq!(other.ok().layers, image.layers);
    shared.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_nobody_waits_for_is_given_up_with_its_processes() {
    let Some(machine) = Machine::with(|config| config.registries.mirrors_only = true) else { return };
    let tmp = machine.dir.path().join("images/tmp");
    let (build, (sink, log)) = (machine.builder.clone(), recorder());
    let waiting = tokio::spawn(async move { build.build(request("FROM debian:bookworm\nRUN true"), &sink).await });
    let start = Instant::now();
    let soon = |what: &str| assert!(start.elapsed() < Duration::from_secs(120), "{what}: {:?}", log.lock());
    while !log.lock().iter().any(|line| line.contains("apt-get update")) {
        soon("mmdebstrap does not start");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!processes_naming(&tmp).is_empty());
    waiting.abort();
    while !processes_naming(&tmp).is_empty() || std::fs::read_dir(&tmp).unwrap().next().is_some() {
        soon("something is left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    machine.leave_nothing().await;
}

fn processes_naming(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let names = |process: &std::path::PathBuf| {
        let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&*folder.to_string_lossy())
    };
    processes.filter(names).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pip_installs_into_usr_local_and_compiles() {
    let Some(shared) = shared().await else { return };
    let text = "FROM python:3.13-slim\nRUN python -m pip install idna==3.10\nRUN python -c 'import idna; print(idna.__file__)' \
                && ls /usr/local/lib/python3.13/dist-packages/idna/__pycache__/core.cpython-313.pyc";
    let built = shared.build(text).await;
    assert_eq!(built.ok().metadata.python_packages.get("idna").map(String::as_str), Some("3.10"));
    shared.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_is_laid_out_by_version_and_found_again() {
    let Some(shared) = shared().await else { return };
    let (sink, _log) = recorder();
    let layers = shared.builder.ensure_client_layer("1.6.4", "3.11", &sink).await.unwrap();
    let layer = shared.builder.layer_path(&layers[0]);
    for path in [
        "pkg/modal/__init__.py",
        "pkg/modal_proto",
        "pkg/synchronicity",
        "pkg/sitecustomize.py",
        "__modal/deps/grpclib",
    ] {
        assert!(layer.join(path).exists(), "{path}");
    }
    assert!(layer.join("pkg/modal/__pycache__").is_dir());
    assert!(!layer.join("pkg/grpclib").exists() && !layer.join("__modal/deps/modal").exists());
    let started = Instant::now();
    assert_eq!(shared.builder.ensure_client_layer("1.6.4", "3.11", &sink).await.unwrap(), layers);
    assert!(started.elapsed() < Duration::from_millis(20));
    let error = shared.builder.ensure_client_layer("1.6.999", "3.11", &sink).await.unwrap_err().to_string();
    assert!(error.contains("modal==1.6.999"), "{error}");
    shared.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_uv_image_is_there_without_its_registry() {
    let Some(shared) = shared().await else { return };
    let text = "FROM python:3.11\nCOPY --from=ghcr.io/astral-sh/uv:0.5.4 /uv /.uv/uv\nRUN /.uv/uv --version";
    let built = shared.build(text).await;
    built.ok();
    assert!(built.cached() == 2 || built.log.iter().any(|line| line.starts_with("uv 0.5.4")), "{:?}", built.log);
    shared.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_finds_bytecode_for_what_uv_installed_and_what_was_copied() {
    let Some(shared) = shared().await else { return };
    // Said anew each time, so that no layer of an earlier run is found.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let site = "/usr/local/lib/python3.11/dist-packages";
    let text = format!(
        "FROM python:3.11\nCOPY --from=ghcr.io/astral-sh/uv:0.5.4 /uv /.uv/uv\nENV NOW={now}\n\
         RUN python -m pip install --target=/srv/packages sniffio==1.3.1 && test ! -e /srv/packages/sniffio/__pycache__\n\
         RUN /.uv/uv pip install --python $(command -v python) idna==3.10 && echo 'this is (not Python' > {site}/idna/broken.py\n\
         RUN python -m venv --without-pip /opt/venv && chown -R 1000:1000 /opt/venv\n\
         COPY --chown=1000:1000 <<EOF /opt/venv/lib/python3.11/site-packages/own/mine.py\nx = 1\nEOF\n\
         COPY <<EOF /srv/app.py\nx = 1\nEOF\n\
         RUN python -v -c 'import idna.core' 2>&1 | grep 'idna/__pycache__/core.cpython-311.pyc matches'\n\
         RUN /opt/venv/bin/python -v -c 'import own.mine' 2>&1 | grep 'mine.cpython-311.pyc matches'"
    );
    let built = shared.build(&text).await;
    let image = built.ok();
    assert_eq!(image.metadata.python_packages.get("idna").map(String::as_str), Some("3.10"));
    let compiled: Vec<&String> = built.log.iter().filter(|line| line.starts_with("   compiled")).collect();
    let wanted = [
        "Python files in /srv/packages ",
        "Python files in /usr/local/lib/python3.11 ",
        "1 Python file in /opt/venv/lib/python3.11 ",
    ];
    assert_eq!(compiled.len(), wanted.len(), "{compiled:?}");
    compiled.iter().zip(wanted).for_each(|(line, wanted)| assert!(line.contains(wanted), "{line}"));
    let layer = |from_top: usize| shared.builder.layer_path(&image.layers[image.layers.len() - 1 - from_top]);
    let packages = layer(5).join("usr/local/lib/python3.11/dist-packages/idna/__pycache__");
    assert!(packages.join("core.cpython-311.pyc").is_file());
    assert!(!packages.join("broken.cpython-311.pyc").exists());
    let own = layer(3).join("opt/venv/lib/python3.11/site-packages/own/__pycache__");
    for path in [own.clone(), own.join("mine.cpython-311.pyc")] {
        let meta = std::fs::metadata(path).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), 1000);
    }
    assert!(!layer(2).join("srv/__pycache__").exists());
    shared.end().await;
}

impl Shared {
    fn debs(&self) -> std::path::PathBuf {
        cache().join("debian/images/cache/apt/debs")
    }

    /// Builds with this script above a base without Python, anew each time.
    async fn apt(&self, script: &str) -> Built {
        let token: u64 = rand::random();
        self.build(&format!("FROM debian:bookworm\nRUN : {token} && {script}")).await
    }
}

const INSTALL: &str = "apt-get update && apt-get install -y --no-install-recommends hello && apt-get clean && hello";

#[tokio::test(flavor = "multi_thread")]
async fn a_debian_package_is_downloaded_once_and_only_the_same_bytes_are_taken_instead() {
    let Some(shared) = shared().await else { return };
    let _ = std::fs::remove_dir_all(shared.debs());
    let first = shared.apt(INSTALL).await;
    let layer = shared.builder.layer_path(first.ok().layers.last().unwrap());
    assert!(!layer.join("__dorian").exists());
    assert_eq!(
        std::fs::read_dir(layer.join("var/cache/apt/archives"))
            .map_or(0, |files| files.flatten().filter(|f| f.path().extension().is_some()).count()),
        0
    );
    let stored = || Some(std::fs::read_dir(shared.debs()).ok()?.flatten().next()?.path());
    let deadline = Instant::now() + Duration::from_secs(20);
    while stored().is_none() {
        assert!(Instant::now() < deadline, "nothing was kept");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let is_served =
        |built: &Built| built.outcome.is_ok() && built.log.iter().any(|line| line.starts_with("Need to get 0 B/"));
    assert!(!is_served(&first), "{:?}", first.log);
    // Two at once, each with a lock of its own.
    let (second, third) = tokio::join!(shared.apt(INSTALL), shared.apt(INSTALL));
    assert!(is_served(&second) && is_served(&third), "{:?}", second.log);
    // The same name with other content, as another archive could have it.
    let folder = stored().unwrap();
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    let other = shared.debs().join("0".repeat(64));
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join(file.file_name().unwrap()), bytes).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    let fourth = shared.apt(INSTALL).await;
    assert!(!is_served(&fourth), "{:?}", fourth.log);
    std::fs::remove_dir_all(other).unwrap();
    shared.end().await;
}
