"""A server that ends in the middle of running and queued inputs, and one that comes back.

`DORIAN_RESTART_RUNNING` (50) inputs run and `DORIAN_RESTART_QUEUED` (500) wait when the server goes, at every client
version, once by `kill -9` and once by SIGTERM. The callers (`.remote`, maps, `.spawn`) know nothing of it.
"""

import json
import os
import re
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest
from harness import wait_for

RUNNING = int(os.environ.get("DORIAN_RESTART_RUNNING", "50"))
QUEUED = int(os.environ.get("DORIAN_RESTART_QUEUED", "500"))
LONG_S = os.environ.get("DORIAN_RESTART_LONG_S", "10")
READY_AGAIN_S = 60
# Calls that their callers wait for are on disk when they have lasted a second.
DURABLE_S = 4


def _attempts(mark):
    """How often each input was begun in the containers that run now; the mark tells ours from another test run's."""
    names = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                names.update(os.listdir(entry / "root/var/tmp" / mark))
            except OSError:
                pass
    return Counter(int(name.partition(".")[0]) for name in names)


def _stop(client, mark):
    """Takes the app away, so that the next test does not see its containers."""
    for row in client.app_list():
        if "restarts" in (row.get("name"), row.get("description")) and not row.get("stopped_at"):
            client.modal("app", "stop", row["app_id"], *(["-y"] if client.numbers >= (1, 1) else []))
    wait_for(lambda: not _attempts(mark), 60, "no container of the app")


def _through_a_restart(client, server, tmp_path, killed):
    deployed = client.modal("deploy", "restarts.py", CHECK_SLOTS=str(RUNNING))
    assert deployed.code == 0, deployed
    mark = f"attempts-{uuid.uuid4().hex}"
    try:
        go = tmp_path / "go"
        caller = client.start_python("restarts.py", RUNNING, QUEUED, go, mark, CHECK_LONG_S=LONG_S)
        caller.wait_for_line("calling", 60)
        wait_for(lambda: len(_attempts(mark)) >= RUNNING, 120, f"{RUNNING} running inputs, not {len(_attempts(mark))}")
        go.touch()
        caller.wait_for_line("queueing", 60)
        time.sleep(DURABLE_S if killed else 0.2)
        before = _attempts(mark)
        server.kill() if killed else server.stop()
        if not killed:
            said = server.log_tail()
            assert re.search(r"interrupting \d+ function calls? \(\d+ inputs? running\); results so far are kept", said), said
        assert before, "nothing ran before the server ended: the load was too short for this machine"
        server.start(READY_AGAIN_S)
        ended = caller.end(900)
        after = _attempts(mark)
    finally:
        _stop(client, mark)
    told = [line for line in ended.out.splitlines() if line.startswith("LOAD ")]
    assert told, ended
    account = json.loads(told[0][len("LOAD ") :])
    assert account == {"wrong": [], "raised": []}, ended
    # Without retries each input runs once, but for those whose container went with the server.
    assert max(before.values()) == 1 and max(after.values()) == 1, (before.most_common(5), after.most_common(5))
    again = [x for x in after if x in before]
    assert len(again) <= RUNNING, f"{len(again)} inputs ran again, and {RUNNING} at most were running"
    missing = set(range(RUNNING + QUEUED)) - set(before) - set(after)
    assert not missing, f"nobody ran {sorted(missing)[:10]}"


@pytest.mark.crash
def every_call_is_answered_though_the_server_is_killed_in_the_middle(client, server, tmp_path):
    _through_a_restart(client, server, tmp_path, killed=True)


@pytest.mark.crash
def every_call_is_answered_though_the_server_is_stopped_and_started_in_the_middle(client, server, tmp_path):
    _through_a_restart(client, server, tmp_path, killed=False)


@pytest.mark.crash
def a_spawned_call_that_is_sent_again_runs_once_also_when_the_next_server_is_asked(newest, server):
    assert newest.modal("deploy", "listed_calls.py").code == 0
    mark = uuid.uuid4().hex
    first = newest.python("repeated_calls.py", "first", mark)
    assert first.code == 0, first
    called, returned = first.out.splitlines()

    def log():
        return newest.modal("app", "logs", "listed-calls", "--tail", "100").out

    # A fetch waits until what was printed is on the disk.
    wait_for(lambda: f"how: spawned-{mark}" in log(), 30, "the call's line in the log")
    server.kill()
    server.start(READY_AGAIN_S)
    again = newest.python("repeated_calls.py", "again", mark)
    assert again.code == 0 and again.out.splitlines()[:2] == [called, returned], again
    wait_for(lambda: f"how: another-{mark}" in log(), 30, "the other call's line in the log")
    assert log().count(f"how: spawned-{mark}") == 1, log()
