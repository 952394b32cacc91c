"""How long the phases of each start took, from the server's own log."""

import re

# 2026-01-01T00:00:00.000000Z DEBUG dorian_control_plane::shared: container runs task=ta-… create_us=…
RUNS = re.compile(r"container runs task=(\S+) create_us=(\d+)")
READY = re.compile(r"container ready task=(\S+) ready_ms=(\d+)")


def phases_of_starts(log):
    """One entry for each container that came to ask for inputs, in the order in which they did.

    `create_ms` is the worker's making of the container; `program_ms` from its first process to its first request for
    inputs: the interpreter, the client's imports, the user's module.
    """
    created, found = {}, []
    with open(log, errors="replace") as lines:
        for line in lines:
            if runs := RUNS.search(line):
                created[runs[1]] = int(runs[2]) / 1000
            elif ready := READY.search(line):
                create_ms = created.get(ready[1], 0.0)
                found.append({"create_ms": create_ms, "program_ms": int(ready[2]) - create_ms})
    return found
