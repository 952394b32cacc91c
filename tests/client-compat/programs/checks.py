"""Runs a program's checks, one after the other, in the program's own local entry point.

A check is a function `check_some_sentence()`; it passes when it returns. Each ends with a line that the test suite
reads: `CHECK PASS some_sentence`, `CHECK FAIL ...`, or `CHECK SKIP ...` when it returns a text starting with `skip`.
Not part of what runs in a container: programs import it inside their entry point only.
"""

import asyncio
import inspect
import os
import signal
import sys
import time
import traceback

# No check may hang the ones after it. The heaviest one builds an image with compilers in 40 s, and may do so beside other work.
LIMIT_S = int(os.environ.get("CHECK_LIMIT_S", "180"))


class TookTooLong(BaseException):
    """Not an `Exception`: code under test must not catch it."""


def _alarm(_signal, frame):
    raise TookTooLong(f"no answer within {LIMIT_S} s")


def raises(kind, call, *arguments, **keywords):
    """The exception that `call` raises, which has to be of `kind`."""
    try:
        value = call(*arguments, **keywords)
    except kind as raised:
        return raised
    raise AssertionError(f"returned {value!r:.200}, and should have raised {kind}")


def run(program, only=""):
    """Runs the checks in `program`'s names; `only` is a comma-separated choice of them."""
    chosen = [name for name in only.split(",") if name]
    signal.signal(signal.SIGALRM, _alarm)
    failed = 0
    for name, check in list(program.items()):
        if not name.startswith("check_") or (chosen and name[len("check_") :] not in chosen):
            continue
        started = time.monotonic()
        signal.alarm(LIMIT_S)
        try:
            said = asyncio.run(check()) if inspect.iscoroutinefunction(check) else check()
            verdict = "SKIP" if isinstance(said, str) and said.startswith("skip") else "PASS"
        except (Exception, TookTooLong):
            verdict, failed = "FAIL", failed + 1
            print(traceback.format_exc(), file=sys.stdout)
        finally:
            signal.alarm(0)
        print(f"CHECK {verdict} {name[len('check_') :]} {time.monotonic() - started:.2f}s", flush=True)
    print(f"CHECKS ENDED {failed}", flush=True)
