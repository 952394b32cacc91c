"""A value that a build and a function are given, and that nobody else may see. It waits until the file `GO_ON` exists."""

import os
import time
from pathlib import Path

import modal

app = modal.App("hidden-secret")
hidden = modal.Secret.from_local_environ(["HIDDEN"])
# A build of its own each time.
number = f": {os.environ.get('GO_ON')}"
image = modal.Image.debian_slim().run_commands(number, "echo ${#HIDDEN} > /length", secrets=[hidden])


@app.function(image=image, secrets=[hidden])
def look():
    return len(os.environ["HIDDEN"]), int(open("/length").read())


@app.local_entrypoint()
def main():
    assert look.remote() == (len(os.environ["HIDDEN"]),) * 2
    print("seen", flush=True)
    while not Path(os.environ["GO_ON"]).exists():
        time.sleep(0.1)
