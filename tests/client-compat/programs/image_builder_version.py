"""The image that clients make by default, with the image builder that MODAL_IMAGE_BUILDER_VERSION chooses."""

import os
import subprocess
import sys

import modal

image = modal.Image.debian_slim().env({"BUILDER": os.environ.get("MODAL_IMAGE_BUILDER_VERSION", "")})
app = modal.App("image-builder-version", image=image)


@app.function()
def look():
    pip = subprocess.run([sys.executable, "-m", "pip", "--version"], stdout=subprocess.PIPE, text=True, check=True)
    compiler = subprocess.run(["gcc", "-dumpversion"], stdout=subprocess.PIPE, text=True, check=True)
    return {"builder": os.environ["BUILDER"], "pip": pip.stdout, "compiler": compiler.stdout}


@app.local_entrypoint()
def main():
    seen = look.remote()
    assert "pip" in seen["pip"] and seen["compiler"].strip().isdigit(), seen
    print("built as", seen["builder"], flush=True)
