"""Volumes as seen from outside of containers: uploads, downloads, listings, copies, names."""

import io
import os
import sys
import tempfile
from pathlib import Path

import modal
from volume_tools import (
    NOT_IN_THIS_CLIENT,
    NUMBERS,
    anew,
    content,
    delete,
    described,
    listed,
    put,
    refused,
    the_versions,
    tree,
)

app = modal.App("volumes")

MIB = 1 << 20
# Of two blocks and a half; a long run of zeros over a block's border, and zeros at its end.
LARGE = os.urandom(5 * MIB) + bytes(6 * MIB) + os.urandom(7 * MIB) + bytes(2 * MIB + 1)


def folder(files):
    """A folder with these files: path to content, or to content and mode."""
    root = Path(tempfile.mkdtemp())
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        data, mode = data if isinstance(data, tuple) else (data, 0o644)
        (root / path).write_bytes(data)
        (root / path).chmod(mode)
    return root


def check_uploads_are_listed_and_read():
    files = {"run.sh": (b"#!/bin/sh\n", 0o755), "deep/er/empty": b"", "deep/text": b"text", "deep/er/large": LARGE}
    root = folder(files)
    for volume in the_versions("uploads"):
        assert volume.listdir("/") == [] and volume.listdir("/", recursive=True) == []
        with volume.batch_upload() as batch:
            batch.put_directory(root, "/all")
            batch.put_directory(str(root / "deep"), "flat", recursive=False)
            batch.put_file(root / "run.sh", "/start")
            batch.put_file(io.BytesIO(b"of an object"), "objects/one")
            batch.put_file(io.BytesIO(LARGE), "/objects/large")
        assert listed(volume) == {"all": "dir", "flat": "dir", "start": 10, "objects": "dir"}, listed(volume)
        assert tree(volume) == {
            "all": "dir", "all/run.sh": 10, "all/deep": "dir", "all/deep/text": 4, "all/deep/er": "dir",
            "all/deep/er/empty": 0, "all/deep/er/large": len(LARGE), "flat": "dir", "flat/text": 4, "start": 10,
            "objects": "dir", "objects/one": 12, "objects/large": len(LARGE),
        }, tree(volume)  # fmt: skip
        for path in ("all/deep", "/all/deep", "all/deep/"):
            assert listed(volume, path) == {"all/deep/text": 4, "all/deep/er": "dir"}, listed(volume, path)
        assert listed(volume, "all/run.sh") == {"all/run.sh": 10}
        assert {e.path for e in volume.iterdir("objects")} == {"objects/one", "objects/large"}
        assert all(abs(e.mtime - os.path.getmtime(root)) < 3600 for e in volume.iterdir("/"))
        assert content(volume, "/objects/one") == b"of an object" and content(volume, "all/deep/er/empty") == b""
        assert content(volume, "all/deep/er/large") == LARGE == content(volume, "objects/large")
        for path, data in [("all/deep/er/large", LARGE), ("objects/one", b"of an object")]:
            into = io.BytesIO()
            assert volume.read_file_into_fileobj(path, into) == len(data)
            assert into.getvalue() == data


def check_what_is_not_there_is_not_found():
    for volume in the_versions("missing"):
        put(volume, {"folder/file": b"x"})
        for path in ("nothing", "folder/nothing", "folder/file/below", "/nothing/below"):
            described(FileNotFoundError, volume.listdir, path, old="not_found", new=modal.exception.NotFoundError)
            described(FileNotFoundError, content, volume, path)
            described(FileNotFoundError, volume.remove_file, path, old="not_found")
        refused(content, volume, "folder")


def check_a_conflict_writes_nothing_and_force_replaces():
    for volume in the_versions("conflicts"):
        put(volume, {"there": b"first", "folder/file": b"inside"})
        error = described(FileExistsError, put, volume, {"new": b"1", "there": b"second", "folder/new": b"2"})
        assert "there" in str(error), error
        assert tree(volume) == {"there": 5, "folder": "dir", "folder/file": 6}, tree(volume)
        put(volume, {"new": b"1", "there": b"replaced", "folder/new": b"2"}, force=True)
        assert content(volume, "there") == b"replaced" and content(volume, "folder/new") == b"2"
        # Whatever is forced: a file does not take a directory's place, nor a directory a file's.
        refused(put, volume, {"folder": b"a file"}, force=True)
        refused(put, volume, {"there/below": b"below a file"}, force=True)
        assert content(volume, "folder/file") == b"inside" and content(volume, "there") == b"replaced"
        # An error inside of a batch uploads nothing.
        try:
            with volume.batch_upload() as batch:
                batch.put_file(io.BytesIO(b"x"), "never")
                raise KeyError("a mistake")
        except KeyError:
            assert "never" not in tree(volume)


def check_files_and_directories_are_removed():
    for volume in the_versions("removals"):
        put(volume, {"one": b"1", "folder/two": b"2", "folder/deep/three": b"3", "kept/four": b"4"})
        volume.remove_file("one")
        volume.remove_file("/folder/two")
        refused(volume.remove_file, "folder")
        assert "folder/deep/three" in tree(volume)
        volume.remove_file("folder", recursive=True)
        assert tree(volume) == {"kept": "dir", "kept/four": 1}, tree(volume)
        volume.remove_file("kept/four")
        assert tree(volume) == {"kept": "dir"}, "a directory that became empty stays"


def check_copies_are_those_of_cp():
    for volume in the_versions("copies"):
        put(volume, {"one": b"first", "two": b"second", "folder/three": b"third"})
        volume.copy_files(["one"], "copy")
        volume.copy_files(["/one"], "/folder")
        volume.copy_files(["one", "two"], "folder/")
        volume.copy_files(["two"], "copy")
        assert content(volume, "copy") == content(volume, "folder/two") == b"second"
        assert content(volume, "folder/one") == b"first"
        refused(volume.copy_files, ["one", "two"], "copy")
        refused(volume.copy_files, ["one", "two"], "nowhere")
        refused(volume.copy_files, ["nothing"], "copied")
        refused(volume.copy_files, ["folder"], "copied")
        refused(volume.copy_files, ["one"], "nowhere/else")
        assert set(tree(volume)) == {"one", "two", "copy", "folder", "folder/one", "folder/two", "folder/three"}
        # A copy is a file of its own.
        put(volume, {"one": b"changed"}, force=True)
        assert content(volume, "folder/one") == b"first"


def check_directories_are_copied_recursively():
    if NUMBERS < (1, 0):
        return NOT_IN_THIS_CLIENT
    volume = anew("copies-2", version=2)
    put(volume, {"folder/one": b"1", "folder/deep/two": b"2", "there/x": b"x"})
    volume.copy_files(["folder"], "named", recursive=True)
    volume.copy_files(["folder"], "there", recursive=True)
    refused(volume.copy_files, ["folder"], "folder/deep", recursive=True)
    # A copy into a directory that is there joins it; one onto a file is refused.
    put(volume, {"there/folder/other": b"o"})
    volume.copy_files(["folder"], "there", recursive=True)
    refused(volume.copy_files, ["folder"], "there/x", recursive=True)
    assert content(volume, "there/folder/other") == b"o" and content(volume, "there/x") == b"x"
    volume.remove_file("there/folder/other")
    assert content(volume, "named/deep/two") == b"2" and content(volume, "there/folder/deep/two") == b"2", tree(volume)
    assert set(tree(volume)) == {
        "folder", "folder/one", "folder/deep", "folder/deep/two", "named", "named/one", "named/deep", "named/deep/two",
        "there", "there/x", "there/folder", "there/folder/one", "there/folder/deep", "there/folder/deep/two",
    }  # fmt: skip


def check_names_are_kept_as_they_are():
    names = ["grün und rot", "日本語", "🙂", "é", "e\u0301", "with\nline", "-dash", "quote'\"", "x" * 255, "#?%41&=", "ends."]
    for volume in the_versions("odd-names"):
        put(volume, {f"in/{name}": name.encode() for name in names})
        assert {e.path for e in volume.listdir("in")} == {f"in/{name}" for name in names}
        assert all(content(volume, f"in/{name}") == name.encode() for name in names)
        deep = "/".join(["deep" * 10] * 50)
        put(volume, {f"{deep}/end": b"end"})
        assert content(volume, f"{deep}/end") == b"end"
        volume.remove_file(f"in/{names[0]}")
        refused(put, volume, {"x" * 256: b"too long"})
        refused(put, volume, {"zero\0byte": b"x"})


def check_no_path_leads_out_of_a_volume():
    for volume in the_versions("ways-out"):
        put(volume, {"folder/file": b"inside"})
        for path in ("../out", "folder/../../out", "/../out", "folder/../../../../../../etc/out", ".."):
            try:
                put(volume, {path: b"out"})
            except Exception:
                refused(put, volume, {path: b"out"})
        assert all(".." not in path.split("/") for path in tree(volume)), tree(volume)
        for path in ("../../../../../../../../etc/passwd", "/../../etc/passwd", "folder/../../../etc/passwd"):
            refused(content, volume, path)
            refused(volume.remove_file, path)
            refused(volume.copy_files, [path], "stolen")
        # What stays inside may be written in any way.
        put(volume, {"/folder//./other": b"x"})
        assert content(volume, "folder/other") == content(volume, "//folder/./other") == b"x"


def check_volumes_are_found_by_name_and_by_id():
    name = f"named-{modal.__version__}"
    for each in (name, name + "-2"):
        delete(each)
    refused(modal.Volume.from_name(name).listdir, "/")
    volume = modal.Volume.from_name(name, create_if_missing=True)
    put(volume, {"file": b"kept"})
    assert content(modal.Volume.from_name(name, create_if_missing=True), "file") == b"kept"
    if NUMBERS >= (0, 73):
        modal.Volume.rename(name, name + "-2")
        refused(modal.Volume.from_name(name).listdir, "/")
        assert content(modal.Volume.from_name(name + "-2"), "file") == b"kept"
        other = modal.Volume.from_name(name, create_if_missing=True)
        assert other.listdir("/") == []
        refused(modal.Volume.rename, name, name + "-2")
    if hasattr(modal.Volume, "from_id"):
        again = modal.Volume.from_id(volume.object_id)
        assert content(again, "file") == b"kept" and again.info().name in (name, name + "-2")
    if hasattr(modal.Volume, "objects"):
        objects = modal.Volume.objects
        assert {name, name + "-2"} <= {v.name for v in objects.list()}
        assert len(objects.list(max_objects=1)) == 1
        refused(objects.create, name)
        objects.create(name, allow_existing=True)
        objects.delete(name)
        refused(objects.delete, name)
        objects.delete(name, allow_missing=True)
        objects.create(name, version=2)
        error = refused(modal.Volume.from_name(name, version=1).listdir, "/")
        assert "version" in str(error), error
    delete(name)
    delete(name + "-2")
    if hasattr(modal.Volume, "from_id"):
        refused(modal.Volume.from_id(volume.object_id).listdir, "/")


def check_an_ephemeral_volume_needs_no_name():
    for version in (1, 2):
        with modal.Volume.ephemeral(version=version) as volume:
            put(volume, {"a/b": b"for now"})
            assert content(volume, "a/b") == b"for now" and tree(volume) == {"a": "dir", "a/b": 7}
        with modal.Volume.ephemeral() as other:
            assert other.listdir("/") == []


def check_a_volume_that_may_only_be_read_refuses_uploads():
    if not hasattr(modal.Volume, "read_only"):
        return NOT_IN_THIS_CLIENT
    volume = anew("read-only")
    put(volume, {"file": b"x"})
    reading = volume.read_only()
    assert content(reading, "file") == b"x"
    refused(put, reading, {"other": b"x"})
    refused(reading.remove_file, "file")


def check_many_files_are_listed_whole():
    volume = anew("many")
    names = {f"d{number % 7}/f{number}": b"%d" % (number % 10) for number in range(3000)}
    put(volume, names)
    assert {e.path for e in volume.listdir("/", recursive=True) if e.type == 1} == set(names)


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
