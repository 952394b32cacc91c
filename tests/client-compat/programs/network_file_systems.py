"""Network file systems: shared folders, from containers and from outside."""

import hashlib
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import modal

app = modal.App("network-file-systems")
NAME = "check-nfs"
shared = modal.NetworkFileSystem.from_name(NAME, create_if_missing=True)
BIG = bytes(range(256)) * 4096 * 9


def outside():
    """The same file system, to be used from outside."""
    nfs = modal.NetworkFileSystem
    return nfs.lookup(NAME, create_if_missing=True) if hasattr(nfs, "lookup") else nfs.from_name(NAME)


def names(nfs, path):
    return sorted(entry.path for entry in nfs.listdir(path))


def text(nfs, path):
    return b"".join(nfs.read_file(path)).decode()


def wait_for(path):
    """What is in the file, once it is there."""
    for _ in range(300):
        if os.path.exists(path) and (text := open(path).read()):
            return text
        time.sleep(0.1)
    return "never came"


def write(path, what):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(what)


@app.function(network_file_systems={"/shared": shared})
def here(mine, theirs):
    """Says that it is there, and waits for the other."""
    write(f"/shared/meeting/{mine}", mine)
    return wait_for(f"/shared/meeting/{theirs}")


@app.function(network_file_systems={"/other/place": shared})
def there(mine, theirs):
    write(f"/other/place/meeting/{mine}", mine)
    return wait_for(f"/other/place/meeting/{theirs}")


@app.function(network_file_systems={"/shared": shared})
def look(path):
    info = os.stat(path)
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest(), info.st_uid, oct(info.st_mode)


@app.function(network_file_systems={"/shared": shared})
def set_traps():
    os.makedirs("/shared/traps", exist_ok=True)
    for name, target in {"passwd": "/etc/passwd", "up": "../../../../etc/passwd", "root": "/", "magic": "/proc/self/root"}.items():
        if not os.path.islink(f"/shared/traps/{name}"):
            os.symlink(target, f"/shared/traps/{name}")
    if not os.path.exists("/shared/traps/pipe"):
        os.mkfifo("/shared/traps/pipe")


def check_containers_see_what_the_other_has_just_written():
    nfs = outside()
    if "meeting" in names(nfs, "/"):
        nfs.remove_file("/meeting", recursive=True)
    first = here.spawn("a", "b")
    assert there.remote("b", "a") == "a" and first.get() == "b"
    assert names(nfs, "/meeting") == ["a", "b"] and text(nfs, "/meeting/b") == "b"


def check_files_go_in_and_out():
    nfs = outside()
    nfs.write_file("/in/small.txt", io.BytesIO(b"small"))
    nfs.write_file("in/big", io.BytesIO(BIG))
    nfs.write_file("/in/empty", io.BytesIO(b""))
    assert text(nfs, "in/small.txt") == "small" and text(nfs, "/in/empty") == ""
    assert b"".join(nfs.read_file("/in/big")) == BIG
    assert look.remote("/shared/in/big") == (hashlib.sha256(BIG).hexdigest(), 0, "0o100644")
    nfs.write_file("/in/small.txt", io.BytesIO(b"newer"))
    assert text(nfs, "/in/small.txt") == "newer"
    entries = {entry.path: entry for entry in nfs.iterdir("/in")}
    assert set(entries) == {"small.txt", "big", "empty"} and entries["big"].size == len(BIG), entries
    assert abs(entries["big"].mtime - time.time()) < 120 and entries["big"].type == 1
    nfs.remove_file("/in/empty")
    assert names(nfs, "/in") == ["big", "small.txt"]


def check_folders_files_and_patterns_are_listed():
    nfs = outside()
    with tempfile.TemporaryDirectory() as folder:
        for path in ("a.txt", "b.bin", "deep/c.txt"):
            (Path(folder) / path).parent.mkdir(exist_ok=True)
            (Path(folder) / path).write_text(path)
        nfs.add_local_dir(folder, "/tree")
        nfs.add_local_file(Path(folder) / "a.txt", "/tree/ünï ☃")
    assert names(nfs, "/tree") == ["a.txt", "b.bin", "deep", "ünï ☃"]
    assert names(nfs, "/tree/*.txt") == ["tree/a.txt"]
    assert names(nfs, "/tree/**/*.txt") == ["tree/a.txt", "tree/deep/c.txt"]
    assert names(nfs, "/tree/a.txt") == ["tree/a.txt"]
    assert text(nfs, "/tree/ünï ☃") == "a.txt"


def fails(kinds, act):
    try:
        said = act()
    except kinds as error:
        return str(error)
    raise AssertionError(f"went well: {said!r:.200}")


def check_what_is_not_there_is_said_so():
    nfs = outside()
    assert "no/such" in fails(FileNotFoundError, lambda: text(nfs, "no/such"))
    assert "no/such" in fails(Exception, lambda: nfs.remove_file("no/such"))
    assert ".." in fails(Exception, lambda: nfs.write_file("../x", io.BytesIO(b"x")))
    nfs.write_file("/full/f", io.BytesIO(b"x"))
    assert "recursive" in fails(Exception, lambda: nfs.remove_file("/full"))


def check_links_that_a_container_makes_lead_nowhere():
    set_traps.remote()
    nfs = outside()
    for name in ("passwd", "up", "root/etc/passwd", "magic/etc/passwd", "pipe"):
        said = fails(Exception, lambda: text(nfs, f"traps/{name}"))
        assert "root:" not in said, said
    assert names(nfs, "traps/**") == [f"traps/{name}" for name in ("magic", "passwd", "pipe", "root", "up")]
    nfs.write_file("traps/passwd", io.BytesIO(b"mine"))
    assert text(nfs, "traps/passwd") == "mine"
    nfs.remove_file("traps", recursive=True)


def check_one_for_a_while():
    with modal.NetworkFileSystem.ephemeral() as nfs:
        assert nfs.listdir("/") == []
        nfs.write_file("x", io.BytesIO(b"x"))
        assert names(nfs, "/") == ["x"]


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
