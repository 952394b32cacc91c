"""Buckets that are not there, or that go away while a program uses them."""

import errno
import os
import sys
import time

import modal

app = modal.App("bad-buckets")

get = os.environ.get
BUCKET, ENDPOINT, NOBODY = get("CHECK_BUCKET", "data"), get("CHECK_ENDPOINT", "http://127.0.0.1:1"), get("CHECK_NOBODY", "http://127.0.0.1:1")
DOOR = get("CHECK_DOOR", ENDPOINT)
KEYS = {"AWS_ACCESS_KEY_ID": get("CHECK_KEY", "x"), "AWS_SECRET_ACCESS_KEY": get("CHECK_SECRET", "x")}


def bucket(name=BUCKET, endpoint=ENDPOINT, keys=KEYS):
    return modal.CloudBucketMount(name, bucket_endpoint_url=endpoint, secret=keys and modal.Secret.from_dict(keys))



@app.function(volumes={"/data": bucket("no-such-bucket")})
def missing():
    return os.listdir("/data")


@app.function(volumes={"/data": bucket(keys={**KEYS, "AWS_SECRET_ACCESS_KEY": "wrong-but-hush"})})
def wrong_key():
    return os.listdir("/data")


@app.function(volumes={"/data": bucket(keys={"AWS_ACCESS_KEY_ID": "x"})})
def half_a_key():
    return os.listdir("/data")


@app.function(volumes={"/data": bucket(endpoint=NOBODY)})
def nobody_there():
    return os.listdir("/data")


@app.function(volumes={"/data": bucket()}, timeout=100)
def copied_elsewhere():
    with open("/data/copied-first", "w") as file:
        file.write("first")
    print("the mount may be copied now", flush=True)
    while not os.path.exists("/data/is-copied"):
        time.sleep(0.2)
    with open("/data/copied-last", "w") as file:
        file.write("last")
    return "written"


@app.function(volumes={"/data": bucket(endpoint=DOOR), "/sure": bucket()}, timeout=100)
def go_on_without(chosen):
    """Says that it is ready, waits until the store is gone, and tells how each kind of call fails."""
    with open("/data/before", "w") as file:
        file.write("x" * 100)
    if "close" in chosen:
        held = open("/data/lost", "w")
        held.write("not yet there")
        held.flush()
    print("the store may go now", flush=True)
    while os.path.exists("/sure/go-on") is False:
        time.sleep(0.2)
    # What was just heard of files is believed for a second.
    time.sleep(1.1)
    seen, acts = {}, {
        "close": lambda: held.close(),
        "stat": lambda: os.stat("/data/before"),
        "list": lambda: os.listdir("/data"),
        "read": lambda: open("/data/before").read(),
        "write": lambda: write("/data/other"),
        "remove": lambda: os.unlink("/data/before"),
    }
    for name in chosen.split(","):
        try:
            acts[name]()
            seen[name] = "nothing"
        except OSError as error:
            seen[name] = errno.errorcode[error.errno]
    return seen


def write(path):
    with open(path, "w") as file:
        file.write("x")


@app.function(volumes={"/data": bucket(endpoint=DOOR), "/sure": bucket()}, timeout=60)
def hang():
    print("the store may go now", flush=True)
    while os.path.exists("/sure/go-on") is False:
        time.sleep(0.2)
    print("asking", flush=True)
    os.listdir("/data")


@app.local_entrypoint()
def main(what: str):
    sys.stdout.reconfigure(line_buffering=True)
    for name in what.split(","):
        begun = time.monotonic()
        try:
            said = globals()[name].remote(*([get("CHECK_ACTS")] if name == "go_on_without" else []))
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        print(f"RESULT {name} {said} after {time.monotonic() - begun:.1f}s")
