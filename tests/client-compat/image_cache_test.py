"""What is built is built once, survives a crash, and goes away when nothing needs it, never before."""

import json
import os
import re
import shutil
import stat
import subprocess
import time
import uuid

import pytest
from harness import DATA, NEWEST, Client, Server, binary, dorian, wait_for

READY_AGAIN_S = 60
UNIQUE = r"-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def _stamp():
    return uuid.uuid4().hex


def _said(running):
    """Everything that a client has printed so far, on either stream."""
    return "".join(line for _, line in list(running.lines) + list(running.errors))


def _unique(name, text):
    """What the step left, as its output says."""
    found = re.search(name + UNIQUE, text)
    return found and found.group()


def _wait_for_unique(name, running):
    return wait_for(lambda: _unique(name, _said(running)), 300, f"the `{name}` step in:\n{_said(running)[-3000:]}")


def _wait_for_output(line, running):
    return wait_for(lambda: re.search(f"^{line}$", _said(running), re.MULTILINE), 120, f"`{line}`")


def _look(ended):
    """What the program found in its image."""
    assert ended.code == 0, ended
    return re.search("^look (.*)$", ended.out, re.MULTILINE).group(1).split()


@pytest.mark.crash
def a_killed_server_finds_the_finished_layers_and_builds_only_the_rest(newest, server):
    variables = {"CHECK_STAMP": _stamp(), "CHECK_SECONDS": "6"}
    running = newest.start("run", "layered_image.py::main", **variables)
    first = _wait_for_unique("first", running)
    _wait_for_output("second begins", running)
    server.kill()
    running.kill()
    server.start(READY_AGAIN_S)
    ended = newest.run("layered_image.py::main", **variables)
    found = _look(ended)
    log = (ended.out + ended.err).split("\nlook ")[0]
    assert "CACHED" in log and _unique("first", log) is None, "the first step ran again"
    assert "second begins" in log and _unique("second", log), "the second step was not built"
    assert found == [first, _unique("second", log)], ended
    unfinished = server.data / "images" / "tmp"
    wait_for(lambda: not list(unfinished.iterdir()), 10, f"nothing in {unfinished}")


def two_clients_that_build_the_same_thing_at_once_build_it_once_and_both_see_it(newest):
    variables = {"CHECK_STAMP": _stamp(), "CHECK_SECONDS": "6"}
    one = newest.start("run", "layered_image.py::main", **variables)
    first = _wait_for_unique("first", one)
    _wait_for_output("second begins", one)
    two = newest.start("run", "layered_image.py::main", **variables)
    ends = [running.end(240) for running in (one, two)]
    for ended in ends:
        log = (ended.out + ended.err).split("\nlook ")[0]
        assert re.search("^second begins$", log, re.MULTILINE), ended
        assert _unique("first", log) == first, ended
        assert _look(ended) == [first, _unique("second", log)], ended
    assert _look(ends[0]) == _look(ends[1])


# --- collecting

# Layers that each image of `debian_slim` has, and the client's package, by their titles.
DEAR = r"Debian |modal |RUN apt-get |RUN pip install |RUN echo 'debconf|COPY "


@pytest.fixture(scope="module")
def apart(server):
    """A server whose store no other test needs, with the base images that the session's has."""
    data = DATA.with_name(f"{DATA.name}-collected")
    layers = data / "images" / "layers"
    layers.mkdir(parents=True, exist_ok=True)
    for layer in (DATA / "images" / "layers").iterdir():
        try:
            title = json.loads((layer / "meta.json").read_text())["title"]
        except (OSError, ValueError):
            continue
        if re.match(DEAR, title) and not (layers / layer.name).exists():
            _copy_layer(layer, layers / layer.name)
    apart = Server(data).start()
    yield apart
    apart.stop()


def _copy_layer(source, target):
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    # `cp -a` keeps what overlayfs wrote into attributes and special files.
    assert os.system(f"cp -a '{source}' '{unfinished}'") == 0
    unfinished.rename(target)


@pytest.fixture
def client_apart(apart, tmp_path):
    return Client(NEWEST, apart, tmp_path)


def _days_since(moment):
    return f"{(time.time() - moment) / 86_400:.9f}"


def _titles(server, *arguments):
    """What each layer with a stamp of ours was made by."""
    listed = dorian("layers", "--data", server.data, "--json", *arguments)
    assert listed.returncode == 0, listed.stderr
    return {layer["title"]: layer for layer in json.loads(listed.stdout)["layers"]}


def _reasons(server, mark):
    """Why each layer with this mark would stay now, were it not for its recent use."""
    return [layer["kept"] for title, layer in _titles(server, "--keep-days", "0").items() if mark in title]


def _has(server, mark):
    return any(mark in title for title in _titles(server))


def gc_removes_what_nothing_uses_and_a_program_runs_afterwards(apart, client_apart):
    unused, kept = _stamp(), _stamp()
    before = _look(client_apart.run("layered_image.py::main", within_s=600, CHECK_STAMP=unused))
    deployed = client_apart.modal("deploy", "layered_image.py", CHECK_STAMP=kept, CHECK_APP="kept-by-its-app")
    assert deployed.code == 0, deployed
    # The app of the first program is over; what its image had beyond the base was last used before now.
    time.sleep(2.5)
    now = time.time()
    base_is_used = client_apart.run("layered_image.py::main", CHECK_STAMP=_stamp(), CHECK_APP="another")
    assert base_is_used.code == 0, base_is_used

    planned = dorian("gc", "--data", apart.data, "--keep-days", _days_since(now), "--dry-run")
    assert planned.returncode == 0 and unused in planned.stdout and kept not in planned.stdout, planned
    assert "would remove" in planned.stdout and _has(apart, unused), "a dry run removed something"
    row = next(layer for title, layer in _titles(apart).items() if kept in title)
    assert any("kept-by-its-app" in json.dumps(reason) for reason in row["kept"]), row
    assert row["bytes"] > 0 and row["images"], row

    done = dorian("gc", "--data", apart.data, "--keep-days", _days_since(now))
    assert done.returncode == 0 and done.stdout.startswith("removed "), done
    assert not _has(apart, unused) and _has(apart, kept)
    again = json.loads(dorian("gc", "--data", apart.data, "--keep-days", _days_since(now), "--json").stdout)
    assert again["report"]["layers"] == 0 and again["report"]["images"] == 0, again

    # What stays is whole, also for a new container; what went is built again, also after a restart.
    called = client_apart.python(
        "-c", "import modal; print('look', *modal.Function.from_name('kept-by-its-app', 'look').remote())"
    )
    assert _unique("first", _look(called)[0]) and called.code == 0, called
    after = _look(client_apart.run("layered_image.py::main", CHECK_STAMP=unused))
    assert after[0] != before[0], "the image came back from nowhere"
    apart.stop()
    apart.start(READY_AGAIN_S)
    assert _look(client_apart.run("layered_image.py::main", CHECK_STAMP=unused)) == after
    client_apart.modal("app", "stop", "kept-by-its-app", "--yes")


def gc_leaves_what_a_running_container_and_a_name_need(apart, client_apart):
    held, named = _stamp(), _stamp()
    published = client_apart.modal(
        "run", "layered_image.py::publish", "--name", f"named-{named}", CHECK_STAMP=named, within_s=600
    )
    assert published.code == 0 and "published" in published.out, published
    running = client_apart.start("run", "layered_image.py::hold_long", "--seconds", "20", CHECK_STAMP=held)
    running.wait_for_line("holding", 240)
    done = dorian("gc", "--data", apart.data, "--keep-days", "0")
    assert done.returncode == 0, done
    reasons = {mark: json.dumps(_reasons(apart, mark)) for mark in (held, named)}
    assert "container" in reasons[held] and f"named-{named}" in reasons[named], reasons
    ended = running.end(120)
    assert ended.code == 0 and _unique("second", ended.out.split("held ")[1]), ended


def gc_while_programs_start_breaks_none_of_them(apart, client_apart):
    for _ in range(2):
        mark = _stamp()
        running = client_apart.start("run", "layered_image.py::main", CHECK_STAMP=mark, CHECK_SECONDS="2")
        _wait_for_output("second begins", running)
        while running.process.poll() is None:
            assert dorian("gc", "--data", apart.data, "--keep-days", "0").returncode == 0
        _look(running.end(60))


@pytest.mark.crash
def a_server_killed_in_the_middle_of_gc_leaves_no_half_of_anything(apart, client_apart):
    variables = {"CHECK_STAMP": _stamp(), "CHECK_FILES": "40000"}
    built = client_apart.run("layered_image.py::files", within_s=300, **variables)
    assert "files 40000" in built.out, built
    # The program's app is over a moment after the program.
    wait_for(lambda: not any(_reasons(apart, variables["CHECK_STAMP"])), 20, "an image that nothing uses")
    unfinished = apart.data / "images" / "tmp"
    for _ in range(4):
        gc = subprocess.Popen(
            [binary(), "gc", "--data", apart.data, "--keep-days", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        # Something is on its way out, or all of it is gone.
        wait_for(lambda: gc.poll() is not None or list(unfinished.iterdir()), 20, "a layer that is being removed")
        apart.kill()
        if gc.wait(20):
            assert b"run `dorian gc` again" in gc.stderr.read()
        apart.start(READY_AGAIN_S)
        assert not list(unfinished.iterdir())
    # Whatever is left of it is whole.
    again = client_apart.run("layered_image.py::files", within_s=300, **variables)
    assert "files 40000" in again.out, again
    assert dorian("gc", "--data", apart.data).returncode == 0


def the_socket_is_the_servers_own_and_without_a_server_the_way_to_start_one_is_said(apart, tmp_path):
    mode = (apart.data / "admin.sock").stat().st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
    for command in ("gc", "layers"):
        ended = dorian(command, "--data", tmp_path / "nowhere")
        assert ended.returncode == 1 and f"dorian up --data {tmp_path}/nowhere" in ended.stderr, ended
    bad = dorian("gc", "--data", apart.data, "--keep-days=-1")
    assert bad.returncode == 1 and "not a number of days" in bad.stderr, bad
