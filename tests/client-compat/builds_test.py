"""Builds that nobody waits for any more, and the operator's view of those that go on."""

import json
import re
import uuid

from harness import dorian, still_there, wait_for

# How long a build goes on without anybody, and what stopping it may take on a busy machine.
GRACE_S = 10
STOPPED_WITHIN_S = GRACE_S + 50


def _builds(server):
    listed = dorian("builds", "--json", "--data", server.data)
    assert listed.returncode == 0, listed
    return json.loads(listed.stdout)["builds"]


def _said(running):
    return "".join(line for _, line in list(running.lines) + list(running.errors))


def _begin(client, entry, line, stamp):
    running = client.start("run", f"long_builds.py::{entry}", CHECK_STAMP=stamp)
    wait_for(lambda: line in _said(running) or running.process.poll() is not None, 300, f"`{line}`")
    assert line in _said(running), running.end(10)
    return running


def _tasks(server):
    """Those that have files of a container's. Deployed apps of other tests may have some of their own."""
    return {task.name for task in (server.data / "tasks").iterdir() if (task / "root/diff").exists()}


def _wait_until_nothing_is_left(server, namespaces, files):
    wait_for(lambda: not _builds(server), STOPPED_WITHIN_S, "no build goes on")
    wait_for(lambda: not still_there(namespaces), STOPPED_WITHIN_S, "the processes of the builds have ended")
    unfinished = server.data / "images" / "tmp"
    wait_for(lambda: not list(unfinished.iterdir()), 20, f"nothing in {unfinished}")
    wait_for(lambda: not _tasks(server) - files, 20, "the files of the builds' containers have gone")


def builds_that_nobody_waits_for_end_after_the_grace_and_leave_nothing(newest, server):
    before, files = server.container_namespaces(), _tasks(server)
    stamp = uuid.uuid4().hex
    # The client of the first is interrupted, that of the second is killed, and that of the third fails on another image.
    steps = _begin(newest, "by_steps", "step begins", stamp)
    function = _begin(newest, "by_function", "function begins", stamp)
    beside = newest.run("beside_a_broken_build.py", CHECK_STAMP=uuid.uuid4().hex)
    assert beside.code != 0 and "exit code 3" in beside.out + beside.err, beside
    mine = server.container_namespaces() - before
    assert len(mine) >= 3 and len(_builds(server)) == 3, (mine, _builds(server))
    steps.interrupt()
    function.kill()
    for running in (steps, function):
        running.end(60)
    _wait_until_nothing_is_left(server, mine, files)


def who_comes_within_the_grace_takes_a_build_over_and_sees_its_whole_log(newest, server):
    # The second step takes longer than the grace after the first client has gone.
    variables = {"CHECK_STAMP": uuid.uuid4().hex, "CHECK_SECONDS": str(GRACE_S + 8)}
    first = newest.start("run", "layered_image.py::main", **variables)
    wait_for(lambda: "second begins\n" in _said(first), 300, "the second step")
    unique = re.search("first-[0-9a-f-]{36}", _said(first)).group()
    first.kill()
    ended = newest.run("layered_image.py::main", **variables)
    log = (ended.out + ended.err).split("\nlook ")[0]
    assert ended.code == 0 and f"look {unique}" in ended.out, ended
    assert unique in log and re.search("^second begins$", log, re.MULTILINE), ended


def the_operator_lists_builds_and_cancels_one(newest, server):
    before, files = server.container_namespaces(), _tasks(server)
    running = _begin(newest, "by_steps", "step begins", uuid.uuid4().hex)
    mine = server.container_namespaces() - before
    (build,) = _builds(server)
    assert (build["step"], build["steps"], build["waiters"]) == (2, 2, 1), build
    assert build["app"] == "long-builds" and "RUN" in build["doing"], build
    table = dorian("builds", "--data", server.data).stdout
    assert build["image"] in table and "2/2" in table, table

    cancelled = dorian("builds", "cancel", build["image"], "--data", server.data)
    assert cancelled.returncode == 0, cancelled
    ended = running.end(60)
    assert ended.code != 0 and "the build was cancelled by the operator" in ended.out + ended.err, ended
    _wait_until_nothing_is_left(server, mine, files)
    again = dorian("builds", "cancel", build["image"], "--data", server.data)
    assert again.returncode == 1 and "is not being built" in again.stderr, again
    assert "no image is being built" in dorian("builds", "--data", server.data).stdout


def steps_are_numbered_without_gaps(newest):
    program = newest.home / "settings_between_steps.py"
    program.write_text(
        "import modal, os\n"
        "lines = [f'ENV A={os.environ[\"CHECK_STAMP\"]}', 'RUN true', 'LABEL b=c', 'USER root', 'RUN id', 'ARG D=1', 'WORKDIR /w', 'ENV E=1']\n"
        "image = modal.Image.debian_slim().dockerfile_commands(lines)\n"
        "app = modal.App('settings-between-steps')\n"
        "@app.local_entrypoint()\ndef main():\n    image.build(app)\n"
    )
    ended = newest.modal("run", program, CHECK_STAMP=uuid.uuid4().hex, within_s=300)
    assert ended.code == 0, ended
    numbers = re.findall(r"^=> Step (\d+)/9:", ended.out + ended.err, re.MULTILINE)
    assert numbers == [str(number) for number in range(1, 10)], ended
