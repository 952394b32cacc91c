"""Cold starts of functions on a slim image and on a large one, as orders on standard input ask for them.

    slim            a function without a container, on the base itself; from the call to the first line of user code
    large           the same above 2 GB in 50,000 files
    quit
"""

import json
import os
import sys
import time

import modal

FILES, BYTES_EACH, FILES_IN_A_FOLDER = 50_000, 40_000, 500
FRESH_FUNCTIONS = 40

# Each file differs, and none compresses. One line, as a Dockerfile's RUN is.
FOLDER = f'Path(f"/opt/large/{{n // {FILES_IN_A_FOLDER}}}")'
MAKE_FOLDER = f"{FOLDER}.mkdir(parents=True, exist_ok=True)"
WRITE_FILE = f"({FOLDER} / str(n)).write_bytes(os.urandom({BYTES_EACH}))"
SCRIPT = f"import os; from pathlib import Path; [{MAKE_FOLDER} or {WRITE_FILE} for n in range({FILES})]"
WRITE_FILES = f"python3 -c '{SCRIPT}'"

app = modal.App("bench-sizes")
# In the container, where the program is imported again, nobody asks for the image.
slim_image = modal.Image.from_registry(os.environ.get("BENCH_BASE", "unused"))
large_image = slim_image.run_commands(WRITE_FILES)


def first_line():
    return time.time()


def fresh(name, image):
    return [app.function(name=f"{name}_{i}", image=image, scaledown_window=2)(first_line) for i in range(FRESH_FUNCTIONS)]


functions = {"slim": iter(fresh("slim", slim_image)), "large": iter(fresh("large", large_image))}


def answer(**values):
    print(json.dumps(values), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    with app.run():
        answer(ready=True, version=modal.__version__)
        for line in sys.stdin:
            order = line.strip()
            if order == "quit":
                break
            before = time.time()
            began = next(functions[order]).remote()
            answer(first_line_ms=(began - before) * 1000)
