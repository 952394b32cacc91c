"""What can go wrong in a function, and what its caller then gets to know."""

import asyncio
import ctypes
import errno
import os
import subprocess
import sys
import threading
import time

import modal

app = modal.App("failures")
MIB = 1024 * 1024
# The setting's older name, for clients before 0.73.
NEW_NAMES = tuple(int(part) for part in modal.__version__.split(".")[:2]) >= (0, 73)
IN_ONE_CONTAINER = {"max_containers": 1} if NEW_NAMES else {"concurrency_limit": 1}
# Attempts seen by this container; it outlives an exception, so the retries of one input meet here.
attempts = []


def side_by_side(function):
    if hasattr(modal, "concurrent"):
        return app.function(**IN_ONE_CONTAINER)(modal.concurrent(max_inputs=3)(function))
    return app.function(allow_concurrent_inputs=3, **IN_ONE_CONTAINER)(function)


@app.function()
def healthy(x=1):
    return x


@app.function(timeout=2)
def sleeps_past_its_timeout():
    time.sleep(120)


@app.function(timeout=2)
def computes_past_its_timeout():
    while True:
        pass


@app.function(timeout=2)
def refuses_to_end():
    while True:
        try:
            time.sleep(120)
        except BaseException:
            pass


@app.function(timeout=2)
async def awaits_past_its_timeout():
    await asyncio.sleep(120)


@app.function(timeout=30)
def done_in_time():
    time.sleep(1)
    return "done"


@app.function(memory=(128, 256))
def takes_memory(mib):
    taken = bytearray(mib * MIB)
    for page in range(0, len(taken), 4096):
        taken[page] = 1
    return len(taken)


@app.function()
def leaves_with(code):
    os._exit(code)


@app.function()
def reads_address_zero():
    ctypes.string_at(0)


@app.function(memory=2048)
def forks_until_refused(at_most):
    children = []
    try:
        while len(children) < at_most:
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            children.append(child)
        return ["never refused", len(children)]
    except OSError as refused:
        return [errno.errorcode[refused.errno], len(children)]
    finally:
        for child in children:
            os.kill(child, 9)
        for child in children:
            os.waitpid(child, 0)


@app.function(ephemeral_disk=512)
def fills_the_disk(at_most_mib):
    block = os.urandom(MIB)
    with open("/var/tmp/filler", "wb") as filler:
        try:
            for written in range(at_most_mib):
                filler.write(block)
                filler.flush()
        except OSError as refused:
            return [errno.errorcode[refused.errno], written]
    return ["never refused", at_most_mib]


@app.function()
def cannot_be_pickled():
    return threading.Lock()


@app.function()
def raises_what_cannot_be_pickled():
    error = RuntimeError("carries a lock")
    error.lock = threading.Lock()
    raise error


@app.function(retries=3, **IN_ONE_CONTAINER)
def succeeds_at(attempt):
    attempts.append(time.time())
    if len(attempts) < attempt:
        raise ConnectionError(f"attempt {len(attempts)}")
    seen = list(attempts)
    attempts.clear()
    return seen


@app.function(retries=1, **IN_ONE_CONTAINER)
def fails_always():
    attempts.append(1)
    raise ConnectionError(f"attempt {len(attempts)}")


@app.function(retries=modal.Retries(max_retries=3, initial_delay=1.0, backoff_coefficient=2.0), **IN_ONE_CONTAINER)
def succeeds_at_with_backoff(attempt):
    attempts.append(time.time())
    if len(attempts) < attempt:
        raise ConnectionError(f"attempt {len(attempts)}")
    seen = list(attempts)
    attempts.clear()
    return seen


@app.function(retries=1)
def leaves_with_retry(code):
    print(f"leaving with {code}", flush=True)
    os._exit(code)


# Each says that it runs: the test counts how often.
@app.function()
async def cancels_itself():
    print("runs: cancels itself", flush=True)
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task


@app.function(retries=1)
async def cancels_itself_with_a_retry():
    print("runs: cancels itself with a retry", flush=True)
    raise asyncio.CancelledError


@side_by_side
async def may_cancel_itself_beside_others(cancels):
    if cancels:
        print("runs: cancels itself beside others", flush=True)
        raise asyncio.CancelledError
    await asyncio.sleep(3)
    return "done"


@app.function()
def interrupts_itself():
    print("runs: interrupts itself", flush=True)
    raise KeyboardInterrupt


@app.function()
def leaves_by_exception():
    print("runs: leaves by exception", flush=True)
    raise SystemExit(3)


@app.function(**IN_ONE_CONTAINER)
def waits_in_sync_code(seconds):
    try:
        time.sleep(seconds)
    except BaseException as raised:
        print(f"sync code saw {type(raised).__name__}", flush=True)
        raise


@app.function(**IN_ONE_CONTAINER)
async def waits_in_async_code(seconds):
    try:
        await asyncio.sleep(seconds)
    except BaseException as raised:
        print(f"async code saw {type(raised).__name__}", flush=True)
        raise


@app.function()
def starts_a_child_that_outlives_it():
    subprocess.Popen(["sleep", "600"])
    return "left it behind"


def words_of(raised):
    return f"{raised!r} {raised}".lower()


def fails_with(kind, call, *arguments):
    """The exception; that one comes in good time is seen to by the limit of each check, which the functions outlast."""
    from checks import raises

    return raises(kind, call, *arguments)


# --- timeouts


def check_a_sleeping_function_is_stopped_at_its_timeout():
    raised = fails_with(modal.exception.FunctionTimeoutError, sleeps_past_its_timeout.remote)
    assert "2" in str(raised), f"the limit is not named: {raised!r}"


def check_a_computing_function_is_stopped_at_its_timeout():
    fails_with(modal.exception.FunctionTimeoutError, computes_past_its_timeout.remote)


def check_a_function_that_ignores_everything_is_killed_at_its_timeout():
    fails_with(modal.exception.FunctionTimeoutError, refuses_to_end.remote)


def check_an_awaiting_function_is_stopped_at_its_timeout():
    fails_with(modal.exception.FunctionTimeoutError, awaits_past_its_timeout.remote)


def check_a_function_that_ends_in_time_is_not_stopped():
    assert done_in_time.remote() == "done"


def check_a_timeout_ends_one_input_of_a_map_only():
    from checks import raises

    raises(modal.exception.FunctionTimeoutError, lambda: list(sleeps_past_its_timeout.starmap([()])))
    assert healthy.remote(3) == 3


# --- death of the container


def check_memory_beyond_the_limit_is_named_with_limit_and_peak():
    raised = fails_with(Exception, takes_memory.remote, 1024)
    words = words_of(raised)
    assert "memory" in words and "256" in words, words


def check_memory_within_the_limit_is_given():
    assert takes_memory.remote(64) == 64 * MIB


def check_leaving_the_process_is_reported_with_its_code():
    raised = fails_with(Exception, leaves_with.remote, 3)
    assert "3" in words_of(raised) and "exit" in words_of(raised), raised


def check_leaving_with_zero_is_no_success():
    fails_with(Exception, leaves_with.remote, 0)


def check_a_segfault_is_reported_by_name():
    raised = fails_with(Exception, reads_address_zero.remote)
    assert "segmentation" in words_of(raised) or "sigsegv" in words_of(raised) or "signal 11" in words_of(raised), (
        raised
    )


def check_death_with_retries_starts_again_and_then_reports():
    fails_with(Exception, leaves_with_retry.remote, 5)


def check_a_fork_bomb_meets_the_limit():
    said, forked = forks_until_refused.remote(12_000)
    assert said == "EAGAIN", (said, forked)
    assert healthy.remote(2) == 2


def check_a_full_disk_is_an_ordinary_error():
    said, written = fills_the_disk.remote(2048)
    assert said in ("ENOSPC", "EDQUOT"), (said, written)
    assert written <= 600, written


def check_a_child_left_behind_does_not_hold_the_container():
    assert starts_a_child_that_outlives_it.remote() == "left it behind"


# --- what cannot travel


def check_a_result_that_cannot_be_pickled_is_an_error():
    raised = fails_with(Exception, cannot_be_pickled.remote)
    assert "pickle" in words_of(raised) or "serializ" in words_of(raised), raised


def check_an_exception_that_cannot_be_pickled_is_still_an_error():
    raised = fails_with(Exception, raises_what_cannot_be_pickled.remote)
    assert "lock" in words_of(raised) or "pickle" in words_of(raised), raised


# --- retries


def check_retries_as_a_number_run_again():
    assert len(succeeds_at.remote(3)) == 3


def check_retries_end_with_the_last_exception():
    raised = fails_with(ConnectionError, fails_always.remote)
    assert "attempt 2" in str(raised), raised


def check_retries_work_in_a_map():
    from checks import raises

    raises(ConnectionError, lambda: list(fails_always.starmap([()])))


def check_retries_with_backoff_wait_longer_each_time():
    first, second, third = succeeds_at_with_backoff.remote(3)
    # A busy machine adds to each wait, and nothing takes from it.
    assert second - first > 0.8, second - first
    assert third - second > 1.8, third - second


def check_retries_serve_spawned_calls_too():
    assert len(succeeds_at_with_backoff.spawn(2).get()) == 2


# --- what user code does to itself is its own failure: once, or as often as `retries=` says


def check_code_that_cancels_itself_has_failed():
    raised = fails_with(Exception, cancels_itself.remote)
    assert "cancellederror" in words_of(raised), raised


def check_code_that_cancels_itself_is_tried_again_as_often_as_the_user_says():
    raised = fails_with(Exception, cancels_itself_with_a_retry.remote)
    assert "cancellederror" in words_of(raised), raised


def check_code_that_cancels_itself_fails_alone_among_others():
    calls = [may_cancel_itself_beside_others.spawn(cancels) for cancels in (False, True, False)]
    assert [calls[0].get(timeout=60), calls[2].get(timeout=60)] == ["done", "done"]
    raised = fails_with(Exception, calls[1].get, 60)
    assert "cancellederror" in words_of(raised), raised


def check_code_that_interrupts_itself_has_failed():
    raised = fails_with(Exception, interrupts_itself.remote)
    assert "keyboardinterrupt" in words_of(raised), raised


def check_code_that_raises_system_exit_has_failed():
    fails_with(BaseException, leaves_by_exception.remote)


# --- cancellation: the test looks for what the functions print


def cancel_while_it_runs(function):
    from checks import raises

    # There is one container, and it is up.
    function.remote(0)
    call = function.spawn(120)
    while not any(node.task_id for node in call.get_call_graph() if node.function_call_id == call.object_id):
        time.sleep(0.1)
    # Between having the input and being in the function's code is a moment.
    time.sleep(1)
    call.cancel()
    raises(Exception, call.get, timeout=60)
    # The container takes this when it is done with the other, so what that printed is printed.
    function.remote(0)


def check_cancel_reaches_sync_code():
    cancel_while_it_runs(waits_in_sync_code)


def check_cancel_reaches_async_code():
    cancel_while_it_runs(waits_in_async_code)


def check_all_is_well_afterwards():
    assert healthy.remote(5) == 5


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
