"""Several functions and several local entry points in one file, with arguments from the command line."""

import asyncio
import sys

import modal

app = modal.App("entries")


@app.function()
def shout(text: str, times: int = 1):
    print((text.upper() + "! ") * times)
    return text.upper()


@app.function()
def whisper(text: str):
    print(text.lower())


@app.function()
def raise_in_the_container():
    raise LookupError("nobody of that name")


@app.local_entrypoint()
def greet(name: str, times: int = 2, loud: bool = False, factor: float = 1.0):
    print(f"greet {name!r} {times!r} {loud!r} {factor!r}")
    print(shout.remote(name, times) if loud else name)


@app.local_entrypoint()
async def greet_async(name: str = "nobody"):
    print("async", await shout.remote.aio(name), asyncio.get_running_loop().is_running())


@app.local_entrypoint()
def fails_here():
    raise ValueError("this side is wrong")


@app.local_entrypoint()
def fails_there():
    raise_in_the_container.remote()


@app.local_entrypoint()
def leaves(code: int):
    sys.exit(code)
