//! Starting, watching, signalling and ending containers.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Machine, Spec, until};
use dorian_container_runtime::{Bind, ContainerSpec, RuntimeError};

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_of_the_program_is_reported() {
    let machine = Machine::new();
    for code in [0, 1, 42, 255] {
        let ended = machine.sh(&format!("exit {code}")).await;
        assert_eq!((ended.exit.code, ended.exit.signal), (Some(code), None));
    }
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_ends_the_program_is_reported() {
    let machine = Machine::new();
    let ended = machine.sh("kill -SEGV $$; sleep 100").await;
    assert_eq!((ended.exit.code, ended.exit.signal), (None, Some(libc::SIGSEGV)));
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_work_on_the_program_as_on_any_process() {
    let machine = Machine::new();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGUSR1] {
        let run = machine.start(Spec::new(machine.dir.path(), ["/bin/sleep", "100"])).await;
        run.container.signal(signal);
        assert_eq!(run.end().await.exit.signal, Some(signal));
    }
    let run =
        machine.start(machine.shell("trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.05; done")).await;
    // The shell may not have set its trap yet; a second signal does no harm.
    tokio::time::sleep(Duration::from_millis(300)).await;
    run.container.signal(libc::SIGTERM);
    let ended = run.end().await;
    assert_eq!((ended.exit.code, ended.output.as_str()), (Some(7), "ready\ncaught\n"));
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_starts_with_default_signal_actions_and_nothing_blocked() {
    let machine = Machine::new();
    let output = machine.run(Spec::new(machine.dir.path(), ["grep", "^Sig", "/proc/self/status"])).await.ok();
    for field in ["SigBlk", "SigIgn", "SigCgt"] {
        assert!(output.contains(&format!("{field}:\t0000000000000000")), "{output}");
    }
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_may_wait_and_also_after_the_end() {
    let machine = Machine::new();
    let run = machine.start(machine.shell("sleep 0.2; exit 3")).await;
    let container = Arc::new(run.container);
    let waiters: Vec<_> = (0..5)
        .map(|_| {
            let container = container.clone();
            tokio::spawn(async move { container.wait().await.code })
        })
        .collect();
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap(), Some(3));
    }
    assert_eq!(container.wait().await.code, Some(3));
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_of_all_processes_is_captured() {
    let machine = Machine::new();
    let output = machine.sh("echo one; (echo two; sh -c 'echo three >&2'); (sleep 0.2; echo four) & wait").await.ok();
    assert_eq!(output, "one\ntwo\nthree\nfour\n");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_is_empty() {
    let machine = Machine::new();
    assert_eq!(machine.sh("cat; readlink /proc/self/fd/0").await.ok(), "/dev/null\n");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_descriptor_reaches_the_program() {
    let machine = Machine::new();
    // The fourth is the folder that `ls` itself has opened.
    assert_eq!(machine.run(Spec::new(machine.dir.path(), ["ls", "/proc/self/fd"])).await.ok(), "0\n1\n2\n3\n");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_ends_everything_in_the_container() {
    let machine = Machine::new();
    let script = "for i in 1 2 3 4 5; do (trap '' TERM INT HUP; sleep 1000) & done; echo up; exec sleep 1000";
    let run = machine.start(machine.shell(script)).await;
    let asked = Instant::now();
    run.container.kill();
    let ended = run.end().await;
    assert_eq!(ended.exit.signal, Some(libc::SIGKILL));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn background_processes_end_with_the_program() {
    let machine = Machine::new();
    let asked = Instant::now();
    assert_eq!(machine.sh("sleep 1000 & setsid sleep 1000 & echo bye").await.ok(), "bye\n");
    assert!(asked.elapsed() < Duration::from_secs(10));
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_do_not_stay_zombies() {
    let machine = Machine::new();
    let script = "for i in 1 2 3 4 5; do (sleep 0 &) ; done; sleep 0.5; grep -l 'State:.Z' /proc/[0-9]*/status | wc -l";
    assert_eq!(machine.sh(script).await.ok().trim(), "0");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_container_is_killed() {
    let machine = Machine::new();
    let run = machine.start(machine.shell("sleep 1000")).await;
    let pid = run.container.pid();
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    drop(run.container);
    until("the program is gone", || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()), || pid);
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_exist_is_an_error_that_names_it() {
    let machine = Machine::new();
    let (spec, _) = Spec::new(machine.dir.path(), ["no-such-program"]).finish();
    let error = machine.runtime.create(spec).await.err().unwrap();
    assert!(matches!(error, RuntimeError::Exec { .. }));
    assert!(error.to_string().ends_with("cannot run `no-such-program`: not found in `PATH` (/bin)"), "{error}");
    let (spec, _) = Spec::new(machine.dir.path(), ["/etc/passwd"]).finish();
    let error = machine.runtime.create(spec).await.err().unwrap().to_string();
    assert!(error.contains("Permission denied"), "{error}");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_layer_is_an_error_that_names_it_and_the_next_container_works() {
    let machine = Machine::new();
    let (spec, _) = machine.shell("true").change(|spec| spec.layers.push("/no/such/layer".into())).finish();
    let error = machine.runtime.create(spec).await.err().unwrap().to_string();
    assert!(error.contains("cannot open `/no/such/layer`: No such file"), "{error}");
    machine.sh("true").await.ok();
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_nobody_waits_for_any_more_is_undone() {
    let machine = Machine::new();
    let (spec, _reader) = machine.shell("sleep 1000").finish();
    let creation = machine.runtime.create(spec);
    assert!(tokio::time::timeout(Duration::ZERO, creation).await.is_err());
    until(
        "only the prepared container is left",
        || (common::groups(&machine.config).len() <= 1).then_some(()),
        || common::groups(&machine.config),
    );
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_containers_at_once_are_fifty_containers() {
    let machine = Arc::new(Machine::with(|config| config.warm = 4));
    let tasks: Vec<_> = (0..50)
        .map(|number| {
            let machine = machine.clone();
            tokio::spawn(async move {
                let spec = machine.shell(&format!("echo {number} $$; sleep 0.3; exit {number}")).nat();
                let ended = machine.run(spec).await;
                (number, ended.exit.code, ended.output)
            })
        })
        .collect();
    for task in tasks {
        let (number, code, output) = task.await.unwrap();
        assert_eq!((code, output), (Some(number), format!("{number} 2\n")));
    }
    Arc::into_inner(machine).unwrap().leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_and_peak_are_accounted_to_the_container() {
    let machine = Machine::new();
    let run =
        machine.start(machine.shell("x=$(head -c 20000000 /dev/zero | tr '\\0' x); echo ${#x}; sleep 1000")).await;
    until(
        "twenty megabytes are in use",
        || (run.container.usage().memory_bytes > 20_000_000 && run.container.usage().cpu_usec > 1000).then_some(()),
        || run.container.usage(),
    );
    run.container.kill();
    let exit = run.end().await.exit;
    assert!(exit.memory_peak_bytes > 20_000_000 && exit.cpu_usec > 1000 && !exit.oom_killed, "{exit:?}");
    machine.leave_nothing().await;
}

/// Each of these breaks another step of making a container.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_step_fails_the_error_names_it_and_nothing_stays_behind() {
    let machine = Machine::new();
    let file = machine.dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let bind = |source: &str, target: &str| Bind { source: source.into(), target: target.into(), read_only: true };
    type Breaking<'a> = Box<dyn FnOnce(&mut ContainerSpec) + 'a>;
    let broken: Vec<(&str, Breaking<'_>)> = vec![
        ("cannot open `/no/such/layer`", Box::new(|spec| spec.layers = vec!["/no/such/layer".into()])),
        ("cannot make", Box::new(|spec| spec.scratch = file.join("below"))),
        ("cannot open `/no/source`", Box::new(|spec| spec.binds = vec![bind("/no/source", "/x")])),
        ("look for `/bin/sh/x`", Box::new(|spec| spec.binds = vec![bind("/etc", "/bin/sh/x")])),
        ("cannot set host name", Box::new(|spec| spec.hostname = "h".repeat(100))),
        ("cannot enter `/bin/sh`", Box::new(|spec| spec.cwd = "/bin/sh".into())),
        ("`memory.limit_in_bytes`|memory", Box::new(|spec| spec.limits.memory_bytes = Some(0))),
        ("cannot pass", Box::new(|spec| spec.argv.push("zero\0byte".into()))),
        ("no program was named", Box::new(|spec| spec.argv.clear())),
    ];
    for (message, change) in broken {
        let (spec, _reader) = machine.shell("true").change(change).finish();
        let outcome = tokio::time::timeout(common::PATIENCE, machine.runtime.create(spec)).await.expect(message);
        let error = outcome.err().unwrap_or_else(|| panic!("no error: {message}")).to_string();
        assert!(message.split('|').any(|part| error.contains(part)), "expected `{message}`: {error}");
    }
    machine.sh("true").await.ok();
    until(
        "only the prepared container is left",
        || (common::groups(&machine.config).len() <= 1).then_some(()),
        || common::groups(&machine.config),
    );
    machine.leave_nothing().await;
}
