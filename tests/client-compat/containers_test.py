"""Containers: each check of `programs/containers.py`, for each version."""

import os
import re
import subprocess
import sys

import pytest
from harness import wait_for
from program_checks import assert_check, for_each_check


OUTSIDE = "198.51.100.2"
SERVE = "import socket; s = socket.create_server(('0.0.0.0', 7777)); print('up', flush=True)\nwhile True: s.accept()[0].close()"


def _ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def listener():
    """A host beside this machine that accepts connections: a network namespace at the end of a cable."""
    name = f"beside{os.getpid()}"
    cable, end = f"bs{os.getpid()}a", f"bs{os.getpid()}b"
    _ip("netns", "add", name)
    _ip("link", "add", cable, "type", "veth", "peer", "name", end, "netns", name)
    _ip("addr", "add", "198.51.100.1/30", "dev", cable)
    _ip("link", "set", cable, "up")
    _ip("-n", name, "addr", "add", f"{OUTSIDE}/30", "dev", end)
    _ip("-n", name, "link", "set", end, "up")
    command = ["ip", "netns", "exec", name, sys.executable, "-c", SERVE]
    serving = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert serving.stdout.readline() == "up\n"
    yield OUTSIDE, 7777
    serving.kill()
    serving.wait()
    _ip("netns", "del", name)


@for_each_check("containers.py")
def containers(clients, listener, version, check):
    host, port = listener
    ended = assert_check(clients, "containers.py", version, check, CHECK_HOST=host, CHECK_PORT=port)
    if check == "output_is_taken_by_descriptor":
        said = ended.out + ended.err
        for line in ("child says out", "child says err", "descriptor one", "descriptor two"):
            assert line in said, f"`{line}` is missing: {said[-3000:]}"


def no_depth_of_folders_brings_the_server_down(server, newest):
    try:
        left = newest.run("deep_folders.py::main")
        assert left.code == 0 and "commit: the volume could not be committed" in left.out, left
        assert "the path `hopeless/d/d/" in left.out and "is too long" in left.out, left
        task = re.search(r"^task: (ta-\w+)", left.out, re.M).group(1)
        wait_for(lambda: not (server.data / "tasks" / task).exists(), 120, "what the container left is taken away")
        seen = newest.run("deep_folders.py::look")
        assert "depth: 1000" in seen.out, seen
    finally:
        gone = newest.modal("volume", "delete", "--yes", "deep-folders")
    assert gone.code == 0, gone
    assert server.process.poll() is None
    # With its last reader.
    wait_for(lambda: not list((server.data / "volumes").glob("vo-*/layers/*/diff/d/d/d")), 90, "the volume's files gone")
