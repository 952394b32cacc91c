//! A runtime of its own for each test, on a small real root filesystem, and a check that nothing is left of it.
#![allow(dead_code, reason = "each test file uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use dorian_container_runtime::{Container, ContainerSpec, Exit, Limits, Network, Profile, Runtime, RuntimeConfig};

/// Long enough for a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Machine {
    pub runtime: Runtime,
    pub config: RuntimeConfig,
    pub dir: tempfile::TempDir,
}

pub struct Run {
    pub container: Container,
    output: std::thread::JoinHandle<String>,
}

pub struct Ended {
    pub exit: Exit,
    pub output: String,
}

impl Machine {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut RuntimeConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = RuntimeConfig::new(dir.path().join("state"));
        config.warm = 1;
        change(&mut config);
        let runtime = Runtime::start(config.clone()).unwrap();
        assert_eq!(runtime.warnings().len(), usize::from(!config.user_namespaces), "{:?}", runtime.warnings());
        Self { runtime, config, dir }
    }

    /// A container that runs `script` in busybox's shell.
    pub fn shell(&self, script: &str) -> Spec {
        Spec::new(self.dir.path(), ["/bin/sh", "-c", script])
    }

    pub async fn start(&self, spec: Spec) -> Run {
        let (spec, mut reader) = spec.finish();
        let output = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Run { container: self.runtime.create(spec).await.unwrap(), output }
    }

    pub async fn run(&self, spec: Spec) -> Ended {
        self.start(spec).await.end().await
    }

    pub async fn sh(&self, script: &str) -> Ended {
        self.run(self.shell(script)).await
    }

    /// Shuts down and checks that the machine is as it was.
    pub async fn leave_nothing(self) {
        tokio::time::timeout(PATIENCE, self.runtime.shutdown()).await.expect("shutdown takes too long");
        until("nothing is left", || traces(&self.config).is_empty().then_some(()), || traces(&self.config));
    }
}

impl Run {
    pub async fn end(self) -> Ended {
        let exit = tokio::time::timeout(PATIENCE, self.container.wait()).await.expect("the container does not end");
        Ended { exit, output: self.output.join().unwrap() }
    }
}

impl Ended {
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.exit.code, Some(0), "{:?}: {}", self.exit, self.output);
        self.output
    }
}

/// A specification that only names what differs from the usual.
pub struct Spec {
    pub inner: ContainerSpec,
    reader: std::io::PipeReader,
}

impl Spec {
    pub fn new<const N: usize>(dir: &Path, argv: [&str; N]) -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let (reader, writer) = std::io::pipe().unwrap();
        let inner = ContainerSpec {
            scratch: dir.join(&id),
            id,
            layers: vec![rootfs()],
            argv: argv.map(String::from).to_vec(),
            env: vec![("PATH".into(), "/bin".into())].into(),
            cwd: "/".into(),
            hostname: "box".into(),
            tmpfs: vec![],
            binds: vec![],
            volumes: vec![],
            network: Network::None,
            limits: Limits::default(),
            profile: Profile::Task,
            stdout: writer.try_clone().unwrap().into(),
            stderr: writer.into(),
            loopback_port: None,
        };
        Self { inner, reader }
    }

    pub fn change(mut self, change: impl FnOnce(&mut ContainerSpec)) -> Self {
        change(&mut self.inner);
        self
    }

    pub fn limits(self, limits: Limits) -> Self {
        self.change(|spec| spec.limits = limits)
    }

    pub fn nat(self) -> Self {
        self.change(|spec| spec.network = Network::Nat)
    }

    pub fn build(self) -> Self {
        self.change(|spec| spec.profile = Profile::Build)
    }

    pub fn finish(self) -> (ContainerSpec, std::io::PipeReader) {
        (self.inner, self.reader)
    }
}

/// A folder with busybox and nothing else, made once per machine.
pub fn rootfs() -> PathBuf {
    static ROOT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    ROOT.get_or_init(|| {
        let cache = std::env::var_os("DORIAN_TEST_CACHE").map_or_else(|| "/var/tmp/dorian-test".into(), PathBuf::from);
        fs::create_dir_all(&cache).unwrap();
        let lock = fs::File::create(cache.join("lock")).unwrap();
        lock.lock().unwrap();
        let root = cache.join("busybox-1");
        if !root.exists() {
            make_rootfs(&cache, &root);
        }
        drop(lock);
        root
    })
    .clone()
}

fn make_rootfs(cache: &Path, root: &Path) {
    let work = cache.join("unpack");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(work.join("root/bin")).unwrap();
    run(Command::new("apt-get").args(["download", "busybox-static"]).current_dir(&work));
    let package = fs::read_dir(&work).unwrap().flatten().map(|e| e.path()).find(|p| p.extension().is_some()).unwrap();
    run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(work.join("package")));
    let busybox = ["bin/busybox", "usr/bin/busybox"].map(|path| work.join("package").join(path));
    let busybox = busybox.iter().find(|path| path.exists()).unwrap();
    fs::copy(busybox, work.join("root/bin/busybox")).unwrap();
    let list = Command::new(busybox).arg("--list").output().unwrap().stdout;
    for name in String::from_utf8(list).unwrap().lines().filter(|name| *name != "busybox") {
        symlink("busybox", work.join("root/bin").join(name)).unwrap();
    }
    fs::create_dir(work.join("root/etc")).unwrap();
    fs::write(work.join("root/etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n").unwrap();
    fs::rename(work.join("root"), root).unwrap();
    fs::remove_dir_all(&work).unwrap();
}

/// What a program of this machine printed, by whatever status it ended.
pub fn output_of(command: &mut Command) -> std::process::Output {
    command.output().unwrap_or_else(|error| {
        let package = match command.get_program().to_str() {
            Some("ip") => "iproute2",
            Some("nft") => "nftables",
            Some("losetup") => "mount",
            Some("nsenter") => "util-linux",
            Some("dpkg-deb") => "dpkg",
            Some("apt-get") => "apt",
            Some("find") => "findutils",
            Some("mknod") => "coreutils",
            other => other.unwrap_or_default(),
        };
        panic!("{command:?}: {error}; is the Debian package `{package}` installed?")
    })
}

pub fn run(command: &mut Command) {
    let output = output_of(command);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Marks a layer's folder as hiding lower layers' folder of the same name.
pub fn mark_opaque(folder: &Path) {
    let path = std::ffi::CString::new(folder.to_str().unwrap()).unwrap();
    // SAFETY: both strings are zero-terminated, and the value is one byte long.
    let result =
        unsafe { libc::setxattr(path.as_ptr(), c"trusted.overlay.opaque".as_ptr(), c"y".as_ptr().cast(), 1, 0) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Everything on this machine that carries the runtime's name.
pub fn traces(config: &RuntimeConfig) -> Vec<String> {
    let mut found = Vec::new();
    for tree in
        fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()])
    {
        let group = tree.join(config.cgroup_name());
        if group.exists() {
            found.push(format!("cgroup {}", group.display()));
        }
    }
    for link in fs::read_dir("/sys/class/net").unwrap().flatten().map(|e| e.file_name().into_string().unwrap()) {
        if link == config.bridge_name() || link.starts_with(&config.veth_prefix()) {
            found.push(format!("network link {link}"));
        }
    }
    let tables = output_of(Command::new("nft").args(["list", "tables"])).stdout;
    if String::from_utf8_lossy(&tables).contains(&config.nft_table()) {
        found.push(format!("nftables table {}", config.nft_table()));
    }
    let state = config.state_dir.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(state)).map(|line| format!("mount {line}")));
    found
}

/// Cgroups of single containers, prepared ones included.
pub fn groups(config: &RuntimeConfig) -> Vec<PathBuf> {
    let parent = Path::new("/sys/fs/cgroup/memory").join(config.cgroup_name());
    let parent = if parent.exists() { parent } else { Path::new("/sys/fs/cgroup").join(config.cgroup_name()) };
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()).collect()
}

/// Waits for a state of the machine, not for a time.
#[track_caller]
pub fn until<T, D: std::fmt::Debug>(
    what: &str,
    mut check: impl FnMut() -> Option<T>,
    describe: impl FnOnce() -> D,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check() {
            return value;
        }
        if Instant::now() > deadline {
            panic!("not so after {PATIENCE:?}: {what}; now: {:?}", describe());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The machine's own address on its way out (any of its addresses that is not loopback).
pub fn own_address() -> Ipv4Addr {
    let output = output_of(Command::new("hostname").arg("-I")).stdout;
    let text = String::from_utf8(output).unwrap();
    text.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or(Ipv4Addr::LOCALHOST)
}

pub fn null() -> OwnedFd {
    fs::File::options().write(true).open("/dev/null").unwrap().as_fd().try_clone_to_owned().unwrap()
}
