"""A file in a volume that is overwritten again and again, and somebody who still reads what it was before."""

import hashlib
import os
import time

import modal

SIZE = int(os.environ.get("CHECK_SIZE", str(8 << 20)))
TIMES = int(os.environ.get("CHECK_TIMES", "8"))

app = modal.App("volume-space")
volume = modal.Volume.from_name(os.environ.get("CHECK_VOLUME", "space"), create_if_missing=True)
settings = modal.Secret.from_dict({"CHECK_SIZE": str(SIZE), "CHECK_TIMES": str(TIMES)})
PATH = "/kept/checkpoint"


def digest():
    with open(PATH, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


@app.function(volumes={"/kept": volume}, secrets=[settings])
def overwrite():
    for number in range(TIMES):
        with open(PATH, "wb") as file:
            file.write(os.urandom(SIZE))
        volume.commit()
        print("committed", number, digest(), flush=True)
    return digest()


@app.function(volumes={"/kept": volume})
def look():
    return digest()


@app.function(volumes={"/kept": volume})
def hold(queue):
    """Reads the version that it started with when it is told to, for the first time."""
    queue.put("holding")
    queue.get(partition="go", timeout=120)
    return digest()


@app.local_entrypoint()
def main():
    print("last", overwrite.remote(), "seen", look.remote())


@app.local_entrypoint()
def see():
    print("seen", look.remote())


@app.local_entrypoint()
def read_an_old_version(go: str):
    before = overwrite.remote()
    with modal.Queue.ephemeral() as queue:
        held = hold.spawn(queue)
        queue.get(timeout=120)
        after = overwrite.remote()
        print("overwritten", flush=True)
        while not os.path.exists(go):
            time.sleep(0.05)
        queue.put("go", partition="go")
        print("before", before, "after", after, "held", held.get(timeout=60))
