"""A secret by its name."""

import os

import modal

app = modal.App("named-secret")
name = os.environ.get("CHECK_NAME", "a-token")
required = [name for name in os.environ.get("CHECK_REQUIRED", "").split(",") if name]


@app.function(secrets=[modal.Secret.from_name(name, required_keys=required)])
def look(names=("TOKEN",)):
    return [os.environ[name] for name in names]


@app.local_entrypoint()
def main():
    print("token", *look.remote())
    if shown := os.environ.get("CHECK_SHOWN"):
        print("values", "|".join(look.remote(shown.split(","))))
