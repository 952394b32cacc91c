//! How long a container takes, step by step: `start_bench ROOTFS [LAYERS] [RUNS] [none|nat] [PROGRAM ARGS...]`.
//!
//! `ROOTFS` is an unpacked Debian with Python; empty layers are added above it up to `LAYERS`. The floor in the same
//! table is `unshare` and `chroot` running the same program.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dorian_container_runtime::{ContainerSpec, Limits, Network, Profile, Runtime, RuntimeConfig};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let root = PathBuf::from(args.first().ok_or("usage: start_bench ROOTFS [LAYERS] [RUNS] [none|nat] [PROGRAM...]")?);
    let number = |index: usize, default: usize| args.get(index).and_then(|arg| arg.parse().ok()).unwrap_or(default);
    let (layers, runs) = (number(1, 6), number(2, 30));
    let network = if args.get(3).is_some_and(|arg| arg == "none") { Network::None } else { Network::Nat };
    let argv: Vec<String> = match args.get(4..) {
        Some(rest) if !rest.is_empty() => rest.to_vec(),
        _ => ["python3", "-c", "pass"].map(String::from).to_vec(),
    };
    let dir = std::env::temp_dir().join(format!("dorian-start-bench-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let started = Instant::now();
    let runtime = Runtime::start(RuntimeConfig::new(dir.join("state")))?;
    println!("runtime started in {:.1} ms; warnings: {:?}", millis(started.elapsed()), runtime.warnings());
    let executor = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = executor.block_on(bench(&runtime, &root, &dir, layers, runs, network, &argv));
    executor.block_on(runtime.shutdown());
    fs::remove_dir_all(&dir)?;
    result
}

async fn bench(
    runtime: &Runtime,
    root: &Path,
    dir: &Path,
    layers: usize,
    runs: usize,
    network: Network,
    argv: &[String],
) -> Outcome<()> {
    let mut chain = vec![root.to_path_buf()];
    for index in 1..layers {
        let layer = dir.join(format!("layer{index}"));
        fs::create_dir_all(layer.join("opt"))?;
        fs::write(layer.join(format!("opt/{index}")), "x")?;
        chain.push(layer);
    }
    let mut rows: Vec<(&str, Vec<f64>)> = ["floor: unshare+chroot", "create", "create to exit"].map(|n| (n, vec![])).into();
    rows.extend(["  taken", "  sources", "  overlay", "  assemble", "  exec"].map(|name| (name, vec![])));
    for run in 0..runs {
        rows[0].1.push(floor(root, argv)?);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let scratch = dir.join(format!("scratch{run}"));
        let (mut reader, writer) = std::io::pipe()?;
        let spec = ContainerSpec {
            id: format!("bench-{run}"),
            layers: chain.clone(),
            scratch,
            argv: argv.to_vec(),
            env: vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())],
            cwd: "/root".into(),
            hostname: "bench".into(),
            binds: vec![],
            network,
            limits: Limits { memory_bytes: Some(1 << 30), pids: Some(100), ..Limits::default() },
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
