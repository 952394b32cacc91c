"""A program that raises at start-up, in the container only."""

import modal

app = modal.App("broken-start")

if not modal.is_local():
    print("starting", flush=True)
    raise RuntimeError("the database is away")


@app.function()
def work(x):
    return x


@app.local_entrypoint()
def main():
    try:
        work.remote(1)
    except RuntimeError as raised:
        print(f"remote raised {type(raised).__name__}: {raised}", flush=True)
