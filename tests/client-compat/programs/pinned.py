"""An app to deploy several times, and look-ups of its versions: `python pinned.py APP KIND:NAME:VERSION...` prints for each
what it answers."""

import os
import sys

import modal

NAME = os.environ.get("APP_NAME", "pinned")
CODE = os.environ.get("CODE", "")

app = modal.App(NAME)
told = modal.Secret.from_dict({"APP_NAME": NAME, "CODE": CODE})


@app.function(secrets=[told])
def code():
    return os.environ["CODE"]


@app.cls(secrets=[told])
class Model:
    size: int = modal.parameter(default=1)

    @modal.method()
    def code(self):
        return f"{os.environ['CODE']} of size {self.size}"


if CODE == "two" or not modal.is_local():

    @app.function(secrets=[told])
    def only_two():
        return "only two"


def answer(app, kind, name, version):
    pin = {"version": int(version)} if version else {}
    if kind == "function":
        return modal.Function.from_name(app, name, **pin).remote()
    found = modal.Cls.from_name(app, name, **pin)
    if kind == "options":
        found = found.with_options(timeout=77)
    return (found() if kind == "class" else found(size=5)).code.remote()


if __name__ == "__main__":
    for wanted in sys.argv[2:]:
        try:
            print(f"{wanted} -> {answer(sys.argv[1], *wanted.split(':'))}", flush=True)
        except modal.exception.NotFoundError as raised:
            print(f"{wanted} -> NotFoundError {raised}", flush=True)
