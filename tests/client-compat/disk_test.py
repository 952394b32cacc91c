"""Where the space of the data directory is, and that it comes back when nothing needs what it holds."""

import json
import time

import pytest
from harness import dorian, wait_for

MIB = 1 << 20
SIZE = 8 * MIB
# Space comes back within seconds, but each look is at every file of the data directory, and other tests build images.
SOON_S = 60


def _report(server):
    said = dorian("disk", "--data", server.data, "--json")
    assert said.returncode == 0, said
    return {row["what"]: row for row in json.loads(said.stdout)["rows"]}


def _volume_bytes(server, name):
    """None when there is no such volume."""
    row = _report(server).get(f"volume `{name}`")
    return row and row["bytes"]


def _contents_bytes(server):
    folders = [server.data / "volumes" / "content", server.data / "blobs" / "contents", server.data / "blobs" / "blobs"]
    files = {(s.st_dev, s.st_ino): s for folder in folders for path in folder.rglob("*") if (s := _stat(path))}
    return sum(found.st_blocks * 512 for found in files.values())


def _stat(path):
    try:
        return path.stat() if path.is_file() else None
    except FileNotFoundError:
        return None


@pytest.fixture
def space(newest, server):
    """A volume of that name, and how much all contents took before there was one."""
    newest.modal("volume", "delete", "--yes", "space")
    assert dorian("gc", "--data", server.data).returncode == 0
    return _contents_bytes(server)


def a_file_that_is_overwritten_takes_its_own_space_and_a_deleted_volume_none(newest, server, space):
    ended = newest.run("volume_space.py::main")
    assert ended.code == 0, ended
    last, _, seen = ended.out.rpartition("last ")[2].split()[:3]
    assert last == seen, ended
    wait_for(lambda: _volume_bytes(server, "space") < 1.5 * SIZE, SOON_S, "about one size, without being told")
    assert newest.modal("volume", "delete", "--yes", "space").code == 0
    # The program itself lies among the uploads.
    wait_for(lambda: _contents_bytes(server) < space + MIB, SOON_S, "nothing left of a deleted volume")
    assert _volume_bytes(server, "space") is None


def a_container_goes_on_reading_the_version_that_it_has_whatever_is_given_back(newest, server, space, tmp_path):
    go = tmp_path / "go"
    running = newest.start("run", "volume_space.py::read_an_old_version", "--go", go, CHECK_TIMES="3")
    running.wait_for_line("overwritten", 120)
    done = dorian("gc", "--data", server.data)
    assert done.returncode == 0 and "of volumes" in done.stdout, done
    assert SIZE * 1.9 < _volume_bytes(server, "space") < SIZE * 2.5, "the newest, and the one that is held"
    go.touch()
    ended = running.end()
    said = ended.out.rpartition("before ")[2].split()
    before, after, held = said[0], said[2], said[4]
    assert ended.code == 0 and held == before != after, ended
    wait_for(lambda: _volume_bytes(server, "space") < 1.5 * SIZE, SOON_S, "the old version gone with its reader")


@pytest.mark.parametrize("volume_version", ["1", "2"])
def what_was_put_and_replaced_or_deleted_is_given_back_by_gc(newest, server, space, tmp_path, volume_version):
    assert newest.modal("volume", "create", "space", "--version", volume_version).code == 0
    file = tmp_path / "checkpoint"
    for number in range(2):
        file.write_bytes(bytes([number + int(volume_version) * 16]) * SIZE)
        assert newest.modal("volume", "put", "--force", "space", file, "/checkpoint").code == 0
    assert dorian("gc", "--data", server.data).returncode == 0
    assert space + 0.9 * SIZE < _contents_bytes(server) < space + 1.5 * SIZE
    assert newest.modal("volume", "delete", "--yes", "space").code == 0
    assert dorian("gc", "--data", server.data).returncode == 0
    # The program itself lies among the uploads.
    wait_for(lambda: _contents_bytes(server) < space + MIB, SOON_S, "nothing left of a deleted volume")


def what_a_client_was_told_of_is_there_when_it_puts_it_whatever_others_did_with_it(newest, server):
    mark = str(time.time_ns())
    begun = newest.python("shared_uploads.py", "begin", mark)
    told = begun.out.splitlines()
    assert begun.code == 0 and told[:4] == ["other told True", "missing 1 1", "sent 200", "missing 0"], begun
    assert dorian("gc", "--data", server.data).returncode == 0
    ended = newest.python("shared_uploads.py", "end", mark, told[4].removeprefix("url "))
    said = ["other put OK", "one repeated OK", "sent 200", "missing 0"]
    assert ended.code == 0 and ended.out.splitlines() == said, ended
    assert dorian("gc", "--data", server.data).returncode == 0
    gone = newest.python("shared_uploads.py", "gone", mark)
    assert gone.code == 0 and gone.out.splitlines() == ["third put NOT_FOUND", "missing 1"], gone


def a_killed_server_leaves_no_space_lost_and_the_disk_is_read_without_it(newest, server, space):
    ended = newest.run("volume_space.py::main", CHECK_TIMES="4")
    server.kill()
    assert ended.code == 0, ended
    last = ended.out.rpartition("last ")[2].split()[0]
    without = _report(server)
    assert without["volume `space`"]["bytes"] >= SIZE and without["layers of images"]["could_go"] is None, without
    server.start()
    assert dorian("gc", "--data", server.data).returncode == 0
    seen = newest.run("volume_space.py::see")
    assert seen.code == 0 and last in seen.out, (seen, last)
    assert _volume_bytes(server, "space") < 1.5 * SIZE


def disk_says_where_the_space_is_and_what_could_go(newest, server):
    said = dorian("disk", "--data", server.data)
    assert said.returncode == 0, said
    lines = said.stdout.splitlines()
    assert lines[0].split() == ["WHAT", "SIZE", "COULD", "GO", "BY"], said
    assert any(line.startswith("layers of images") for line in lines), said
    assert "in all;" in lines[-1] and lines[-1].endswith("are free"), said
    report = json.loads(dorian("disk", "--data", server.data, "--json").stdout)
    measured = sum(row["bytes"] for row in report["rows"])
    assert 0 < measured < report["total_bytes"] and report["free_bytes"] > 0, report
    missing = dorian("disk", "--data", server.data / "nowhere")
    assert missing.returncode == 1 and "there is no data directory" in missing.stderr, missing


def a_layer_of_a_running_container_counts_as_used_now(newest, server):
    running = newest.start("run", "layered_image.py::hold_long", CHECK_STAMP="used-now", CHECK_APP="used-now")
    try:
        running.wait_for_line("holding", 240)
        begun = time.time()
        # What counts is not when the container started; layers' times are in whole seconds.
        wait_for(lambda: time.time() > begun + 2.5, 5, "the next seconds")
        asked_ms = time.time() * 1000
        layers = json.loads(dorian("layers", "--data", server.data, "--json").stdout)["layers"]
        of_ours = [layer for layer in layers if "used-now" in layer["title"]]
        assert len(of_ours) == 2 and all(layer["used_ms"] > asked_ms - 1500 for layer in of_ours), (asked_ms, of_ours)
    finally:
        running.kill()
