"""A secret by its name."""

import os

import modal

app = modal.App("named-secret")
required = [name for name in os.environ.get("CHECK_REQUIRED", "").split(",") if name]


@app.function(secrets=[modal.Secret.from_name("a-token", required_keys=required)])
def look():
    return os.environ["TOKEN"]


@app.local_entrypoint()
def main():
    print("token", look.remote())
