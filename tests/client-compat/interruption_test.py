"""Callers that go away, and what is left of their containers: nothing."""

import time

import pytest
from harness import NEWEST, container_namespaces, wait_for


def ctrl_c_ends_the_containers_within_five_seconds(client):
    before = container_namespaces()
    running = client.start("run", "forever.py::many")
    for i in range(3):
        running.wait_for_line(f"sleeping {i}")
    wait_for(lambda: len(container_namespaces() - before) >= 3, 10, "three containers")
    running.interrupt()
    wait_for(lambda: not container_namespaces() - before, 5, "all containers gone after Ctrl-C")
    # The exit code is the client's own affair, and differs from run to run.
    running.end(20)
    assert client.running_app("forever") is None, client.app_list()


@pytest.mark.parametrize("version", [NEWEST])
def a_killed_client_is_missed_and_its_app_stopped(clients, version):
    client = clients[version]
    before = container_namespaces()
    running = client.start("run", "forever.py::many")
    running.wait_for_line("sleeping 2")
    running.kill()
    started = time.monotonic()
    wait_for(lambda: not container_namespaces() - before, 120, "containers gone after the client was killed")
    assert client.running_app("forever") is None, client.app_list()
    print(f"missed after {time.monotonic() - started:.0f} s")
