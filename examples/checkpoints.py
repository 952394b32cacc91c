"""Training that survives its container: checkpoints in a volume, progress in a dict, work in a queue.

modal run examples/checkpoints.py
modal volume ls checkpoints
"""

import json
from pathlib import Path

import modal

app = modal.App("checkpoints")
checkpoints = modal.Volume.from_name("checkpoints", create_if_missing=True)
progress = modal.Dict.from_name("progress", create_if_missing=True)


@app.function(volumes={"/checkpoints": checkpoints}, retries=2)
def train(name, steps, dies_at=None):
    # This container may have started before another one's last commit.
    checkpoints.reload()
    latest = Path("/checkpoints") / name / "latest.json"
    latest.parent.mkdir(parents=True, exist_ok=True)
    state = json.loads(latest.read_text()) if latest.exists() else {"step": 0, "loss": 1.0}
    print(f"{name}: begins at step {state['step']}")
    while state["step"] < steps:
        if state["step"] == dies_at and progress.put(f"{name} died", True, skip_if_exists=True):
            raise RuntimeError("the machine trips over its own feet")
        state = {"step": state["step"] + 1, "loss": state["loss"] * 0.9}
        # Written beside and renamed: nobody ever sees half a checkpoint.
        latest.with_suffix(".new").write_text(json.dumps(state))
        latest.with_suffix(".new").replace(latest)
        checkpoints.commit()
        progress[name] = state["step"]
    return state


@app.function(volumes={"/checkpoints": checkpoints})
def compare():
    # A container sees what was committed when it started, and this one starts now.
    found = {path.parent.name: json.loads(path.read_text()) for path in Path("/checkpoints").glob("*/latest.json")}
    return min(found, key=lambda name: found[name]["loss"])


@app.local_entrypoint()
def main():
    with modal.Queue.ephemeral() as jobs:
        jobs.put_many([("short", 5), ("long", 10)])
        calls = [train.spawn(name, steps, 3) for name, steps in jobs.get_many(2)]
        for call in calls:
            print("done:", call.get())
    print("steps:", dict(progress.items()))
    print("best:", compare.remote())
