"""What can go wrong in user code: each check of `programs/failures.py`, and programs that fail at start-up."""

import itertools
import re

import pytest
from program_checks import assert_check, for_each_check


# What a check's function prints, and how often it should run.
RUNS = {
    "code_that_cancels_itself_has_failed": ("cancels itself", 1),
    "code_that_cancels_itself_is_tried_again_as_often_as_the_user_says": ("cancels itself with a retry", 2),
    "code_that_cancels_itself_fails_alone_among_others": ("cancels itself beside others", 1),
    "code_that_interrupts_itself_has_failed": ("interrupts itself", 1),
    "code_that_raises_system_exit_has_failed": ("leaves by exception", 1),
}


@pytest.mark.older_clients("their runners report failures in other ways", oldest_only=True)
@for_each_check("failures.py")
def failures(clients, version, check):
    ended = assert_check(clients, "failures.py", version, check, 900)
    said = ended.out + ended.err
    if check == "cancel_reaches_sync_code":
        assert "sync code saw InputCancellation" in said, said[-3000:]
    if check == "cancel_reaches_async_code":
        assert "async code saw CancelledError" in said, said[-3000:]
    if check == "a_sleeping_function_is_stopped_at_its_timeout":
        assert "`sleeps_past_its_timeout`: input `in-" in said and "ran into timeout=2 s" in said, said[-3000:]
    runs = RUNS.get(check)
    if runs is not None:
        assert said.count(f"runs: {runs[0]}\n") == runs[1], said[-3000:]
    if check == "death_with_retries_starts_again_and_then_reports":
        assert ended.out.count("leaving with 5") == 2, said[-3000:]


def an_import_error_fails_every_pending_input_and_is_not_tried_forever(client):
    ended = client.run("missing_module.py", within_s=180)
    assert "remote raised ModuleNotFoundError: No module named 'a_module_that_is_not_there'" in ended.out, ended
    assert "map raised ModuleNotFoundError" in ended.out, ended
    assert "5 spawned calls failed" in ended.out, ended
    cure = "add_local_python_source" if client.numbers >= (0, 70) else "from_local_python_packages"
    assert f'{cure}("a_module_that_is_not_there")' in ended.out, ended
    # One container starts for the first call. After its failure one at a time tries: the first at once, then ever later.
    begun = [float(at) for at in re.findall(r"^importing at ([\d.]+)$", ended.out, re.M)]
    for trial, (before, at) in enumerate(itertools.pairwise(begun[1:])):
        assert at - before >= min(0.5 * 2**trial, 30), (begun, ended)


def an_exception_at_start_up_is_reported_once(client):
    ended = client.run("broken_start.py", within_s=120)
    assert "remote raised RuntimeError: the database is away" in ended.out, ended
    assert len(re.findall(r"^starting$", ended.out, re.M)) <= 3, ended


def an_enter_hook_that_fails_now_and_then_fails_no_input(newest):
    ended = newest.run("flaky_start.py", within_s=300)
    assert "found no weights" in ended.out, ended
    assert "100 of 100 inputs were answered" in ended.out, ended
