"""Owners above 65535: each check of `programs/large_owners.py`. Layers of a registry are in `images_test.py`."""

from harness import NEWEST
from program_checks import assert_check, for_each_check


# No client has anything to do with owners.
@for_each_check("large_owners.py", versions=[NEWEST])
def large_owners(clients, version, check):
    assert_check(clients, "large_owners.py", version, check, 600)
