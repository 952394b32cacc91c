"""A Python put into an image that has none."""

import os
import sys

import modal

app = modal.App("add-python")
image = (
    modal.Image.from_registry("debian:bookworm-slim", add_python="3.11")
    .pip_install("cowsay==6.1")
    .dockerfile_commands("RUN python -c 'import ssl, sqlite3, ctypes' && pip --version")
)


@app.function(image=image)
def look():
    import cowsay

    return {
        "version": sys.version_info[:2],
        "executable": os.path.realpath(sys.executable),
        "cowsay": os.path.dirname(cowsay.__file__),
        "debians": os.path.exists("/usr/bin/python3"),
    }


def check_the_added_python_runs_the_function_and_keeps_its_packages():
    seen = look.remote()
    assert seen["version"] == (3, 11) and seen["executable"].startswith("/usr/local/bin/python3"), seen
    assert seen["cowsay"].startswith("/usr/local/lib/python3.11/site-packages"), seen
    assert not seen["debians"], seen


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
