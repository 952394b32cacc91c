"""Containers: each check of `programs/containers.py`, for each version."""

import socket
import threading

import pytest
from program_checks import assert_check, for_each_check


def _outward_address():
    """This machine's own address on its way out, which a container behind NAT can reach."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return probe.getsockname()[0]


@pytest.fixture(scope="module")
def listener():
    """Something outside of every container that accepts connections."""
    listening = socket.create_server(("0.0.0.0", 0))

    def accept():
        while True:
            try:
                listening.accept()[0].close()
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    yield _outward_address(), listening.getsockname()[1]
    listening.close()


@for_each_check("containers.py")
def containers(clients, listener, version, check):
    host, port = listener
    ended = assert_check(clients, "containers.py", version, check, CHECK_HOST=host, CHECK_PORT=port)
    if check == "output_is_taken_by_descriptor":
        said = ended.out + ended.err
        for line in ("child says out", "child says err", "descriptor one", "descriptor two"):
            assert line in said, f"`{line}` is missing: {said[-3000:]}"
