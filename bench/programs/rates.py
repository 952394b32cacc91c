"""How often something can be done: the same loops for whatever is compared.

Acts are functions of a number that counts up. Those of the client block; those on the wire are awaited.
"""

import asyncio
import json
import sys
import time

VALUE_BYTES = 100
KEYS = 1_000
# A partition of a queue takes 5,000 items, so gets are measured until so many were got, or until the time is over.
FILL = 4_000


def serve(about, client_acts, on_the_wire):
    say(about)
    acts = client_acts()
    for line in sys.stdin:
        order, *words = line.split()
        if order == "quit":
            return
        if order == "rate":
            way, what, callers, seconds = words[0], words[1].replace("-", " "), int(words[2]), float(words[3])
            if way == "client":
                say(rate_of_one(acts, what, seconds))
            else:
                say(asyncio.run(on_the_wire(lambda found: rate_of_many(found, what, callers, seconds))))
        elif order == "wake":
            say(asyncio.run(on_the_wire(lambda found: wake(found, int(words[0])))))
        elif order == "wait":
            say(asyncio.run(on_the_wire(lambda found: wait(found, int(words[0]), float(words[1])))))


def say(answer):
    print(json.dumps(answer), flush=True)


def rate_of_one(acts, what, seconds):
    most = 10**9
    acts["clear"]()
    if what == "queue get":
        acts["fill"](FILL)
        most = FILL
    act, done, start, used = acts[what], 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds and done < most:
        act(done)
        done += 1
    return rate(done, start, used)


async def rate_of_many(acts, what, callers, seconds):
    await acts["clear"]()
    left = 10**9
    if what == "queue get":
        await acts["fill"](FILL)
        left = FILL
    act, done, start, used = acts[what], 0, time.perf_counter(), time.process_time()

    async def caller():
        nonlocal done, left
        while time.perf_counter() - start < seconds and left > 0:
            left -= 1
            number, done = done, done + 1
            await act(number)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return rate(done, start, used)


def rate(done, start, used):
    """Operations in a second, and the processor time of this process for each."""
    took, used = time.perf_counter() - start, time.process_time() - used
    return {"per_second": done / took, "done": done, "client_us": used / done * 1e6}


async def wake(acts, count):
    """From the moment when a put is sent, and from when it is acknowledged, to the answer of a get that waited."""
    await acts["clear"]()
    since_sent, since_acknowledged = [], []
    for _ in range(count):
        got_at = None

        async def get():
            nonlocal got_at
            await acts["waiting get"]()
            got_at = time.perf_counter()

        waiting = asyncio.ensure_future(get())
        await asyncio.sleep(0.02)
        sent = time.perf_counter()
        await acts["waking put"]()
        acknowledged = time.perf_counter()
        await waiting
        since_sent.append((got_at - sent) * 1000)
        since_acknowledged.append(max(0.0, got_at - acknowledged) * 1000)
    return {"since_sent_ms": since_sent, "since_acknowledged_ms": since_acknowledged}


async def wait(acts, count, seconds):
    """Consumers that wait for what does not come, for so long. Says when they all wait."""
    waiting = [asyncio.ensure_future(acts["idle get"](number)) for number in range(count)]
    await asyncio.sleep(2)
    say({"waiting": count})
    await asyncio.sleep(seconds)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    return {"waited": count}
