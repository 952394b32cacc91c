"""Functions that make images (`run_function`)."""

import time

import pytest
from program_checks import assert_check, for_each_check

CHECK = "what_a_build_function_wrote_is_in_the_image"


@for_each_check("build_functions.py")
def build_functions(clients, version, check):
    assert_check(clients, "build_functions.py", version, check, 600)


@pytest.mark.parametrize("variable", ["CHECK_GREETING", "CHECK_EDITION"])
def a_build_function_runs_again_when_an_argument_or_a_global_of_it_changes_and_only_then(client, variable):
    changed = {variable: f"run-{time.time_ns()}"}
    first = client.run("build_functions.py", "--only", CHECK, **changed)
    assert "CHECKS ENDED 0" in first.out and "fetching model.bin" in first.out + first.err, first
    second = client.run("build_functions.py", "--only", CHECK, **changed)
    assert "CHECKS ENDED 0" in second.out and "fetching model.bin" not in second.out + second.err, second


def a_build_function_that_fails_fails_the_image_with_its_exception(client):
    ended = client.run("build_functions.py", CHECK_FAIL=f"run-{time.time_ns()}")
    said = ended.out + ended.err
    assert ended.code != 0 and "told to fail" in said and "fetch_weights" in said, ended
