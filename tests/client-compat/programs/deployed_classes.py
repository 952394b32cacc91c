"""Classes to be deployed and looked up by other programs (`look_up_classes.py`), of this client's version and others."""

import os
import time

import modal

app = modal.App("deployed-classes-" + modal.__version__)
BUILD = os.environ.get("BUILD", "first")


@app.cls(secrets=[modal.Secret.from_dict({"WHO": "base", "BUILD": BUILD})])
class Plain:
    @modal.enter()
    def come(self):
        self.steps = ["entered"]

    @modal.method()
    def who(self):
        return [os.environ["WHO"], os.environ["BUILD"], os.environ["MODAL_TASK_ID"]]

    @modal.method()
    def steps_taken(self):
        return self.steps

    @modal.method()
    def up_to(self, n):
        yield from range(n)

    @modal.method()
    def slow(self, seconds):
        time.sleep(seconds)
        return seconds

    if BUILD == "first":

        @modal.method()
        def only_at_first(self):
            return "first"


if modal.__version__.startswith("0.6"):

    @app.cls()
    class Model:
        def __init__(self, name="none", size=3):
            self.name = name
            self.size = size

        @modal.method()
        def describe(self):
            return f"{self.name}:{self.size}"

else:

    @app.cls()
    class Model:
        name: str = modal.parameter(default="none")
        size: int = modal.parameter(default=3)

        @modal.method()
        def describe(self):
            return f"{self.name}:{self.size}"


@app.function()
def double(x):
    return 2 * x
