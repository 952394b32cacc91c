"""From no container to many and back, what is kept, and how it is changed while the app runs."""

import os
import sys
import time

import modal

app = modal.App("autoscaling")
# The settings' older names, for clients before 0.73.
NEW_NAMES = tuple(int(part) for part in modal.__version__.split(".")[:2]) >= (0, 73)


def scaling(minimum=None, maximum=None, window=None):
    names = ("min_containers", "max_containers", "scaledown_window")
    if not NEW_NAMES:
        names = ("keep_warm", "concurrency_limit", "container_idle_timeout")
    return {name: value for name, value in zip(names, (minimum, maximum, window)) if value is not None}


# Twenty of them are two cores.
@app.function(cpu=0.1, memory=64, timeout=600, **scaling(window=2))
def sleeper(seconds):
    time.sleep(seconds)


@app.function(cpu=0.1, memory=64, **scaling(minimum=1, maximum=2, window=2))
def kept():
    return os.environ["MODAL_TASK_ID"]


@app.function(cpu=0.1, memory=64, **scaling(maximum=3, window=2))
def changing(seconds=0):
    time.sleep(seconds)


def containers_of(function):
    """Newer clients count `runners`."""
    stats = function.get_current_stats()
    return getattr(stats, "num_total_runners", None) or getattr(stats, "num_total_tasks", 0)


def wait_for_containers(function, wanted):
    deadline = time.monotonic() + 75
    while containers_of(function) != wanted:
        assert time.monotonic() < deadline, function.get_current_stats()
        time.sleep(0.2)


def keep(function, count):
    if hasattr(function, "update_autoscaler"):
        function.update_autoscaler(min_containers=count)
    else:
        function.keep_warm(count)


# It comes first: what other checks keep warm takes room.
def check_a_function_scales_from_zero_to_twenty_and_back():
    keep(kept, 0)
    wait_for_containers(kept, 0)
    assert containers_of(sleeper) == 0
    calls = [sleeper.spawn(300) for _ in range(20)]
    wait_for_containers(sleeper, 20)
    for call in calls:
        call.cancel()
    wait_for_containers(sleeper, 0)
    keep(kept, 1)


def check_a_minimum_is_kept_without_any_call_and_beyond_the_window():
    wait_for_containers(kept, 1)
    first = kept.remote()
    time.sleep(6)
    assert containers_of(kept) == 1
    assert kept.remote() == first


def check_a_minimum_is_raised_and_taken_away_while_the_app_runs():
    wait_for_containers(changing, 0)
    keep(changing, 2)
    wait_for_containers(changing, 2)
    keep(changing, 0)
    wait_for_containers(changing, 0)


def check_a_minimum_above_the_maximum_is_refused_and_changes_nothing():
    from checks import raises

    error = raises(Exception, keep, changing, 4)
    assert "`min_containers` is 4, more than `max_containers`, which is 3" in str(error), error
    time.sleep(1)
    assert containers_of(changing) <= 3
    keep(changing, 0)
    wait_for_containers(changing, 0)


def check_an_update_changes_only_what_it_names():
    if not hasattr(changing, "autoscaler"):
        return "skip: this client cannot read the settings"
    before = changing.autoscaler.settings()
    assert (before.min_containers, before.max_containers, before.scaledown_window) == (0, 3, 2), before
    changing.update_autoscaler(scaledown_window=1200, buffer_containers=1)
    after = changing.autoscaler.settings()
    assert (after.min_containers, after.max_containers, after.scaledown_window) == (0, 3, 1200), after
    assert after.buffer_containers == 1
    assert changing.autoscaler.update(max_containers=None).max_containers is None
    assert changing.autoscaler.settings().max_containers is None
    changing.autoscaler.update(scaledown_window=2, buffer_containers=0, max_containers=3)


def check_windows_out_of_range_are_refused():
    from checks import raises

    if not hasattr(changing, "update_autoscaler"):
        return "skip: this client can change the minimum only"
    error = raises(Exception, changing.update_autoscaler, scaledown_window=1)
    assert "`scaledown_window` is 1 second; it must be between 2 and 86400" in str(error), error


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
