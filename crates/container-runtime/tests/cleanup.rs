//! Whatever is killed, nothing stays behind.
//!
//! The server that gets killed is this test program itself, run once more for the one test that plays it.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod common;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Machine, Spec, traces, until};
use dorian_container_runtime::{Runtime, RuntimeConfig, RuntimeError};

const STATE: &str = "DORIAN_TEST_STATE";

/// Not a test: a server with three containers that waits to be killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the tests below"]
async fn play_the_server() {
    let dir = PathBuf::from(std::env::var_os(STATE).unwrap());
    let runtime = Runtime::start(RuntimeConfig::new(dir.join("state"))).unwrap();
    let mut kept = Vec::new();
    for nat in [true, false, true] {
        let spec = Spec::new(&dir, ["/bin/sh", "-c", "sleep 1000 & sleep 1000"]);
        let (spec, reader) = if nat { spec.nat() } else { spec }.finish();
        let container = runtime.create(spec).await.unwrap();
        println!("container {}", container.pid());
        kept.push((container, reader));
    }
    println!("launcher {}", launcher_of(std::process::id()));
    println!("serving");
    std::future::pending::<()>().await;
}

fn launcher_of(server: u32) -> u32 {
    let children = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let lists = children.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let pids = lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>());
    let name = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    pids.into_iter().find(|pid| name(pid).starts_with("dorian-launch")).unwrap_or_else(|| panic!("none in {server}"))
}

struct Server {
    process: Child,
    launcher: u32,
    containers: Vec<u32>,
}

impl Server {
    fn start(dir: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "play_the_server", "--nocapture"])
            .env(STATE, dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut launcher, mut containers) = (0, Vec::new());
        for line in BufReader::new(process.stdout.take().unwrap()).lines() {
            match line.unwrap().split_once(' ') {
                Some(("container", pid)) => containers.push(pid.parse().unwrap()),
                Some(("launcher", pid)) => launcher = pid.parse().unwrap(),
                _ if launcher != 0 => break,
                _ => {}
            }
        }
        assert_eq!(containers.len(), 3);
        Self { process, launcher, containers }
    }

    fn alive(&self) -> Vec<u32> {
        self.containers.iter().copied().filter(|pid| alive(*pid)).collect()
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn kill(pid: u32) {
    // SAFETY: takes only integers; the process is one that this test has started.
    assert_eq!(unsafe { libc::kill(pid as i32, libc::SIGKILL) }, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_takes_everything_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = RuntimeConfig::new(dir.path().join("state"));
    let mut server = Server::start(dir.path());
    assert_eq!(server.alive().len(), 3);
    assert!(!traces(&config).is_empty());
    server.kill();
    until(
        "nothing is left",
        || (server.alive().is_empty() && traces(&config).is_empty()).then_some(()),
        || traces(&config),
    );
    until("the launcher is gone", || (!alive(server.launcher)).then_some(()), || server.launcher);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_launcher_takes_the_containers_with_it_and_the_next_start_sweeps_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    kill(server.launcher);
    until("the containers are gone", || server.alive().is_empty().then_some(()), || server.alive());
    server.kill();
    let config = RuntimeConfig::new(dir.path().join("state"));
    assert!(!traces(&config).is_empty(), "this test should have something to sweep");

    let runtime = Runtime::start(config.clone()).unwrap();
    assert!(common::groups(&config).len() <= config.warm);
    let (spec, _reader) = Spec::new(dir.path(), ["true"]).nat().finish();
    assert_eq!(runtime.create(spec).await.unwrap().wait().await.code, Some(0));
    runtime.shutdown().await;
    until("nothing is left", || traces(&config).is_empty().then_some(()), || traces(&config));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_right_after_a_kill_waits_for_the_old_launcher_and_works() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    server.kill();
    let config = RuntimeConfig::new(dir.path().join("state"));
    let runtime = Runtime::start(config.clone()).unwrap();
    assert!(server.alive().is_empty());
    runtime.shutdown().await;
    until("nothing is left", || traces(&config).is_empty().then_some(()), || traces(&config));
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_and_creating_end_when_the_launcher_is_killed() {
    let machine = Machine::new();
    let run = machine.start(machine.shell("sleep 1000")).await;
    let launcher: u32 = std::fs::read_to_string(machine.config.state_dir.join("lock")).unwrap().trim().parse().unwrap();
    kill(launcher);
    assert_eq!(run.end().await.exit.signal, Some(libc::SIGKILL));
    let (spec, _reader) = machine.shell("true").finish();
    assert!(matches!(machine.runtime.create(spec).await, Err(RuntimeError::LauncherGone)));
    let config = machine.config.clone();
    let again = Runtime::start(config.clone()).unwrap();
    again.shutdown().await;
    until("nothing is left", || traces(&config).is_empty().then_some(()), || traces(&config));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_last_handle_removes_everything() {
    let machine = Machine::new();
    let run = machine.start(machine.shell("sleep 1000").nat()).await;
    let config = machine.config.clone();
    drop(machine.runtime);
    assert!(!traces(&config).is_empty(), "a container is a handle too");
    drop(run);
    until("nothing is left", || traces(&config).is_empty().then_some(()), || traces(&config));
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_below_the_state_folder_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let config = RuntimeConfig::new(dir.path().join("state"));
    let left = config.state_dir.join("left/over");
    std::fs::create_dir_all(&left).unwrap();
    common::run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&left));
    let runtime = Runtime::start(config.clone()).unwrap();
    let state = config.state_dir.to_str().unwrap();
    assert!(!std::fs::read_to_string("/proc/mounts").unwrap().contains(state));
    runtime.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runtimes_cannot_share_a_state_folder() {
    let machine = Machine::new();
    let config = machine.config.clone();
    let error = tokio::task::spawn_blocking(move || Runtime::start(config)).await.unwrap().err().unwrap().to_string();
    assert!(error.contains("is used by another running server"), "{error}");
    machine.sh("true").await.ok();
    machine.leave_nothing().await;
}
