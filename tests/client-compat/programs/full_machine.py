"""One function fills the machine for minutes; another wants one container."""

import os
import time

import modal

app = modal.App("full-machine")
# Eight containers are the machine, whatever it is. CPU would be shared.
PART = (os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20) // 8


@app.function(cpu=0.1, memory=PART, timeout=600)
def hungry(seconds):
    time.sleep(seconds)


@app.function(cpu=0.1, memory=PART)
def modest():
    return "the modest one worked"


def containers_of(function):
    stats = function.get_current_stats()
    return getattr(stats, "num_total_runners", None) or getattr(stats, "num_total_tasks", 0)


@app.local_entrypoint()
def main():
    calls = [hungry.spawn(5) for _ in range(150)]
    while containers_of(hungry) < 8:
        time.sleep(0.2)
    print(modest.remote(), flush=True)
    print("the hungry one had", hungry.get_current_stats().backlog, "inputs to go", flush=True)
    for call in calls:
        call.cancel()
