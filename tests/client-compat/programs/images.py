"""Images: the steps that a program may put on a base, and what is in the container afterwards."""

import os
import subprocess
import sys

import modal

app = modal.App("images")

# `STAMP` differs per test run where the build itself is to be seen; otherwise every layer comes from the cache.
stamp = os.environ.get("CHECK_STAMP", "kept")
image = (
    modal.Image.debian_slim()
    .apt_install("jq")
    .pip_install("cowsay==6.1")
    .run_commands("mkdir -p /opt/stamp", f"echo {stamp} > /opt/stamp/file", "echo built the stamp")
    .env({"COLOUR": "deep blue", "QUOTED": 'it\'s "so"'})
)


@app.function(image=image)
def inspect():
    import cowsay

    return {
        "cowsay": cowsay.get_output_string("cow", "moo"),
        "jq": subprocess.run(["jq", "-n", "1+1"], capture_output=True, text=True).stdout.strip(),
        "stamp": open("/opt/stamp/file").read().strip(),
        "colour": os.environ["COLOUR"],
        "quoted": os.environ["QUOTED"],
        "client": modal.__file__,
    }


@app.function(image=image)
def packages_of_the_client_lose():
    """A package that user and client both have comes from the user's image."""
    out = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, text=True).stdout
    return out


def check_every_step_is_in_the_container():
    seen = inspect.remote()
    assert "moo" in seen["cowsay"]
    assert seen["jq"] == "2"
    assert seen["stamp"] == stamp
    assert seen["colour"] == "deep blue" and seen["quoted"] == 'it\'s "so"', seen


def check_pip_works_in_the_container():
    assert "pip" in packages_of_the_client_lose.remote()


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
