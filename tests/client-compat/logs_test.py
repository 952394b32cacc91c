"""What apps printed, asked for later: from memory, from the disk, and after the server has died in between."""

import json
import re
from datetime import datetime, timezone

import pytest
from harness import NEWEST, wait_for

APP = "kept-logs"
READY_AGAIN_S = 60


def _ask(client, text, app=APP):
    asked = client.python("kept_logs.py", text, CHECK_APP=app, within_s=240)
    assert asked.code == 0, asked
    return json.loads(asked.out.splitlines()[-1])


def _said(client, app, *narrowed):
    """The lines of ours that `modal app logs` gives."""
    told = client.modal("app", "logs", app, *narrowed)
    assert told.code == 0, told
    return re.findall(r"((?:say|complain): \w+)", told.out)


def _wait_until_said(client, app, line):
    # A line may come a moment after the result of the call that printed it.
    wait_for(lambda: line in _said(client, app), 60, f"`{line}` in the log")


def _restart(server):
    server.kill()
    server.start(READY_AGAIN_S)


@pytest.fixture(scope="module")
def history(server, clients):
    """An app that printed, lived through the server's death and printed again: what each call was, and a time between."""
    newest = clients[NEWEST]
    deployed = newest.modal("deploy", "kept_logs.py", within_s=240)
    assert deployed.code == 0, deployed
    before = _ask(newest, "before")
    _wait_until_said(newest, APP, "complain: before")
    _restart(server)
    between = datetime.now(timezone.utc).isoformat()
    after = _ask(newest, "after")
    _wait_until_said(newest, APP, "complain: after")
    yield before, between, after
    newest.modal("app", "stop", APP, "-y")


def what_was_printed_before_the_server_died_is_still_told(newest, history):
    assert _said(newest, APP) == ["say: before", "complain: before", "say: after", "complain: after"]
    assert _said(newest, APP, "--tail", "2") == ["say: after", "complain: after"]


def a_log_is_narrowed_to_a_time(newest, history):
    _, between, _ = history
    assert _said(newest, APP, "--since", between) == ["say: after", "complain: after"]
    assert _said(newest, APP, "--since", "1h", "--until", between) == ["say: before", "complain: before"]
    assert _said(newest, APP, "--until", between, "--tail", "1") == ["complain: before"]


def a_log_is_narrowed_to_a_function_a_container_and_a_call(newest, history):
    before, _, after = history
    assert _said(newest, APP, "--function", before["say"]["function"]) == ["say: before", "say: after"]
    assert _said(newest, APP, "--container", before["complain"]["task"]) == ["complain: before"]
    for call, line in ((before["say"], "say: before"), (after["complain"], "complain: after")):
        assert _said(newest, APP, "--function-call", call["call"]) == [line]
    shown = newest.modal("app", "logs", APP, "--show-function-call-id")
    assert re.search(f"{after['say']['call']}.*say: after", shown.out), shown


def a_log_is_narrowed_to_a_source_and_to_a_text(newest, history):
    assert _said(newest, APP, "--source", "stderr") == ["complain: before", "complain: after"]
    assert _said(newest, APP, "--search", "after") == ["say: after", "complain: after"]


def the_log_of_an_ended_container_is_told_by_its_id(client, server):
    app = f"ended-{client.version.replace('.', '-')}"
    deployed = client.modal("deploy", "kept_logs.py", CHECK_APP=app, within_s=240)
    assert deployed.code == 0, deployed
    container = _ask(client, "goodbye", app)["say"]["task"]
    sure = ["-y"] if client.numbers >= (1, 1) else []
    client.modal("app", "stop", client.running_app(app)["app_id"], *sure)
    wait_for(lambda: container not in {row["container_id"] for row in client.container_list()}, 60, "its end")
    for remembered in (True, False):
        told = client.modal("container", "logs", container)
        said = re.findall(r"(?:say|complain): \w+", told.out)
        assert told.code == 0 and said == ["say: goodbye"], (remembered, told)
        if remembered:
            _restart(server)
    absent = client.modal("container", "logs", "ta-" + "0" * 26)
    assert absent.code != 0 and "no log of it is kept" in absent.out + absent.err, absent


def the_log_of_a_stopped_app_survives_a_restart(client, newest, server):
    ended = client.run("entries.py::shout", "--text", "remembered")
    assert ended.code == 0, ended
    app_id = re.search(r"\bap-\w+", ended.out + ended.err).group(0)
    # This way of asking waits for the disk; what the disk has not got yet may be lost with the server.
    assert "REMEMBERED! " in newest.modal("app", "logs", app_id).out
    _restart(server)
    told = client.modal("app", "logs", app_id)
    assert told.code == 0 and told.out.count("REMEMBERED! ") == 1, told


def a_follower_goes_on_after_a_restart_and_sees_nothing_twice(newest, server):
    app = "followed"
    deployed = newest.modal("deploy", "kept_logs.py", CHECK_APP=app, within_s=240)
    assert deployed.code == 0, deployed
    app_id = newest.running_app(app)["app_id"]

    def follow(position, until):
        ended = newest.python("follow_log.py", app_id, position, until)
        assert ended.code == 0 and until in ended.out, ended
        return re.findall(r"^(\S+) ((?:say|complain): \w+)$", ended.out, re.M)

    _ask(newest, "one", app)
    seen = follow("", "complain: one")
    assert [line for _, line in seen] == ["say: one", "complain: one"]
    # What the disk has of it is what a fetch waited for.
    _wait_until_said(newest, app, "complain: one")
    _restart(server)
    assert [line for _, line in follow(seen[0][0], "complain: one")] == ["complain: one"], "not read from the disk"
    _ask(newest, "two", app)
    assert [line for _, line in follow(seen[1][0], "complain: two")] == ["say: two", "complain: two"]
    newest.modal("app", "stop", app_id, "-y")
