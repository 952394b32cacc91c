"""Every method of `modal.Image`, as each client has it; and the table of them in `docs/images.md`.

The programs hold the promises, each a check of its own. The table says which check stands for which method, option and
client; the tests at the end of this file keep the table true: nothing is named that does not exist, nothing that an
installed client offers is left out, and what is said to run was not skipped.
"""

import json
import re

import pytest
from harness import CLIENTS, HERE, REPOSITORY, VERSIONS
from program_checks import assert_check, checks_of, for_each_check

TABLE = REPOSITORY / "docs" / "images.md"
BUILDER_VERSIONS = {
    "1.6.4": ["2023.12", "2024.04", "2024.10", "2025.06", "2026.10", "PREVIEW"],
    "1.0.5": ["2023.12", "2024.04", "2024.10", "PREVIEW"],
    "0.73.173": ["2023.12", "2024.04", "2024.10", "PREVIEW"],
    "0.63.99": ["2023.12", "2024.04"],
}


def _rows():
    """The table's rows: methods, their options, a cell for each client, and the test."""
    lines = [line.strip("|").split("|") for line in TABLE.read_text().splitlines() if line.startswith("| `")]
    found = []
    for cells in (list(map(str.strip, line)) for line in lines):
        methods, _, options = (re.findall(r"`([\w.]+)`", part) for part in cells[0].partition(":"))
        found.append({"methods": methods, "options": options, "cells": dict(zip(BUILDER_VERSIONS, cells[1:5], strict=True)),
                      "test": cells[5].strip("`")})  # fmt: skip
    return found


def _assert_ran(clients, program, version, check):
    """As `assert_check`; and a check that the table counts on for this client must not have skipped it."""
    counted_on = any(row["test"] == f"{program} {check}" and row["cells"][version] != "-" for row in _rows())
    try:
        assert_check(clients, program, version, check, 900)
    except pytest.skip.Exception:
        assert not counted_on, f"{check} skipped client {version}, for which `docs/images.md` names it"
        raise


@for_each_check("image_packages.py")
def packages(clients, version, check):
    _assert_ran(clients, "image_packages.py", version, check)


@pytest.mark.older_clients("they send files as mounts")
@for_each_check("image_files.py")
def files(clients, version, check):
    _assert_ran(clients, "image_files.py", version, check)


@pytest.mark.older_clients("their methods make other Dockerfiles", oldest_only=True)
@for_each_check("image_commands.py")
def commands(clients, version, check):
    _assert_ran(clients, "image_commands.py", version, check)


@pytest.mark.older_clients("a program of this area", oldest_only=True)
@for_each_check("image_secrets.py")
def secrets(clients, version, check):
    _assert_ran(clients, "image_secrets.py", version, check)


@for_each_check("image_functions.py")
def functions(clients, version, check):
    _assert_ran(clients, "image_functions.py", version, check)


@for_each_check("image_imports.py")
def imports(clients, version, check):
    ended = assert_check(clients, "image_imports.py", version, check)
    assert "No module named 'image_check_that_is_nowhere'" in ended.out + ended.err, ended


@pytest.mark.parametrize(("version", "builder"), [(v, b) for v in VERSIONS for b in BUILDER_VERSIONS[v]])
def builder_versions(clients, version, builder):
    ended = clients[version].run("image_builder_version.py", within_s=900, MODAL_IMAGE_BUILDER_VERSION=builder)
    assert ended.code == 0 and f"built as {builder}" in ended.out, ended


def the_default_image_is_built_again_when_forced_and_once_for_all_who_force_it(clients):
    """By an image builder that no other program uses, because everything on this image is built anew afterwards."""
    oldest = {"MODAL_IMAGE_BUILDER_VERSION": "2023.12"}
    kept = {v: _made(clients[v].run("image_forced.py", "--default", within_s=600, **oldest)) for v in VERSIONS}
    forced = {"MODAL_FORCE_BUILD": "1", **oldest}
    running = {v: clients[v].start("run", "image_forced.py", "--default", **forced) for v in VERSIONS}
    built = {version: _made(program.end(600)) for version, program in running.items()}
    for version in VERSIONS:
        assert built[version]["image"] != kept[version]["image"], (kept, built)
    assert len({made["image"] for made in built.values()}) == 1, built


def force_build_replaces_an_image_and_ignore_cache_does_not(client):
    def stamp(**variables):
        return _made(client.run("image_forced.py", within_s=600, **variables))["stamp"]

    kept = stamp()
    assert stamp() == kept
    if client.numbers >= (0, 70):
        assert stamp(MODAL_IGNORE_CACHE="1") != kept
        assert stamp() == kept
    forced = stamp(MODAL_FORCE_BUILD="1")
    assert forced != kept and stamp() == forced


def _made(ended):
    assert ended.code == 0, ended
    return json.loads(re.search(r"^made (.*)$", ended.out, re.M).group(1))


OFFERED = """
import inspect, json, typing
from modal import image, mount
builders = inspect.getmodule(image._Image).ImageBuilderVersion
def options(value):
    function = getattr(value, "__func__", value)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.name not in ("self", "cls", "client") and p.kind in (1, 3)]
def methods(kind):
    return {name: options(value) for name, value in vars(kind).items() if not name.startswith("_")}
mounts = methods(mount._Mount) if hasattr(mount._Mount, "from_local_dir") else {}
print(json.dumps([methods(image._Image), mounts, typing.get_args(builders)]))
"""


def _offered(clients, version):
    ended = clients[version].python("-c", OFFERED)
    assert ended.code == 0, ended
    images, mounts, builders = json.loads(ended.out.splitlines()[-1])
    return {**images, **{f"Mount.{name}": options for name, options in mounts.items()}}, builders


def every_method_and_option_of_a_client_is_in_the_table(clients):
    missing = []
    for version in BUILDER_VERSIONS:
        if not (CLIENTS / version).exists():
            continue
        found, builders = _offered(clients, version)
        assert list(builders) == BUILDER_VERSIONS[version], (version, builders)
        served = [row for row in _rows() if row["cells"][version] != "-"]
        named = {(m, option) for row in served for m in row["methods"] for option in [None, *row["options"]]}
        wanted = {(method, option) for method, options in found.items() for option in [None, *options]}
        missing += [f"{version}: {method}({option or ''})" for method, option in sorted(wanted - named, key=str)]
        gone = sorted(named - wanted, key=str)
        missing += [f"{version} has no {method}({option or ''}), `docs/images.md` says" for method, option in gone]
    assert not missing, "\n".join(missing)


def every_test_that_the_table_names_exists():
    for row in _rows():
        program, name = row["test"].split()
        if program.endswith("_test.py"):
            assert re.search(rf"^def {name}\(", (HERE / program).read_text(), re.M), row
        else:
            assert name in checks_of(program), row
        for cell in row["cells"].values():
            assert cell in ("yes", "-") or cell.startswith("refused"), row
