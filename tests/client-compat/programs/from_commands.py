"""An image from the Dockerfile lines in CHECK_COMMANDS, on CHECK_BASE; prints what a command in it says."""

import json
import os
import subprocess

import modal

app = modal.App("from-commands")
commands = json.loads(os.environ.get("CHECK_COMMANDS", "[]"))
secrets = [modal.Secret.from_dict(json.loads(os.environ.get("CHECK_SECRET", "{}")))]
keywords = {"secrets": secrets} if "CHECK_SECRET" in os.environ else {}
reference = os.environ.get("CHECK_BASE")
base = modal.Image.from_registry(reference) if reference else modal.Image.debian_slim()
image = base.dockerfile_commands(*commands, **keywords)


@app.function(image=image)
def say(command):
    return subprocess.run(command, shell=True, capture_output=True, text=True).stdout


@app.local_entrypoint()
def main():
    print("says", repr(say.remote(os.environ["CHECK_SAY"])), flush=True)
