"""Images by id and by name, their history, their builds' logs, and their end. Only current clients have these."""

import json
import re
import time


def _publish(client, name, stamp, tag="latest"):
    ended = client.run("named_images.py::app.publish", "--tag", tag, within_s=300, CHECK_NAME=name, CHECK_STAMP=stamp)
    assert ended.code == 0, ended
    return re.search(r"published (im-\w+)", ended.out).group(1)


def _use(client, name, **more):
    return client.run("named_images.py::named.use", CHECK_NAME=name, **more)


def a_name_means_what_was_published_last_and_its_past_is_listed(newest):
    name = f"name-{time.time_ns()}"
    first = _publish(newest, name, "one")
    assert "stamp one" in _use(newest, name).out
    second = _publish(newest, name, "two")
    assert "stamp two" in _use(newest, name).out
    _publish(newest, name, "one", tag="v1")
    assert "stamp one" in _use(newest, name, CHECK_TAG="v1").out

    listed = newest.rows("image", "names", "list", "--prefix", name, "--json")
    assert [(row["tag"], row["image_id"]) for row in listed] == [(f"{name}:latest", second), (f"{name}:v1", first)]
    history = newest.rows("image", "names", "history", name, "--json")
    assert [row["image_id"] for row in history] == [second, first]

    gone = newest.modal("image", "names", "delete", "--yes", f"{name}:latest")
    assert gone.code == 0, gone
    without = _use(newest, name)
    said = without.out + without.err
    assert without.code != 0 and f"{name}:latest" in said and "not found" in said, without
    assert "stamp one" in _use(newest, name, CHECK_TAG="v1").out


def a_name_that_is_none_is_refused(newest):
    name = f"name-{time.time_ns()}"
    ended = newest.run("named_images.py::app.publish", "--tag", "a b", CHECK_NAME=name)
    assert ended.code != 0 and "published" not in ended.out, ended


def a_build_log_can_be_read_later(newest):
    stamp = f"stamp-{time.time_ns()}"
    image = _publish(newest, f"name-{time.time_ns()}", stamp)
    told = newest.modal("image", "logs", image)
    assert told.code == 0 and f"echo {stamp} > /stamp" in told.out, told
    whole = newest.modal("image", "logs", "--all", image)
    assert "apt-get" in whole.out or "CACHED" in whole.out, whole


def a_deleted_image_is_gone_and_its_id_does_not_come_back(newest):
    name = f"name-{time.time_ns()}"
    image = _publish(newest, name, name)
    script = f"import modal; from modal.experimental import image_delete; image_delete('{image}')"
    first = newest.python("-c", script)
    assert first.code == 0, first
    again = newest.python("-c", script)
    assert again.code != 0 and f"No Image with ID {image}" in again.err, again
    used = _use(newest, name)
    assert used.code != 0 and "has been deleted" in used.out + used.err, used
    assert _publish(newest, name, name) != image
    assert f"stamp {name}" in _use(newest, name).out


def a_dockerfile_is_built_and_named_from_the_command_line(newest, tmp_path):
    name = f"name-{time.time_ns()}"
    (tmp_path / "Dockerfile").write_text("FROM python:3.11-slim AS base\nFROM base\nCOPY word /stamp\nRUN cat /stamp\n")
    (tmp_path / "word").write_text(name)
    built = newest.modal("image", "build", "--name", name, str(tmp_path), within_s=300)
    assert built.code == 0 and "COPY word /stamp" in built.out + built.err, built
    assert f"stamp {name}" in _use(newest, name).out
    broken = tmp_path / "Broken"
    broken.write_text("FROM python:3.11-slim\nRUM true\n")
    failed = newest.modal("image", "build", "--name", name, "--file", str(broken), str(tmp_path))
    assert failed.code != 0 and "did you mean `RUN`" in failed.out + failed.err, failed


def an_image_is_pulled_and_named_from_the_command_line(newest):
    name = f"name-{time.time_ns()}"
    pulled = newest.modal("image", "pull", "docker.io/debian:bookworm-slim", "--name", name, within_s=300)
    assert pulled.code == 0, pulled
    assert f"{name}:latest" in newest.modal("image", "names", "list", "--prefix", name, "--json").out
