"""What a container prints, as the caller's terminal shows it."""

import subprocess
import sys
import time

import modal

app = modal.App("output")


@app.function()
def print_numbers(n):
    for i in range(n):
        print(f"line {i}")


@app.function()
def print_times(n, pause):
    for _ in range(n):
        print(f"printed at {time.time():.6f}")
        time.sleep(pause)


@app.function()
def print_kinds():
    print("to standard output")
    print("to standard error", file=sys.stderr)
    subprocess.run(["echo", "from a child"], check=True)
    print("häß 🦀 " + "wide " * 5)
    print("x" * 100_000 + "END")
    sys.stdout.write("without a newline")


@app.function()
def print_a_million_lines():
    line = "flood " + "z" * 60
    for i in range(1_000_000):
        print(i, line)
    return "printed"


@app.function()
def healthy():
    return time.time()


@app.local_entrypoint()
def numbers():
    print_numbers.remote(2000)


@app.local_entrypoint()
def latency():
    print_times.remote(1, 0)
    print_times.remote(30, 0.1)


@app.local_entrypoint()
def kinds():
    print_kinds.remote()


@app.local_entrypoint()
def flood():
    healthy.remote()
    call = print_a_million_lines.spawn()
    slowest = 0.0
    for _ in range(20):
        started = time.monotonic()
        healthy.remote()
        slowest = max(slowest, time.monotonic() - started)
        time.sleep(0.05)
    said = call.get(timeout=120)
    print(f"flood {said}, slowest other call {slowest:.3f} s", flush=True)
