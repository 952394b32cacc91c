"""An app to deploy: what it answers is what it was deployed with."""

import os
import time

import modal

NAME = os.environ.get("APP_NAME", "deployed")
CODE = os.environ.get("CODE", "")

app = modal.App(NAME)
told = modal.Secret.from_dict({"APP_NAME": NAME, "CODE": CODE})


@app.function(secrets=[told])
def code():
    return os.environ["CODE"]


@app.function(secrets=[told])
def slow_code(seconds):
    print("began", os.environ["CODE"], flush=True)
    time.sleep(seconds)
    return os.environ["CODE"]


if "new" in CODE or not modal.is_local():

    @app.function(secrets=[told])
    def only_new():
        return "only new"
