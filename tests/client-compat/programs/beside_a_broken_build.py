"""Two images are built at once: the build of one fails, and with it the run."""

import os

import modal

STAMP = os.environ.get("CHECK_STAMP", "kept")

app = modal.App("beside-a-broken-build")
broken = modal.Image.debian_slim().run_commands(f": {STAMP}; sleep 1; exit 3")
slow = modal.Image.debian_slim().run_commands(f": {STAMP}; sleep 900")


@app.function(image=broken)
def first():
    pass


@app.function(image=slow)
def second():
    pass


@app.local_entrypoint()
def main():
    pass
