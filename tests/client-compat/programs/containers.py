"""What a container is: what it sees, what it may do, and what it is limited to."""

import os
import socket
import subprocess
import sys
import time

import modal

app = modal.App("containers")
MIB = 1024 * 1024


def can_reach(host, port):
    try:
        socket.create_connection((host, port), timeout=5).close()
        return True
    except OSError:
        return False


@app.function()
def reaches(host, port):
    return can_reach(host, port)


@app.function(block_network=True)
def reaches_without_network(host, port):
    return can_reach(host, port)


@app.function(block_network=True)
def nested_without_network(x):
    return identity.remote(x)


@app.function()
def identity(x):
    return x


@app.function()
def surroundings():
    status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
    return {
        "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
        "effective_capabilities": int(status["CapEff"], 16),
        "no_new_privileges": status["NoNewPrivs"].strip(),
        "seccomp": status["Seccomp"].strip(),
        "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")},
        "mounts": open("/proc/self/mounts").read(),
        "hostname": socket.gethostname(),
        "cwd": os.getcwd(),
        "environment": dict(os.environ),
        "python": sys.version_info[:2],
        "writable": os.access("/", os.W_OK),
        "tmp": os.listdir("/tmp"),
    }


@app.function()
def try_what_is_forbidden():
    """Commands that only a real root could do; each must fail."""
    attempts = {
        "mount": "mount -t tmpfs none /mnt",
        "set the clock": "date -s 2001-01-01",
        "load a module": "modprobe dummy",
        "see raw memory": "head -c1 /dev/mem",
        "make a device": "mknod /tmp/sda b 8 0 && head -c1 /tmp/sda",
        "write a kernel setting": "echo 1 > /proc/sys/kernel/sysrq",
        "leave its control group": "mkdir /sys/fs/cgroup/memory/outside || mkdir /sys/fs/cgroup/outside",
    }
    return {
        name: subprocess.run(["sh", "-c", line], capture_output=True).returncode == 0 for name, line in attempts.items()
    }


@app.function()
def leave_a_file(name):
    with open(f"/tmp/{name}", "w") as file:
        file.write("mine")
    return os.environ["MODAL_TASK_ID"]


@app.function()
def read_a_file(name):
    return os.path.exists(f"/tmp/{name}"), os.environ["MODAL_TASK_ID"]


# 0.63 has no limit of processors.
CPU_LIMIT = {} if modal.__version__.startswith("0.63") else {"cpu": (0.25, 0.5)}


@app.function(memory=(128, 384), **CPU_LIMIT)
def own_limits():
    """Memory, and processor time in a period, as runtimes read them in each layout of control groups."""
    layouts = [
        ["memory.max", "cpu.max"],
        ["memory/memory.limit_in_bytes", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"],
    ]
    folder = "/sys/fs/cgroup"
    files = next(files for files in layouts if os.path.exists(f"{folder}/{files[0]}"))
    return [word for file in files for word in open(f"{folder}/{file}").read().split()]


@app.function(cpu=0.5)
def half_a_processor(seconds):
    """Processor time used while trying to use all of it."""
    started, used = time.monotonic(), time.process_time()
    while time.monotonic() - started < seconds:
        pass
    return time.process_time() - used


@app.function(cpu=2.0, memory=512, ephemeral_disk=1024, timeout=60)
def with_everything():
    return "given"


@app.function()
def both_streams_of_a_child():
    subprocess.run(["sh", "-c", "echo child says out; echo child says err >&2"], check=True)
    os.write(1, b"descriptor one\n")
    os.write(2, b"descriptor two\n")


def check_a_container_has_namespaces_of_its_own():
    seen = surroundings.remote()
    for name in ("pid", "mnt", "ipc", "uts", "net", "cgroup"):
        here = os.readlink(f"/proc/self/ns/{name}")
        assert seen["namespaces"][name] != here, f"{name} is shared with the machine"
    assert len(seen["processes"]) < 20, seen["processes"]


def check_a_container_is_confined():
    seen = surroundings.remote()
    assert seen["seccomp"] == "2", "no seccomp filter"
    assert seen["no_new_privileges"] == "1"
    # CAP_SYS_ADMIN 21, CAP_NET_ADMIN 12, CAP_SYS_MODULE 16, CAP_SYS_PTRACE 19, CAP_SYS_TIME 25, CAP_SYS_RAWIO 17
    held = [bit for bit in (21, 12, 16, 19, 25, 17) if seen["effective_capabilities"] >> bit & 1]
    # With a user namespace of its own a container may hold what is harmless outside of it.
    assert not held or seen["namespaces"]["user"] != os.readlink("/proc/self/ns/user"), held


def check_what_is_forbidden_fails():
    done = [name for name, succeeded in try_what_is_forbidden.remote().items() if succeeded]
    assert not done, done


def check_a_container_knows_itself():
    seen = surroundings.remote()
    environment = seen["environment"]
    assert environment["MODAL_TASK_ID"].startswith("ta-") and len(environment["MODAL_TASK_ID"]) == 29
    assert environment["MODAL_IS_REMOTE"] == "1"
    assert environment["MODAL_IMAGE_ID"].startswith("im-")
    assert seen["cwd"] == "/root"
    assert tuple(seen["python"]) == sys.version_info[:2]
    assert "MODAL_TOKEN_SECRET" not in environment


def check_files_of_one_container_are_not_seen_in_another():
    name = f"left-{time.time_ns()}"
    writer = leave_a_file.remote(name)
    seen, reader = read_a_file.remote(name)
    assert writer != reader and not seen, (writer, reader, seen)


def check_the_network_is_reached_through_nat():
    assert reaches.remote(os.environ["CHECK_HOST"], int(os.environ["CHECK_PORT"]))


def check_a_blocked_network_is_not_reached():
    assert not reaches_without_network.remote(os.environ["CHECK_HOST"], int(os.environ["CHECK_PORT"]))


def check_functions_can_be_called_without_a_network():
    assert nested_without_network.remote(4) == 4


def check_loopback_of_the_machine_is_not_reached():
    host, port = os.environ["MODAL_SERVER_URL"].split("//")[1].split(":")
    assert not reaches.remote(host, int(port))


def check_the_processor_share_is_a_limit_or_a_request():
    # A request for half a processor may be exceeded while others idle; it must at least be granted.
    assert half_a_processor.remote(4) > 0.8


def check_a_container_sees_its_own_limits():
    memory, *processors = own_limits.remote()
    assert memory == str(384 * MIB), memory
    assert processors == ["50000", "100000"] or not CPU_LIMIT, processors


def check_every_resource_can_be_asked_for():
    assert with_everything.remote() == "given"


def check_output_is_taken_by_descriptor():
    # The test looks for the four lines.
    both_streams_of_a_child.remote()


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
