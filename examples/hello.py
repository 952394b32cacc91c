"""Ordinary functions, run in containers. Try it with `dorian run examples/hello.py`."""

import platform

import modal

app = modal.App("hello")


@app.function()
def square(x):
    print(f"squaring {x} on {platform.node()}")
    return x * x


@app.local_entrypoint()
def main():
    print("one call:", square.remote(12))
    print("many at once:", list(square.map(range(8))))
    later = square.spawn(100)
    print("fetched later:", later.get())
