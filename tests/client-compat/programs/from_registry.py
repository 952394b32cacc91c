"""A function in an image from a registry; the test serves one on loopback and names it in CHECK_REFERENCE."""

import os

import modal

app = modal.App("from-registry")
image = modal.Image.from_registry(os.environ.get("CHECK_REFERENCE", "127.0.0.1:1/not:used"))


@app.function(image=image)
def look():
    def read(path):
        return open(path).read().strip() if os.path.exists(path) else None

    return {"kept": read("/srv/kept"), "removed": read("/srv/removed"), "opaque": sorted(os.listdir("/srv/opaque")),
            "changed": read("/srv/changed"), "variable": os.environ.get("FROM_THE_IMAGE")}  # fmt: skip


@app.local_entrypoint()
def main():
    print("look", look.remote(), flush=True)
