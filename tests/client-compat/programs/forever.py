"""Functions that run until someone ends them."""

import os
import time

import modal

app = modal.App("forever")


@app.function(timeout=600)
def tick(n):
    task = os.environ["MODAL_TASK_ID"]
    for i in range(n):
        print(f"tick {i} in {task}", flush=True)
        time.sleep(0.5)
    return task


@app.function(timeout=600)
def sleep_long(i):
    print(f"sleeping {i}", flush=True)
    time.sleep(300)


@app.local_entrypoint()
def main(n: int = 600):
    print("finished in", tick.remote(n))


@app.local_entrypoint()
def many():
    list(sleep_long.map(range(3)))


@app.local_entrypoint()
def spawned(n: int = 600):
    call = tick.spawn(n)
    print("spawned", call.object_id, flush=True)
    call.get()
