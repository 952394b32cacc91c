"""What the JavaScript SDK calls in `from_javascript.cjs`."""

import os

import modal

app = modal.App(os.environ.get("APP_NAME", "from-javascript"))


@app.function()
def greet(name, loud=False):
    return f"HELLO {name.upper()}" if loud else f"hello {name}"


@app.function()
def twice(data):
    return bytes(data) * 2


@app.function()
def broken():
    raise ValueError("as it should")


@app.cls()
class Counter:
    start: int = modal.parameter(default=1)

    @modal.method()
    def add(self, n):
        return self.start + n

    @modal.method()
    def variable(self, name):
        return os.environ.get(name)
