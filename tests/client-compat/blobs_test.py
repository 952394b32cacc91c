"""Payloads that travel by HTTP: clients that die half-way, and what becomes of what nobody needs any more."""

import os
import time

from harness import wait_for

DAY_S = 24 * 3600

UPLOAD = """
import asyncio, sys, tempfile
from modal.client import _Client
from modal._utils.blob_utils import blob_upload_file

async def main():
    client = await _Client.from_env()
    for mib in map(int, sys.argv[1:]):
        with tempfile.NamedTemporaryFile() as file:
            file.truncate(mib << 20)
            print("uploaded", await blob_upload_file(file, client._stub), flush=True)

asyncio.run(main())
"""


def _backdate(path, days):
    then = time.time() - days * DAY_S
    os.utime(path, (then, then))


def what_expired_is_collected_and_the_rest_is_kept(newest, server):
    uploads, blobs = server.data / "blobs/uploads", server.data / "blobs/blobs"
    before = set(uploads.iterdir())
    server.forget_memory_peak()
    memory_before = server.memory_mib("VmHWM")
    running = newest.start_python("-c", UPLOAD, 1, 300, 2000)
    # Two of the three are complete when the client dies.
    wait_for(lambda: running.text().count("uploaded") == 2, 60, "two uploads")
    old, fresh = (line.split()[1] for line in running.text().splitlines() if line.startswith("uploaded"))
    [half] = wait_for(lambda: [p for p in set(uploads.iterdir()) - before if (p / "data").exists()], 30, "an upload")
    wait_for(lambda: (half / "data").stat().st_blocks > 0, 30, "its first bytes")
    running.kill()
    # Each request holds two pieces of a mebibyte, whatever its length; the client sends some at once.
    assert server.memory_mib("VmHWM") < memory_before + 100, (memory_before, server.memory_mib("VmHWM"))
    [old], [fresh] = ([*blobs.glob(f"*/{name}")] for name in (old, fresh))
    server.stop()
    _backdate(old, 9)
    _backdate(half / "data", 2)
    server.start()
    wait_for(lambda: not old.exists() and not half.exists(), 20, "what expired is collected")
    assert fresh.exists()
