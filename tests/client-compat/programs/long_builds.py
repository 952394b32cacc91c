"""Images whose builds take longer than anybody waits: one step of commands, and one function."""

import os
import time

import modal

STAMP = os.environ.get("CHECK_STAMP", "kept")

app = modal.App("long-builds")


def dawdle(stamp):
    print("function begins", flush=True)
    time.sleep(900)


steps = modal.Image.debian_slim().env({"CHECK": "1"}).run_commands(f": {STAMP}; echo step begins; sleep 900")
made_by_function = modal.Image.debian_slim().run_function(dawdle, args=(STAMP,))


@app.local_entrypoint()
def by_steps():
    steps.build(app)


@app.local_entrypoint()
def by_function():
    made_by_function.build(app)
