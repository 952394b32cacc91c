//! A builder of its own for each test, and registries with an image that the test makes.
#![allow(dead_code, reason = "each test file uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a panic is the report of a test")]

pub mod bench;
pub mod fake_ecr;
pub mod fake_registry;
pub mod http;
pub mod image;
pub mod real_registry;
pub mod web;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use container_runtime::{Runtime, RuntimeConfig};
use dorian_image_builder::{BuildError, BuildRequest, BuilderConfig, BuiltImage, ImageBuilder, LogSink};
use parking_lot::Mutex;

pub struct Machine {
    pub builder: ImageBuilder,
    pub runtime: Runtime,
    pub dir: tempfile::TempDir,
}

/// A build's outcome and its log.
pub struct Built {
    pub outcome: Result<BuiltImage, BuildError>,
    pub log: Vec<String>,
}

impl Machine {
    pub fn new() -> Option<Self> {
        Self::with(|_| {})
    }

    /// None where this process may not make containers; the test has nothing to say then.
    pub fn with(change: impl FnOnce(&mut BuilderConfig)) -> Option<Self> {
        if !may_make_containers() {
            return None;
        }
        // Not below /tmp, which may be a filesystem that overlayfs does not take.
        let dir = tempfile::tempdir_in(cache()).unwrap();
        let mut runtime_config = RuntimeConfig::new(dir.path().join("runtime"));
        runtime_config.warm = 1;
        let runtime = Runtime::start(runtime_config).unwrap();
        let mut config = BuilderConfig::new(dir.path().join("images"));
        change(&mut config);
        Some(Self { builder: ImageBuilder::new(config, runtime.clone()).unwrap(), runtime, dir })
    }

    pub async fn build(&self, request: BuildRequest) -> Built {
        let (sink, log) = recorder();
        let outcome = self.builder.build(request, &sink).await;
        let log = log.lock().clone();
        Built { outcome, log }
    }

    pub async fn dockerfile(&self, text: &str) -> Built {
        self.build(request(text)).await
    }

    /// Nothing may stay in the folder for unfinished work.
    pub async fn leave_nothing(self) {
        let folder = self.dir.path().join("images/tmp");
        let unfinished = || fs::read_dir(&folder).unwrap().flatten().collect::<Vec<_>>();
        // What failed steps left goes behind their backs.
        let start = Instant::now();
        while !unfinished().is_empty() {
            assert!(start.elapsed() < Duration::from_secs(20), "{:?}", unfinished());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.runtime.shutdown().await;
    }
}

impl Built {
    #[track_caller]
    pub fn ok(&self) -> &BuiltImage {
        match &self.outcome {
            Ok(image) => image,
            Err(error) => panic!("{error}\n{}", self.log.join("\n")),
        }
    }

    #[track_caller]
    pub fn error(&self) -> String {
        match &self.outcome {
            Ok(_) => panic!("the build succeeded:\n{}", self.log.join("\n")),
            Err(error) => error.to_string(),
        }
    }

    pub fn has_line(&self, line: &str) -> bool {
        self.log.iter().any(|found| found == line)
    }

    pub fn cached(&self) -> usize {
        self.log.iter().filter(|line| line.trim() == "CACHED").count()
    }
}

pub fn may_make_containers() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: making containers needs root");
    }
    root
}

pub fn request(dockerfile: &str) -> BuildRequest {
    BuildRequest { dockerfile_commands: dockerfile.lines().map(str::to_owned).collect(), ..BuildRequest::default() }
}

pub fn recorder() -> (LogSink, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = lines.clone();
    (LogSink::new(move |log| kept.lock().push(log.text)), lines)
}

/// What is dear to get is kept here between runs.
pub fn cache() -> PathBuf {
    let target = || Path::new(env!("CARGO_TARGET_TMPDIR")).to_owned();
    let cache =
        std::env::var_os("DORIAN_TEST_CACHE").filter(|path| !path.is_empty()).map_or_else(target, PathBuf::from);
    let cache = cache.join("image-builder");
    fs::create_dir_all(&cache).unwrap();
    cache
}

/// One test at a time, also across processes.
pub fn cache_lock() -> fs::File {
    let lock = fs::File::create(cache().join("lock")).unwrap();
    lock.lock().unwrap();
    lock
}

/// The statically linked program from Debian's package: a whole userland in one file.
pub fn busybox() -> Vec<u8> {
    let _lock = cache_lock();
    let kept = cache().join("busybox");
    if !kept.exists() {
        let work = tempfile::tempdir_in(cache()).unwrap();
        run(Command::new("apt-get").args(["download", "busybox-static"]).current_dir(work.path()));
        let package = fs::read_dir(work.path()).unwrap().next().unwrap().unwrap().path();
        run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(work.path().join("x")));
        let places = ["bin/busybox", "usr/bin/busybox"].map(|path| work.path().join("x").join(path));
        let found = places.iter().find(|path| path.exists()).unwrap();
        fs::copy(found, work.path().join("busybox")).unwrap();
        fs::rename(work.path().join("busybox"), &kept).unwrap();
    }
    fs::read(kept).unwrap()
}

fn run(command: &mut Command) {
    let output = command.output();
    let output =
        output.unwrap_or_else(|error| panic!("{command:?}: {error}; are Debian's `apt` and `dpkg` installed?"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
