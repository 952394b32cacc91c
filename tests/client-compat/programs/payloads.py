"""Arguments and results of every size: inline, at the limits where clients switch to blobs, and large."""

import hashlib
import os
import sys
import time

import modal

app = modal.App("payloads")
KIB, MIB = 1024, 1024 * 1024
# What clients send inline: 8 KiB for `.spawn` in the newest, 2 MiB otherwise. The pickle adds a few bytes.
SIZES = [0, 1, 8 * KIB - 64, 8 * KIB, 8 * KIB + 64, 2 * MIB - 64, 2 * MIB, 2 * MIB + 64, 16 * MIB]


@app.function(memory=2048)
def digest(data):
    return len(data), hashlib.sha256(data).hexdigest()


@app.function(memory=2048)
def make(size, seed):
    return pattern(size, seed)


@app.function(memory=2048)
def echo(data):
    return data


@app.function(memory=2048)
def chunks(sizes):
    for seed, size in enumerate(sizes):
        yield pattern(size, seed)


def pattern(size, seed=1):
    block = hashlib.sha256(str(seed).encode()).digest() * (32 * KIB)
    return (block * (size // len(block) + 1))[:size]


def expected(data):
    return len(data), hashlib.sha256(data).hexdigest()


def check_remote_carries_every_size_there():
    for size in SIZES:
        data = pattern(size)
        assert tuple(digest.remote(data)) == expected(data), size


def check_remote_carries_every_size_back():
    for size in SIZES:
        assert make.remote(size, 2) == pattern(size, 2), size


def check_spawn_carries_every_size_both_ways():
    calls = [(size, echo.spawn(pattern(size))) for size in SIZES]
    for size, call in calls:
        assert call.get() == pattern(size), size


def check_map_carries_mixed_sizes():
    data = [pattern(size, seed) for seed, size in enumerate(SIZES * 3)]
    assert list(echo.map(data)) == data


def check_a_generator_yields_every_size():
    sizes = [0, 1, 2 * MIB + 1, 5, 17 * MIB, 0]
    assert list(chunks.remote_gen(sizes)) == [pattern(size, seed) for seed, size in enumerate(sizes)]


def check_two_hundred_mebibytes_go_there_and_back():
    if not os.environ.get("CHECK_BIG"):
        return "skip: one version does it for all"
    started = time.monotonic()
    data = pattern(200 * MIB)
    assert echo.remote(data) == data
    print(f"200 MiB there and back in {time.monotonic() - started:.1f} s")


@app.function(timeout=600)
def mebibytes(count):
    for seed in range(count):
        yield bytes([seed % 256]) * MIB


def check_a_generator_of_more_than_a_gibibyte_is_read_to_its_end():
    if not os.environ.get("CHECK_BIG"):
        return "skip: one version does it for all"
    started = time.monotonic()
    count = 0
    for item in mebibytes.remote_gen(1_100):
        assert len(item) == MIB and item[0] == item[-1] == count % 256
        count += 1
    assert count == 1_100
    print(f"a generator of {count} MiB in {time.monotonic() - started:.1f} s")


def check_a_generator_that_is_read_slowly_yields_everything():
    """More than one answer holds, read more slowly than it is made."""
    count = 0
    for item in mebibytes.remote_gen(40):
        assert item[0] == count
        count += 1
        time.sleep(0.05)
    assert count == 40


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
