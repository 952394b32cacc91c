"""Buckets of an S3-compatible store, mounted into containers; what goes wrong with stores, and who hears of it."""

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from harness import NEWEST, free_port, mounts_below, wait_for
from program_checks import assert_check, for_each_check
from store import Door, Store

FILES = {
    "hello.txt": "hello",
    "empty": "",
    "ünï/日本 + %20&?#.txt": "ü",
    "both": "hidden by the folder",
    "both!": "",
    "both/inside": "inside",
    "marked/": "",
    "nested/deep/leaf.txt": "leaf",
    "nested/deep/more/x": "x",
    "odd//empty segment": "",
    "odd/./dot": "",
}
# The large file and the long listing take a while in a store written in Python; one version is enough for them. A page
# of a listing has 1,000 keys, and a part of an upload 8 MiB.
SIZES = {NEWEST: {"CHECK_MANY": 1_100, "CHECK_BIG_MIB": 320}}
SMALL = {"CHECK_MANY": 3, "CHECK_BIG_MIB": 20}


@pytest.fixture(scope="module")
def store():
    store = Store()
    store.call("create_bucket", Bucket="public")
    store.put("public", "page", "page", ACL="public-read")
    yield store
    store.stop()


@pytest.fixture(scope="module")
def bucket_of(store):
    """The bucket of one client version, filled when it is first asked for."""
    made = set()

    def bucket(version):
        name = f"data-{version}"
        if name not in made:
            store.call("create_bucket", Bucket=name)
            for key, text in FILES.items():
                store.put(name, key, text)
            for number in range(SIZES.get(version, SMALL)["CHECK_MANY"]):
                store.put(name, f"many/{number}", "1")
            made.add(name)
        return name

    return bucket


@pytest.fixture(scope="module")
def memory(server):
    """The server's memory when the tests of buckets began, and the most of it since then, in MiB."""

    class Memory(threading.Thread):
        first = most = server.memory_mib()
        is_over = False

        def run(self):
            while not self.is_over:
                self.most = max(self.most, server.memory_mib())
                time.sleep(0.05)

    watcher = Memory(daemon=True)
    watcher.start()
    yield watcher
    watcher.is_over = True


def _variables(store, bucket, endpoint=None):
    return {
        "CHECK_BUCKET": bucket,
        "CHECK_ENDPOINT": endpoint or store.endpoint,
        "CHECK_KEY": store.key,
        "CHECK_SECRET": store.secret,
    }


@for_each_check("buckets.py")
def buckets(clients, version, check, store, bucket_of, memory):
    variables = {**_variables(store, bucket_of(version)), **SIZES.get(version, SMALL)}
    assert_check(clients, "buckets.py", version, check, 400, **variables)


def what_programs_wrote_is_in_the_store(clients, store, bucket_of):
    name = bucket_of(NEWEST)
    assert store.get(name, "written/once") == b"new" and store.get(name, "written/new/deeper/file") == b"text"
    assert store.get(name, "written/ümlaut ☃") == b"snow" and store.get(name, "written/touched") == b""
    assert store.get(name, "written/subshell") == b"two\nthree\n" and store.get(name, "written/copy with mode") == b"hello"
    assert store.head(name, "big")["ContentLength"] == 320 << 20 and store.head(name, "big")["ETag"].endswith('-40"')
    written = store.keys(name, "written/")
    assert "written/half" not in written and not [key for key in written if key.startswith(("written/gone", "written/empty"))]
    assert store.uploads(name) == []


def memory_does_not_grow_with_files(memory):
    memory.is_over = True
    grown = memory.most - memory.first
    # What a mount may hold at most: 96 MiB read ahead and 192 MiB being written.
    assert grown < 300, f"from {memory.first:.0f} by {grown:.0f} MiB, for a file of 320 MiB written and read"


def a_bucket_that_cannot_be_mounted_is_told_of_with_the_reason(newest, store, bucket_of):
    nobody = f"http://127.0.0.1:{free_port()}"
    variables = {**_variables(store, bucket_of(NEWEST)), "CHECK_NOBODY": nobody}
    ended = newest.run("bad_buckets.py", "--what", "missing,wrong_key,half_a_key,nobody_there", **variables)
    said = {line.split()[1]: line for line in ended.out.splitlines() if line.startswith("RESULT ")}
    assert "`no-such-bucket`" in said["missing"] and "`NoSuchBucket`" in said["missing"], ended
    assert "`SignatureDoesNotMatch`" in said["wrong_key"] and "`secret`" in said["wrong_key"], ended
    assert "`AWS_SECRET_ACCESS_KEY`" in said["half_a_key"], ended
    assert nobody in said["nobody_there"] and "refused" in said["nobody_there"], ended
    assert "wrong-but-hush" not in ended.out + ended.err


def a_store_that_goes_away_ends_in_errors_and_the_reason_in_the_log(newest, server, store, bucket_of):
    variables = _variables(store, bucket_of(NEWEST))
    doors = {"shut": Door(store.port), "silence": Door(store.port)}
    # What is asked of a silent store lasts; so it is little, and at the same time as the rest.
    acts = {"shut": "close,stat,list,read,write,remove", "silence": "stat"}
    running = {}
    for how, door in doors.items():
        chosen = {**variables, "CHECK_DOOR": door.endpoint, "CHECK_ACTS": acts[how]}
        running[how] = newest.start("run", "bad_buckets.py", "--what", "go_on_without", **chosen)
    for how, door in doors.items():
        running[how].wait_for_line("the store may go now")
        getattr(door, how)()
    store.put(variables["CHECK_BUCKET"], "go-on", "")
    for how, program in running.items():
        ended = program.end(120)
        failed = dict.fromkeys(acts[how].split(","), "EIO")
        assert f"RESULT go_on_without {failed}" in ended.out, ended
        assert f"at {doors[how].endpoint}: could not look up `/before`" in ended.out, ended
    assert "lost" not in store.keys(variables["CHECK_BUCKET"])


def a_container_that_waits_for_a_store_can_be_stopped(newest, server, store, bucket_of):
    door = Door(store.port)
    variables = {**_variables(store, bucket_of(NEWEST)), "CHECK_DOOR": door.endpoint}
    program = newest.start("run", "bad_buckets.py", "--what", "hang", **variables)
    program.wait_for_line("the store may go now")
    door.silence()
    store.put(variables["CHECK_BUCKET"], "go-on", "")
    program.wait_for_line("asking")
    began = time.monotonic()
    program.interrupt()
    program.end(60)
    wait_for(lambda: not mounts_below(server.data / "mounts"), 15, "the end of the mounts")
    assert time.monotonic() - began < 15


def a_container_ends_though_others_have_copied_its_mount(newest, server, store, bucket_of):
    variables = _variables(store, bucket_of(NEWEST))
    program = newest.start("run", "bad_buckets.py", "--what", "copied_elsewhere", **variables)
    program.wait_for_line("the mount may be copied now")
    # As each start of a system service does.
    copy = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sleep", "120"])
    try:
        mounts = Path(f"/proc/{copy.pid}/mounts")
        wait_for(lambda: os.readlink(f"/proc/{copy.pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt"), 10, "the copy")
        assert str(server.data / "mounts") in mounts.read_text()
        store.put(variables["CHECK_BUCKET"], "is-copied", "")
        ended = program.end(60)
        assert "RESULT copied_elsewhere written" in ended.out, ended
        wait_for(lambda: not newest.container_list(), 30, "the end of the container")
        assert not list((server.data / "mounts").iterdir())
        assert copy.poll() is None, "the mount was there as long as its copy"
    finally:
        copy.kill()
        copy.wait()
    assert [store.get(variables["CHECK_BUCKET"], f"copied-{name}") for name in ("first", "last")] == [b"first", b"last"]


def what_a_killed_server_left_mounted_is_gone_after_the_next_start(newest, server, store, bucket_of):
    variables = _variables(store, bucket_of(NEWEST))
    store.call("delete_object", Bucket=variables["CHECK_BUCKET"], Key="go-on")
    program = newest.start("run", "bad_buckets.py", "--what", "hang", **variables)
    program.wait_for_line("the store may go now")
    left = {line.split()[1] for line in mounts_below(server.data / "mounts")}
    assert left
    server.kill()
    server.start()
    # The call goes on in a container of the next server, which may have mounts of its own by now.
    assert not left & {line.split()[1] for line in mounts_below(server.data / "mounts")}
    assert not [place for place in left if os.path.exists(place)]
    assert store.get(variables["CHECK_BUCKET"], "hello.txt") == b"hello", "what was mounted is still in the store"
    program.kill()
    program.end()
