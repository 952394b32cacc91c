"""Functions that take their inputs in batches."""

import os
import time

import modal

app = modal.App("batching")
NEW_NAMES = tuple(int(part) for part in modal.__version__.split(".")[:2]) >= (0, 73)
ONE_CONTAINER = {"max_containers": 1} if NEW_NAMES else {"concurrency_limit": 1}


@app.function(**ONE_CONTAINER)
@modal.batched(max_batch_size=4, wait_ms=1500)
def sizes(xs):
    return [(x, len(xs)) for x in xs]


@app.function()
@modal.batched(max_batch_size=3, wait_ms=100)
async def add(xs, ys):
    return [x + y for x, y in zip(xs, ys)]


@app.function(**ONE_CONTAINER)
@modal.batched(max_batch_size=2, wait_ms=60_000)
def patient(xs):
    return [(x, os.environ["MODAL_TASK_ID"]) for x in xs]


@app.function(retries=modal.Retries(max_retries=3, initial_delay=0.0, backoff_coefficient=1.0), **ONE_CONTAINER)
@modal.batched(max_batch_size=5, wait_ms=500)
def fails_once(xs):
    marks = "/tmp/failed"
    if not os.path.exists(marks):
        open(marks, "w").close()
        raise ValueError("the first batch fails")
    return [x * 10 for x in xs]


@app.function()
@modal.batched(max_batch_size=3, wait_ms=100)
def always_fails(xs):
    raise KeyError(f"of {len(xs)}")


@app.function(timeout=3, **ONE_CONTAINER)
@modal.batched(max_batch_size=2, wait_ms=200)
def sleeps_on_nine(xs):
    if 9 in xs:
        time.sleep(60)
    return xs


def check_no_batch_is_larger_than_its_limit_and_full_ones_are_used():
    got = list(sizes.map(range(40)))
    assert [x for x, _ in got] == list(range(40)), got
    assert {size for _, size in got} <= {1, 2, 3, 4} and any(size == 4 for _, size in got), got


def check_a_single_call_is_answered_when_its_wait_is_over():
    assert sizes.remote(7) == (7, 1)


def check_every_argument_goes_to_its_own_input():
    assert list(add.starmap([(i, 100 * i) for i in range(20)])) == [101 * i for i in range(20)]


def check_a_full_batch_does_not_wait():
    # Its wait is a minute; the check's own limit would end it.
    started = time.monotonic()
    got = list(patient.map(range(2)))
    assert [x for x, _ in got] == [0, 1] and time.monotonic() - started < 55, got


def check_inputs_of_a_batch_that_failed_are_tried_again():
    assert list(fails_once.map(range(10))) == [10 * i for i in range(10)]


def check_the_exception_of_a_batch_goes_to_each_of_its_inputs():
    got = list(always_fails.map(range(3), return_exceptions=True))
    assert len(got) == 3 and all("of " in str(raised) for raised in got), got


def check_a_timeout_ends_its_batch_and_no_other():
    got = list(sleeps_on_nine.map([9], return_exceptions=True))
    # Some clients give it wrapped.
    assert "FunctionTimeoutError" in repr(got[0]), got
    assert list(sleeps_on_nine.map([1, 2, 3, 4])) == [1, 2, 3, 4]


def check_a_cancelled_input_of_a_batch_leaves_the_others():
    kept, cancelled = sizes.spawn(1), sizes.spawn(2)
    cancelled.cancel()
    assert kept.get(timeout=60)[0] == 1


def check_spawned_inputs_are_batched_too():
    calls = [sizes.spawn(n) for n in range(8)]
    assert sorted(call.get(timeout=60)[0] for call in calls) == list(range(8))


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    checks.run(globals(), only)
