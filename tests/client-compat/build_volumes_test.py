"""Volumes during image builds."""

from program_checks import assert_check, for_each_check


@for_each_check("build_volumes.py")
def build_volumes(clients, version, check):
    assert_check(clients, "build_volumes.py", version, check, 300)
