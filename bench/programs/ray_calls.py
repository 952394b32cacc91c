"""What a caller of Ray sees, with the orders of `dorian_calls.py`.

Ray's nearest to a function with a container of its own is an actor, a process of its own; a call of Dorian's is
compared with a method of an actor as well as with a task, and a map with as many tasks at once.
"""

import json
import sys
import time

import ray


@ray.remote
class Fresh:
    def first_line(self):
        return time.time()


@ray.remote
class Waiting:
    def no_op(self, _value=None):
        return None


@ray.remote
def no_op(_value=None):
    return None


def answer(**values):
    print(json.dumps(values), flush=True)


def cold():
    before = time.time()
    actor = Fresh.remote()
    began = ray.get(actor.first_line.remote())
    answer(first_line_ms=(began - before) * 1000, answered_ms=(time.time() - before) * 1000)
    ray.kill(actor)


def warm(call, calls):
    times_us = []
    for _ in range(calls):
        before = time.perf_counter()
        ray.get(call())
        times_us.append((time.perf_counter() - before) * 1e6)
    answer(times_us=times_us)


def mapped(inputs):
    before = time.perf_counter()
    results = ray.get([no_op.remote(value) for value in range(inputs)])
    assert len(results) == inputs
    answer(seconds=time.perf_counter() - before)


def serve():
    waiting = Waiting.remote()
    answer(ready=True, version=ray.__version__)
    for line in sys.stdin:
        order, *arguments = line.split()
        match order:
            case "cold":
                cold()
            case "warm":
                warm(no_op.remote, int(arguments[0]))
            case "warm-actor":
                warm(waiting.no_op.remote, int(arguments[0]))
            case "map":
                mapped(int(arguments[0]))
            case "quit":
                return


if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    serve()
    ray.shutdown()
