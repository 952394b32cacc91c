"""How many containers a function has, and how many inputs each takes."""

import os
import sys
import time

import modal

app = modal.App("scaling")
# The settings' older names, for clients before 0.73.
NEW_NAMES = tuple(int(part) for part in modal.__version__.split(".")[:2]) >= (0, 73)


@app.function(**({"max_containers": 2} if NEW_NAMES else {"concurrency_limit": 2}))
def in_two_containers(x):
    time.sleep(0.3)
    return os.environ["MODAL_TASK_ID"]


@app.function(**({"scaledown_window": 2} if NEW_NAMES else {"container_idle_timeout": 2}))
def soon_idle(x):
    return os.environ["MODAL_TASK_ID"]


@app.function()
def stays(x):
    return os.environ["MODAL_TASK_ID"]


@app.function()
def slow(x):
    time.sleep(2)
    return os.environ["MODAL_TASK_ID"]


@app.function()
def plain(x):
    time.sleep(0.5)
    return os.environ["MODAL_TASK_ID"]


# Inputs that this container works on.
at_work = []


def beside_others():
    """This container, and the most inputs that it was seen to work on at once."""
    at_work.append(1)
    most, deadline = len(at_work), time.monotonic() + 10
    while most < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
        most = max(most, len(at_work))
    # The others are to see this one.
    time.sleep(0.5)
    at_work.pop()
    return os.environ["MODAL_TASK_ID"], most


# `allow_concurrent_inputs=` became a decorator.
if hasattr(modal, "concurrent"):

    @app.function()
    @modal.concurrent(max_inputs=10)
    def together(x):
        return beside_others()

else:

    @app.function(allow_concurrent_inputs=10)
    def together(x):
        return beside_others()


def containers_of(function):
    """Its backlog and how many containers it has; newer clients count `runners`."""
    stats = function.get_current_stats()
    return stats.backlog, getattr(stats, "num_total_runners", None) or getattr(stats, "num_total_tasks", 0)


def check_a_limit_of_containers_is_kept():
    tasks = set(in_two_containers.map(range(12)))
    assert 1 <= len(tasks) <= 2, tasks


def check_inputs_that_wait_get_more_containers():
    # One container would need 24 s; a second one is there long before, on any machine.
    assert len(set(slow.map(range(12)))) >= 2


def check_a_warm_container_is_used_again():
    first = stays.remote(1)
    assert stays.remote(2) == first


def check_an_idle_container_ends_after_its_window():
    first = soon_idle.remote(1)
    deadline = time.monotonic() + 60
    while containers_of(soon_idle)[1] > 0:
        assert time.monotonic() < deadline, containers_of(soon_idle)
        time.sleep(0.2)
    assert soon_idle.remote(2) != first


def check_concurrent_inputs_share_one_container():
    ran = list(together.map(range(8)))
    assert max(beside for _, beside in ran) >= 2, ran
    assert len({task for task, _ in ran}) < 8, ran


def check_a_function_tells_its_backlog_and_its_containers():
    call = plain.spawn(1)
    call.get()
    backlog, containers = containers_of(plain)
    assert backlog == 0 and containers >= 1, (backlog, containers)


def check_containers_are_kept_warm_when_asked():
    if not hasattr(plain, "update_autoscaler"):
        plain.keep_warm(2)
    else:
        plain.update_autoscaler(min_containers=2)
    deadline = time.monotonic() + 60
    while containers_of(plain)[1] < 2:
        assert time.monotonic() < deadline, containers_of(plain)
        time.sleep(0.2)


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
