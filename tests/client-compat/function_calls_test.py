"""What became of a function's inputs: `modal function calls`, and the log of one call."""

import json
import re

import pytest
from harness import VERSIONS

# The commands are younger than the other clients.
WITH_COMMANDS = [version for version in VERSIONS if tuple(map(int, version.split("."))) >= (1, 6)]
pytestmark = pytest.mark.parametrize("version", WITH_COMMANDS)


def _made_calls(client):
    deployed = client.modal("deploy", "listed_calls.py")
    assert deployed.code == 0, deployed
    made = client.python("make_listed_calls.py")
    assert made.code == 0, made
    return dict(re.findall(r"^spawned (\w+) (fc-\w+)$", made.out, re.M))


def _listed(client, *options):
    ended = client.modal("function", "calls", "listed-calls/work", "--json", *options)
    assert ended.code == 0, ended
    return json.loads(ended.out)


def the_latest_inputs_of_a_function_are_listed_with_what_became_of_them(clients, version):
    client = clients[version]
    calls = _made_calls(client)
    latest = _listed(client, "--tail", "3")
    assert [row["status"] for row in latest] == ["failure", "success", "success"], latest
    assert [row["function_call_id"] for row in latest[:2]] == [calls["fails"], calls["returns"]], latest
    assert all(row["container_id"].startswith("ta-") and row["execution_time_seconds"] >= 0 for row in latest), latest
    in_time = _listed(client, "--since", "10m")
    assert [row["function_call_id"] for row in in_time[-2:]] == [calls["returns"], calls["fails"]], in_time
    assert client.modal("function", "calls", "listed-calls/work").code == 0


def following_the_log_of_a_call_ends_with_the_call(clients, version):
    client = clients[version]
    _made_calls(client)
    followed = client.python("follow_call.py", within_s=100)
    assert followed.code == 0 and "the stream ended and the call returned returns" in followed.out, followed
    assert "how: returns" in followed.out and "how: fails" not in followed.out, followed
