"""Calls: each check of `programs/calls.py`, `payloads.py` and `many.py`, for each version."""

import re

import pytest
from harness import NEWEST, VERSIONS, wait_for
from program_checks import assert_check, ended_of, for_each_check

# The heaviest sizes go through one version; the others share the code that matters.
BIG = {"CHECK_BIG": "1", "CHECK_LIMIT_S": "240"}


@pytest.mark.older_clients("their runners take inputs and answer in other ways")
@for_each_check("calls.py")
def calls(clients, version, check):
    ended = assert_check(clients, "calls.py", version, check)
    if check == "spawn_map_runs_every_input":
        announced = set(re.findall(r"^announced (\d+)$", ended.out, re.M))
        assert announced == {str(i) for i in range(10)}, ended
    if check == "an_exception_of_the_program_keeps_its_attributes":
        assert "KeyError: 'stock'" in ended.out + ended.err, "the container's output lacks the cause"


@pytest.mark.parametrize("version", VERSIONS)
def the_program_of_all_calls_exits_with_zero(clients, version):
    assert_check(clients, "calls.py", version, "remote_returns_the_value")
    ended = ended_of("calls.py", version)
    assert ended.code == 0, ended


@for_each_check("payloads.py")
def payloads(clients, version, check):
    assert_check(clients, "payloads.py", version, check, 600, **(BIG if version == NEWEST else {}))


@for_each_check("many.py")
def many(clients, version, check):
    assert_check(clients, "many.py", version, check, 600, **(BIG if version == NEWEST else {}))


@pytest.mark.big
def server_memory_stays_flat_over_large_payloads(clients, server):
    # What the large generators of other tests took comes back once the server is idle.
    wait_for(lambda: server.memory_mib() < 150, 120, "memory of earlier tests given back")
    assert_check(clients, "payloads.py", NEWEST, "two_hundred_mebibytes_go_there_and_back", 600, **BIG)
    # A server that held one such payload would be above this.
    assert server.memory_mib() < 190, server.memory_mib()


def a_result_is_fetched_from_another_process(client):
    spawned = client.start("run", "--detach", "forever.py::spawned", "--n", "4")
    call_id = spawned.wait_for_line("spawned fc-").split()[1]
    other = client.python(
        "-c",
        "import modal, sys; print('got', modal.functions.FunctionCall.from_id(sys.argv[1]).get(timeout=60))",
        call_id,
    )
    ended = spawned.end(60)
    assert other.code == 0 and other.out.startswith("got ta-"), other
    assert ended.code == 0, ended
