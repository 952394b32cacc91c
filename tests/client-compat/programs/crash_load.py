"""A caller under load that lives through the server's crashes, and keeps account of what it was promised.

    python crash_load.py LEDGER

Three kinds of callers run until a file `LEDGER.stop` appears; then everything that was accepted is asked for. The last
line is a JSON account. Not started with `modal run`: it needs its own threads. A call that raises is fine (a clear
error is an answer), a call that never returns is not, and neither is a value that is wrong or that comes twice.
"""

import json
import os
import sys
import threading
import time

import modal

app = modal.App("crash-load")


@app.function(serialized=True)
def triple(x):
    return 3 * x


@app.function(serialized=True)
def slow_triple(x):
    import time

    time.sleep(0.2)
    return 3 * x


class Account:
    def __init__(self):
        self.lock = threading.Lock()
        self.numbers = {
            "spawned": 0, "spawn_refused": 0, "lost": [], "wrong": [],
            "remote_answered": 0, "remote_refused": 0,
            "maps_complete": 0, "maps_refused": 0, "twice": [], "missing": [],
        }  # fmt: skip

    def add(self, name, value=1):
        with self.lock:
            held = self.numbers[name]
            self.numbers[name] = held + value if isinstance(held, int) else [*held, value]


def spawner(account, accepted, stopped, base):
    x = base
    while not stopped():
        x += 1
        try:
            call = (slow_triple if x % 5 == 0 else triple).spawn(x)
        except Exception:
            account.add("spawn_refused")
            time.sleep(0.2)
            continue
        accepted.append((x, call.object_id))
        account.add("spawned")
        time.sleep(0.01)


def remote_caller(account, stopped, base):
    x = base
    while not stopped():
        x += 1
        try:
            value = triple.remote(x)
        except Exception:
            account.add("remote_refused")
            time.sleep(0.2)
            continue
        account.add("remote_answered")
        if value != 3 * x:
            account.add("wrong", ["remote", x, value])


def mapper(account, stopped):
    while not stopped():
        got = []
        try:
            for value in triple.map(range(40), order_outputs=False):
                got.append(value)
        except Exception:
            account.add("maps_refused")
            time.sleep(0.2)
        else:
            account.add("maps_complete")
            if set(got) != set(range(0, 120, 3)):
                account.add("missing", sorted(set(range(0, 120, 3)) - set(got)))
        if len(got) != len(set(got)):
            account.add("twice", sorted(got))


def collect(account, accepted):
    """Everything that was accepted has an answer, now that the server stays up."""
    for x, call_id in accepted:
        for attempt in range(5):
            try:
                value = modal.functions.FunctionCall.from_id(call_id).get(timeout=60)
            except (TimeoutError, modal.exception.TimeoutError):
                account.add("lost", [x, call_id, "no answer"])
                break
            except Exception as raised:
                if attempt == 4:
                    account.add("lost", [x, call_id, repr(raised)])
                time.sleep(0.5)
            else:
                if value != 3 * x:
                    account.add("wrong", ["spawn", x, value])
                break


def main(ledger):
    account, accepted = Account(), []
    stopped = lambda: os.path.exists(f"{ledger}.stop")  # noqa: E731
    with app.run(detach=True):
        triple.remote(1)
        slow_triple.remote(1)
        threads = [
            threading.Thread(target=spawner, args=(account, accepted, stopped, 0), daemon=True),
            threading.Thread(target=spawner, args=(account, accepted, stopped, 1_000_000), daemon=True),
            threading.Thread(target=remote_caller, args=(account, stopped, 2_000_000), daemon=True),
            threading.Thread(target=mapper, args=(account, stopped), daemon=True),
        ]
        for thread in threads:
            thread.start()
        print("loading", flush=True)
        while not stopped():
            time.sleep(0.05)
        deadline = time.monotonic() + 120
        for thread in threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        silent = sum(thread.is_alive() for thread in threads)
        collect(account, list(accepted))
    print("ACCOUNT", json.dumps({**account.numbers, "silent_callers": silent}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
