"""Volumes next to the bare file system: the same files, read by the same program in the same container.

The bare side is a network file system, which is a plain bind mount of a folder: what a program would have without versions.
"""

import os
import sys
from pathlib import Path

from processes import BENCH, Program, Server

SMALL_FILES = 50_000
SMALL_BYTES = 4 << 10
LARGE_MIB = 1024
COMMITTED_FILES = 100_000
COMMITS = 20


def measure(options, say):
    say("writing the files that volumes are measured with")
    program = BENCH / "programs/dorian_volumes.py"
    with (
        Server(options.binaries / "dorian", options.data) as server,
        Program(sys.executable, program, env=server.client_environment()) as container,
    ):
        container.ask("fill", SMALL_FILES, SMALL_BYTES, LARGE_MIB)
        rounds = []
        for number in range(options.rounds):
            say(f"volumes, round {number + 1} of {options.rounds}")
            rounds.append({f"{state} {what}": one_pair(container, state, what) for state in ("cold", "warm") for what in ("small", "large")})
        say(f"committing one changed file among {COMMITTED_FILES:,}")
        commits = container.ask("commits", COMMITTED_FILES, COMMITS)
    return {"rounds": rounds, "commits": commits}


def one_pair(container, state, what):
    """Seconds to read everything, first one and then the other; who is first changes with each pair."""
    one_pair.turns += 1
    sides = ("volume", "bare") if one_pair.turns % 2 else ("bare", "volume")
    seconds = {}
    for side in sides:
        if state == "cold":
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("3")
        else:
            container.ask("read", side, what)
        seconds[side] = container.ask("read", side, what)["seconds"]
    return seconds


one_pair.turns = 0
