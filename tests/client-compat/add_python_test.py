"""`add_python=`: a Python for images that have none."""

from program_checks import assert_check, for_each_check


@for_each_check("add_python.py")
def add_python(clients, version, check):
    assert_check(clients, "add_python.py", version, check, 600)
