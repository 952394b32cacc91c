"""An image that says when it was built, for tests that set what the client reads from its environment."""

import json

import modal

app = modal.App("image-forced")
stamped = modal.Image.from_registry("python:3.11-slim").run_commands("cat /proc/sys/kernel/random/uuid > /built")


@app.local_entrypoint()
def main(default: bool = False):
    from image_tools import look, made

    if default:
        image = modal.Image.debian_slim()
        print("made", json.dumps({"image": made(image)}), flush=True)
    else:
        print("made", json.dumps({"stamp": look(stamped, built="open('/built').read()")["built"]}), flush=True)
