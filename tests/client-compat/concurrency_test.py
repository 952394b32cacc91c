"""Inputs side by side in one container: each check of `programs/concurrency.py`, for each version."""

from program_checks import assert_check, for_each_check


@for_each_check("concurrency.py")
def concurrency(clients, version, check):
    assert_check(clients, "concurrency.py", version, check)
