"""Classes: each check of `programs/classes.py`, for each version; and what becomes of hooks when things end."""

import pytest
from harness import VERSIONS, wait_for
from program_checks import assert_check, for_each_check

# `__init__` with parameters and `keep_warm` are gone from the later ones.
OLD = [version for version in VERSIONS if version.startswith("0.")]


@for_each_check("classes.py")
def classes(clients, version, check):
    assert_check(clients, "classes.py", version, check)


@pytest.mark.older_clients("the spellings are theirs")
@for_each_check("old_classes.py", OLD)
def classes_in_old_spellings(clients, version, check):
    assert_check(clients, "old_classes.py", version, check)


def exit_hooks_run_when_the_program_ends(client):
    ended = client.run("class_hooks.py::once")
    assert ended.code == 0 and "answer 2" in ended.out, ended
    assert "hook entered" in ended.out and "hook left" in ended.out, ended


def exit_hooks_run_when_the_container_is_not_needed_any_more(client):
    running = client.start("run", "class_hooks.py::brief")
    try:
        running.wait_for_line("answer 2", 120)
        running.wait_for_line("hook left", 60)
        assert running.process.poll() is None, "the program had ended before"
    finally:
        running.interrupt()
        running.end(60)


def exit_hooks_run_when_the_app_is_stopped_in_the_middle_of_an_input(client, newest):
    running = client.start("run", "--detach", "class_hooks.py::endless")
    running.wait_for_line("works without end", 120)
    app = wait_for(lambda: client.running_app("class-hooks"), 30, "the app in the list")
    stopped = client.modal("app", "stop", app["app_id"], *(["--yes"] if client.numbers >= (1, 1) else []))
    assert stopped.code == 0, stopped
    # The program may end with its cancelled call before the hook does; the log is whole.
    running.end(60)

    def hook_left():
        return "hook left" in newest.modal("app", "logs", app["app_id"]).out

    wait_for(hook_left, 60, "the hook's line in the log of the stopped app")


def an_exit_hook_that_raises_is_logged_and_harms_no_call(client, tmp_path):
    seen = tmp_path / "seen"
    running = client.start("run", "class_hooks.py::bad_exit", SEEN=seen)
    running.wait_for_line("the exit hook is broken", 120)
    seen.touch()
    ended = running.end(120)
    assert ended.code == 0 and "answer again 3" in ended.out, ended


def an_enter_hook_that_raises_fails_the_call_with_its_exception(client):
    ended = client.run("class_hooks.py::bad_enter")
    assert ended.code != 0, ended
    assert "RuntimeError" in ended.err and "no weights here" in ended.err, ended


def an_enter_hook_that_never_returns_fails_the_call_and_names_the_limit(newest):
    ended = newest.run("class_hooks.py::endless_enter")
    assert ended.code != 0 and "enters without end" in ended.out, ended
    assert "did not become ready within 5 s" in ended.out + ended.err, ended
    assert "startup_timeout" in ended.out + ended.err, ended


def a_function_that_ignores_signals_is_killed_with_its_app(newest):
    def containers():
        return [row for row in newest.container_list() if row["app_name"] == "class-hooks"]

    running = newest.start("run", "class_hooks.py::ignores_signals")
    running.wait_for_line("deaf to signals", 120)
    assert containers()
    running.interrupt()
    running.end(60)
    wait_for(lambda: not containers(), 60, "the end of the deaf container")


@pytest.fixture(scope="module")
def deployed(clients):
    """Deploys an app with classes with a client of this version, once, and names it."""
    names = {}

    def deploy(version):
        if version not in names:
            ended = clients[version].modal("deploy", "deployed_classes.py")
            assert ended.code == 0, ended
            names[version] = f"deployed-classes-{version}"
        return names[version]

    yield deploy
    for version, name in names.items():
        client = clients[version]
        app = next(row for row in client.app_list() if row["description"] == name and not row.get("stopped_at"))
        client.modal("app", "stop", app["app_id"], *(["--yes"] if client.numbers >= (1, 1) else []))


# Both ways between the oldest and the newest.
PAIRS = sorted({(a, b) for a in (VERSIONS[0], VERSIONS[-1]) for b in (VERSIONS[0], VERSIONS[-1])})


@pytest.mark.parametrize(("deployer", "caller"), PAIRS)
def a_class_is_looked_up_from_another_program(clients, deployed, deployer, caller):
    ended = clients[caller].python("look_up_classes.py", deployed(deployer), within_s=240)
    assert "CHECKS ENDED 0" in ended.out, ended


def variants_of_a_deployed_class_are_listed(newest, deployed):
    app = deployed(newest.version)
    bound = f"import modal; print(modal.Cls.from_name('{app}', 'Model')(name='listed', size=9).describe.remote())"
    called = newest.python("-c", bound)
    assert called.code == 0 and "listed:9" in called.out, called
    rows = newest.rows("function", "variants", f"{app}/Model.*", "--json")
    assert {"name": "listed", "size": 9} in [row["parameters"] for row in rows], rows


def variants_follow_their_class_when_it_is_deployed_anew(client, deployed):
    app = deployed(client.version)
    look_up = "lookup" if client.version.startswith("0.6") else "from_name"
    program = f"import modal; print(modal.Cls.{look_up}('{app}', 'Plain').with_options(timeout=40)().who.remote())"
    first = client.python("-c", program)
    assert "'first'" in first.out, first
    try:
        again = client.modal("deploy", "deployed_classes.py", BUILD="second")
        assert again.code == 0, again
        second = client.python("-c", program)
        assert "'second'" in second.out, second
    finally:
        client.modal("deploy", "deployed_classes.py")


STALE = """
import modal, pathlib, sys, time
instance = modal.Cls.from_name(sys.argv[1], "Plain")()
print("known", instance.only_at_first.remote(), flush=True)
while not pathlib.Path(sys.argv[2]).exists():
    time.sleep(0.05)
try:
    instance.only_at_first.remote()
except modal.exception.Error as refused:
    print("refused", refused, flush=True)
"""


def a_method_that_a_deployment_took_away_is_refused(newest, deployed, tmp_path):
    go = tmp_path / "go"
    caller = newest.start_python("-c", STALE, deployed(newest.version), go)
    caller.wait_for_line("known first")
    try:
        again = newest.modal("deploy", "deployed_classes.py", BUILD="second")
        assert again.code == 0, again
        go.touch()
        ended = caller.end(60)
        assert "has no method `only_at_first`; it has: slow, steps_taken, up_to, who" in ended.out, ended
    finally:
        newest.modal("deploy", "deployed_classes.py")
