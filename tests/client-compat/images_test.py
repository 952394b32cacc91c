"""Images: steps, caching, build logs, failures, and a registry."""

import ast
import io
import json
import tarfile
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


def _layer_owned_by(owners):
    """Below 2^21 the header of an entry holds the number itself, above it stands in an extended header."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for owner in owners:
            member = tarfile.TarInfo(f"owned/by-{owner}")
            member.uid, member.gid, member.mode, member.size = owner, owner, 0o600, 4
            tar.addfile(member, io.BytesIO(b"seen"))
    return packed.getvalue()


def a_layer_of_a_registry_may_have_large_owners(newest, registry):
    owners = [100_500, 1_000_650_000, 2_147_483_647]
    reference = registry.push_on_top("owners", _layer_owned_by(owners))
    commands = json.dumps(["RUN cat /owned/by-1000650000 && rm /owned/by-1000650000"])
    say = "stat -c %n:%u:%g /owned/*; cat /owned/* && chown 0 /owned/by-100500 && rm -r /owned && echo removed"
    ended = newest.run("from_commands.py", within_s=400, CHECK_BASE=reference, CHECK_COMMANDS=commands, CHECK_SAY=say)
    assert ended.code == 0, ended
    said = ast.literal_eval(next(line for line in ended.out.splitlines() if line.startswith("says "))[5:])
    kept = [owner for owner in owners if owner != 1_000_650_000]
    assert said == "".join(f"/owned/by-{o}:{o}:{o}\n" for o in kept) + "seenseenremoved\n", said


def an_owner_that_no_container_has_is_refused_with_its_file(newest, registry):
    reference = registry.push_on_top("beyond", _layer_owned_by([4_294_967_294]))
    ended = newest.run("from_registry.py", within_s=400, CHECK_REFERENCE=reference)
    said = ended.out + ended.err
    assert ended.code != 0 and "`owned/by-4294967294`" in said and "above 2147483647" in said, ended


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
