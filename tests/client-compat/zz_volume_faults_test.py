"""The server, or a container that writes, is killed at any moment: what was committed is there, whole.

`DORIAN_VOLUME_FAULTS` sets how many kills (8), `DORIAN_CRASH_SEED` repeats a run.
"""

import json
import os
import random
import re
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from harness import FIRST_CONTAINER_UID, dorian, wait_for

# A running container commits by itself for the first time after five seconds, in the middle of anything.
BEFORE_THE_FIRST_OF_ITS_OWN_S = 4.5
POINTS = int(os.environ.get("DORIAN_VOLUME_FAULTS", "8"))
SEED = int(os.environ.get("DORIAN_CRASH_SEED", "0")) or random.randrange(1, 1 << 32)
FILES = {"a", "b", "deep/c", "deep/er/d", "large", "z"}


def _container_processes_with(mark):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if entry.stat().st_uid >= FIRST_CONTAINER_UID and f"VOLUME_FAULTS_MARK={mark}\0".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            pass
    return found


def _assert_is_a_version(state, acknowledged, exactly):
    """`exactly`: nothing but the program's own commits can have been made, so every file is of the same one. What a container
    commits by itself, while it runs or when it dies, may be partly of the next."""
    versions = {path for path in state if path.startswith("version-")}
    files = {path: number for path, number in state.items() if path not in versions}
    assert set(files) == FILES and 0 not in files.values(), state
    assert min(files.values()) >= acknowledged, (state, acknowledged)
    assert max(files.values()) - min(files.values()) <= (0 if exactly else 1), state
    if exactly:
        assert versions == {f"version-{files['a']}"}, state


@pytest.mark.crash
def every_volume_is_some_committed_version_whatever_is_killed(newest, server):
    print(f"seed {SEED}")
    chance, mark = random.Random(SEED), uuid.uuid4().hex
    newest.modal("volume", "delete", "--yes", "faults")
    acknowledged, exactly = 0, True
    for point in range(POINTS + 1):
        began = time.monotonic()
        running = newest.start("run", "volume_faults.py", VOLUME_FAULTS_MARK=mark)
        try:
            state = json.loads(running.wait_for_line("state", 60).partition(" ")[2])
            if point > 0:
                _assert_is_a_version(state, acknowledged, exactly)
            if point == POINTS:
                break
            running.wait_for_line("committed", 60)
            time.sleep(chance.uniform(0, 0.7))
            kills_server = chance.random() < 0.5
            exactly = kills_server and time.monotonic() - began < BEFORE_THE_FIRST_OF_ITS_OWN_S
            if kills_server:
                server.kill()
            else:
                for process in wait_for(lambda: _container_processes_with(mark), 10, "the container"):
                    _kill(process)
            acknowledged = int(running.text().rpartition("committed ")[2].split()[0])
        finally:
            running.kill()
        if kills_server:
            server.start()
    newest.modal("volume", "delete", "--yes", "faults")


def _kill(process):
    try:
        os.kill(process, 9)
    except ProcessLookupError:
        pass


@pytest.fixture
def little_room(server):
    """The server's volumes on a disk of 32 MiB of their own, for as long as the test lasts."""
    volumes = server.data / "volumes"
    server.stop()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", volumes], check=True)
    server.start()
    yield
    server.stop()
    subprocess.run(["umount", volumes], check=True)
    server.start()


def a_full_disk_refuses_a_commit_whole_and_the_volume_goes_on(newest, little_room):
    ended = newest.run("full_disk.py::main")
    assert ended.code == 0, ended
    assert "refused: " in ended.out and "is full" in ended.out, ended
    assert "\nothers see {'small': 'one'}" in ended.out, ended
    assert "now others see {'small': 'two'}" in ended.out, ended


def a_disk_that_holds_three_versions_takes_twelve_after_each_other(newest, little_room):
    ended = newest.run("full_disk.py::replace")
    assert ended.code == 0 and "committed 11" in ended.out, ended


def what_a_full_disk_did_not_take_is_moved_aside_and_recovered(newest, server, little_room):
    ended = newest.run("full_disk.py::lose")
    assert ended.code == 0, ended
    app = re.search(r"^app (ap-\w+)", ended.out, re.M).group(1)
    told = "what the container wrote to volume `/kept` since its last commit is not in it: the disk under"
    wait_for(lambda: told in newest.modal("app", "logs", app).out, 60, f"`{told}` in the app's log")
    name = re.search(r"dorian volumes recover (\S+?)`", newest.modal("app", "logs", app).out).group(1)
    listed = dorian("volumes", "--data", server.data)
    assert name in listed.stdout, listed
    refused = dorian("volumes", "recover", name, "--data", server.data)
    assert refused.returncode != 0 and "is full" in refused.stderr, refused
    subprocess.run(["mount", "-o", "remount,size=256m", server.data / "volumes"], check=True)
    recovered = dorian("volumes", "recover", name, "--data", server.data)
    assert recovered.returncode == 0 and "in the volume" in recovered.stdout, recovered
    found = newest.modal("volume", "ls", "full-disk").out
    assert "last" in found, found
    listed = dorian("volumes", "--data", server.data)
    assert name not in listed.stdout, listed
