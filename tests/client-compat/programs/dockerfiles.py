"""Dockerfiles as people have them; the test makes their build context and names it in CHECK_CONTEXT."""

import os
import subprocess
import sys
from pathlib import Path

import modal

app = modal.App("dockerfiles")

CONTEXT = Path(os.environ.get("CHECK_CONTEXT", "/nowhere"))
# Files on a web server of the test's: `ADD` of URLs.
WEB = os.environ.get("CHECK_WEB", "http://127.0.0.1:1")
CHECKSUM = os.environ.get("CHECK_CHECKSUM", "0" * 64)
IS_OLDEST = modal.__version__.startswith("0.63")


def from_dockerfile(name):
    if not modal.is_local():
        return modal.Image.debian_slim()
    if IS_OLDEST:
        # It knows no ignore files and wants the context named.
        mount = modal.Mount.from_local_dir(CONTEXT, remote_path="/")
        return modal.Image.from_dockerfile(CONTEXT / name, context_mount=mount)
    return modal.Image.from_dockerfile(CONTEXT / name, context_dir=CONTEXT)


staged = from_dockerfile("Dockerfile")
from_commands = modal.Image.debian_slim().dockerfile_commands(
    f"ADD {WEB}/file.txt /web/",
    f"ADD --checksum=sha256:{CHECKSUM} --chmod=755 {WEB}/file.txt /web/checked",
    "FROM base AS other",
    "RUN mkdir /made && echo from another stage > /made/file",
    "FROM base",
    f"ADD {WEB}/file.txt /web/",
    f"ADD --checksum=sha256:{CHECKSUM} --chmod=755 {WEB}/file.txt /web/checked",
    "COPY --from=other /made /made",
    "RUN --mount=from=ghcr.io/astral-sh/uv:0.5.4,source=/uv,target=/usr/local/bin/uv uv --version > /uv-version",
)


def read(path):
    return open(path).read() if os.path.exists(path) else None


@app.function(image=staged)
def in_staged():
    results = {path.name: path.read_text() for path in Path("/results").iterdir()}
    return {
        "results": results,
        "owner": Path("/results/bound.txt").owner(),
        "sources": sorted(str(path.relative_to("/src")) for path in Path("/src").rglob("*") if path.is_file()),
        "unpacked": read("/opt/data/inner/file.txt"),
        "link": os.readlink("/opt/data/inner/link"),
        "copied": os.path.getsize("/opt/data.tar.xz"),
        "document": read("/document"),
        "variables": [os.environ.get("FROM_ARGUMENT"), os.environ.get("QUOTED")],
        "leftovers": [path for path in ("/tools", "/bound", "/cache", "/scratch", "/sent") if os.path.exists(path)],
    }


@app.function(image=from_commands)
def in_commands():
    run = subprocess.run(["/web/checked"], capture_output=True, text=True)
    return {"file": read("/web/file.txt"), "ran": run.stdout, "made": read("/made/file"), "uv": read("/uv-version")}


def check_files_pass_from_stage_to_stage():
    seen = in_staged.remote()
    assert seen["results"]["tool.txt"] == "tool says hello\n", seen
    assert seen["owner"] == "nobody", seen


def check_every_kind_of_mount_was_there_and_is_gone():
    seen = in_staged.remote()
    assert seen["results"]["bound.txt"] == "kept\n", seen
    assert "cached" in seen["results"]["cached.txt"], seen
    assert seen["results"]["tmpfs.txt"] == "tmpfs\n", seen
    assert seen["leftovers"] == [], seen


def check_an_added_archive_is_unpacked_and_a_copied_one_is_not():
    seen = in_staged.remote()
    assert (seen["unpacked"], seen["link"]) == ("packed\n", "file.txt"), seen
    assert seen["copied"] > 0, seen


def check_here_documents_arguments_and_quotes_arrive():
    seen = in_staged.remote()
    assert seen["document"] == "version 3.11\n$NOT_REPLACED\n", seen
    assert seen["variables"] == ["3.11", 'it\'s "so"'], seen


def check_an_ignored_file_is_not_sent():
    if IS_OLDEST:
        return "skip: this client has no ignore files"
    assert in_staged.remote()["sources"] == ["deep/kept.txt", "kept.txt"]


def check_files_come_from_the_web_and_stages_from_commands():
    seen = in_commands.remote()
    assert seen["file"] == "#!/bin/sh\necho from the web\n", seen
    assert (seen["ran"], seen["made"]) == ("from the web\n", "from another stage\n"), seen


def check_a_program_of_another_image_can_be_mounted():
    assert in_commands.remote()["uv"].startswith("uv 0.5.4")


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
