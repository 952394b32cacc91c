"""Deploying, deploying again, going back: what a deployed app answers, and which version of it."""

import json
import re
import shutil
import time

import pytest
from harness import PROGRAMS, VERSIONS, Running

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


@pytest.mark.older_clients("they publish with other calls")
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
def a_version_whose_image_was_deleted_is_not_brought_back(clients, version):
    client = clients[version]
    name = f"imageless-{version}-{RUN}"
    for code in ("one", "two"):
        deployed = client.modal("deploy", "deployed_image.py", APP_NAME=name, CODE=code, IMAGE_OF=f"{name}-{code}")
        assert deployed.code == 0, deployed
        said = _call(client, name)
        assert f"('{code}', '{name}-{code}'" in said, said
        if code == "one":
            image = re.search(r"im-\w+", said).group(0)
    delete = "import modal.experimental, sys; modal.experimental.image_delete(sys.argv[1])"
    deleted = client.python("-c", delete, image)
    assert deleted.code == 0, deleted
    rolled = client.modal("app", "rollback", name, "v1")
    assert rolled.code != 0 and image in rolled.out + rolled.err, rolled
    assert f"('two', '{name}-two'" in _call(client, name)
    assert set(_history(client, name)) == {"v1", "v2"}


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


def no_call_fails_while_the_app_is_deployed_again(client, tmp_path):
    name, stop = f"load-{client.version}-{RUN}", tmp_path / "stop"
    _deploy(client, name, "v1")
    caller = client.start_python("call_under_load.py", name, "1500", stop)
    caller.wait_for_line("loading", 120)
    for code in ("v2", "v3", "v4"):
        _deploy(client, name, code)
        # What is called from here on runs what was just deployed, also beside the load.
        assert f"answer: {code}" in _call(client, name)
    stop.touch()
    ended = caller.end(300)
    assert ended.code == 0 and "failure" not in ended.out, ended
    answers = dict(re.findall(r"(v\d)=(\d+)", ended.out))
    assert set(answers) == {"v1", "v2", "v3", "v4"} and sum(map(int, answers.values())) >= 1500, ended


def a_deployment_that_fails_half_way_leaves_the_version_before_whole(client):
    name = f"half-{client.version}-{RUN}"
    good = {"APP_NAME": name, "CODE": "one"}
    first = client.modal("deploy", "deployed_pair.py", **good)
    assert first.code == 0, first
    worse = {**good, "CODE": "two"}
    for broken in ({"BREAK_IMAGE": f"{name}"}, {"BREAK_IMPORT": "1"}):
        failed = client.modal("deploy", "deployed_pair.py", **worse, **broken)
        assert failed.code != 0, failed
        for function in ("left", "right"):
            assert "answer: one" in _call(client, name, function), broken
    again = client.modal("deploy", "deployed_pair.py", **worse)
    assert again.code == 0, again
    for function in ("left", "right"):
        assert "answer: two" in _call(client, name, function)


def of_two_deployments_at_once_one_wins_wholly(client):
    name = f"race-{client.version}-{RUN}"
    for round_ in range(3):
        codes = [f"a{round_}", f"b{round_}"]
        racing = [client.start("deploy", "deployed_pair.py", APP_NAME=name, CODE=code) for code in codes]
        ended = [each.end() for each in racing]
        assert any(each.code == 0 for each in ended), ended
        left, right = _call(client, name, "left"), _call(client, name, "right")
        assert left == right and left.split()[1] in codes, (left, right, ended)


def a_stopped_app_takes_no_calls_and_may_be_deployed_again(client):
    name = f"stopped-{client.version}-{RUN}"
    _deploy(client, name, "one")
    assert "answer: one" in _call(client, name)
    app_id = _app_id(client, name)
    stopped = client.modal("app", "stop", app_id, *(["-y"] if client.numbers >= (1, 1) else []))
    assert stopped.code == 0, stopped
    said = _call(client, name)
    assert "raised NotFoundError" in said and name in said, said
    _deploy(client, name, "two")
    assert "answer: two" in _call(client, name)


def environments_have_apps_of_the_same_name(client):
    name = f"twin-{client.version}-{RUN}"
    environments = [f"{side}-{client.version.replace('.', '-')}-{RUN}" for side in ("east", "west")]
    for environment in environments:
        assert client.modal("environment", "create", environment).code == 0
        _deploy(client, name, f"of-{environment}", "-e", environment)
    for environment in environments:
        found = client.python("look_up_deployed.py", name, environment)
        assert found.code == 0, found
        answers = re.findall(r"^(?:from_name|lookup)(?: spawned)?: (.*)$", found.out, re.M)
        assert len(answers) >= 2 and set(answers) == {f"of-{environment}"}, found
        if client.numbers >= (1, 1):
            assert f"tags: [('team', '{environment}'), ('tier', 'test')]" in found.out, found
    assert "raised NotFoundError" in _call(client, name), "an app of another environment was found"


@pytest.mark.parametrize("version", FOR_HISTORY)
def recreating_ends_the_containers_of_the_version_before(clients, version):
    client = clients[version]
    name = f"recreated-{version}-{RUN}"
    _deploy(client, name, "one")
    assert "answer: one" in _call(client, name)
    before = {row["container_id"] for row in client.container_list() if row["app_name"] == name}
    assert before, client.container_list()
    _deploy(client, name, "two", "--strategy", "recreate")
    assert "answer: two" in _call(client, name)
    after = {row["container_id"] for row in client.container_list() if row["app_name"] == name}
    assert after and not after & before, (before, after)


def serving_an_app_takes_up_a_changed_file(client, tmp_path):
    program = tmp_path / "served.py"
    shutil.copy(PROGRAMS / "served.py", program)
    serving = Running([str(client.bin / "modal"), "serve", str(program)], client.environment(), tmp_path)
    serving.wait_for_line("imported the first edition", 120)
    text = program.read_text().replace('"first"', '"second"')
    for attempt in range(6):
        # Saved again: the client says that it serves before it has begun to watch the files.
        program.write_text(text)
        try:
            serving.wait_for_line("imported the second edition", 20)
        except AssertionError:
            assert attempt < 5, serving.text()
        else:
            break
    app = client.running_app("served")
    assert app, client.app_list()
    serving.interrupt()
    serving.end(60)
    assert client.running_app("served") is None, client.app_list()


def _pinned(client, name, *wanted):
    ended = client.python("pinned.py", name, *wanted)
    assert ended.code == 0, ended
    return dict(line.split(" -> ", 1) for line in ended.out.splitlines() if " -> " in line)


def a_version_that_was_looked_up_by_its_number_stays_what_it_was(newest, server):
    name = f"pinned-{RUN}"

    def deploy(code):
        deployed = newest.modal("deploy", "pinned.py", APP_NAME=name, CODE=code)
        assert deployed.code == 0, deployed

    deploy("one")
    deploy("two")
    stays = {
        "function:code:1": "one",
        "function:code:2": "two",
        "function:only_two:2": "only two",
        "class:Model:1": "one of size 1",
        "parameters:Model:2": "two of size 5",
        "options:Model:1": "one of size 5",
    }
    assert _pinned(newest, name, *stays) == stays
    deploy("three")
    assert _pinned(newest, name, *stays) == stays
    assert server.stop() == 0
    server.start()
    assert _pinned(newest, name, *stays) == stays
    others = _pinned(newest, name, "function:code:", "class:Model:", "function:code:9", "function:only_two:3", "class:Model:9")
    assert others["function:code:"] == "three" and others["class:Model:"] == "three of size 1", others
    assert f"app `{name}` has no version v9; its history has v1, v2, v3" in others["function:code:9"], others
    assert "has no version v9" in others["class:Model:9"], others
    assert f"version v3 of app `{name}` has no `only_two`; it has: Model, code" in others["function:only_two:3"], others
