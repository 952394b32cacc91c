"""A deployed function whose attempts can be counted from outside its containers."""

import asyncio
import os
import sys
import time
import uuid

import modal

app = modal.App("restarts")
SLOTS = int(os.environ.get("CHECK_SLOTS", "50"))
LONG_S = float(os.environ.get("CHECK_LONG_S", "10"))
NEW_NAMES = tuple(int(part) for part in modal.__version__.split(".")[:2]) >= (0, 73)
LIMITS = (
    {"max_containers": 1, "scaledown_window": 600}
    if NEW_NAMES
    else {"concurrency_limit": 1, "container_idle_timeout": 600}
)


async def note_and_wait(x, seconds, mark):
    # One file for each attempt; the test reads them through the container's processes.
    os.makedirs(f"/var/tmp/{mark}", exist_ok=True)
    open(f"/var/tmp/{mark}/{x}.{uuid.uuid4().hex[:8]}", "w").close()
    await asyncio.sleep(seconds)
    return 3 * x


if hasattr(modal, "concurrent"):

    @app.function(timeout=900, **LIMITS)
    @modal.concurrent(max_inputs=SLOTS)
    async def work(x, seconds, mark):
        return await note_and_wait(x, seconds, mark)

else:

    @app.function(timeout=900, allow_concurrent_inputs=SLOTS, **LIMITS)
    async def work(x, seconds, mark):
        return await note_and_wait(x, seconds, mark)


def load(running, queued, go, mark):
    """Calls the deployed function in every way, and prints what came back."""
    import json
    import threading

    # The old one's `from_name` waits for somebody to ask the server.
    function = (modal.Function.from_name if NEW_NAMES else modal.Function.lookup)("restarts", "work")
    got, raised = {}, []

    def keep(x, call):
        try:
            value = call()
        except BaseException as error:
            raised.append(f"{x}: {error!r:.300}")
        else:
            got[x] = value

    def keep_all(inputs):
        try:
            for (x, *_), value in zip(inputs, function.starmap(inputs)):
                got[x] = value
        except BaseException as error:
            raised.append(f"map of {inputs[0]}...: {error!r:.300}")

    # The first inputs take every slot, for a while; the others wait.
    long = [(x, LONG_S, mark) for x in range(running)]
    remote = [threading.Thread(target=keep, args=(i[0], lambda i=i: function.remote(*i))) for i in long[:5]]
    maps = [threading.Thread(target=keep_all, args=(long[5:],))]
    for thread in remote + maps:
        thread.start()
    print("calling", flush=True)
    short = [(x, 0.1, mark) for x in range(running, running + queued)]
    spawned = []
    while not os.path.exists(go):
        time.sleep(0.05)
    for inputs in short[: queued // 5]:
        spawned.append((inputs[0], function.spawn(*inputs)))
    # A map sends at most a thousand inputs ahead.
    rest = short[queued // 5 :]
    maps += [threading.Thread(target=keep_all, args=(rest[i : i + 900],)) for i in range(0, len(rest), 900)]
    for thread in maps[1:]:
        thread.start()
    print("queueing", flush=True)
    for thread in remote + maps:
        thread.join()
    for x, call in spawned:
        keep(x, lambda call=call: call.get(timeout=300))
    wrong = {x: got.get(x) for x in range(running + queued) if got.get(x) != 3 * x}
    print("LOAD", json.dumps({"wrong": list(wrong.items())[:20], "raised": raised[:20]}), flush=True)


if __name__ == "__main__":
    load(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
