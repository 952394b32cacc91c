"""Calls a deployed function from many threads until it is told to stop: `call_under_load.py APP LEAST STOP_FILE`.

Prints `loading` when each thread has had an answer, and at the end how many calls were answered with what, and every
failure. It makes `LEAST` calls at least.
"""

import collections
import os
import sys
import threading
import time

import modal

app, least, stop_file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
THREADS = 8
if modal.__version__.startswith("0.63"):
    function = modal.Function.lookup(app, "code")
else:
    function = modal.Function.from_name(app, "code")

lock = threading.Lock()
answers, failures, warm = collections.Counter(), [], threading.Barrier(THREADS + 1)


def call(first=False):
    try:
        answer = function.remote()
    except Exception as raised:
        with lock:
            failures.append(f"{type(raised).__name__}: {raised}")
    else:
        with lock:
            answers[answer] += 1
    if first:
        warm.wait()


def work():
    call(first=True)
    while not os.path.exists(stop_file) or sum(answers.values()) + len(failures) < least:
        call()


threads = [threading.Thread(target=work) for _ in range(THREADS)]
started = time.monotonic()
for thread in threads:
    thread.start()
warm.wait()
print("loading", flush=True)
for thread in threads:
    thread.join()
print(f"{sum(answers.values())} calls in {time.monotonic() - started:.1f} s", flush=True)
print("answers", *(f"{answer}={count}" for answer, count in sorted(answers.items())), flush=True)
for failure in failures[:10]:
    print("failure", failure, flush=True)
