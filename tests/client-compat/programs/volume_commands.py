"""`modal volume ...`, each command as the client's own program carries it out, all in one process of it."""

import json
import sys
import tempfile
from pathlib import Path

import modal
from click.testing import CliRunner
from modal.cli.entry_point import entrypoint_cli
from volume_tools import NOT_IN_THIS_CLIENT, NUMBERS, content, delete, put, tree

app = modal.App("volume-commands")
NAME = f"by-command-{modal.__version__}"
volume = modal.Volume.from_name(NAME)


def command(*arguments, fails=False):
    """What it prints on standard output; with `fails`, all that it says."""
    ended = CliRunner().invoke(entrypoint_cli, ["volume", *map(str, arguments)])
    failed = ended.exit_code != 0
    said = f"{ended.output}\n{ended.exception!r}"
    assert failed == fails, f"`volume {arguments}`: {said}"
    return said if fails else ended.stdout


def rows(*arguments):
    return [{k.lower(): v for k, v in row.items()} for row in json.loads(command(*arguments, "--json"))]


def check_a_volume_is_created_and_listed():
    delete(NAME)
    assert "create" in command("ls", NAME, fails=True), "what is not there says how it is made"
    command("create", NAME)
    assert [row for row in rows("list") if row["name"] == NAME], rows("list")
    assert "exists" in command("create", NAME, fails=True)
    assert command("ls", NAME).strip() in ("", "[]")


def check_files_are_put_and_listed():
    local = Path(tempfile.mkdtemp())
    (local / "sub").mkdir()
    (local / "sub/inside").write_text("inside")
    (local / "file").write_text("first")
    command("put", NAME, local / "file")
    command("put", NAME, local / "file", "/folder/")
    command("put", NAME, local, "copy")
    command("put", NAME, local / "file", "named")
    assert set(tree(volume)) == {
        "file", "folder", "folder/file", "copy", "copy/file", "copy/sub", "copy/sub/inside", "named"
    }, tree(volume)  # fmt: skip
    said = command("put", NAME, local / "file", fails=True)
    assert "file" in said and "exist" in said, said
    (local / "file").write_text("second")
    command("put", NAME, local / "file", "--force")
    assert content(volume, "file") == b"second"
    assert set(command("ls", NAME).split()) == {"file", "folder", "copy", "named"}
    seen = {row["filename"]: row["type"] for row in rows("ls", NAME, "copy")}
    assert seen == {"copy/file": "file", "copy/sub": "dir"}, seen
    assert "nowhere" in command("ls", NAME, "nowhere", fails=True)


def check_files_are_fetched():
    put(volume, {"fetched/a": b"a", "fetched/deep/b": b"b" * 9_000_000, "fetched/empty": b""}, force=True)
    into = Path(tempfile.mkdtemp())
    command("get", NAME, "fetched", into)
    assert (into / "fetched/a").read_bytes() == b"a" and (into / "fetched/empty").read_bytes() == b""
    assert (into / "fetched/deep/b").read_bytes() == b"b" * 9_000_000
    command("get", NAME, "/fetched/a", into / "other")
    assert (into / "other").read_bytes() == b"a"
    assert "already exists" in command("get", NAME, "fetched/a", into / "other", fails=True)
    command("get", NAME, "fetched/a", into / "other", "--force")
    (everything := into / "everything").mkdir()
    command("get", NAME, "/", everything)
    assert (everything / "fetched/deep/b").stat().st_size == 9_000_000
    assert command("get", NAME, "fetched/a", "-").startswith("a")
    command("get", NAME, "nothing", into, fails=True)


def check_files_are_copied_and_removed():
    put(volume, {"src": b"src", "dir/x": b"x"}, force=True)
    command("cp", NAME, "src", "copied")
    command("cp", NAME, "src", "copied", "dir")
    assert content(volume, "dir/copied") == content(volume, "dir/src") == b"src"
    command("rm", NAME, "copied")
    command("rm", NAME, "dir", fails=True)
    command("rm", NAME, "-r", "dir")
    assert not [path for path in tree(volume) if path.startswith(("dir", "copied"))], tree(volume)
    assert "nothing" in command("rm", NAME, "nothing", fails=True)


def check_a_volume_is_renamed():
    if NUMBERS < (0, 73):
        return NOT_IN_THIS_CLIENT
    delete(NAME + "-renamed")
    command("rename", "--yes", NAME, NAME + "-renamed")
    names = {row["name"] for row in rows("list")}
    assert NAME + "-renamed" in names and NAME not in names, names
    command("rename", "--yes", NAME + "-renamed", NAME)


def check_a_volume_is_deleted():
    command("delete", "--yes", NAME)
    assert NAME not in {row["name"] for row in rows("list")}
    assert "not found" in command("delete", "--yes", NAME, fails=True)


def check_many_volumes_are_listed_in_pages():
    if NUMBERS < (1, 1):
        return NOT_IN_THIS_CLIENT
    names = {f"paged-{number}" for number in range(130)}
    for name in names:
        modal.Volume.objects.create(name, allow_existing=True)
    assert names <= {row["name"] for row in rows("list")}
    for name in names:
        modal.Volume.objects.delete(name)


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
