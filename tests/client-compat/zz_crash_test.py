"""`kill -9` of the server at any moment. Runs last: the server of the session dies and rises many times here.

`DORIAN_CRASH_POINTS` sets how many kills (50), `DORIAN_CRASH_SEED` repeats a run.
"""

import json
import os
import random
import time

import pytest
from harness import (
    control_groups,
    mounts_below,
    network_links,
    processes_naming,
    still_there,
    wait_for,
)

POINTS = int(os.environ.get("DORIAN_CRASH_POINTS", "50"))
SEED = int(os.environ.get("DORIAN_CRASH_SEED", "0")) or random.randrange(1, 1 << 32)
READY_AGAIN_S = 60


@pytest.mark.crash
def what_spawn_accepted_is_there_after_a_restart(newest, server):
    running = newest.start("run", "--detach", "forever.py::spawned", "--n", "6")
    call_id = running.wait_for_line("spawned fc-").split()[1]
    running.wait_for_line("tick 1")
    server.kill()
    server.start(READY_AGAIN_S)
    got = newest.python(
        "-c",
        "import modal, sys; print('got', modal.functions.FunctionCall.from_id(sys.argv[1]).get(timeout=90))",
        call_id,
    )
    running.end(60)
    assert got.code == 0 and got.out.startswith("got ta-"), got


@pytest.mark.crash
def a_result_not_yet_fetched_is_there_after_a_restart(newest, server):
    running = newest.start("run", "--detach", "forever.py::spawned", "--n", "1")
    call_id = running.wait_for_line("spawned fc-").split()[1]
    running.end(60)
    server.kill()
    server.start(READY_AGAIN_S)
    got = newest.python(
        "-c",
        "import modal, sys; print('got', modal.functions.FunctionCall.from_id(sys.argv[1]).get(timeout=30))",
        call_id,
    )
    assert got.code == 0 and got.out.startswith("got ta-"), got


@pytest.mark.crash
def what_a_dead_program_waited_for_does_not_run_again(newest, server):
    before = {row["app_id"] for row in newest.app_list()}
    running = newest.start("run", "forever.py::main")
    running.wait_for_line("tick 5")  # It has lasted for more than a second, so it is on disk.
    (app,) = {row["app_id"] for row in newest.app_list()} - before
    running.kill()
    server.kill()
    server.start(READY_AGAIN_S)
    stopped = lambda: any(row["app_id"] == app and row.get("stopped_at") for row in newest.app_list())
    wait_for(stopped, 120, "the end of the app whose client is gone")
    said = newest.modal("app", "logs", app).out
    assert said.count("tick 0 in") == 1, said


INSTANCE = """
import modal, pathlib, sys, time
plain = modal.Cls.from_name(sys.argv[1], "Plain").with_options(timeout=77)()
call = plain.slow.spawn(2)
print("spawned", call.object_id, flush=True)
while not pathlib.Path(sys.argv[2]).exists():
    time.sleep(0.05)
print("got", call.get(timeout=90), plain.slow.remote(0), flush=True)
"""


@pytest.mark.crash
def an_instance_with_options_goes_on_after_a_restart(newest, server, tmp_path):
    deployed = newest.modal("deploy", "deployed_classes.py")
    assert deployed.code == 0, deployed
    go = tmp_path / "go"
    running = newest.start_python("-c", INSTANCE, f"deployed-classes-{newest.version}", go)
    running.wait_for_line("spawned fc-")
    server.kill()
    server.start(READY_AGAIN_S)
    go.touch()
    ended = running.end(120)
    assert ended.code == 0 and "got 2 0" in ended.out, ended


@pytest.mark.crash
def nothing_accepted_is_lost_or_delivered_twice_over_many_crashes(newest, server, tmp_path):
    chance = random.Random(SEED)
    ledger = tmp_path / "ledger"
    caller = newest.start_python("crash_load.py", ledger)
    caller.wait_for_line("loading", 120)
    print(f"{POINTS} crashes with DORIAN_CRASH_SEED={SEED}")
    slowest = 0.0
    for _ in range(POINTS):
        # Short lives hit start-up and recovery, long ones the steady state.
        time.sleep(chance.choice([chance.uniform(0.0, 0.3), chance.uniform(0.3, 2.5)]))
        server.kill()
        started = time.monotonic()
        server.start(READY_AGAIN_S)
        slowest = max(slowest, time.monotonic() - started)
    time.sleep(1)
    (tmp_path / "ledger.stop").touch()
    ended = caller.end(600)
    told = [line for line in ended.out.splitlines() if line.startswith("ACCOUNT ")]
    assert told, ended
    account = json.loads(told[0][len("ACCOUNT ") :])
    print(
        f"slowest start after a crash {slowest:.1f} s",
        {k: v if isinstance(v, int) else len(v) for k, v in account.items()},
    )
    assert account["lost"] == [] and account["wrong"] == [], account
    assert account["twice"] == [] and account["missing"] == [], account
    assert account["silent_callers"] == 0, "a caller got neither an answer nor an error"
    # The load was real. With a server that lives for a second or two, most callers that wait learn of its death.
    told = account["remote_answered"] + account["remote_refused"]
    assert account["spawned"] > POINTS and account["remote_answered"] >= 1 and told >= POINTS // 2, account


@pytest.mark.crash
def a_stopped_server_leaves_nothing_behind(newest, server):
    """After all these crashes, and with a container running at the end."""
    running = newest.start("run", "forever.py::main")
    running.wait_for_line("tick 1")
    tag = server.tag()
    assert network_links(tag) and control_groups(tag)
    server.kill()
    server.start(READY_AGAIN_S)
    running.kill()
    running.end(5)
    containers = server.container_namespaces()
    assert server.stop() == 0, "`dorian up` did not end well after SIGTERM"
    try:
        wait_for(lambda: not still_there(containers), 30, "no container")
        wait_for(lambda: not processes_naming(server.data), 30, "no process of the server")
        assert not mounts_below(server.data), mounts_below(server.data)
        assert not control_groups(tag), control_groups(tag)
        assert not network_links(tag), network_links(tag)
    finally:
        server.start(READY_AGAIN_S)
