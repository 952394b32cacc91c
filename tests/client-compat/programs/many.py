"""Many inputs, many items, many calls."""

import os
import sys
import time

import modal

app = modal.App("many")
MANY = 10_000 if os.environ.get("CHECK_BIG") else 1_000


@app.function()
def double(x):
    return 2 * x


@app.function()
def count_to(n):
    yield from range(n)


def check_a_map_over_many_inputs_returns_each_in_order():
    started = time.monotonic()
    assert list(double.map(range(MANY))) == list(range(0, 2 * MANY, 2))
    print(f"map of {MANY} inputs in {time.monotonic() - started:.1f} s")


def check_a_generator_of_many_items_yields_each_in_order():
    started = time.monotonic()
    assert list(count_to.remote_gen(MANY)) == list(range(MANY))
    print(f"generator of {MANY} items in {time.monotonic() - started:.1f} s")


def check_many_spawned_calls_all_answer():
    calls = [double.spawn(i) for i in range(MANY // 20)]
    assert [call.get() for call in calls] == list(range(0, 2 * len(calls), 2))


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
