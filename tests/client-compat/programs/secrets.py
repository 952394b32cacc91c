"""Secrets of a program, for functions and for image builds."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import modal

app = modal.App("secrets")

ROTATED = "rotated-" + modal.__version__
if modal.is_local():
    os.environ["OF_THIS_MACHINE"] = "copied"
    (below := Path(tempfile.mkdtemp()) / "below").mkdir()
    (below.parent / ".env").write_text('PLAIN=as is\nQUOTED="a \\"b\\" # c"\nEMPTY=\n')


def modal_secret(*arguments):
    command = [sys.executable, "-m", "modal", "secret", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


image = (
    modal.Image.debian_slim()
    .run_commands(
        "test \"$BUILD_SECRET\" = 'it is $here' && echo the build saw it",
        "echo ${#BUILD_SECRET} > /seen",
        secrets=[modal.Secret.from_dict({"BUILD_SECRET": "it is $here"})],
    )
    .env({"COLOUR": "of the image", "KEPT": "of the image"})
)


@app.function(
    image=image,
    secrets=[
        modal.Secret.from_dict({"COLOUR": "of the first", "FIRST": "1", "LINES": "a\nb"}),
        modal.Secret.from_dict({"COLOUR": "of the second", "NOTHING": None}),
    ],
)
def look():
    names = ["COLOUR", "FIRST", "LINES", "KEPT", "NOTHING", "BUILD_SECRET"]
    return {**{name: os.environ.get(name) for name in names}, "seen": open("/seen").read().strip()}


@app.function(
    secrets=[
        modal.Secret.from_local_environ(["OF_THIS_MACHINE"]),
        modal.Secret.from_dotenv(below if modal.is_local() else None),
        modal.Secret.from_dict({}),
    ]
)
def look_at_local():
    return {name: os.environ.get(name) for name in ["OF_THIS_MACHINE", "PLAIN", "QUOTED", "EMPTY"]}


if modal.is_local():
    made = modal_secret("create", "--force", ROTATED, "TOKEN=first", "OTHER=1")
    assert made.returncode == 0, made.stdout


@app.function(secrets=[modal.Secret.from_name(ROTATED)])
def look_early():
    return os.environ["TOKEN"], os.environ.get("OTHER")


@app.function(secrets=[modal.Secret.from_name(ROTATED)])
def look_late():
    return os.environ["TOKEN"], os.environ.get("OTHER")


def check_a_function_gets_its_secrets_and_later_ones_win():
    seen = look.remote()
    assert seen["FIRST"] == "1" and seen["COLOUR"] == "of the second" and seen["LINES"] == "a\nb", seen
    assert seen["KEPT"] == "of the image" and seen["NOTHING"] is None, seen


def check_a_build_secret_is_seen_by_the_build_alone():
    seen = look.remote()
    assert seen["seen"] == "11" and seen["BUILD_SECRET"] is None, seen


def check_secrets_come_from_this_machine_and_from_a_file():
    seen = look_at_local.remote()
    assert seen == {"OF_THIS_MACHINE": "copied", "PLAIN": "as is", "QUOTED": 'a "b" # c', "EMPTY": ""}, seen
    try:
        modal.Secret.from_local_environ(["NOT_SET_ANYWHERE"])
    except modal.exception.InvalidError as error:
        assert "NOT_SET_ANYWHERE" in str(error)
    else:
        raise AssertionError("a variable that is not set was accepted")


def check_a_replaced_secret_reaches_containers_started_later():
    assert look_early.remote() == ("first", "1")
    twice = modal_secret("create", ROTATED, "TOKEN=second")
    assert twice.returncode != 0 and "exists already" in twice.stdout, twice.stdout
    assert look_early.remote() == ("first", "1")
    forced = modal_secret("create", "--force", ROTATED, "TOKEN=second")
    assert forced.returncode == 0, forced.stdout
    # The keys that the new one does not have are gone.
    assert look_late.remote() == ("second", None)
    assert look_early.remote() == ("first", "1"), "a running container keeps what it was started with"


def check_a_secret_that_is_too_large_is_refused_once():
    for bytes_too_many in (1, 140 << 20):
        large = modal.Secret.from_dict({"LARGE": "x" * ((256 << 10) + bytes_too_many)})
        other = modal.App("too-large-a-secret")
        other.function(secrets=[large], serialized=True, name="nothing")(lambda: None)
        try:
            with other.run():
                pass
        except Exception as error:
            # Clients do not wrap it alike; each shows the server's sentence.
            assert "a secret holds at most 256 KiB" in str(error), error
        else:
            raise AssertionError("it was accepted")


def failure_with(secrets):
    other = modal.App("too-large-an-environment")
    nothing = other.function(secrets=secrets, serialized=True, name="nothing")(lambda: None)
    try:
        with other.run():
            nothing.remote()
    except Exception as error:
        return str(error)
    raise AssertionError("it was started")


def check_variables_that_no_program_could_be_given_are_named():
    assert "`LARGE`" in failure_with([modal.Secret.from_dict({"LARGE": "x" * (200 << 10)})])
    halves = [{f"A{number}": "x" * (125 << 10), f"B{number}": "x" * (125 << 10)} for number in range(8)]
    together = failure_with([modal.Secret.from_dict(half) for half in halves])
    assert "KiB together" in together and together.count(" 251 KiB") == 8, together


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
