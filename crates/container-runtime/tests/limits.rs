//! What a container is stopped from using, and how that is told.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod common;

use common::{Machine, Spec};
use dorian_container_runtime::Limits;

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn memory_beyond_the_limit_is_killed_and_said_so_with_the_peak() {
    let machine = Machine::new();
    let limits = Limits { memory_bytes: Some(32 * MIB), ..Limits::default() };
    let spec = Spec::new(machine.dir.path(), ["tail", "/dev/zero"]).limits(limits);
    let exit = machine.run(spec).await.exit;
    assert_eq!(exit.signal, Some(libc::SIGKILL));
    assert!(exit.oom_killed);
    assert!((24 * MIB..=32 * MIB).contains(&exit.memory_peak_bytes), "{}", exit.memory_peak_bytes);
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_killed_for_memory_is_reported_even_if_the_program_goes_on() {
    let machine = Machine::new();
    let limits = Limits { memory_bytes: Some(32 * MIB), ..Limits::default() };
    let ended = machine.run(machine.shell("tail /dev/zero; echo status $?; exit 5").limits(limits)).await;
    assert_eq!((ended.exit.code, ended.exit.oom_killed), (Some(5), true));
    assert!(ended.output.contains("status 137"), "{}", ended.output);
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_containers_hunger_leaves_its_neighbour_alone() {
    let machine = Machine::new();
    let limits = Limits { memory_bytes: Some(32 * MIB), ..Limits::default() };
    let neighbour = machine.start(machine.shell("sleep 1; echo fine").limits(limits.clone())).await;
    machine.run(Spec::new(machine.dir.path(), ["tail", "/dev/zero"]).limits(limits)).await;
    let ended = neighbour.end().await;
    assert!(!ended.exit.oom_killed);
    assert_eq!(ended.ok(), "fine\n");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_too_small_to_start_anything_is_an_error_and_not_a_hang() {
    let machine = Machine::new();
    let limits = Limits { memory_bytes: Some(4096), ..Limits::default() };
    let (spec, _reader) = machine.shell("true").limits(limits).finish();
    let outcome = tokio::time::timeout(common::PATIENCE, machine.runtime.create(spec)).await.unwrap();
    if let Ok(container) = outcome {
        assert!(container.wait().await.oom_killed);
    }
    machine.sh("true").await.ok();
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_stops_at_the_process_limit_and_can_be_killed() {
    let machine = Machine::new();
    let limits = Limits { pids: Some(50), ..Limits::default() };
    let run =
        machine.start(machine.shell("bomb() { bomb | bomb & }; bomb; sleep 1; echo survived").limits(limits)).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let group = common::groups(&machine.config).into_iter().filter_map(|group| {
        let name = group.file_name()?.to_str()?.to_string();
        let parent = machine.config.cgroup_name();
        [format!("/sys/fs/cgroup/pids/{parent}/{name}"), format!("/sys/fs/cgroup/{parent}/{name}")].iter().find_map(
            |folder| std::fs::read_to_string(format!("{folder}/pids.current")).ok()?.trim().parse::<u32>().ok(),
        )
    });
    assert!(group.max().unwrap() <= 50);
    run.container.kill();
    run.end().await;
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cpu_ceiling_holds() {
    let machine = Machine::new();
    let limits = Limits { cpu_limit_milli: Some(200), cpu_request_milli: Some(100), ..Limits::default() };
    let run = machine.start(machine.shell("while :; do :; done").limits(limits)).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    run.container.kill();
    let used = run.end().await.exit.cpu_usec;
    assert!(used < 450_000, "used {used} µs in a second, 200000 were allowed");
    machine.leave_nothing().await;
}

/// As programs look for them in each layout: in a tree of controllers, or in the one folder.
const OWN_LIMITS: &str = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us \
                          pids/pids.max 2>/dev/null || cat memory.max cpu.max pids.max";

#[tokio::test(flavor = "multi_thread")]
async fn a_container_reads_its_own_limits() {
    for user_namespaces in [true, false] {
        let machine = Machine::with(|config| config.user_namespaces = user_namespaces);
        let limits =
            Limits { memory_bytes: Some(64 * MIB), cpu_limit_milli: Some(1500), pids: Some(77), ..Limits::default() };
        let output = machine.run(machine.shell(OWN_LIMITS).limits(limits)).await.ok();
        let found: Vec<&str> = output.split_whitespace().collect();
        assert_eq!(found, ["67108864", "150000", "100000", "77"]);
        machine.leave_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_containers_group_is_the_root_of_what_it_sees_of_cgroups() {
    let machine = Machine::new();
    let other = machine.start(machine.shell("sleep 1000")).await;
    // By what `/proc/self/cgroup` and the mounts say, as a Java machine finds its way. Of the processes of other groups the
    // kernel would say that their number is 0 here.
    let script = "grep -E ':(memory|cpu|cpuacct|cpuset|pids|cpu,cpuacct)?:' /proc/self/cgroup | cut -d: -f3 | sort -u; \
                  grep -E ' - cgroup2? ' /proc/self/mountinfo | cut -d' ' -f4 | sort -u; \
                  cd /sys/fs/cgroup; cat $(find . -name cgroup.procs) | sort -n | head -1; \
                  find . -type d -mindepth 2; find . -name '*dorian*'";
    assert_eq!(machine.sh(script).await.ok(), "/\n/\n1\n");
    other.container.kill();
    other.end().await;
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_limit_can_be_changed_from_inside() {
    let machine = Machine::with(|config| config.user_namespaces = false);
    let inside = Machine::new();
    for machine in [machine, inside] {
        let script = "cd /sys/fs/cgroup; n=0; for f in $(find . -type f); do [ -w $f ] && (echo 1 > $f) 2>/dev/null && echo wrote $f; \
                      n=$((n + 1)); done; [ $n -gt 10 ] && echo many; for d in $(find . -type d); do mkdir $d/new 2>/dev/null && echo made $d; done; \
                      mount -o remount,rw /sys/fs/cgroup 2>/dev/null && echo remounted; umount -l /sys/fs/cgroup 2>/dev/null && echo gone; true";
        for build in [false, true] {
            let spec = machine.shell(script);
            assert_eq!(machine.run(if build { spec.build() } else { spec }).await.ok(), "many\n");
        }
        machine.leave_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_beyond_the_disk_limit_fail_with_no_space_left() {
    let machine = Machine::new();
    let limits = Limits { disk_bytes: Some(64 * MIB), ..Limits::default() };
    let script = "dd if=/dev/zero of=/big bs=1M count=60 2>/dev/null && echo sixty fit; \
                  dd if=/dev/zero of=/more bs=1M count=60; rm /big /more; echo x > /small && cat /small";
    let output = machine.run(machine.shell(script).limits(limits)).await.ok();
    assert!(output.starts_with("sixty fit\n"), "{output}");
    assert!(output.contains("No space left on device"), "{output}");
    assert!(output.ends_with("x\n"), "{output}");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_disk_leaves_no_loop_device_and_no_file() {
    let machine = Machine::new();
    let limits = Limits { disk_bytes: Some(64 * MIB), ..Limits::default() };
    let spec = machine.shell("echo x > /file; sleep 1000").limits(limits);
    let scratch = spec.inner.scratch.clone();
    let run = machine.start(spec).await;
    let mine = || {
        let mut list = std::process::Command::new("losetup");
        let text = common::output_of(list.args(["-l", "-n", "-O", "BACK-FILE"])).stdout;
        String::from_utf8(text).unwrap().lines().filter(|line| line.contains(scratch.to_str().unwrap())).count()
    };
    assert_eq!(mine(), 1);
    run.container.kill();
    run.end().await;
    common::until("the loop device is free", || (mine() == 0).then_some(()), mine);
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0);
    machine.leave_nothing().await;
}
