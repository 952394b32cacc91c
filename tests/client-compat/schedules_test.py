"""Functions that run by themselves: `modal.Cron` and `modal.Period`, and what `dorian schedules` says of them."""

import json
import re
import time
from datetime import datetime, timedelta, timezone

import pytest
from harness import dorian, wait_for

READY_AGAIN_S = 60


def _schedules(server, app):
    """Function to row."""
    listed = dorian("schedules", "--data", server.data, "--json")
    assert listed.returncode == 0, listed
    return {row["function"]: row for row in json.loads(listed.stdout)["schedules"] if row["app"] == app}


def _run_now(server, app, function):
    return dorian("schedules", "run", app, function, "--data", server.data)


def _app_of(client):
    return f"scheduled-{client.version.replace('.', '-')}"


def _deploy(client, app, **variables):
    deployed = client.modal("deploy", "scheduled.py", CHECK_APP=app, within_s=240, **variables)
    assert deployed.code == 0, deployed


def _stop(client, app):
    sure = ["-y"] if client.numbers >= (1, 1) else []
    stopped = client.modal("app", "stop", client.running_app(app)["app_id"], *sure)
    assert stopped.code == 0, stopped


def a_period_runs_again_and_again_until_its_app_is_stopped(client, server):
    app = _app_of(client)
    _deploy(client, app, CHECK_SECONDS=2)
    try:
        seen = set()

        def finished():
            row = _schedules(server, app)["often"]
            if row["last_result"] == "succeeded":
                seen.add(row["last_call"])
            return len(seen) >= 2

        wait_for(finished, 120, "two runs that succeeded")
        assert _schedules(server, app)["often"]["schedule"] == "every 2 seconds"
    finally:
        _stop(client, app)
    wait_for(lambda: not _schedules(server, app), 30, "no schedule of a stopped app")


def a_cron_schedule_shows_its_next_run_on_the_clock_of_its_zone(newest, server):
    app = "scheduled-cron"
    _deploy(newest, app, CHECK_SECONDS=3600)
    row = _schedules(server, app)["on_weekdays"]
    _stop(newest, app)
    assert row["schedule"] == "cron `30 6 * * 1-5` in America/New_York"
    day, hour, offset = row["next_run"].split()
    assert hour == "06:30:00" and offset in ("-05:00", "-04:00"), row
    assert datetime.fromisoformat(day).weekday() < 5, row
    at = datetime.fromtimestamp(row["next_run_ms"] / 1000, timezone.utc)
    assert at == datetime.fromisoformat(f"{day}T{hour}{offset}"), row
    assert timedelta() < at - datetime.now(timezone.utc) < timedelta(days=4), row


def a_function_is_run_by_hand_and_its_failure_is_shown(client, server):
    app = _app_of(client)
    _deploy(client, app, CHECK_SECONDS=3600)
    try:
        before = _schedules(server, app)["fails"]
        assert before["last_result"] is None and before["next_run_ms"]
        ran = _run_now(server, app, "fails")
        assert ran.returncode == 0 and re.fullmatch(r"fc-\w+\n", ran.stdout), ran
        result = wait_for(
            lambda: (said := _schedules(server, app)["fails"]["last_result"]) != "running" and said, 120, "a result"
        )
        assert result.startswith("failed:") and "the report is empty" in result, result
        after = _schedules(server, app)["fails"]
        assert after["last_call"] == ran.stdout.strip() and after["next_run_ms"] == before["next_run_ms"]
        table = dorian("schedules", "--data", server.data).stdout
        assert re.search(rf"{app} +fails +every 1 day .*the report is empty", table), table
        wrong = _run_now(server, app, "absent")
        assert wrong.returncode != 0 and "absent" in wrong.stderr and f"{app} fails" in wrong.stderr, wrong
    finally:
        _stop(client, app)


def a_redeployment_keeps_the_rhythm_of_a_period_unless_it_changes_it(newest, server):
    app = "scheduled-again"
    _deploy(newest, app, CHECK_SECONDS=3600)
    first = _schedules(server, app)["often"]
    _deploy(newest, app, CHECK_SECONDS=3600)
    assert _schedules(server, app)["often"]["next_run_ms"] == first["next_run_ms"]
    _deploy(newest, app, CHECK_SECONDS=7200)
    changed = _schedules(server, app)["often"]
    _stop(newest, app)
    assert changed["schedule"] == "every 7200 seconds"
    assert changed["next_run_ms"] > first["next_run_ms"] + 3_600_000


def what_cannot_run_is_refused_when_it_is_deployed(client):
    wrong = {"61 * * * *": "malformed", "every tuesday": "malformed", "0 0 30 2 *": "never fires"}
    for cron, why in wrong.items():
        refused = client.modal("deploy", "scheduled.py", CHECK_APP="scheduled-wrong", CHECK_CRON=cron)
        said = refused.out + refused.err
        assert refused.code != 0 and "on_weekdays" in said and why in said, refused
    if client.numbers >= (1, 0):
        refused = client.modal("deploy", "scheduled.py", CHECK_APP="scheduled-wrong", CHECK_ZONE="Mars/Base")
        assert refused.code != 0 and "Mars/Base" in refused.out + refused.err, refused


def a_program_that_is_only_run_has_no_schedule(client, server):
    ended = client.run("scheduled.py", CHECK_SECONDS=1, CHECK_APP="scheduled-run")
    assert ended.code == 0 and ended.out.count("called None") == 1, ended
    assert not _schedules(server, "scheduled-run")


@pytest.mark.crash
def runs_that_were_missed_while_no_server_ran_are_one_run(newest, server):
    app, period_ms = "scheduled-missed", 15_000
    _deploy(newest, app, CHECK_SECONDS=period_ms // 1000)

    def ran(row):
        return row["last_result"] == "succeeded" and row

    before = wait_for(lambda: ran(_schedules(server, app)["often"]), 90, "a first run")
    server.kill()
    missed_twice = before["next_run_ms"] / 1000 + period_ms / 1000 + 1
    wait_for(lambda: time.time() > missed_twice, 120, "two due times without a server")
    server.start(READY_AGAIN_S)
    try:
        after = wait_for(
            lambda: (row := ran(_schedules(server, app)["often"])) and row["last_call"] != before["last_call"] and row,
            90,
            "a run after the restart",
        )
        # The rhythm goes on from where it was, past everything that was missed.
        assert after["last_run_ms"] < after["next_run_ms"], after
        assert (after["next_run_ms"] - before["next_run_ms"]) % period_ms == 0, (before, after)
        wait_for(lambda: newest.modal("app", "logs", app).out.count("often ran") >= 2, 60, "both runs in the log")
        printed = newest.modal("app", "logs", app).out.count("often ran")
        later = (_schedules(server, app)["often"]["next_run_ms"] - after["next_run_ms"]) // period_ms
        assert printed <= 2 + later, f"{printed} runs, of which {later} came after the one for those missed"
    finally:
        _stop(newest, app)
