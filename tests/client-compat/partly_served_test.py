"""Apps of which some is not served yet: the rest works, what is refused is named when the app is published, and again
when it is called."""

import json
import re
import time

import pytest
from harness import NEWEST, VERSIONS, dorian, wait_for
from program_checks import assert_check, ended_of, for_each_check

# The data directory of a former run may still have its apps.
RUN = f"{time.time():.0f}"
# The newest, and the oldest: its classes name their web endpoints elsewhere, and its publishing has no place for warnings.
DIFFERENT = sorted({NEWEST, VERSIONS[-1]})
REFUSED = [
    "function `trained` uses GPUs (`gpu=`); its schedule does not run",
    "function `hello` is a web endpoint (`@modal.fastapi_endpoint`)",
    "class `OnGpu` uses GPUs (`gpu=`)",
]


def _plain(ended):
    """What a client printed, without the frames that it draws."""
    return re.sub(r"[\s│]+", " ", ended.out + ended.err)


@for_each_check("partly_served.py", DIFFERENT)
def partly_served(clients, version, check):
    assert_check(clients, "partly_served.py", version, check)


@pytest.mark.parametrize("version", DIFFERENT)
def what_is_refused_is_named_when_its_app_runs(clients, version):
    assert_check(clients, "partly_served.py", version, "what_is_served_works")
    said = _plain(ended_of("partly_served.py", version))
    assert "Dorian does not serve yet what some functions of this app use" in said, said
    for words in REFUSED:
        assert words in said, (words, said)


def _call(client, name, function, *arguments):
    ended = client.python("call_deployed.py", name, function, *arguments)
    assert ended.code == 0, ended
    return ended.out


def _deploy(client, name, **variables):
    deployed = client.modal("deploy", "partly_served.py", APP_NAME=name, **variables)
    assert deployed.code == 0, deployed
    return deployed


def _functions_with_containers(client, name):
    return [row for row in client.container_list() if row.get("app_name") == name]


def an_app_of_which_some_is_not_served_is_deployed_and_lives_through_a_restart(newest, server):
    name = f"partly-{RUN}"
    said = _plain(_deploy(newest, name))
    for words in [*REFUSED, "method `Mixed.ui` is a web endpoint (`@modal.asgi_app`)"]:
        assert words in said, (words, said)
    assert "`plain`" not in said and "`Mixed.work`" not in said, said
    for _ in range(2):
        assert "answer: 3" in _call(newest, name, "plain", 2)
        assert "function `trained` uses GPUs (`gpu=`), which Dorian does not serve yet" in _call(newest, name, "trained", 2)
        listed = json.loads(dorian("schedules", "--data", server.data, "--json").stdout)["schedules"]
        assert not [row for row in listed if row["app"] == name], listed
        # Only of what is called: the others ask to be kept warm.
        assert len(_functions_with_containers(newest, name)) == 1
        assert server.stop() == 0
        server.start()
    newest.modal("app", "stop", newest.running_app(name)["app_id"], "-y")


def what_waits_when_its_function_is_deployed_with_something_not_served_is_refused(newest):
    name = f"changing-{RUN}"
    _deploy(newest, name, GPU="")
    assert "answer: changing" in _call(newest, name, "changing", 0)
    running = newest.start_python("call_deployed.py", name, "changing", 12)
    wait_for(lambda: _inputs(newest, name) == (1, 0), 60, "a call that runs")
    waiting = newest.start_python("call_deployed.py", name, "changing", 0)
    wait_for(lambda: _inputs(newest, name) == (1, 1), 60, "a call that waits")
    _deploy(newest, name, GPU="A10G")
    refused = waiting.end()
    assert "function `changing` uses GPUs (`gpu=`)" in refused.out, refused
    ended = running.end()
    assert "answer: changing" in ended.out, ended
    newest.modal("app", "stop", newest.running_app(name)["app_id"], "-y")


INPUTS = """
import sys, modal
stats = modal.Function.from_name(sys.argv[1], "changing").get_current_stats()
print(stats.num_running_inputs, stats.backlog)
"""


def _inputs(client, name):
    """How many run, and how many wait."""
    return tuple(int(number) for number in client.python("-c", INPUTS, name).out.split())


def what_the_user_got_wrong_still_stops_the_app(newest):
    ended = newest.run("refused_scaling.py", REFUSED="gpu-and-minimum")
    assert ended.code != 0 and "it ran" not in ended.out, ended
    assert "`min_containers` is 4000000000; at most 10000 containers can be kept" in _plain(ended), ended
