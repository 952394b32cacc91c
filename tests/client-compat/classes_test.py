"""Classes: each check of `programs/classes.py`, for each version; and what becomes of hooks when things end."""

from harness import VERSIONS
from program_checks import assert_check, for_each_check

# `__init__` with parameters and `keep_warm` are gone from the later ones.
OLD = [version for version in VERSIONS if version.startswith("0.")]


@for_each_check("classes.py")
def classes(clients, version, check):
    assert_check(clients, "classes.py", version, check)


@for_each_check("old_classes.py", OLD)
def classes_in_old_spellings(clients, version, check):
    assert_check(clients, "old_classes.py", version, check)
