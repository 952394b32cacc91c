"""Volumes during image builds."""

from harness import wait_for
from program_checks import assert_check, for_each_check


@for_each_check("build_volumes.py")
def build_volumes(clients, version, check):
    assert_check(clients, "build_volumes.py", version, check, 300)


def a_volume_that_is_deleted_during_a_step_fails_the_build_by_name(newest):
    newest.modal("volume", "create", "deleted-in-a-build")
    running = newest.start("run", "deleted_in_use.py::build")
    wait_for(lambda: "\nwritten " in running.text(), 120, "the step's output")
    gone = newest.modal("volume", "delete", "--yes", "deleted-in-a-build")
    assert gone.code == 0, gone
    ended = running.end(120)
    said = ended.out + ended.err
    assert ended.code != 0 and "was deleted while a step of the image was using it" in said, ended
    assert "deleted-in-a-build" not in newest.modal("volume", "list").out
