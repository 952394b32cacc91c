"""What goes wrong is part of the program: retries with growing pauses, a timeout, errors as results.

dorian run examples/flaky.py
"""

import random
import time

import modal

app = modal.App("flaky")


@app.function(retries=modal.Retries(max_retries=4, initial_delay=1.0, backoff_coefficient=1.5), timeout=10)
def fetch(page: int) -> str:
    if random.random() < 0.5:
        print(f"page {page}: the other side hung up, trying again")
        raise ConnectionError(f"page {page}")
    return f"page {page} has {random.randrange(100, 900)} words"


@app.function(timeout=2)
def takes_too_long():
    time.sleep(60)


@app.local_entrypoint()
def main():
    for result in fetch.map(range(6), return_exceptions=True):
        print("got", result)
    try:
        takes_too_long.remote()
    except modal.exception.FunctionTimeoutError as error:
        print("stopped:", error)
