"""Dockerfiles: stages, mounts, ADD, ignore files, and what is said when one is wrong."""

import ast
import hashlib
import http.server
import io
import json
import tarfile
import threading
import time

import pytest
from program_checks import assert_check, for_each_check

# Clients before 1.1 refuse a COPY with flags other than `--from` by themselves; they do not look at ADD.
DOCKERFILE = """\
# syntax=docker/dockerfile:1
ARG VERSION=3.11
FROM python:${VERSION}-slim AS build
WORKDIR /out
RUN --mount=type=bind,source=src,target=/bound \\
    # A comment between continued lines.
    cp /bound/kept.txt bound.txt
RUN --mount=type=cache,target=/cache,id=dockerfiles-test,sharing=locked <<EOF
set -e
echo cached >> /cache/lines
cp /cache/lines cached.txt
EOF
RUN --mount=type=tmpfs,target=/scratch,size=16m stat -f -c %T /scratch > tmpfs.txt
ADD --chmod=u=rwx,go=rx <<'EOF' tools/tool.sh
#!/bin/sh
echo "tool says $1"
EOF

# The client sends what COPY names; nothing needs this stage, so it is not built.
FROM scratch AS sent
COPY data.tar.xz /sent/

FROM build AS unused
RUN echo this stage must not run && exit 7

FROM python:${VERSION}-slim
ENV STAMP=@STAMP@
ARG VERSION
ENV FROM_ARGUMENT=$VERSION QUOTED='it'"'"'s "so"'
MAINTAINER nobody@example
LABEL a=b
EXPOSE 8080/tcp
VOLUME /data
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5m CMD true
SHELL ["/bin/bash", "-c"]
ADD data.tar.xz /opt/data/
COPY data.tar.xz /opt/
COPY src /src
COPY <<EOF /document
version ${VERSION}
\\$NOT_REPLACED
EOF
COPY --from=BUILD --chown=nobody /out/*.txt /results/
RUN --mount=type=bind,from=build,source=/out/tools,target=/tools /tools/tool.sh hello > /results/tool.txt
RUN [[ $STAMP = @STAMP@ ]] && echo built @STAMP@
"""


@pytest.fixture(scope="module")
def web():
    """Serves one file, and remembers how often it was asked."""
    body = b"#!/bin/sh\necho from the web\n"
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            found = self.path == "/file.txt"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(body) if found else 0))
            self.end_headers()
            if found:
                self.wfile.write(body)

        def log_message(self, *_arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {"CHECK_WEB": f"http://127.0.0.1:{server.server_port}", "CHECK_CHECKSUM": hashlib.sha256(body).hexdigest()}
    server.shutdown()


@pytest.fixture(scope="module")
def stamp():
    return f"run-{time.time_ns()}"


@pytest.fixture(scope="module")
def context(tmp_path_factory, stamp):
    folder = tmp_path_factory.mktemp("context")
    (folder / "Dockerfile").write_text(DOCKERFILE.replace("@STAMP@", stamp))
    (folder / ".dockerignore").write_text("**/*.ignored\nsrc/skipped\n")
    for name, text in {
        "src/kept.txt": "kept\n",
        "src/deep/kept.txt": "kept\n",
        "src/deep/not.ignored": "x",
        "src/skipped/file.txt": "x",
        "elsewhere.txt": "x",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with tarfile.open(folder / "data.tar.xz", "w:xz") as archive:
        packed = tarfile.TarInfo("inner/file.txt")
        packed.size = 7
        archive.addfile(packed, io.BytesIO(b"packed\n"))
        link = tarfile.TarInfo("inner/link")
        link.type, link.linkname = tarfile.SYMTYPE, "file.txt"
        archive.addfile(link)
    return folder


@for_each_check("dockerfiles.py")
def dockerfiles(clients, version, check, context, web):
    assert_check(clients, "dockerfiles.py", version, check, 900, CHECK_CONTEXT=context, **web)


def steps_are_numbered_by_stage_and_stages_nobody_needs_do_not_run(newest, context, web, stamp):
    ended = newest.run("dockerfiles.py", "--only", "no-such-check", within_s=600, CHECK_CONTEXT=context, **web)
    seen = ended.out + ended.err
    assert ended.code == 0, ended
    assert "this stage must not run" not in seen.replace("RUN echo this stage must not run", ""), ended
    # With the check's own run before this one, everything is cached, and the client asks for no log.
    changed = f"{stamp}-again"
    (context / "Dockerfile").write_text(DOCKERFILE.replace("@STAMP@", changed))
    try:
        ended = newest.run("dockerfiles.py", "--only", "no-such-check", within_s=600, CHECK_CONTEXT=context, **web)
    finally:
        (context / "Dockerfile").write_text(DOCKERFILE.replace("@STAMP@", stamp))
    seen = ended.out + ended.err
    assert ended.code == 0, ended
    assert "=> [build 3/6] RUN --mount=type=bind" in seen and "CACHED" in seen, ended
    assert "=> [stage-3 18/18] RUN [[" in seen and f"built {changed}" in seen, ended
    assert "[unused" not in seen and "[sent" not in seen, ended


def _from_commands(client, *commands, say="true", **variables):
    variables = {"CHECK_COMMANDS": json.dumps(commands), "CHECK_SAY": say, **variables}
    return client.run("from_commands.py", within_s=400, **variables)


MISTAKES = {
    "an_unknown_instruction": (
        ["RUN true", "COPPY a b"],
        ["line 3: unknown instruction `COPPY`, did you mean `COPY`", "3 | COPPY a b", "  | ^^^^^"],
    ),
    "a_stage_that_comes_later": (
        ["COPY --from=late /x /y", "FROM base AS late"],
        ["stage `late` comes later", "2 | COPY --from=late /x /y", "  |      ^^^^^^^^^^^"],
    ),
    "a_stage_of_another_name": (
        ["FROM base AS build", "FROM base", "COPY --from=biuld /x /y"],
        ["did you mean `build`", "4 | COPY --from=biuld"],
    ),
    "a_stage_from_itself": (
        ["FROM base AS own", "COPY --from=own /x /y"],
        ["`own` is this stage itself", "^^^^^^^^^^"],
    ),
    "a_mount_that_is_not_served": (["RUN --mount=type=ssh true"], ["`--mount=type=ssh` is not supported", "^^^^"]),
    "a_git_repository": (["ADD https://example.com/a.git /x"], ["use `RUN git clone`", "^^^"]),
    "a_file_that_is_not_in_a_stage": (
        ["FROM base AS a", "RUN true", "FROM base", "COPY --from=a /missing /x"],
        ["the stage has no `/missing`", "5 | COPY --from=a /missing /x"],
    ),
    "an_open_here_document": (["RUN <<EOF", "echo x"], ["not ended by a line `EOF`", "2 | RUN <<EOF"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def a_mistake_is_shown_with_its_line_and_a_caret(client, mistake):
    commands, signs = MISTAKES[mistake]
    ended = _from_commands(client, *commands)
    said = ended.out + ended.err
    assert ended.code != 0, ended
    for sign in signs:
        assert sign in said, f"{sign!r}: {ended}"


def a_download_that_is_not_there_or_not_what_was_promised_is_one_sentence(newest, web):
    ended = _from_commands(newest, f"ADD {web['CHECK_WEB']}/missing /x")
    said = ended.out + ended.err
    assert ended.code != 0 and f"{web['CHECK_WEB']}/missing" in said and "404" in said, ended
    ended = _from_commands(newest, f"ADD --checksum=sha256:{'0' * 64} {web['CHECK_WEB']}/file.txt /x")
    said = ended.out + ended.err
    assert ended.code != 0 and web["CHECK_CHECKSUM"] in said and "--checksum" in said, ended


def a_failed_command_comes_with_a_hint(newest):
    ended = _from_commands(newest, "RUN rm -f $(command -v python) && python setup.py")
    said = ended.out + ended.err
    assert ended.code != 0 and "exit code 127" in said and "python: not found" in said and "hint: the image has no `python`" in said, ended


def a_secret_is_a_file_of_one_step(client, stamp):
    commands = [
        "RUN --mount=type=secret,id=TOKEN,required=true cp /run/secrets/TOKEN /dev/null "
        "&& test $(wc -c < /run/secrets/TOKEN) = 12 && echo ok > /checked",
        f"RUN ls /run/secrets > /seen 2>/dev/null || echo gone > /seen; echo {stamp}",
    ]
    secret = json.dumps({"TOKEN": "twelve-chars"})
    ended = _from_commands(client, *commands, say="cat /checked /seen; printenv TOKEN", CHECK_SECRET=secret)
    assert ended.code == 0, ended
    said = next(line for line in ended.out.splitlines() if line.startswith("says "))
    assert ast.literal_eval(said[5:]) == "ok\ngone\n", ended
