"""How many inputs a container runs side by side, and how many in its life."""

import asyncio
import os
import threading
import time

import modal

app = modal.App("concurrency")
NEW_NAMES = tuple(int(part) for part in modal.__version__.split(".")[:2]) >= (0, 73)
ONE_CONTAINER = {"max_containers": 1} if NEW_NAMES else {"concurrency_limit": 1}
# Its newer name came with 1.1.
VERSION = tuple(int(part) for part in modal.__version__.split(".")[:2])
SINGLE_USE = {"single_use_containers": True} if VERSION >= (1, 1) else {"max_inputs": 1}


def concurrent(function, most, target=None, **options):
    if hasattr(modal, "concurrent"):
        more = {} if target is None else {"target_inputs": target}
        return app.function(**options)(modal.concurrent(max_inputs=most, **more)(function))
    return app.function(allow_concurrent_inputs=most, **options)(function)


running, lock = 0, threading.Lock()


def count(step):
    global running
    with lock:
        running += step
        return running


def _side_by_side(x):
    at_once = count(+1)
    time.sleep(0.4)
    count(-1)
    return at_once


async def _side_by_side_async(x):
    at_once = count(+1)
    await asyncio.sleep(0.4)
    count(-1)
    return at_once


async def _in_a_range(x):
    at_once = count(+1)
    await asyncio.sleep(1.0)
    count(-1)
    return at_once


async def _chosen_inside(x):
    import modal.experimental

    if x < 0:
        modal.experimental.set_local_input_concurrency(2)
        return modal.experimental.get_local_input_concurrency()
    at_once = count(+1)
    await asyncio.sleep(0.2)
    count(-1)
    return at_once


synchronous = concurrent(_side_by_side, 5, **ONE_CONTAINER)
asynchronous = concurrent(_side_by_side_async, 5, **ONE_CONTAINER)
in_a_range = concurrent(_in_a_range, 6, 2, **ONE_CONTAINER)
chosen_inside = concurrent(_chosen_inside, 6, **ONE_CONTAINER)


@app.function(**SINGLE_USE)
def only_once(x):
    return x, os.environ["MODAL_TASK_ID"]


def check_a_synchronous_function_runs_several_inputs_and_never_too_many():
    assert 2 <= max(synchronous.map(range(30))) <= 5


def check_an_asynchronous_function_runs_several_inputs_and_never_too_many():
    assert 2 <= max(asynchronous.map(range(30))) <= 5


def check_a_backlog_raises_the_concurrency_above_its_target():
    if not hasattr(modal, "concurrent"):
        return "skip: no target in this client"
    # Asked every three seconds; two at a time would take 30 s.
    at_once = list(in_a_range.map(range(60)))
    assert 3 <= max(at_once) <= 6, at_once


def check_a_container_may_lower_its_own_concurrency():
    if not NEW_NAMES:
        return "skip: not in this client"
    chosen_inside.remote(1)
    assert chosen_inside.remote(-1) == 2
    assert max(chosen_inside.map(range(20))) <= 2


def check_a_container_of_single_use_runs_one_input():
    got = list(only_once.map(range(6)))
    assert sorted(x for x, _ in got) == list(range(6)), got
    assert len({task for _, task in got}) == 6, got


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    checks.run(globals(), only)
