"""Hooks of classes when things end, and when they go wrong. The tests choose what is run, with an entry point each."""

import os
import signal
import time

import modal

app = modal.App("class-hooks")
OLD = modal.__version__.startswith("0.6")
# Gone after this long without work.
SHORT = {"container_idle_timeout": 2} if modal.__version__.startswith("0.") else {"scaledown_window": 2}
STARTUP = {} if modal.__version__.startswith(("0.", "1.0.")) else {"startup_timeout": 5}


class Hooks:
    @modal.enter()
    def come(self):
        print("hook entered", flush=True)

    @modal.exit()
    def leave(self):
        time.sleep(0.5)
        print("hook left", flush=True)


@app.cls()
class Steady(Hooks):
    @modal.method()
    def work(self, n):
        return n + 1

    @modal.method()
    def endless(self):
        print("works without end", flush=True)
        while True:
            time.sleep(0.1)


@app.cls(**SHORT)
class Brief(Hooks):
    @modal.method()
    def work(self, n):
        return n + 1


@app.cls(**SHORT)
class BadExit:
    @modal.exit()
    def leave(self):
        raise RuntimeError("the exit hook is broken")

    @modal.method()
    def work(self, n):
        return n + 1


@app.cls()
class BadEnter:
    @modal.enter()
    def come(self):
        raise RuntimeError("no weights here")

    @modal.method()
    def work(self, n):
        return n + 1


@app.cls(**STARTUP)
class EndlessEnter:
    @modal.enter()
    def come(self):
        print("enters without end", flush=True)
        while True:
            time.sleep(0.1)

    @modal.method()
    def work(self, n):
        return n + 1


@app.function()
def deaf():
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    print("deaf to signals", flush=True)
    while True:
        time.sleep(0.1)


@app.local_entrypoint()
def once():
    print("answer", Steady().work.remote(1))


@app.local_entrypoint()
def endless():
    Steady().endless.remote()


@app.local_entrypoint()
def brief():
    print("answer", Brief().work.remote(1), flush=True)
    # The test ends this when it has seen the hook.
    time.sleep(300)


@app.local_entrypoint()
def bad_exit():
    instance = BadExit()
    print("answer", instance.work.remote(1), flush=True)
    until = time.time() + 60
    while os.environ.get("SEEN") and not os.path.exists(os.environ["SEEN"]) and time.time() < until:
        time.sleep(0.1)
    print("answer again", instance.work.remote(2), flush=True)


@app.local_entrypoint()
def bad_enter():
    BadEnter().work.remote(1)


@app.local_entrypoint()
def endless_enter():
    EndlessEnter().work.remote(1)


@app.local_entrypoint()
def ignores_signals():
    deaf.remote()
