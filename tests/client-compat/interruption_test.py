"""Callers that go away, and what is left of their containers: nothing."""

import time

import pytest
from harness import NEWEST, best_of, still_there, wait_for


@pytest.mark.older_clients("they say goodbye in other ways")
def ctrl_c_ends_the_containers_within_five_seconds(client, server):
    def seconds_until_gone():
        before = server.container_namespaces()
        running = client.start("run", "forever.py::many")
        for i in range(3):
            running.wait_for_line(f"sleeping {i}")
        mine = server.container_namespaces() - before
        assert mine, "three functions run, and no container"
        interrupted = time.monotonic()
        running.interrupt()
        wait_for(lambda: not still_there(mine), 60, "all containers gone after Ctrl-C")
        took = time.monotonic() - interrupted
        # The exit code is the client's own affair, and differs from run to run.
        running.end(60)
        assert client.running_app("forever") is None, client.app_list()
        return took

    assert best_of(3, 5, seconds_until_gone) <= 5


@pytest.mark.parametrize("version", [NEWEST])
def a_killed_client_is_missed_and_its_app_stopped(clients, server, version):
    client = clients[version]
    before = server.container_namespaces()
    running = client.start("run", "forever.py::many")
    running.wait_for_line("sleeping 2")
    running.kill()
    started = time.monotonic()
    wait_for(lambda: not server.container_namespaces() - before, 120, "containers gone after the client was killed")
    assert client.running_app("forever") is None, client.app_list()
    print(f"missed after {time.monotonic() - started:.0f} s")
