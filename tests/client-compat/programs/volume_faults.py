"""A container that replaces all files of a volume, and commits, again and again, until something is killed.

In version `n` of the volume every file says `n`, and there is one directory, named after it. So whoever reads it sees
which version it is, and whether it is one.
"""

import json
import os
import sys
from pathlib import Path

import modal

app = modal.App("volume-faults")
volume = modal.Volume.from_name("faults", create_if_missing=True)
# The test finds the container by it.
mark = modal.Secret.from_dict({"VOLUME_FAULTS_MARK": os.environ.get("VOLUME_FAULTS_MARK", "")})
# Small ones and one that is large enough to be kept in another way.
LINES = {"a": 1, "b": 10, "deep/c": 100, "deep/er/d": 1000, "large": 400_000, "z": 1}


def text_of(path, number):
    return f"{number:09}\n" * LINES[path]


@app.function(volumes={"/v": volume}, secrets=[mark])
def write(after):
    v = Path("/v")
    if list(v.glob(f"version-{after + 1}*")) or any(int(p.name[8:]) > after for p in v.glob("version-*")):
        # Run again after a crash: another one goes on from here.
        return
    number = after
    while True:
        number += 1
        for path in LINES:
            (v / path).parent.mkdir(parents=True, exist_ok=True)
            (v / "next").write_text(text_of(path, number))
            (v / "next").replace(v / path)
        (v / f"version-{number}").mkdir()
        for old in v.glob("version-*"):
            if old.name != f"version-{number}":
                old.rmdir()
        volume.commit()
        yield number


def seen():
    """Path to the version that it is of; 0 when it is of none."""
    found = {}
    for entry in volume.listdir("/", recursive=True):
        if entry.path.startswith("version-"):
            found[entry.path] = int(entry.path[8:])
        elif entry.type == 1 and entry.path != "next":
            text = b"".join(volume.read_file(entry.path)).decode()
            number = int(text[:9] or 0)
            found[entry.path] = number if text == text_of(entry.path, number) else 0
    return found


@app.local_entrypoint()
def main():
    sys.stdout.reconfigure(line_buffering=True)
    found = seen()
    print("state", json.dumps(found))
    for number in write.remote_gen(max(found.values(), default=0)):
        print("committed", number)
