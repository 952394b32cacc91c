"""Batches: each check of `programs/batching.py`, for each version that has them."""

from harness import VERSIONS
from program_checks import assert_check, for_each_check

# `@modal.batched` is younger than the oldest client.
WITH_BATCHES = [v for v in VERSIONS if not v.startswith("0.63")]


@for_each_check("batching.py", WITH_BATCHES)
def batching(clients, version, check):
    assert_check(clients, "batching.py", version, check)
