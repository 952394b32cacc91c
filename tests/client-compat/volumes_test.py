"""Volumes, from outside and from inside of containers, by command, and through a crash of the server."""

import pytest
from program_checks import assert_check, for_each_check


@pytest.mark.older_clients("they upload with other calls")
@for_each_check("volumes.py")
def volumes(clients, version, check):
    assert_check(clients, "volumes.py", version, check, 300)


@pytest.mark.older_clients("their runners commit and reload in other ways", oldest_only=True)
@for_each_check("volume_mounts.py")
def mounts(clients, version, check):
    assert_check(clients, "volume_mounts.py", version, check, 600)


@for_each_check("volume_commands.py")
def commands(clients, version, check):
    assert_check(clients, "volume_commands.py", version, check, 200)


def a_volume_is_created_listed_renamed_and_deleted(newest):
    newest.modal("volume", "delete", "--yes", "made-here")
    newest.modal("volume", "delete", "--yes", "called-otherwise")
    made = newest.modal("volume", "create", "made-here", "--version", "2")
    assert made.code == 0, made
    again = newest.modal("volume", "create", "made-here")
    assert again.code != 0 and "already exists" in again.out + again.err, again
    script = "import modal; v = modal.Volume.from_name('made-here').hydrate(); print(modal.Volume.from_id(v.object_id).info().name)"
    looked_up = newest.python("-c", script)
    assert looked_up.code == 0 and "made-here" in looked_up.out, looked_up
    renamed = newest.modal("volume", "rename", "--yes", "made-here", "called-otherwise")
    assert renamed.code == 0, renamed
    names = [row.get("Name", row.get("name")) for row in newest.rows("volume", "list", "--json")]
    assert "called-otherwise" in names and "made-here" not in names, names
    gone = newest.modal("volume", "delete", "--yes", "called-otherwise")
    assert gone.code == 0, gone
    missing = newest.modal("volume", "ls", "called-otherwise")
    assert missing.code != 0 and "'called-otherwise' not found" in missing.out + missing.err, missing


def what_was_committed_survives_the_servers_death(newest, server):
    newest.modal("volume", "delete", "--yes", "crash")
    running = newest.start("run", "volume_crash.py::write_for_long")
    try:
        running.wait_for_line("committed 3", 60)
    finally:
        server.kill()
        running.kill()
    # Nothing that the dead server mounted is left in the way.
    server.start()
    seen = newest.run("volume_crash.py::look")
    assert seen.code == 0 and "whole" in seen.out, seen
