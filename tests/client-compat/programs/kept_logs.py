"""An app whose output is looked at later. Run with Python, it has each of its functions say something, and tells where."""

import json
import os
import sys

import modal

NAME = os.environ.get("CHECK_APP", "kept-logs")

app = modal.App(NAME)


@app.function()
def say(text):
    print(text)
    return os.environ["MODAL_TASK_ID"]


@app.function()
def complain(text):
    print(text, file=sys.stderr)
    return os.environ["MODAL_TASK_ID"]


def ask(name, text):
    find = getattr(modal.Function, "lookup", None) or modal.Function.from_name
    function = find(NAME, name)
    call = function.spawn(f"{name}: {text}")
    task = call.get(timeout=120)
    return {"function": function.object_id, "call": call.object_id, "task": task}


if __name__ == "__main__":
    print(json.dumps({name: ask(name, sys.argv[1]) for name in ("say", "complain")}))
