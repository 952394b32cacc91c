"""A container that writes pairs of files, and commits each pair at once, until the server dies under it."""

import time
from pathlib import Path

import modal

app = modal.App("volume-crash")
volume = modal.Volume.from_name("crash", create_if_missing=True)


@app.function(volumes={"/v": volume})
def write_pairs():
    if list(Path("/v").iterdir()):
        # Run again after the crash; the files are to stay as they are.
        return
    for number in range(1, 10_000):
        for name in ("a", "b"):
            # A commit in the background may come at any time, and must find whole files.
            Path("/v/next").write_text(f"{number}\n" * 5000)
            Path("/v/next").replace(f"/v/{name}")
        Path(f"/v/only-{number}").write_text(str(number))
        volume.commit()
        print(f"committed {number}", flush=True)
        time.sleep(0.05)


@app.function(volumes={"/v": volume})
def look_inside():
    return {path.name: path.read_text() for path in Path("/v").iterdir()}


@app.local_entrypoint()
def prepare():
    for entry in volume.listdir("/"):
        volume.remove_file(entry.path)


@app.local_entrypoint()
def write_for_long():
    write_pairs.remote()


@app.local_entrypoint()
def look():
    inside = look_inside.remote()
    outside = {e.path: b"".join(volume.read_file(e.path)).decode() for e in volume.listdir("/")}
    assert inside == outside
    inside.pop("next", None)
    a, b = (int(inside.pop(name).partition("\n")[0]) for name in "ab")
    assert outside["a"] == f"{a}\n" * 5000 and outside["b"] == f"{b}\n" * 5000, (a, b)
    last = max(int(name.partition("-")[2]) for name in inside)
    assert b >= last >= 3 and a - b in (0, 1) and b - last in (0, 1), (a, b, last)
    assert inside == {f"only-{number}": str(number) for number in range(1, last + 1)}
    print("whole")
