"""`coverage.txt` names each declared call once, and tests that exist."""

import ast
import re

from harness import HERE, REPOSITORY

SERVICE = REPOSITORY / "crates" / "client-protocol" / "proto" / "service.proto"


def _covered():
    lines = [line for line in (HERE / "coverage.txt").read_text().splitlines() if line and not line.startswith("#")]
    return [line.split(None, 1) for line in lines]


def every_declared_call_is_covered_or_says_why_not():
    declared = re.findall(r"^\s*rpc (\w+)", SERVICE.read_text(), re.M)
    covered = [call for call, _ in _covered()]
    assert sorted(declared) == sorted(covered), set(declared) ^ set(covered)


def every_named_test_exists():
    for call, place in _covered():
        if place.startswith("none: "):
            continue
        file, test = place.split()
        functions = [n.name for n in ast.parse((HERE / file).read_text()).body if isinstance(n, ast.FunctionDef)]
        assert test in functions, f"{call}: no `{test}` in {file}"
