"""Scaling: each check of `programs/scaling.py`, for each version."""

import pytest
from harness import VERSIONS
from program_checks import assert_check, for_each_check

PROGRAM = "scaling.py"
# Named in `coverage.txt`, so tests of their own.
NAMED = (
    "a_function_tells_its_backlog_and_its_containers",
    "containers_are_kept_warm_when_asked",
    "concurrent_inputs_share_one_container",
)


@pytest.mark.older_clients("they spell concurrency and scaling differently")
@for_each_check(PROGRAM, without=NAMED)
def scaling(clients, version, check):
    assert_check(clients, PROGRAM, version, check)


@pytest.mark.older_clients("they spell concurrency and scaling differently")
@pytest.mark.parametrize("version", VERSIONS)
def a_function_tells_its_backlog_and_its_containers(clients, version):
    assert_check(clients, PROGRAM, version, NAMED[0])


@pytest.mark.older_clients("they spell concurrency and scaling differently")
@pytest.mark.parametrize("version", VERSIONS)
def containers_are_kept_warm_when_asked(clients, version):
    assert_check(clients, PROGRAM, version, NAMED[1])


@pytest.mark.older_clients("they spell concurrency and scaling differently")
@pytest.mark.parametrize("version", VERSIONS)
def concurrent_inputs_share_one_container(clients, version):
    assert_check(clients, PROGRAM, version, NAMED[2])
