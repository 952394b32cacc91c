"""An image of two steps that each leave something unique: whether a step ran again can be told afterwards."""

import os

import modal

STAMP = os.environ.get("CHECK_STAMP", "kept")
SECONDS = os.environ.get("CHECK_SECONDS", "0")
FILES = os.environ.get("CHECK_FILES", "1")
UNIQUE = "$(cat /proc/sys/kernel/random/uuid)"

app = modal.App(os.environ.get("CHECK_APP", "layered-image"))
image = modal.Image.debian_slim().run_commands(
    f": {STAMP}; echo first-{UNIQUE} | tee /first; mkdir /many; cd /many; seq {FILES} | xargs touch",
    f": {STAMP}; echo second begins; sleep {SECONDS}; echo second-{UNIQUE} | tee /second",
)


@app.function(image=image)
def look():
    return open("/first").read().strip(), open("/second").read().strip()


@app.function(image=image)
def count():
    return len(os.listdir("/many"))


@app.function(image=image, timeout=600)
def hold(seconds):
    import time

    print("holding", flush=True)
    time.sleep(seconds)
    return open("/second").read().strip()


@app.local_entrypoint()
def main():
    print("look", *look.remote())


@app.local_entrypoint()
def files():
    print("files", count.remote())


@app.local_entrypoint()
def hold_long(seconds: float = 600):
    print("held", hold.remote(seconds))


@app.local_entrypoint()
def publish(name: str):
    image.build(app)
    image.publish(name)
    print("published")
