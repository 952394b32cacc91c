"""Volumes as seen from inside of containers: who sees what when, and that files keep what makes them files.

`one` and `two` are two containers on the same volumes; `act` carries out what a check sends as text. A check writes below
a folder of its own.
"""

import inspect
import os
import sys
import time
from pathlib import Path

import modal

if modal.is_local():
    from checks import raises
    from image_tools import look
    from volume_tools import NOT_IN_THIS_CLIENT, NUMBERS, anew, content, delete, put, refused, tree
else:
    NUMBERS = tuple(int(part) for part in modal.__version__.split(".")[:2])

    def anew(name, version=None):
        return modal.Volume.from_name(name, create_if_missing=True)


app = modal.App("volume-mounts")
# Longer than the program: a check must find the container that it left.
LASTING = {"scaledown_window" if NUMBERS >= (0, 73) else "container_idle_timeout": 300}

volume = anew("mounted")
second = anew("mounted-second", version=2)
MOUNTED = {"/v": volume, "/deep/er/second": second}


def act(text, **given):
    """Runs these lines; what they call `result` is the answer."""
    names = {**globals(), "v": Path("/v"), **given}
    exec(text, names)
    return names.get("result")


@app.function(volumes=MOUNTED, **LASTING)
def one(text, **given):
    return act(text, **given)


@app.function(volumes=MOUNTED, **LASTING)
def two(text, **given):
    return act(text, **given)


@app.function(volumes=MOUNTED, **LASTING)
def later(text, **given):
    return act(text, **given)


# The outer one comes last here, and must not hide the other.
@app.function(volumes={"/v/inner": second, "/v": volume})
def nested(text, **given):
    return act(text, **given)


@app.function(volumes={"/v": volume})
def dying(text, **given):
    return act(text, **given)


if hasattr(modal.Volume, "with_mount_options"):
    to_read = volume.with_mount_options(read_only=True)
    below = volume.with_mount_options(sub_path="users/me")
elif hasattr(modal.Volume, "read_only"):
    to_read, below = volume.read_only(), None
else:
    to_read = below = None

if to_read is not None:

    @app.function(volumes={"/v": to_read}, **LASTING)
    def reader(text, **given):
        return act(text, **given)


if below is not None:

    @app.function(volumes={"/v": below}, **LASTING)
    def below_users(text, **given):
        return act(text, **given)


WRITE = """
folder = v / name
folder.mkdir(exist_ok=True)
for file, data in files.items():
    (folder / file).write_text(data)
if commit:
    volume.commit()
"""
READ = """
if reload:
    volume.reload()
folder = v / name
result = {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()} if folder.is_dir() else None
"""


def write(container, name, commit=True, **files):
    container.remote(WRITE, name=name, files=files, commit=commit)


def read(container, name, reload=True):
    return container.remote(READ, name=name, reload=reload)


def wait_for(condition, within_s, what):
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.5)
    return found


def check_a_commit_is_seen_by_others_after_a_reload():
    assert read(two, "visible") is None
    write(one, "visible", commit=False, file="first")
    assert read(two, "visible") is None, "what was not committed was seen"
    assert "visible/file" not in tree(volume)
    write(one, "visible", file="second")
    assert read(two, "visible", reload=False) is None, "a commit was seen without a reload"
    assert content(volume, "visible/file") == b"second", "a commit is seen from outside at once"
    assert read(two, "visible") == {"file": "second"}
    write(two, "visible", file="third", other="x")
    assert read(one, "visible", reload=False) == {"file": "second"}
    assert read(one, "visible") == {"file": "third", "other": "x"}


def check_a_container_starts_with_what_was_committed_last():
    write(one, "start", file="committed")
    assert read(later, "start", reload=False) == {"file": "committed"}


def check_what_is_uploaded_is_seen_after_a_reload():
    assert read(one, "uploaded") is None
    put(volume, {"uploaded/file": b"from outside"})
    assert read(one, "uploaded", reload=False) is None
    assert read(one, "uploaded") == {"file": "from outside"}
    volume.remove_file("uploaded/file")
    assert read(one, "uploaded") == {}


def check_the_last_commit_wins_for_each_file():
    write(one, "race", commit=False, same="of one", first="of one")
    write(two, "race", commit=False, same="of two", second="of two")
    one.remote("volume.commit()")
    two.remote("volume.commit()")
    both = {"same": "of two", "first": "of one", "second": "of two"}
    assert read(one, "race") == both == read(two, "race")
    # The other one commits last now, and a file that only the first touched stays as it is.
    write(two, "race", same="of two again", second="changed")
    write(one, "race", same="of one again")
    both = {"same": "of one again", "first": "of one", "second": "changed"}
    assert read(one, "race") == both == read(two, "race")


def check_commits_at_the_same_time_all_count():
    text = """
(v / "busy").mkdir(exist_ok=True)
for number in range(8):
    (v / "busy" / f"{name}-{number}").write_text(name)
    volume.commit()
"""
    calls = [container.spawn(text, name=name) for name, container in [("one", one), ("two", two), ("later", later)]]
    for call in calls:
        call.get()
    assert len(read(one, "busy")) == 24, sorted(read(one, "busy"))


def check_a_reload_with_open_files_is_refused():
    write(one, "open", file="x")
    one.remote("import builtins; builtins.handle = open('/v/open/file')")
    error = raises(RuntimeError, one.remote, "volume.reload()")
    assert "there are open files preventing the operation" in str(error), error
    assert "open/file" in str(error), f"the client found no open file below its own path of the volume: {error}"
    # What is open is no obstacle to a commit.
    write(one, "open", file="changed")
    assert content(volume, "open/file") == b"changed"
    one.remote("import builtins; builtins.handle.close(); volume.reload()")
    error = raises(RuntimeError, one.remote, "os.chdir('/v/open')\ntry:\n    volume.reload()\nfinally:\n    os.chdir('/')")
    assert "there are open files preventing the operation: cwd is inside volume" in str(error), error
    text = "folder = os.open('/v', os.O_RDONLY)\ntry:\n    volume.reload()\nfinally:\n    os.close(folder)"
    error = raises(RuntimeError, one.remote, text)
    assert "there are open files preventing the operation: path /v is open" in str(error), error


def check_what_was_not_committed_is_kept_by_a_reload():
    write(one, "pending", commit=False, mine="mine")
    write(two, "pending", theirs="theirs")
    assert read(one, "pending") == {"mine": "mine", "theirs": "theirs"}


def check_a_running_container_commits_by_itself():
    write(one, "background", commit=False, file="not committed by hand")
    wait_for(lambda: "background/file" in tree(volume), 30, "a commit in the background")
    assert content(volume, "background/file") == b"not committed by hand"


def check_a_container_that_ends_commits_what_it_wrote():
    def write_at_the_end():
        open("/v/ended", "w").write("written")

    other = modal.App("volume-ends")
    remote = other.function(volumes={"/v": volume}, serialized=True)(write_at_the_end)
    with other.run():
        remote.remote()
    wait_for(lambda: "ended" in tree(volume), 20, "a commit at the end of the app")


def check_a_container_that_dies_commits_what_it_wrote():
    for name, how in [("left", "os._exit(3)"), ("killed", "os.kill(os.getpid(), 9)")]:
        raises(Exception, dying.remote, f"(v / {name!r}).write_text('written'); {how}")
        wait_for(lambda name=name: name in tree(volume), 30, f"what was written before `{how}`")
        assert content(volume, name) == b"written"


written = modal.Dict.from_name("volume-mounts-written", create_if_missing=True)


@app.function(volumes=MOUNTED, timeout=4, retries=modal.Retries(max_retries=1, initial_delay=0.0))
def resumes(name):
    kept = Path("/v") / name
    if kept.exists():
        return int(kept.read_text())
    for count in range(1, 1000):
        kept.write_text(str(count))
        written[name] = count
        time.sleep(0.25)


def check_a_retry_after_a_timeout_finds_the_last_commit():
    written["resumed"] = 0
    found = resumes.remote("resumed")
    # It commits by itself every five seconds, and wrote four times in each: what is found was committed at the end.
    assert found >= written["resumed"] > 1, (found, written["resumed"])


SINGLE_USE = {"single_use_containers": True} if NUMBERS >= (1, 1) else {"max_inputs": 1}


@app.function(volumes=MOUNTED, retries=modal.Retries(max_retries=1, initial_delay=0.0), **SINGLE_USE)
def resumes_alone(name):
    kept = Path("/v") / name
    if kept.exists():
        return kept.read_text()
    kept.write_text("from the attempt before")
    raise RuntimeError("try again")


def check_a_retry_after_a_container_of_single_use_finds_its_last_commit():
    assert resumes_alone.remote("resumed-alone") == "from the attempt before"


KINDS_OF_FILES = """
import socket, stat
folder = v / "kinds"
folder.mkdir(mode=0o751)
(folder / "script").write_text("#!/bin/sh\\necho it ran with $1\\n")
(folder / "script").chmod(0o750)
(folder / "secret").write_text("x"); (folder / "secret").chmod(0o400)
(folder / "sticky").mkdir(); (folder / "sticky").chmod(0o1777)
(folder / "empty").touch()
(folder / "no files").mkdir()
(folder / "to-script").symlink_to("script")
(folder / "to-folder").symlink_to("no files")
(folder / "absolute").symlink_to("/v/kinds/script")
(folder / "dangling").symlink_to("../nowhere/at/all")
os.link(folder / "script", folder / "hard")
with open(folder / "sparse", "wb") as file:
    file.truncate(3 << 30)
    file.seek(1 << 30)
    file.write(b"in the middle")
os.utime(folder / "empty", (1_000_000_000, 1_000_000_000))
os.mkfifo(folder / "fifo")
(folder / ("n" * 255)).write_text("long")
(folder / "grün 日本語 🙂\\n").write_text("unicode")
started = time.monotonic()
volume.commit()
result = time.monotonic() - started
"""
LOOK_AT_KINDS = """
import subprocess, stat
folder = v / "kinds"
def part(at, length):
    with open("/v/kinds/sparse", "rb") as file:
        file.seek(at)
        return file.read(length)
seen = {p.name: (stat.filemode(p.lstat().st_mode), p.lstat().st_size) for p in folder.iterdir()}
result = {
    "folder": stat.filemode(folder.stat().st_mode),
    "seen": {name: mode for name, (mode, size) in seen.items()},
    "sizes": {name: seen[name][1] for name in ("sparse", "empty", "script")},
    "links": {name: os.readlink(folder / name) for name in ("to-script", "to-folder", "absolute", "dangling")},
    "runs": subprocess.check_output([folder / "to-script", "1"], text=True) + subprocess.check_output([folder / "hard", "2"], text=True),
    "middle": part(1 << 30, 13),
    "zeros": part(2 << 30, 10),
    "mtime": (folder / "empty").stat().st_mtime,
    "long": (folder / ("n" * 255)).read_text() + (folder / "grün 日本語 🙂\\n").read_text(),
    "blocks": (folder / "sparse").stat().st_blocks * 512,
    "owner": {(p.lstat().st_uid, p.lstat().st_gid) for p in folder.iterdir()},
}
"""


def check_files_keep_what_makes_them_files():
    took = one.remote(KINDS_OF_FILES)
    assert took < 10, f"committing a sparse file took {took} s"
    two.remote("volume.reload()")
    seen = two.remote(LOOK_AT_KINDS)
    assert seen["folder"] == "drwxr-x--x", seen
    assert seen["seen"] == {
        "script": "-rwxr-x---", "hard": "-rwxr-x---", "secret": "-r--------", "sticky": "drwxrwxrwt",
        "empty": "-rw-r--r--", "no files": "drwxr-xr-x", "to-script": "lrwxrwxrwx", "to-folder": "lrwxrwxrwx",
        "absolute": "lrwxrwxrwx", "dangling": "lrwxrwxrwx", "sparse": "-rw-r--r--", "fifo": "prw-r--r--",
        "n" * 255: "-rw-r--r--", "grün 日本語 🙂\n": "-rw-r--r--",
    }, seen  # fmt: skip
    assert seen["sizes"] == {"sparse": 3 << 30, "empty": 0, "script": 30}, seen["sizes"]
    assert seen["links"] == {
        "to-script": "script", "to-folder": "no files", "absolute": "/v/kinds/script", "dangling": "../nowhere/at/all"
    }  # fmt: skip
    assert seen["runs"] == "it ran with 1\nit ran with 2\n" and seen["mtime"] == 1_000_000_000, seen
    assert seen["middle"] == b"in the middle" and seen["zeros"] == bytes(10)
    assert seen["long"] == "longunicode" and seen["owner"] == {(0, 0)}, seen
    assert seen["blocks"] < 64 << 20, "the holes of a sparse file were filled"
    entries = {e.path: e for e in volume.listdir("kinds")}
    kinds = {path.partition("/")[2]: int(entry.type) for path, entry in entries.items()}
    assert kinds["to-script"] == kinds["dangling"] == 3 and kinds["no files"] == 2 and kinds["script"] == 1, kinds
    # Clients before 1.0 do not know that there are such.
    assert kinds.get("fifo") == (4 if NUMBERS >= (1, 0) else None), kinds
    assert entries["kinds/empty"].mtime == 1_000_000_000 and entries["kinds/sparse"].size == 3 << 30
    assert content(volume, "kinds/hard").startswith(b"#!/bin/sh")
    volume.remove_file("kinds/sparse")


def check_modes_come_with_uploads():
    script = Path(os.environ.get("TMPDIR", "/tmp")) / f"uploaded-{os.getpid()}.sh"
    script.write_text("#!/bin/sh\necho uploaded\n")
    script.chmod(0o755)
    with volume.batch_upload(force=True) as batch:
        batch.put_file(script, "modes/script")
        batch.put_file(script, "modes/chosen", mode=0o600)
    script.unlink()
    text = """
import subprocess, stat
volume.reload()
result = (
    subprocess.check_output(["/v/modes/script"], text=True),
    [stat.filemode((v / "modes" / name).stat().st_mode) for name in ("script", "chosen")],
)
"""
    said, modes = one.remote(text)
    assert said == "uploaded\n" and modes == ["-rwxr-xr-x", "-rw-------"], modes


def check_directories_are_renamed_before_and_after_a_commit():
    first = """
(v / "renamed/a/deep").mkdir(parents=True)
(v / "renamed/a/deep/file").write_text("kept")
(v / "renamed/a").rename(v / "renamed/b")
volume.commit()
(v / "renamed/b").rename(v / "renamed/c")
(v / "renamed/c/deep/file").rename(v / "renamed/c/file")
(v / "renamed/c/new").write_text("new")
volume.commit()
"""
    one.remote(first)
    assert read(two, "renamed") == {"c/file": "kept", "c/new": "new"}
    assert {p for p in tree(volume) if p.startswith("renamed/")} == {
        "renamed/c", "renamed/c/deep", "renamed/c/file", "renamed/c/new"
    }  # fmt: skip
    # A directory that somebody else committed, after a reload.
    two.remote("(v / 'renamed/c').rename(v / 'renamed/d'); os.rename(v / 'renamed/d', v / 'moved'); volume.commit()")
    assert read(one, "moved") == {"file": "kept", "new": "new"} and read(one, "renamed") == {}


def check_what_is_deleted_is_gone_for_everyone():
    first = """
import shutil
for path in ("gone/file", "gone/tree/a/b", "gone/tree/c", "gone/kept"):
    (v / path).parent.mkdir(parents=True, exist_ok=True)
    (v / path).write_text(path)
volume.commit()
"""
    one.remote(first)
    assert len(read(two, "gone")) == 4
    one.remote("import shutil; (v / 'gone/file').unlink(); shutil.rmtree(v / 'gone/tree'); volume.commit()")
    assert read(two, "gone") == {"kept": "gone/kept"}
    assert {p for p in tree(volume) if p.startswith("gone/")} == {"gone/kept"}
    # Made again, it has only what is new.
    one.remote("(v / 'gone/tree').mkdir(); (v / 'gone/tree/new').write_text('new'); volume.commit()")
    assert read(two, "gone") == {"kept": "gone/kept", "tree/new": "new"}


def check_a_file_takes_a_directorys_place_and_back():
    one.remote("(v / 'turns/x').mkdir(parents=True); (v / 'turns/x/inside').write_text('1'); volume.commit()")
    assert read(two, "turns") == {"x/inside": "1"}
    one.remote("import shutil; shutil.rmtree(v / 'turns/x'); (v / 'turns/x').write_text('a file'); volume.commit()")
    assert read(two, "turns") == {"x": "a file"} and content(volume, "turns/x") == b"a file"
    two.remote("(v / 'turns/x').unlink(); (v / 'turns/x').mkdir(); (v / 'turns/x/again').write_text('2'); volume.commit()")
    assert read(one, "turns") == {"x/again": "2"}
    one.remote("import shutil; shutil.rmtree(v / 'turns/x'); (v / 'turns/x').symlink_to('/etc'); volume.commit()")
    assert two.remote("volume.reload(); result = os.readlink(v / 'turns/x')") == "/etc"
    # A link leads nowhere outside of a container.
    refused(content, volume, "turns/x/passwd")
    refused(put, volume, {"turns/x/out": b"out"}, force=True)


def check_a_mount_to_read_refuses_writes():
    if to_read is None:
        return NOT_IN_THIS_CLIENT
    write(one, "reading", file="x")
    text = """
import errno
volume_here = to_read
volume_here.reload()
errors = []
for attempt in (lambda: (v / "new").write_text("x"), lambda: (v / "reading/file").write_text("x"),
                lambda: (v / "reading/file").unlink(), lambda: os.mkdir(v / "folder"), lambda: os.chmod(v / "reading", 0o700)):
    try:
        attempt()
        errors.append(None)
    except OSError as error:
        errors.append(errno.errorcode[error.errno])
result = (errors, (v / "reading/file").read_text())
"""
    assert reader.remote(text) == (["EROFS"] * 5, "x")


def check_a_part_of_a_volume_is_mounted():
    if below is None:
        return NOT_IN_THIS_CLIENT
    assert below_users.remote("result = os.listdir(v)") == [], "it is made when it is not there"
    below_users.remote("(v / 'mine').write_text('mine'); below.commit()")
    assert content(volume, "users/me/mine") == b"mine"
    put(volume, {"users/me/new": b"new", "users/you/other": b"other"})
    seen = below_users.remote("below.reload(); result = sorted(os.listdir(v)), os.path.exists('/v/../you')")
    assert seen == (["mine", "new"], False), seen


def check_two_volumes_are_two():
    text = """
Path("/deep/er/second/file").write_text("second")
(v / "only-first").write_text("first")
second.commit()
result = sorted(os.listdir("/deep/er/second")), os.path.ismount("/v") or os.path.islink("/v")
"""
    seen, is_mount = one.remote(text)
    assert "file" in seen and "only-first" not in seen
    assert content(second, "file") == b"second"
    assert two.remote("second.reload(); result = Path('/deep/er/second/file').read_text()") == "second"


def check_a_volume_inside_another_is_not_hidden_by_it():
    nested.remote("v.joinpath('inner/nested').write_text('inner'); v.joinpath('nested').write_text('outer')\nsecond.commit(); volume.commit()")
    assert content(second, "nested") == b"inner" and content(volume, "nested") == b"outer"


def check_files_written_in_parts_are_whole():
    """Appended, overwritten in the middle, cut off, written through a map: each commit has all of it."""
    text = """
import mmap
path = v / "parts"
path.write_bytes(b"a" * 100_000); volume.commit()
with open(path, "ab") as file: file.write(b"b" * 10)
volume.commit()
with open(path, "r+b") as file: file.seek(50); file.write(b"c")
volume.commit()
with open(path, "r+b") as file:
    with mmap.mmap(file.fileno(), 0) as memory: memory[60:61] = b"d"
volume.commit()
os.truncate(path, 99_999 + 6); volume.commit()
"""
    one.remote(text)
    expected = bytearray(b"a" * 100_000 + b"b" * 5)
    expected[50:51], expected[60:61] = b"c", b"d"
    assert content(volume, "parts") == bytes(expected)
    assert two.remote("volume.reload(); result = (v / 'parts').read_bytes()") == bytes(expected)


def check_a_commit_costs_what_changed():
    timed = """
def commit():
    started = time.monotonic(); volume.commit(); return time.monotonic() - started
(v / "large").mkdir()
for number in range(5000):
    (v / "large" / str(number)).write_text(str(number))
of_all = commit()
of_one = []
for number in range(5):
    (v / "large" / "7").write_text(f"changed {number}")
    of_one.append(commit())
result = min(of_one) / of_all
"""
    share = one.remote(timed)
    assert share < 0.5, f"a commit of one file among 5,000 took {share:.2f} of the time of all"
    volume.remove_file("large", recursive=True)


doomed = anew("doomed")


@app.function(volumes={"/v": doomed}, **LASTING)
def on_doomed(text, **given):
    return act(text, **given)


def check_a_volume_is_deleted_while_it_is_mounted():
    on_doomed.remote("(v / 'file').write_text('x'); doomed.commit()")
    assert tree(doomed) == {"file": 1}
    delete(f"doomed-{modal.__version__}")
    # The container keeps its files; what it commits has no place any more.
    assert on_doomed.remote("(v / 'late').write_text('y'); result = sorted(os.listdir(v))") == ["file", "late"]
    for call in ("doomed.commit()", "doomed.reload()"):
        error = raises(RuntimeError, on_doomed.remote, call)
        assert "does not exist" in str(error) or "not found" in str(error) or "deleted" in str(error), error
    assert read(one, "visible", reload=False) is not None, "other volumes go on"


building = anew("building")


def use_in_a_build():
    Path("/copied").write_text(Path("/b/seed").read_text())
    Path("/b/by-function").write_text("built")


def check_a_build_reads_and_writes_a_volume():
    put(building, {"seed": b"to be built with"})
    image = modal.Image.debian_slim().run_function(use_in_a_build, volumes={"/b": building}, force_build=True)
    assert look(image, copied="open('/copied').read()")["copied"] == "to be built with"
    assert content(building, "by-function") == b"built"
    if "volumes" not in inspect.signature(image.run_commands).parameters:
        return
    commands = ["cp /b/seed /copied-too", "echo built > /b/by-command"]
    image = modal.Image.debian_slim().run_commands(*commands, volumes={"/b": building}, force_build=True)
    seen = look(image, copied="open('/copied-too').read()", left="shell('ls -A /b')")
    # What is in a volume is in no layer.
    assert seen["copied"] == "to be built with" and "seed" not in seen["left"], seen
    assert content(building, "by-command") == b"built\n"


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
