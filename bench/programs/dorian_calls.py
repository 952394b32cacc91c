"""What a caller of Dorian sees: an ordinary Modal program that takes orders on standard input.

The bench gives one order a line and reads one line of JSON back, so that it can take turns with `ray_calls.py`, which
understands the same orders:

    cold            a function that has no container yet: from the call to the first line of user code
    warm N          N calls of a function whose container waits, one after the other
    map N           a map over N inputs that does nothing with them
    quit
"""

import json
import os
import sys
import time

import modal

app = modal.App("bench")

# Each is called once: only the first call of a function is a cold one.
FRESH_FUNCTIONS = 40


def first_line():
    # Called from the runner; nothing of the function has run before this line.
    return time.time()


fresh = [app.function(name=f"fresh_{i}", scaledown_window=2)(first_line) for i in range(FRESH_FUNCTIONS)]


@app.function(scaledown_window=300)
def no_op(_value=None):
    return None


# As many containers as Ray has workers: one for each core.
@app.function(scaledown_window=300, max_containers=os.cpu_count())
def no_op_mapped(_value):
    return None


def answer(**values):
    print(json.dumps(values), file=sys.__stdout__, flush=True)


def cold(function):
    before = time.time()
    began = function.remote()
    answer(first_line_ms=(began - before) * 1000, answered_ms=(time.time() - before) * 1000)


def warm(calls):
    times_us = []
    for _ in range(calls):
        before = time.perf_counter()
        no_op.remote()
        times_us.append((time.perf_counter() - before) * 1e6)
    answer(times_us=times_us)


def mapped(inputs):
    before = time.perf_counter()
    count = sum(1 for _ in no_op_mapped.map(range(inputs)))
    assert count == inputs
    answer(seconds=time.perf_counter() - before)


def serve():
    unused = iter(fresh)
    answer(ready=True, version=modal.__version__)
    for line in sys.stdin:
        order, *arguments = line.split()
        match order:
            case "cold":
                cold(next(unused))
            case "warm":
                warm(int(arguments[0]))
            case "map":
                mapped(int(arguments[0]))
            case "quit":
                return


if __name__ == "__main__":
    with app.run():
        serve()
