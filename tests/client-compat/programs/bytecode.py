"""Bytecode is there before a function starts, whatever installed the package: what is imported has not to be compiled."""

import importlib.util
import os
import sys

import modal

app = modal.App("bytecode")
image = (
    modal.Image.debian_slim()
    .pip_install("uv", "cowsay==6.1")
    # Without `--compile-bytecode`, as most people call it.
    .run_commands("uv pip install --system --break-system-packages iniconfig==2.0.0")
)


@app.function(image=image)
def has_bytecode(module):
    """Asked before anything imports it: an import would write what it found missing."""
    assert module not in sys.modules
    source = importlib.util.find_spec(module).origin
    return os.path.exists(importlib.util.cache_from_source(source))


def check_what_uv_installed_is_compiled():
    assert has_bytecode.remote("iniconfig")


def check_what_pip_installed_is_compiled():
    assert has_bytecode.remote("cowsay")


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
