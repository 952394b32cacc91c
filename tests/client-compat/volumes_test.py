"""Volumes, from outside and from inside of containers, by command, and through a crash of the server."""

from program_checks import assert_check, for_each_check


@for_each_check("volumes.py")
def volumes(clients, version, check):
    assert_check(clients, "volumes.py", version, check, 300)


@for_each_check("volume_mounts.py")
def mounts(clients, version, check):
    assert_check(clients, "volume_mounts.py", version, check, 600)


@for_each_check("volume_commands.py")
def commands(clients, version, check):
    assert_check(clients, "volume_commands.py", version, check, 200)


CREATED = """
import modal
from volume_tools import anew, content, delete, put
name = "created-" + modal.__version__
volume = anew("created")
put(volume, {"file": b"kept"})
if hasattr(modal.Volume, "objects"):
    assert name in [v.name for v in modal.Volume.objects.list()]
    again = modal.Volume.from_id(volume.object_id)
    assert content(again, "file") == b"kept"
modal.Volume.rename(name, name + "-renamed")
assert content(modal.Volume.from_name(name + "-renamed"), "file") == b"kept"
delete(name + "-renamed")
print("done")
"""


def a_volume_is_created_listed_renamed_and_deleted(newest):
    ended = newest.python("-c", CREATED)
    assert ended.code == 0 and "done" in ended.out, ended


def what_was_committed_survives_the_servers_death(newest, server):
    assert newest.run("volume_crash.py::prepare").code == 0
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
