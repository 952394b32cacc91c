"""Secrets of a program, for functions and for image builds."""

import os
import sys

import modal

app = modal.App("secrets")

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


def check_a_function_gets_its_secrets_and_later_ones_win():
    seen = look.remote()
    assert seen["FIRST"] == "1" and seen["COLOUR"] == "of the second" and seen["LINES"] == "a\nb", seen
    assert seen["KEPT"] == "of the image" and seen["NOTHING"] is None, seen


def check_a_build_secret_is_seen_by_the_build_alone():
    seen = look.remote()
    assert seen["seen"] == "11" and seen["BUILD_SECRET"] is None, seen


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
