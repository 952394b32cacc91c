"""Deploying, deploying again, going back: what a deployed app answers, and which version of it."""

import json
import re
import time

import pytest
from harness import VERSIONS

# The data directory of a former run may still have its apps.
RUN = f"{time.time():.0f}"
FOR_HISTORY = [version for version in VERSIONS if tuple(map(int, version.split("."))) >= (1, 6)]


def _deploy(client, name, code, *options):
    ended = client.modal("deploy", *options, "deployed.py", APP_NAME=name, CODE=code)
    assert ended.code == 0, ended
    return ended


def _call(client, name, function="code", *arguments):
    ended = client.python("call_deployed.py", name, function, *arguments)
    assert ended.code == 0, ended
    return ended.out


def a_call_runs_what_was_deployed_last(client):
    name = f"last-{client.version}-{RUN}"
    _deploy(client, name, "one")
    assert "answer: one" in _call(client, name)
    _deploy(client, name, "two-new")
    assert "answer: two-new" in _call(client, name)
    assert "answer: only new" in _call(client, name, "only_new")
    _deploy(client, name, "three")
    assert "answer: three" in _call(client, name)
    assert "NotFound" in _call(client, name, "only_new")


def a_call_that_runs_finishes_on_the_code_it_began_with(client):
    name = f"running-{client.version}-{RUN}"
    _deploy(client, name, "one")
    running = client.start_python("call_deployed.py", name, "slow_code", "12")
    logs = client.start("app", "logs", name if client.numbers >= (0, 70) else _app_id(client, name), *_follow(client))
    logs.wait_for_line("began one")
    _deploy(client, name, "two")
    assert "answer: two" in _call(client, name)
    ended = running.end()
    assert "answer: one" in ended.out, ended
    logs.kill()


def _follow(client):
    return ["-f"] if client.numbers >= (1, 1) else []


def _app_id(client, name):
    return client.running_app(name)["app_id"]


def _history(client, name):
    ended = client.modal("app", "history", name, "--json")
    assert ended.code == 0, ended
    return {row["version"]: row for row in json.loads(ended.out)}


@pytest.mark.parametrize("version", FOR_HISTORY)
def earlier_versions_are_listed_and_brought_back(clients, version):
    client = clients[version]
    name = f"history-{version}-{RUN}"
    _deploy(client, name, "one", "--tag", "first")
    _deploy(client, name, "two-new")
    rolled = client.modal("app", "rollback", name)
    assert rolled.code == 0, rolled
    assert "answer: one" in _call(client, name)
    assert "NotFound" in _call(client, name, "only_new")
    rolled = client.modal("app", "rollback", name, "v2")
    assert rolled.code == 0, rolled
    assert "answer: two-new" in _call(client, name)
    assert "answer: only new" in _call(client, name, "only_new")
    rolled = client.modal("app", "rollback", name, "v9")
    assert rolled.code != 0 and "no version v9" in rolled.out + rolled.err, rolled
    over = client.modal("app", "rollover", name)
    assert over.code == 0, over
    history = _history(client, name)
    assert set(history) == {"v1", "v2", "v3", "v4", "v5"}, history
    assert history["v1"]["tag"] == "first", history


@pytest.mark.parametrize("version", FOR_HISTORY)
def a_staged_version_is_live_only_when_promoted(clients, version):
    client = clients[version]
    name = f"staged-{version}-{RUN}"
    _deploy(client, name, "one")
    staged = client.modal("deploy", "--staged", "deployed.py", APP_NAME=name, CODE="two")
    assert staged.code == 0, staged
    assert "answer: one" in _call(client, name)
    promoted = client.modal("app", "promote", name, "v2")
    assert promoted.code == 0, promoted
    assert "answer: two" in _call(client, name)


@pytest.mark.parametrize("version", FOR_HISTORY)
def an_app_tells_its_state_and_functions(clients, version):
    client = clients[version]
    name = f"info-{version}-{RUN}"
    _deploy(client, name, "one")
    told = client.modal("app", "info", name, "--json")
    assert told.code == 0 and re.search(r'"slow_code"', told.out), told


def a_wrong_name_is_answered_with_near_ones(client):
    name = f"near-{client.version}-{RUN}"
    _deploy(client, name, "one")
    assert f"did you mean `{name}`" in _call(client, name.replace("near", "naer"))
    assert "did you mean `slow_code`" in _call(client, name, "slow_cod")
    if client.numbers >= (1, 6):
        told = client.modal("function", "info", f"{name}/slow_cod")
        assert told.code != 0 and f"{name}/slow_code" in told.out + told.err, told
