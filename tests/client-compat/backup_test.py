"""A copy of the data directory of a running server is a server of its own."""

import hashlib
import shutil
import sqlite3
import subprocess

import pytest
from harness import DATA, Client, Server

DATABASES = ["metadata.sqlite", "contents.sqlite"]
# What belongs to the running server alone, or is made anew.
NOT_COPIED = {"lock", "admin.sock", "address", "runtime", "tasks", "mounts", "images"}
LOOK = "import modal; print('found', *modal.Function.from_name('backed-up', 'look').remote())"


def _copy(data, copy):
    """The databases first, by SQLite itself: what they name is there when the files are copied. Hard links stay links, and
    attributes stay."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name in DATABASES:
        with sqlite3.connect(data / name) as source, sqlite3.connect(copy / name) as target:
            source.backup(target)
    rest = [path for path in data.iterdir() if path.name not in NOT_COPIED and ".sqlite" not in path.name]
    subprocess.run(["cp", "-a", *rest, copy], check=True)
    # Layers of images never change; a backup copies them like the rest, which takes longer than this test has.
    (copy / "images").mkdir()
    subprocess.run(["cp", "-al", data / "images" / "layers", data / "images" / "records", copy / "images"], check=True)


@pytest.fixture
def filled(newest, server, tmp_path):
    """What `look` finds."""
    large = tmp_path / "large"
    large.write_bytes(b"0123456789" * 30_000)
    small = tmp_path / "small"
    small.write_text("kept")
    newest.modal("volume", "delete", "--yes", "backed-up")
    for command in (
        ["volume", "create", "backed-up"],
        ["volume", "put", "backed-up", large, "/large"],
        ["volume", "put", "backed-up", small, "/small"],
        ["secret", "create", "--force", "backed-up", "BACKED_UP=told"],
        ["deploy", "backed_up.py"],
    ):
        ended = newest.modal(*command)
        assert ended.code == 0, ended
    put = newest.python("-c", "import modal; modal.Dict.from_name('backed-up', create_if_missing=True)['answer'] = 42")
    assert put.code == 0, put
    yield ["found", hashlib.sha256(large.read_bytes()).hexdigest(), "kept", "42", "told"]
    newest.modal("app", "stop", "--yes", "backed-up")


def a_copy_that_was_made_while_the_server_ran_is_a_server_with_all_that_was_there(newest, server, filled, tmp_path):
    before = newest.python("-c", LOOK)
    assert before.out.split() == filled, before
    data = DATA.with_name(f"{DATA.name}-copied")
    _copy(server.data, data)
    copied = Server(data)
    try:
        copied.start()
        # It can only be the copy's.
        gone = newest.modal("volume", "delete", "--yes", "backed-up")
        assert gone.code == 0, gone
        found = Client(newest.version, copied, tmp_path / "home").python("-c", LOOK)
        assert found.code == 0 and found.out.split() == filled, found
    finally:
        copied.stop()
        shutil.rmtree(data, ignore_errors=True)
