"""A copy of the data directory of a running server is a server of its own."""

import hashlib
import itertools
import os
import shutil
import subprocess

import pytest
from harness import DATA, REPOSITORY, Client, Server

LOOK = "import modal; print('found', *modal.Function.from_name('backed-up', 'look').remote())"
OPERATING = REPOSITORY / "docs" / "operating.md"
FIRST_LINE = "    data=/var/lib/dorian copy="


def _commands():
    """The document's lines for a copy of a running server, without their choice of folders."""
    _, found, rest = OPERATING.read_text().partition(FIRST_LINE)
    assert found, f"{OPERATING} has no line `{FIRST_LINE.strip()}`"
    lines = itertools.takewhile(str.strip, rest.splitlines()[1:])
    return "\n".join(lines).replace("/srv/backup", '"$(dirname $copy)"')


def _copy(data, copy):
    shutil.rmtree(copy, ignore_errors=True)
    # Layers of images never change, and would take longer than this test has: links do for them.
    settings = {**os.environ, "data": str(data), "copy": str(copy), "TAR_OPTIONS": "--exclude=./images"}
    # Without `pipefail`: a log that is written to meanwhile makes the first `tar` complain.
    subprocess.run(["bash", "-euc", _commands()], env=settings, check=True)
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
        # Named like the server's own databases, which are copied by other means.
        ["volume", "put", "backed-up", small, "/db.sqlite3"],
        ["secret", "create", "--force", "backed-up", "BACKED_UP=told"],
        ["deploy", "backed_up.py"],
    ):
        ended = newest.modal(*command)
        assert ended.code == 0, ended
    put = newest.python("-c", "import modal; modal.Dict.from_name('backed-up', create_if_missing=True)['answer'] = 42")
    assert put.code == 0, put
    yield ["found", hashlib.sha256(large.read_bytes()).hexdigest(), "kept", "kept", "42", "told"]
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
