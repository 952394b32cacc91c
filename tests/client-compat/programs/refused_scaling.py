"""A function whose limits cannot be honoured: `REFUSED` says which."""

import os

import modal

app = modal.App("refused-scaling")
NEW_NAMES = tuple(int(part) for part in modal.__version__.split(".")[:2]) >= (0, 73)
CASES = {
    "memory": {"memory": 64 * 1024 * 1024},
    "disk": {"ephemeral_disk": 100 * 1024 * 1024},
    "minimum": {"min_containers" if NEW_NAMES else "keep_warm": 4_000_000_000},
    # What is not served yet hides no mistake.
    "gpu-and-minimum": {"gpu": "T4", "min_containers" if NEW_NAMES else "keep_warm": 4_000_000_000},
}


@app.function(**CASES.get(os.environ.get("REFUSED", ""), {}))
def work():
    return 1


@app.local_entrypoint()
def main():
    print("it ran", work.remote())
