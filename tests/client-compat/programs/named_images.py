"""Images under names: publish, look up, publish again, look at the past."""

import os
import sys
import time

import modal

app = modal.App("named-images")
NAME = os.environ.get("CHECK_NAME", "a-name")
image = modal.Image.debian_slim().run_commands(f"echo {os.environ.get('CHECK_STAMP', 'one')} > /stamp")


@app.local_entrypoint()
def publish(tag: str = "latest"):
    image.build(app)
    image.publish(f"{NAME}:{tag}")
    print("published", image.object_id)


named = modal.App("uses-a-named-image")


@named.function(image=modal.Image.from_name(f"{NAME}:{os.environ.get('CHECK_TAG', 'latest')}"))
def look():
    return open("/stamp").read().strip()


@named.local_entrypoint()
def use():
    print("stamp", look.remote())
