"""Images: steps, caching, build logs, failures, and a registry."""

import ast
import time

import pytest
from program_checks import assert_check, for_each_check
from registry import Registry


@for_each_check("images.py")
def images(clients, version, check):
    assert_check(clients, "images.py", version, check, 900)


@for_each_check("bytecode.py")
def bytecode(clients, version, check):
    assert_check(clients, "bytecode.py", version, check, 900)


def an_unchanged_image_is_not_built_again(client):
    first = client.run("images.py", "--only", "every_step_is_in_the_container", within_s=900)
    assert "CHECK PASS" in first.out, first
    started = time.monotonic()
    again = client.run("images.py", "--only", "every_step_is_in_the_container")
    assert "CHECK PASS" in again.out, again
    assert "built the stamp" not in again.out + again.err, "the last step ran again"
    assert time.monotonic() - started < 20, again


def a_changed_step_is_built_with_its_log_shown(newest):
    ended = newest.run("images.py", within_s=300, CHECK_STAMP=f"run-{time.time_ns()}")
    assert "built the stamp" in ended.out + ended.err, ended
    assert ended.code == 0 and "CHECKS ENDED 0" in ended.out, ended


def a_failed_build_says_which_command_failed_and_how(client):
    ended = client.run("broken_image.py", within_s=300)
    said = ended.out + ended.err
    assert ended.code != 0 and "never here" not in ended.out, ended
    assert "about to fail" in said, "the build's output is missing"
    assert "exit 41" in said or "41" in said, ended


@pytest.fixture(scope="module")
def registry():
    registry = Registry().start()
    registry.reference = registry.push_image()
    yield registry
    registry.stop()


@pytest.mark.parametrize("tag", ["single", "indexed"])
def an_image_comes_from_a_registry(newest, registry, tag):
    ended = newest.run("from_registry.py", within_s=400, CHECK_REFERENCE=f"{registry.reference}:{tag}")
    assert ended.code == 0, ended
    seen = ast.literal_eval(next(line for line in ended.out.splitlines() if line.startswith("look "))[5:])
    assert seen == {
        "kept": "kept",
        "removed": None,
        "opaque": ["above"],
        "changed": "new",
        "variable": "yes",
    }


def an_image_that_is_not_there_is_one_clear_sentence(newest, registry):
    ended = newest.run("from_registry.py", CHECK_REFERENCE=f"{registry.address}/no/such:image")
    said = ended.out + ended.err
    assert ended.code != 0 and "no/such" in said and registry.address in said, ended


def a_registry_that_is_away_is_named_with_the_cure(newest):
    ended = newest.run("from_registry.py", CHECK_REFERENCE="127.0.0.1:1/any/image:1")
    said = ended.out + ended.err
    assert ended.code != 0 and "127.0.0.1:1" in said and "mirror" in said, ended


def a_layer_with_a_wrong_digest_is_refused(newest, registry):
    other = Registry()
    registry.stop()
    try:
        other.start()
        reference = other.push_image(f"sample/broken-{time.time_ns()}")
        other.corrupt()
        ended = newest.run("from_registry.py", CHECK_REFERENCE=f"{reference}:single")
        # The layers may be known by digest from the tests before; then nothing is fetched, and that is right too.
        assert ended.code == 0 or "digest" in ended.out + ended.err, ended
    finally:
        other.stop()
