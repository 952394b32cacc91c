"""How many containers there are: from none to twenty and back, what is kept, what is refused, what waits for room."""

import os
import re
import time
from pathlib import Path

import pytest
from harness import NEWEST, VERSIONS, wait_for
from program_checks import assert_check, for_each_check

PROGRAM = "autoscaling.py"


@for_each_check(PROGRAM, without=("an_update_changes_only_what_it_names",))
def autoscaling(clients, version, check):
    assert_check(clients, PROGRAM, version, check, 600)


# Named in `coverage.txt`, so a test of its own.
@pytest.mark.parametrize("version", VERSIONS)
def an_update_changes_only_what_it_names(clients, version):
    assert_check(clients, PROGRAM, version, "an_update_changes_only_what_it_names", 600)


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("memory", "function `work` cannot run here: it asks for 65536 GiB memory; this machine has "),
        ("disk", "function `work` cannot run here: it asks for 102400 GiB disk; this machine has "),
        ("minimum", r"function `work`: `min_containers` is 4000000000; at most 10000 containers can be kept"),
    ],
)
def what_can_never_be_is_refused_when_it_is_defined(client, case, sentence):
    ended = client.run("refused_scaling.py", REFUSED=case)
    assert ended.code != 0 and "it ran" not in ended.out, ended
    said = re.sub(r"[\s│]+", " ", ended.out + ended.err)
    assert sentence in said, ended


def a_function_that_waits_for_room_says_so_once_and_runs_when_there_is_some(client, tmp_path):
    go_on = tmp_path / "go-on"
    running = client.start("run", "waiting_for_room.py", GO_ON=go_on)
    running.wait_for_line("the first works", 120)
    line = running.wait_for_line("waiting for", 60)
    wanted, free = r"[\d.]+ [GM]iB memory", r"[\d.]+ [GM]iB free"
    assert re.search(f"function `second`: waiting for {wanted}; worker has {free}", line), line
    go_on.touch()
    ended = running.end(180)
    assert "the second worked" in ended.out, ended
    assert ended.out.count("waiting for") == 1, ended


@pytest.fixture(scope="module")
def more_than_there_is(clients):
    return clients[NEWEST].run("more_than_there_is.py")


def who_asks_for_more_cpu_than_there_is_runs_with_what_there_is_and_is_told_once(more_than_there_is):
    ended = more_than_there_is
    # Each of them calls the next, and all have a container at the same time.
    assert "RESULT leaf called by large called by larger called by small" in ended.out, ended
    said = re.sub(r"[\s│]+", " ", ended.out + ended.err)
    for name in ("large", "larger"):
        assert said.count(f"`{name}`: `cpu=") == 1 and "is more than this machine has; it runs on" in said, ended
    # What the answer to a client has no place for is in the app's log.
    assert said.count("[dorian] `leaf`: `cpu=") == 1, ended


def an_option_that_changes_nothing_here_is_said_once(more_than_there_is):
    ended = more_than_there_is
    said = re.sub(r"[\s│]+", " ", ended.out + ended.err)
    place = "`region=`, `cloud=`, `nonpreemptible=` and `routing_region=` change nothing here: there is one place, this"
    assert said.count(f"`elsewhere`: {place} machine") == 1, ended
    assert said.count("`elsewhere`: `experimental_options=` changes nothing") == 1, ended
    assert "RESULT elsewhere" in ended.out, ended


def a_container_is_told_how_much_disk_is_free(more_than_there_is):
    ended = more_than_there_is
    free = {name: int(mib) for name, mib in re.findall(r"^free (\S+) (\d+)$", ended.out, re.M)}
    assert set(free) == {"here", "/", "/tmp", "limited:/", "limited:/tmp"}, ended
    # Others write to the disk meanwhile.
    assert free["here"] * 0.8 < free["/"] <= free["here"] + 1024 and free["/"] == free["/tmp"], ended
    assert free["here"] * 0.6 < free["limited:/"] <= free["here"] and free["limited:/"] == free["limited:/tmp"], ended


def deployed_functions_that_nobody_calls_cost_nothing(client, server):
    """Four apps of five functions; by hand, twenty of ten cost as little."""
    ended = client.python("many_idle_apps.py", 4, 5, within_s=180)
    assert ended.code == 0 and "deployed 4 apps" in ended.out, ended
    try:
        # What earlier tests left may still be on its way out: a quiet span must come, not be there at once.
        wait_for(lambda: _cpu_seconds_within(server, 10) < 0.1, 180, "ten seconds below 1 % of a core")
        looked = client.python("many_idle_apps.py", 4, 5, "look", within_s=180)
        assert "20 functions have 0 containers" in looked.out, looked
    finally:
        for row in client.app_list():
            if str(row.get("description", "")).startswith("idle-") and not row.get("stopped_at"):
                client.modal("app", "stop", row["app_id"], *(["-y"] if client.numbers >= (1, 1) else []))


def _cpu_seconds_within(server, seconds):
    def used():
        # The name in parentheses may hold anything; the 14th and 15th fields are user and system time.
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = used()
    time.sleep(seconds)
    return used() - before


def a_function_gets_a_container_while_another_fills_the_machine_with_work(client):
    ended = client.run("full_machine.py", within_s=300)
    assert "the modest one worked" in ended.out, ended
    assert int(re.search(r"the hungry one had (\d+) inputs to go", ended.out).group(1)) > 0, ended
