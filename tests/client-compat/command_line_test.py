"""The client's command line: entry points and their arguments, apps, containers, environments."""

import re
import time

import pytest
from harness import wait_for


def an_entry_point_takes_typed_arguments(client):
    ended = client.run("entries.py::greet", "--name", "ada", "--times", "3", "--loud", "--factor", "1.5")
    assert ended.code == 0, ended
    assert "greet 'ada' 3 True 1.5" in ended.out and "\nADA\n" in ended.out, ended
    assert "ADA! ADA! ADA!" in ended.out, ended


def a_function_is_run_directly_with_its_arguments(client):
    ended = client.run("entries.py::shout", "--text", "hello", "--times", "2")
    assert ended.code == 0 and "HELLO! HELLO!" in ended.out, ended


def an_async_entry_point_runs(client):
    ended = client.run("entries.py::greet_async", "--name", "bob")
    assert ended.code == 0 and "async BOB True" in ended.out, ended


def a_wrong_use_ends_with_an_error_and_no_app(client):
    missing = client.run("entries.py::greet")
    assert missing.code == 2 and "name" in missing.out + missing.err, missing
    several = client.run("entries.py")
    assert several.code != 0 and "greet" in several.out + several.err, several


@pytest.mark.older_clients("their command lines are other programs", oldest_only=True)
def exit_codes_say_what_happened(client):
    here = client.run("entries.py::fails_here")
    assert here.code == 1 and "this side is wrong" in here.out + here.err, here
    there = client.run("entries.py::fails_there")
    assert there.code == 1 and "nobody of that name" in there.out + there.err, there
    assert client.run("entries.py::leaves", "--code", "7").code == 7


def a_detached_app_outlives_its_client_and_is_listed_logged_and_stopped(client):
    running = client.start("run", "--detach", "forever.py::main")
    running.wait_for_line("tick 2")
    app = client.running_app("forever")
    assert app, client.app_list()
    running.interrupt()
    ended = running.end(60)
    app_id = app["app_id"]

    after = [row for row in client.app_list() if row["app_id"] == app_id]
    assert after and not after[0].get("stopped_at"), (after, ended)
    containers = [row for row in client.container_list() if row["app_id"] == app_id]
    assert containers and all(row["container_id"].startswith("ta-") for row in containers), containers

    following = client.start("app", "logs", app_id, *(["-f"] if client.numbers >= (1, 1) else []))
    following.wait_for_line("tick", 30)
    task_logs = client.start(
        "container", "logs", containers[0]["container_id"], *(["-f"] if client.numbers >= (1, 1) else [])
    )
    task_logs.wait_for_line("tick", 30)
    task_logs.kill()

    stopped = client.modal("app", "stop", app_id, *(["-y"] if client.numbers >= (1, 1) else []))
    assert stopped.code == 0, stopped
    wait_for(
        lambda: not [row for row in client.container_list() if row["app_id"] == app_id], 60, "no container of the app"
    )
    assert following.end(60).code == 0, "following the logs did not end with the app"
    if client.numbers >= (1, 1):
        # The last lines are the traceback of the input that was stopped, so the ticks are further up.
        history = client.modal("app", "logs", app_id, "--tail", "200")
        assert history.code == 0 and "tick" in history.out, history
        few = client.modal("app", "logs", app_id, "--tail", "2")
        assert few.code == 0 and 1 <= len(few.out.splitlines()) <= 2, few
        assert few.out.splitlines()[-1] in history.out, (few, history)


def a_stopped_container_hands_its_input_to_another(client):
    running = client.start("run", "forever.py::main", "--n", "60")
    first = re.search(r"ta-\w+", running.wait_for_line("tick 1 in")).group(0)
    stopped = client.modal("container", "stop", first, *(["-y"] if client.numbers >= (1, 2) else []))
    assert stopped.code == 0, stopped
    ended = running.end(180)
    assert ended.code == 0, ended
    finished = re.search(r"finished in (ta-\w+)", ended.out)
    assert finished and finished.group(1) != first, ended


def an_environment_is_created_used_and_deleted(client):
    name = f"test-{client.version.replace('.', '-')}-{int(time.time())}"
    created = client.modal("environment", "create", name)
    assert created.code == 0, created
    listed = client.modal("environment", "list", "--json")
    assert listed.code == 0 and name in listed.out, listed
    ran = client.modal("run", "-e", name, "entries.py::greet", "--name", "carl")
    assert ran.code == 0 and "greet 'carl'" in ran.out, ran
    inside = client.modal("app", "list", "--json", "-e", name)
    outside = client.modal("app", "list", "--json")
    assert "entries" in inside.out, inside
    ids = re.findall(r"ap-\w{22}", inside.out)
    assert ids and not set(ids) & set(re.findall(r"ap-\w{22}", outside.out)), (inside, outside)
    renamed = client.modal("environment", "update", name, "--set-name", f"{name}-b")
    assert renamed.code == 0, renamed
    deleted = client.modal(
        "environment", "delete", f"{name}-b", *(["--yes"] if client.numbers >= (1, 2) else ["--confirm"])
    )
    assert deleted.code == 0, deleted
    assert f"{name}-b" not in client.modal("environment", "list", "--json").out


def the_profile_list_names_the_workspace(client):
    ended = client.modal("profile", "list")
    assert ended.code == 0 and "orkspace" in ended.out and "Unknown" not in ended.out, ended
