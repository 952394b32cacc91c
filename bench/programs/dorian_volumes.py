"""Reads and commits files of a volume in a container, on orders from `bench/volumes.py`."""

import json
import os
import sys
import time
import warnings

import modal

warnings.simplefilter("ignore")
app = modal.App("bench-volumes")
volume = modal.Volume.from_name("bench-volume", create_if_missing=True)
many = modal.Volume.from_name("bench-volume-of-many", create_if_missing=True)
bare = modal.NetworkFileSystem.from_name("bench-bare", create_if_missing=True)

PLACES = {"volume": "/volume", "bare": "/bare"}


@app.cls(
    volumes={"/volume": volume, "/many": many}, network_file_systems={"/bare": bare}, timeout=3600, min_containers=1, max_containers=1, serialized=True
)
class Container:
    @modal.method()
    def fill(self, files, size, large_mib):
        block = os.urandom(1 << 20)
        for place in PLACES.values():
            for number in range(files):
                folder = f"{place}/small/{number % 100}"
                if number < 100:
                    os.makedirs(folder, exist_ok=True)
                with open(f"{folder}/{number}", "wb") as file:
                    file.write(block[number % 1000 :][:size])
            with open(f"{place}/large", "wb") as file:
                for _ in range(large_mib):
                    file.write(block)
        volume.commit()
        # From here on the files come from a layer, as they do for any container that starts later.
        volume.reload()

    @modal.method()
    def read(self, side, what):
        place, buffer = PLACES[side], bytearray(1 << 20)
        start, total = time.perf_counter(), 0
        if what == "large":
            with open(f"{place}/large", "rb", buffering=0) as file:
                while read := file.readinto(buffer):
                    total += read
        else:
            for folder, _, names in os.walk(f"{place}/small"):
                for name in names:
                    with open(f"{folder}/{name}", "rb", buffering=0) as file:
                        total += file.readinto(buffer)
        return {"seconds": time.perf_counter() - start, "bytes": total}

    @modal.method()
    def commits(self, files, times):
        if not os.path.exists("/many/99"):
            for number in range(files):
                if number < 100:
                    os.makedirs(f"/many/{number}", exist_ok=True)
                open(f"/many/{number % 100}/{number}", "w").close()
        many.commit()
        many.reload()
        taken = []
        for turn in range(times):
            with open(f"/many/{turn % 100}/{turn}", "w") as file:
                file.write(f"changed {time.time()}")
            start = time.perf_counter()
            many.commit()
            taken.append((time.perf_counter() - start) * 1000)
        return {"ms": taken}


def main():
    with app.run():
        container = Container()
        print(json.dumps({"version": modal.__version__}), flush=True)
        for line in sys.stdin:
            act, *rest = line.split()
            if act == "quit":
                return
            rest = [int(word) if word.isdigit() else word for word in rest]
            print(json.dumps(getattr(container, act).remote(*rest) or {}), flush=True)


main()
