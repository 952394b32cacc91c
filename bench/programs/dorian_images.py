"""Builds images as an ordinary Modal program does, in the order in which they come on standard input.

Each line is JSON and is answered by a line of JSON:

    {"base": NAME, "token": TEXT, "installs": [[PACKAGE, ...], ...], "tool": "pip" | "uv", "source": PATH | null,
     "commands": [COMMAND, ...]}
    quit
"""

import json
import sys
import time

import modal

app = modal.App.lookup("bench-images", create_if_missing=True)


def image_of(order):
    image = modal.Image.from_registry(order["base"])
    if order.get("token"):
        # A value that no build had before, so that nothing above the base is cached.
        image = image.env({"BENCH_TOKEN": order["token"]})
    for packages in order.get("installs", []):
        install = image.uv_pip_install if order.get("tool") == "uv" else image.pip_install
        image = install(*packages)
    if order.get("commands"):
        image = image.run_commands(*order["commands"])
    if order.get("source"):
        image = image.add_local_file(order["source"], "/root/app.py", copy=True)
    return image


def build(order):
    before = time.perf_counter()
    image = image_of(order)
    image.build(app)
    return {"seconds": time.perf_counter() - before, "image": image.object_id}


def answer(**values):
    print(json.dumps(values), file=sys.__stdout__, flush=True)


def serve():
    answer(ready=True, version=modal.__version__)
    for line in sys.stdin:
        if line.strip() == "quit":
            return
        answer(**build(json.loads(line)))


if __name__ == "__main__":
    serve()
