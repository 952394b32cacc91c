"""Every method of `modal.Image`, as each client has it. The programs hold the promises, each a check of its own."""

import pytest
from harness import VERSIONS
from program_checks import assert_check, for_each_check

BUILDER_VERSIONS = {
    "1.6.4": ["2023.12", "2024.04", "2024.10", "2025.06", "2026.10", "PREVIEW"],
    "1.0.5": ["2023.12", "2024.04", "2024.10", "PREVIEW"],
    "0.73.173": ["2023.12", "2024.04", "2024.10", "PREVIEW"],
    "0.63.99": ["2023.12", "2024.04"],
}


@for_each_check("image_packages.py")
def packages(clients, version, check):
    assert_check(clients, "image_packages.py", version, check, 900)


@for_each_check("image_files.py")
def files(clients, version, check):
    assert_check(clients, "image_files.py", version, check, 900)


@for_each_check("image_commands.py")
def commands(clients, version, check):
    assert_check(clients, "image_commands.py", version, check, 900)


@pytest.mark.parametrize(("version", "builder"), [(v, b) for v in VERSIONS for b in BUILDER_VERSIONS[v]])
def builder_versions(clients, version, builder):
    ended = clients[version].run("image_builder_version.py", within_s=900, MODAL_IMAGE_BUILDER_VERSION=builder)
    assert ended.code == 0 and f"built as {builder}" in ended.out, ended
