"""A volume whose disk is too small for what is written to it."""

import os

import modal

app = modal.App("full-disk")
volume = modal.Volume.from_name("full-disk", create_if_missing=True)
MIB = 1 << 20


@app.function(volumes={"/kept": volume})
def read():
    volume.reload()
    return {name: open(f"/kept/{name}", "rb").read(10).decode("latin1") for name in sorted(os.listdir("/kept"))}


def put(name, content):
    with open(f"/kept/{name}", "wb") as file:
        file.write(content)


@app.function(volumes={"/kept": volume})
def fill():
    put("small", b"one")
    volume.commit()
    put("large", os.urandom(60 * MIB))
    put("small", b"two")
    try:
        volume.commit()
    except Exception as error:
        print("refused:", type(error).__name__, error)
    print("others see", read.remote())
    os.remove("/kept/large")
    volume.commit()
    print("now others see", read.remote())


@app.function(volumes={"/kept": volume})
def leave():
    put("last", os.urandom(60 * MIB))


@app.function(volumes={"/kept": volume})
def press():
    """Far more than the disk holds, but one after the other."""
    for number in range(12):
        put("checkpoint", os.urandom(8 * MIB))
        volume.commit()
        print("committed", number)


@app.local_entrypoint()
def replace():
    press.remote()


@app.local_entrypoint()
def main():
    fill.remote()


@app.local_entrypoint()
def lose():
    leave.remote()
    print("app", app.app_id)
