"""An app that ends while two of its containers are still starting: one imports, the other enters."""

import os
import time
from pathlib import Path

import modal

app = modal.App("still-starting")

if os.environ.get("SLOW_TO_IMPORT"):
    print("importing", flush=True)
    time.sleep(300)


@app.function()
def square(x):
    return x * x


@app.function(secrets=[modal.Secret.from_dict({"SLOW_TO_IMPORT": "1"})])
def imports_slowly():
    pass


@app.cls()
class Model:
    @modal.enter()
    def load(self):
        print("entering", flush=True)
        time.sleep(300)

    @modal.method()
    def answer(self):
        pass


@app.local_entrypoint()
def main(go: str):
    imports_slowly.spawn()
    Model().answer.spawn()
    print("square of 12:", square.remote(12), flush=True)
    while not Path(go).exists():
        time.sleep(0.05)
    print("that is all", flush=True)
