//! How long a container takes, step by step:
//! `start_bench ROOTFS [layers=6] [runs=30] [network=nat|none] [disk=BYTES] [warm=4] [-- PROGRAM ARGS...]`.
//!
//! `ROOTFS` is an unpacked Debian with Python; nearly empty layers are added above it. The floor in the same table is
//! `unshare` and `chroot` running the same program.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dorian_container_runtime::{ContainerSpec, Limits, Network, Profile, Runtime, RuntimeConfig};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

struct Options {
    root: PathBuf,
    layers: usize,
    runs: usize,
    network: Network,
    disk: Option<u64>,
    warm: usize,
    argv: Vec<String>,
}

impl Options {
    fn from_args() -> Outcome<Self> {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let mut halves = args.split(|arg| arg == "--");
        let (own, argv) = (halves.next().unwrap_or_default(), halves.next().map(<[String]>::to_vec));
        let value = |key: &str| own.iter().find_map(|arg| arg.strip_prefix(key)?.strip_prefix('='));
        let number = |key: &str, default: usize| value(key).map_or(Ok(default), str::parse);
        Ok(Self {
            root: own.first().ok_or("which root filesystem? see the head of this example")?.into(),
            layers: number("layers", 6)?,
            runs: number("runs", 30)?,
            network: if value("network") == Some("none") { Network::None } else { Network::Nat },
            disk: value("disk").map(str::parse).transpose()?,
            warm: number("warm", 4)?,
            argv: argv.unwrap_or_else(|| ["python3", "-c", "pass"].map(String::from).to_vec()),
        })
    }
}

fn main() -> Outcome<()> {
    let options = Options::from_args()?;
    let dir = std::env::temp_dir().join(format!("dorian-start-bench-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let started = Instant::now();
    let mut config = RuntimeConfig::new(dir.join("state"));
    config.warm = options.warm;
    let runtime = Runtime::start(config)?;
    println!("runtime started in {:.1} ms; warnings: {:?}", millis(started.elapsed()), runtime.warnings());
    let executor = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = executor.block_on(bench(&runtime, &dir, &options));
    executor.block_on(runtime.shutdown());
    fs::remove_dir_all(&dir)?;
    result
}

async fn bench(runtime: &Runtime, dir: &Path, options: &Options) -> Outcome<()> {
    let Options { root, layers, runs, network, disk, argv, .. } = options;
    let (layers, runs) = (*layers, *runs);
    let mut chain = vec![root.clone()];
    for index in 1..layers {
        let layer = dir.join(format!("layer{index}"));
        fs::create_dir_all(layer.join("opt"))?;
        fs::write(layer.join(format!("opt/{index}")), "x")?;
        chain.push(layer);
    }
    let mut rows: Vec<(&str, Vec<f64>)> =
        ["floor: unshare+chroot", "create", "create to exit"].map(|n| (n, vec![])).into();
    rows.extend(["  taken", "  sources", "  overlay", "  assemble", "  exec"].map(|name| (name, vec![])));
    for run in 0..runs {
        rows[0].1.push(floor(root, argv).unwrap_or_default());
        tokio::time::sleep(Duration::from_millis(100)).await;
        let scratch = dir.join(format!("scratch{run}"));
        let (mut reader, writer) = std::io::pipe()?;
        let spec = ContainerSpec {
            id: format!("bench-{run}"),
            layers: chain.clone(),
            scratch,
            argv: argv.clone(),
            env: vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())].into(),
            cwd: "/root".into(),
            hostname: "bench".into(),
            tmpfs: vec![],
            binds: vec![],
            volumes: vec![],
            network: *network,
            limits: Limits { memory_bytes: Some(1 << 30), pids: Some(100), disk_bytes: *disk, ..Limits::default() },
            profile: Profile::Task,
            stdout: OwnedFd::from(writer.try_clone()?),
            stderr: OwnedFd::from(writer),
            loopback_port: None,
        };
        let asked = Instant::now();
        let container = runtime.create(spec).await?;
        let created = asked.elapsed();
        let exit = container.wait().await;
        let ended = asked.elapsed();
        let mut output = String::new();
        reader.read_to_string(&mut output)?;
        if exit.code != Some(0) {
            return Err(format!("{exit:?}: {output}").into());
        }
        let p = container.phases();
        let phases = [p.taken, p.sources, p.overlay, p.assemble, p.exec].map(|micros| micros as f64 / 1000.0);
        let all = [millis(created), millis(ended)].into_iter().chain(phases);
        rows[1..].iter_mut().zip(all).for_each(|(row, value)| row.1.push(value));
    }
    println!("{:<26}{:>9}{:>9}{:>9}  ms, {runs} runs, {layers} layers, {network:?}", "", "min", "median", "max");
    for (name, mut values) in rows {
        values.sort_by(f64::total_cmp);
        println!("{name:<26}{:>9.2}{:>9.2}{:>9.2}", values[0], values[values.len() / 2], values[values.len() - 1]);
    }
    Ok(())
}

fn floor(root: &Path, argv: &[String]) -> Outcome<f64> {
    let begin = Instant::now();
    let status = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "chroot"])
        .arg(root)
        .args(argv)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/local/bin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .status()?;
    if !status.success() {
        return Err(format!("the floor itself failed: {status}").into());
    }
    Ok(millis(begin.elapsed()))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
