"""A program whose module cannot be imported in the container."""

import time

import modal

app = modal.App("missing-module")

if not modal.is_local():
    print(f"importing at {time.time():.3f}", flush=True)
    import a_module_that_is_not_there  # noqa: F401


@app.function()
def work(x):
    return x


@app.local_entrypoint()
def main():
    for name, call in (("remote", lambda: work.remote(1)), ("map", lambda: list(work.map(range(20))))):
        try:
            call()
        except Exception as raised:
            print(f"{name} raised {type(raised).__name__}: {raised}", flush=True)
    calls = [work.spawn(i) for i in range(5)]
    failed = 0
    for call in calls:
        try:
            call.get(timeout=60)
        except ModuleNotFoundError:
            failed += 1
    print(f"{failed} spawned calls failed", flush=True)
