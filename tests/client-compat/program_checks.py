"""Makes each check inside a program a test of its own, for each client version.

A program runs once per version, with `modal run`; its checks print their verdicts (`programs/checks.py`). So a suite of
hundreds of tests starts a client a few dozen times, and a failure still has a name.
"""

import ast
import re

import pytest
from harness import PROGRAMS, VERSIONS

_ended = {}


def checks_of(program):
    tree = ast.parse((PROGRAMS / program).read_text())
    functions = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return [f.name[len("check_") :] for f in functions if f.name.startswith("check_")]


def for_each_check(program, versions=VERSIONS, without=()):
    chosen = [check for check in checks_of(program) if check not in without]
    cases = [pytest.param(v, c, id=f"{c}-{v}") for v in versions for c in chosen]
    return pytest.mark.parametrize(("version", "check"), cases)


def assert_check(clients, program, version, check, within_s=400, **variables):
    key = (program, version)
    if key not in _ended:
        _ended[key] = clients[version].run(program, within_s=within_s, **variables)
    ended = _ended[key]
    verdict = re.search(rf"^CHECK (\w+) {re.escape(check)} (.*)$", ended.out, re.M)
    if verdict is None:
        pytest.fail(f"`modal run {program}` ended before this check did: {ended}")
    if verdict.group(1) == "SKIP":
        pytest.skip(f"not for client {version}")
    if verdict.group(1) != "PASS":
        before = ended.out[: verdict.start()]
        start = before.rfind("\nCHECK ")
        pytest.fail(f"{check} with client {version}:\n{before[start + 1 :][-6000:]}\n--- stderr\n{ended.err[-3000:]}")
    return ended


def ended_of(program, version):
    """How the program's one run ended; only after one of its checks was asserted."""
    return _ended[(program, version)]
