"""Callers that go away, and what is left of their containers: nothing. And servers that stand still, whose callers stay."""

import os
import signal
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


def a_server_that_stood_still_for_over_a_minute_takes_nobody_for_dead(newest, server):
    running = newest.start("run", "forever.py::main", "--n", 160)
    running.wait_for_line("tick 3", 300)
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        time.sleep(66)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    ended = running.end(120)
    assert ended.code == 0 and "finished in" in ended.out, ended


def what_is_still_starting_when_an_app_ends_prints_nothing_of_its_end(newest, server, tmp_path):
    before = server.container_namespaces()
    logged = server.log.stat().st_size
    running = newest.start("run", "still_starting.py", "--go", tmp_path / "go")
    for line in ("importing", "entering", "square of 12: 144"):
        running.wait_for_line(line)
    (tmp_path / "go").touch()
    ended = running.end(60)
    assert ended.code == 0 and "that is all" in ended.out, ended
    said = ended.out + ended.err
    assert "Traceback" not in said and "KeyboardInterrupt" not in said, ended
    wait_for(lambda: not server.container_namespaces() - before, 10, "no container of the app")
    # The server's log tells an app that came to its end from one whose client fell silent.
    with server.log.open(errors="replace") as log:
        log.seek(logged)
        lines = log.read()
    assert "app finished" in lines and "stopping app" not in lines, lines
