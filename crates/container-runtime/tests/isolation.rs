//! What a container can see, and what it cannot do.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use common::{Machine, Spec, run};
use dorian_container_runtime::{Bind, LayeredMount, Tmpfs, id_map};

#[tokio::test(flavor = "multi_thread")]
async fn root_inside_is_nobody_outside_but_files_on_disk_belong_to_root() {
    let machine = Machine::new();
    let spec = machine.shell(
        "id -u; echo mine > /file; chown 1000:1000 /file2 2>/dev/null; touch /file2; chown 1000 /file2; sleep 1000",
    );
    let diff = spec.inner.scratch.join("diff");
    let run = machine.start(spec).await;
    common::until("the files are there", || diff.join("file2").exists().then_some(()), || ());
    let status = fs::read_to_string(format!("/proc/{}/status", run.container.pid())).unwrap();
    assert!(status.contains(&format!("Uid:\t{0}\t{0}\t{0}\t{0}", id_map::outside(0))), "{status}");
    run.container.kill();
    assert_eq!(run.end().await.output, "0\n");
    assert_eq!(fs::metadata(diff.join("file")).unwrap().uid(), 0);
    assert_eq!(fs::metadata(diff.join("file2")).unwrap().uid(), 1000);
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_a_layer_and_nothing_else_is_in_it() {
    let machine = Machine::new();
    let spec = machine.shell("mkdir -p /data/sub; echo one > /data/sub/file; rm /etc/passwd; rm -r /bin/sort").build();
    let spec = spec.change(|spec| {
        spec.cwd = "/srv/here".into();
        spec.binds = vec![Bind { source: "/etc".into(), target: "/somewhere/else".into(), read_only: true }];
    });
    let diff = spec.inner.scratch.join("diff");
    machine.run(spec).await.ok();
    let mut names = listing(&diff);
    names.sort();
    assert_eq!(names, ["bin", "bin/sort", "data", "data/sub", "data/sub/file", "etc", "etc/passwd"]);
    for whiteout in ["bin/sort", "etc/passwd"] {
        let meta = fs::symlink_metadata(diff.join(whiteout)).unwrap();
        assert!(meta.file_type().is_char_device() && meta.rdev() == 0, "{whiteout}");
    }

    let upper =
        machine.shell("cat /data/sub/file; ls /etc/passwd /bin/sort; exit 0").change(|spec| spec.layers.push(diff));
    let output = machine.run(upper).await.ok();
    assert!(output.starts_with("one\n") && output.matches("No such file").count() == 2, "{output}");
    machine.leave_nothing().await;
}

fn listing(folder: &Path) -> Vec<String> {
    let mut find = std::process::Command::new("find");
    let output = common::output_of(find.arg(folder).args(["-mindepth", "1", "-printf", "%P\n"]));
    String::from_utf8(output.stdout).unwrap().lines().map(String::from).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whiteout_and_an_opaque_folder_hide_lower_layers() {
    let machine = Machine::new();
    let layer = |name: &str| -> PathBuf {
        let path = machine.dir.path().join(name);
        fs::create_dir_all(path.join("d/old")).unwrap();
        path
    };
    let (low, high) = (layer("low"), layer("high"));
    fs::write(low.join("d/old/file"), "low").unwrap();
    fs::write(low.join("gone"), "low").unwrap();
    run(std::process::Command::new("mknod").arg(high.join("gone")).args(["c", "0", "0"]));
    common::mark_opaque(&high.join("d/old"));
    let spec = machine.shell("ls /d/old; ls /gone").change(|spec| spec.layers.extend([low.clone(), high.clone()]));
    let output = machine.run(spec).await.output;
    assert_eq!(output, "ls: /gone: No such file or directory\n");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_hundred_layers_are_one_root() {
    let machine = Machine::new();
    let mut layers = vec![common::rootfs()];
    for number in 1..400 {
        let layer =
            machine.dir.path().join(format!("a-layer-with-a-rather-long-name-{number}/of/the/kind/that/caches/use"));
        fs::create_dir_all(layer.join("many")).unwrap();
        fs::write(layer.join(format!("many/{number}")), "").unwrap();
        layers.push(layer);
    }
    let output = machine.run(machine.shell("ls /many | wc -l").change(|spec| spec.layers = layers)).await.ok();
    assert_eq!(output.trim(), "399");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_own_processes_are_visible() {
    let machine = Machine::new();
    let output = machine.sh("ls /proc | grep -c '^[0-9]'; cat /proc/1/environ; ls -l /proc/1/root").await.output;
    // The first process, the shell, and the two of the pipeline.
    assert!(output.starts_with("4\n") || output.starts_with("3\n"), "{output}");
    assert_eq!(output.matches("Permission denied").count(), 2, "{output}");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_mount_of_the_machine_is_visible() {
    let machine = Machine::new();
    let output = machine.run(Spec::new(machine.dir.path(), ["cat", "/proc/self/mountinfo"])).await.ok();
    let dir = machine.dir.path().to_str().unwrap();
    assert!(!output.contains(dir) && !output.contains("ext4"), "{output}");
    assert!(output.lines().count() < 30, "{output}");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usual_devices_and_folders_exist() {
    let machine = Machine::new();
    let script = "set -e; cd /dev; ls; head -c 3 zero | wc -c; echo x > null; head -c 1 urandom > null; [ -c tty ]; \
                  [ -d /proc/self/fd ]; echo y > /dev/shm/y; [ -d mqueue ]; [ -e ptmx ]; echo z > /dev/stdout; \
                  df -m /dev/shm | tail -1 | awk '{print $2}'";
    let limits = dorian_container_runtime::Limits { memory_bytes: Some(400 << 20), ..Default::default() };
    let output = machine.run(machine.shell(script).limits(limits)).await.ok();
    let words: Vec<&str> = output.split_whitespace().collect();
    assert_eq!(words.join(" "), "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero 3 z 200");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn host_name_and_its_files_are_the_containers_own() {
    let machine = Machine::new();
    let output = machine.sh("hostname; cat /etc/hostname; grep box /etc/hosts; stat -c %u:%a /etc/hosts").await.ok();
    assert_eq!(output, "box\nbox\n127.0.1.1\tbox\n0:644\n");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_working_folder_is_made_and_entered() {
    let machine = Machine::new();
    let spec = machine.shell("pwd; touch here && stat -c %u .").change(|spec| spec.cwd = "/some/new/place".into());
    assert_eq!(machine.run(spec).await.ok(), "/some/new/place\n0\n");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_is_exactly_what_was_given() {
    let machine = Machine::new();
    let spec = Spec::new(machine.dir.path(), ["env"]).change(|spec| spec.env.push(("A".into(), "b=c d".into())));
    assert_eq!(machine.run(spec).await.ok(), "PATH=/bin\nA=b=c d\n");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn binds_show_files_folders_and_sockets_with_mapped_owners() {
    let machine = Machine::new();
    let host = machine.dir.path().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "content\n").unwrap();
    fs::set_permissions(host.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(host.join("socket")).unwrap();
    let bind =
        |source: &str, target: &str, read_only| Bind { source: host.join(source), target: target.into(), read_only };
    let spec = machine
        .shell("cat /a/file; echo new > /a/new; echo no > /b/no; cat /run/f; echo no > /run/f; test -S /run/s && echo socket; nc -w 1 local:/run/s </dev/null && echo connected")
        .change(|spec| {
            spec.binds = vec![
                bind("", "/a", false),
                bind("", "/b", true),
                bind("file", "/run/f", true),
                bind("socket", "/run/s", false),
            ];
        });
    let output = machine.run(spec).await.output;
    assert!(output.starts_with("content\n"), "{output}");
    assert_eq!(output.matches("Read-only file system").count(), 2, "{output}");
    assert!(output.contains("content\n") && output.contains("socket\n"), "{output}");
    assert_eq!(fs::metadata(host.join("new")).unwrap().uid(), 0);
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bind_may_lie_inside_another_one_or_in_dev() {
    let machine = Machine::new();
    let (outer, inner) = (machine.dir.path().join("outer"), machine.dir.path().join("inner"));
    fs::create_dir(&outer).unwrap();
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("file"), "deep\n").unwrap();
    let bind = |source: &Path, target: &str| Bind { source: source.into(), target: target.into(), read_only: false };
    let spec = machine.shell("cat /a/b/c/file; cat /dev/own").change(|spec| {
        spec.binds = vec![bind(&outer, "/a"), bind(&inner, "/a/b/c"), bind(&inner.join("file"), "/dev/own")];
    });
    assert_eq!(machine.run(spec).await.ok(), "deep\ndeep\n");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tmpfs_is_empty_writable_limited_and_in_no_layer() {
    let machine = Machine::new();
    let host = machine.dir.path().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "bound\n").unwrap();
    let script = "chmod 700 /fast && echo x > /fast/a && cat /fast/a /fast/in/file && ls -A /fast/deeper && \
                  dd if=/dev/zero of=/fast/big bs=1024 count=2048 2>/dev/null || echo full";
    let spec = machine.shell(script).change(|spec| {
        let tmpfs = |target: &str, size_bytes| Tmpfs { target: target.to_owned(), size_bytes };
        spec.tmpfs = vec![tmpfs("/fast", Some(1 << 20)), tmpfs("/fast/deeper", None)];
        spec.binds = vec![Bind { source: host, target: "/fast/in".into(), read_only: true }];
    });
    let diff = spec.inner.scratch.join("diff");
    assert_eq!(machine.run(spec).await.ok(), "x\nbound\nfull\n");
    assert_eq!(fs::read_dir(diff).unwrap().count(), 0);
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scratch_folder_used_again_keeps_what_was_written() {
    let machine = Machine::new();
    let first = machine.shell("echo kept > /kept; mkdir /real; ln -s /real /way").build();
    let scratch = first.inner.scratch.clone();
    machine.run(first).await.ok();
    let second = machine.shell("cat /kept; pwd -P").change(|spec| {
        spec.scratch = scratch;
        spec.cwd = "/way/new".into();
    });
    assert_eq!(machine.run(second).await.ok(), "kept\n/real/new\n");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_the_image_cannot_send_a_bind_out_of_the_container() {
    let machine = Machine::new();
    let layer = machine.dir.path().join("evil");
    fs::create_dir(&layer).unwrap();
    let victim = machine.dir.path().join("victim");
    std::os::unix::fs::symlink(&victim, layer.join("link")).unwrap();
    let spec = machine.shell("cat /link/passwd | head -1").change(|spec| {
        spec.layers.push(layer);
        spec.binds = vec![Bind { source: "/etc".into(), target: "/link".into(), read_only: true }];
    });
    assert!(machine.run(spec).await.ok().starts_with("root:"));
    assert!(!victim.exists());
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_and_namespaces_are_refused() {
    let machine = Machine::new();
    for build in [false, true] {
        for command in
            ["mount -t tmpfs none /tmp", "unshare -U true", "unshare -m true", "chroot / mount -o bind /bin /tmp"]
        {
            let spec = machine.shell(command);
            let ended = machine.run(if build { spec.build() } else { spec }).await;
            assert_ne!(ended.exit.code, Some(0), "{command}: {}", ended.output);
            assert!(
                ended.output.contains("not permitted") || ended.output.contains("denied"),
                "{command}: {}",
                ended.output
            );
        }
    }
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_are_the_listed_ones_and_no_more() {
    let machine = Machine::new();
    let status = |build: bool| {
        let spec = Spec::new(machine.dir.path(), ["grep", "-E", "^(Cap|NoNewPrivs|Seccomp:)", "/proc/self/status"]);
        if build { spec.build() } else { spec }
    };
    let task = machine.run(status(false)).await.ok();
    let sets = |bits: &str| {
        format!(
            "CapInh:\t0000000000000000\nCapPrm:\t{bits}\nCapEff:\t{bits}\nCapBnd:\t{bits}\nCapAmb:\t0000000000000000\n"
        )
    };
    // chown, dac_override, fowner, fsetid, kill, setgid, setuid, net_bind_service, net_raw.
    assert_eq!(task, sets("00000000000024fb") + "NoNewPrivs:\t1\nSeccomp:\t2\n");
    // The same and setpcap, sys_chroot, audit_write, setfcap.
    let build = machine.run(status(true)).await.ok();
    assert_eq!(build, sets("00000000a00425fb") + "NoNewPrivs:\t0\nSeccomp:\t2\n");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kernel_settings_and_secrets_are_out_of_reach() {
    let machine = Machine::new();
    let script = "echo 1 > /proc/sys/kernel/panic; echo 1 > /proc/sys/net/ipv4/ip_forward; echo b > /proc/sysrq-trigger; \
                  mknod /dev/sda b 8 0; mknod /x c 1 1; touch /sys/x; hostname evil; cat /proc/kcore | wc -c; \
                  cat /proc/keys | wc -c; ls /sys/firmware | wc -l; dmesg; date -s 2000-01-01; echo end";
    let output = machine.sh(script).await.ok();
    assert!(output.ends_with("end\n"), "{output}");
    let refused =
        ["panic", "ip_forward", "sysrq-trigger", "/dev/sda", "/x", "/sys/x", "hostname", "klogctl", "can't set date"];
    for word in refused {
        assert!(output.lines().any(|line| line.contains(word)), "{word} was not refused: {output}");
    }
    assert!(output.contains("\n0\n0\n0\n"), "{output}");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_users_exist_and_are_not_root() {
    let machine = Machine::new();
    let output = machine
        .sh("echo secret > /s; chmod 600 /s; su user -c 'id -u; cat /s'; ls -ln /s | awk '{print $3}'")
        .await
        .output;
    assert!(output.starts_with("1000\ncat: can't open '/s': Permission denied\n0\n"), "{output}");
    machine.leave_nothing().await;
}

/// Ids of a directory, of OpenShift, and the largest.
const LARGE_IDS: [u32; 3] = [100_500, 1_000_650_000, 2_147_483_647];

#[tokio::test(flavor = "multi_thread")]
async fn users_and_groups_may_have_large_ids() {
    let machine = Machine::new();
    for id in LARGE_IDS {
        let script = format!(
            "set -e; echo x > /f; chown {id}:{id} /f; chmod 600 /f; stat -c %u:%g /f; \
             echo 'big:x:{id}:{id}::/:/bin/sh' >> /etc/passwd; su big -c 'id -u; id -g; echo own >> /f; echo > /dev/null'; \
             cat /f; chown 0:0 /f; rm /f; mkdir /dev/shm/d; chown {id} /dev/shm/d; rmdir /dev/shm/d"
        );
        for build in [false, true] {
            let spec = machine.shell(&script);
            let output = machine.run(if build { spec.build() } else { spec }).await.ok();
            assert_eq!(output, format!("{id}:{id}\n{id}\n{id}\nx\nown\n"));
        }
    }
    let output = machine.sh("echo x > /f; chown 2147483648 /f; chown :4294967294 /f; stat -c %u:%g /f").await.ok();
    assert_eq!(output.matches("Invalid argument").count(), 2, "{output}");
    assert!(output.ends_with("\n0:0\n"), "{output}");
    machine.leave_nothing().await;
}

/// Wherever they come from: layers, volumes, binds, and a disk of limited size.
#[tokio::test(flavor = "multi_thread")]
async fn root_inside_reads_changes_and_removes_what_large_ids_own() {
    let machine = Machine::new();
    let owned = |name: &str| -> PathBuf {
        let folder = machine.dir.path().join(name).join("d");
        fs::create_dir_all(&folder).unwrap();
        for id in LARGE_IDS {
            let file = folder.join(id.to_string());
            fs::write(&file, "old\n").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            std::os::unix::fs::chown(&file, Some(id), Some(id)).unwrap();
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&folder, Some(LARGE_IDS[1]), Some(LARGE_IDS[1])).unwrap();
        machine.dir.path().join(name)
    };
    let (layer, volume, bind) = (owned("layer"), owned("volume"), owned("bind"));
    let script = "set -e; for f in /d/* /volume/d/* /bind/d/*; do [ $(stat -c %u:%g $f) = ${f##*/}:${f##*/} ]; \
                  echo new >> $f; [ \"$(cat $f)\" = \"$(printf 'old\\nnew')\" ]; chown 0:0 $f; chown 100501 $f; rm $f; done; \
                  rmdir /d /volume/d /bind/d; echo done";
    for disk_bytes in [None, Some(64 << 20)] {
        let spec = machine.shell(script).change(|spec| {
            let upper = machine.dir.path().join(format!("upper-{}", spec.id));
            fs::create_dir(&upper).unwrap();
            spec.limits.disk_bytes = disk_bytes;
            spec.layers.push(layer.clone());
            spec.binds = vec![Bind { source: bind.clone(), target: "/bind".into(), read_only: false }];
            spec.volumes = vec![LayeredMount {
                target: "/volume".into(),
                layers: vec![volume.clone()],
                data: None,
                upper: Some(upper),
                sub_path: None,
                read_only: false,
            }];
        });
        assert_eq!(machine.run(spec).await.ok(), "done\n");
        owned("bind");
    }
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_user_namespaces_the_other_walls_still_stand() {
    let machine = Machine::with(|config| config.user_namespaces = false);
    let script = "id -u; cat /proc/self/uid_map | tr -s ' '; echo x > /file; stat -c %u /file; echo 1 > /proc/sys/kernel/panic; \
                  mount -t tmpfs none /tmp; mknod /sda b 8 0; cat /proc/kcore | wc -c; echo b > /proc/sysrq-trigger; dmesg; \
                  chroot / true; cat /proc/1/environ; hostname evil; echo end";
    let output = machine.run(machine.shell(script).nat()).await.ok();
    assert!(output.starts_with("0\n 0 0 4294967295\n0\n"), "{output}");
    for word in ["panic", "mount", "/sda", "klogctl", "hostname", "environ"] {
        assert!(output.lines().any(|line| line.contains(word)), "{word} was not refused: {output}");
    }
    machine.leave_nothing().await;
}
