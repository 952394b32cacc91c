"""Two functions that do not fit on the machine together."""

import os
import time

import modal

app = modal.App("waiting-for-room")
# More than half of what there is, whatever that is. CPU would be shared.
MOST = 7 * (os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20) // 10


@app.function(memory=MOST, timeout=600)
def first():
    print("the first works", flush=True)
    time.sleep(300)


@app.function(memory=MOST)
def second():
    return "the second worked"


@app.local_entrypoint()
def main():
    holder = first.spawn()
    while first.get_current_stats().backlog:
        time.sleep(0.1)
    waiting = second.spawn()
    # The test reads the reason; then the first is over.
    input_file = os.environ["GO_ON"]
    while not os.path.exists(input_file):
        time.sleep(0.1)
    holder.cancel()
    print(waiting.get(timeout=120), flush=True)
