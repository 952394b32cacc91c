"""The binary's own commands: `up`, `env`, `login`, `run`, and their help."""

import json
import os
import subprocess
import time

import pytest
from harness import (
    NEWEST,
    REPOSITORY,
    Client,
    Server,
    best_of,
    binary,
    dorian,
    free_port,
    wait_for,
)


def help_names_every_command_and_what_it_is_for():
    ended = dorian("--help")
    assert ended.returncode == 0
    for command in ("up", "env", "login", "run"):
        assert f"\n  {command} " in ended.stdout, ended.stdout
        said = dorian(command, "--help")
        assert said.returncode == 0 and len(said.stdout) > 200, said
    assert dorian("--version").stdout.startswith("dorian ")


def ready_is_one_line(server):
    ready = [line for line in server.lines if line.startswith("ready")]
    assert len(ready) == 1 and str(server.port) in ready[0], server.lines


def env_prints_what_a_shell_can_evaluate(server):
    script = f'eval "$({binary()} env --data {server.data})" && env'
    said = subprocess.run(
        ["sh", "-c", script], stdout=subprocess.PIPE, text=True, check=True, env={"PATH": os.environ["PATH"]}
    )
    found = dict(line.split("=", 1) for line in said.stdout.splitlines() if line.startswith("MODAL_"))
    assert found["MODAL_SERVER_URL"] == f"http://127.0.0.1:{server.port}"
    assert found["MODAL_TOKEN_ID"].startswith("ak-") and found["MODAL_TOKEN_SECRET"].startswith("as-")


def env_speaks_json_too(server):
    said = dorian("env", "--data", server.data, "--json")
    assert said.returncode == 0, said
    assert json.loads(said.stdout)["MODAL_SERVER_URL"].endswith(str(server.port))


def login_writes_a_profile_that_every_client_reads_and_keeps_the_others(server, client, tmp_path):
    config = tmp_path / "modal.toml"
    config.write_text('# mine\n[work]\ntoken_id = "ak-work"\ntoken_secret = "as-work"\nactive = true\n')
    said = dorian(
        "login", "--data", server.data, env={**os.environ, "MODAL_CONFIG_PATH": str(config), "HOME": str(tmp_path)}
    )
    assert said.returncode == 0, said
    text = config.read_text()
    assert "# mine" in text and '"ak-work"' in text, text
    # No variables: everything comes from the file.
    bare = Client(client.version, server, tmp_path)
    bare.variables = {}
    ran = bare.run("entries.py::greet", "--name", "dora")
    assert ran.code == 0 and "greet 'dora'" in ran.out, (ran, text)


def run_starts_what_it_needs_and_stops_it(server):
    before = server.container_namespaces()
    # An embedded server on data of its own would make its base image again; this one finds a server and uses it.
    ended = dorian("run", "--data", server.data, REPOSITORY / "examples" / "hello.py", within_s=600)
    assert ended.returncode == 0, (ended.stdout[-3000:], ended.stderr[-3000:])
    assert "one call: 144" in ended.stdout and "fetched later: 10000" in ended.stdout, ended.stdout
    wait_for(lambda: not server.container_namespaces() - before, 30, "no container left behind")


def sigterm_ends_the_server_in_order(tmp_path):
    server = Server(tmp_path / "data", free_port()).start()

    def seconds_until_stopped():
        started = time.monotonic()
        assert server.stop() == 0
        took = time.monotonic() - started
        server.start()
        return took

    try:
        assert best_of(3, 10, seconds_until_stopped) <= 10
    finally:
        server.stop()


def a_server_is_small_again_after_a_burst(newest, server):
    ended = newest.run("burst.py", within_s=400)
    assert ended.code == 0 and "burst over" in ended.out, ended
    # What an app has printed and returned stays for a minute after its end, for those who are late.
    def is_small():
        return server.memory_mib("RssAnon") < 60

    wait_for(is_small, 150, f"less than 60 MiB after a burst, which are {server.memory_mib('RssAnon'):.0f} at its end")


@pytest.mark.parametrize("version", [NEWEST])
def an_idle_server_is_small(tmp_path, version):
    server = Server(tmp_path / "data", free_port()).start()
    try:
        time.sleep(1)
        assert server.memory_mib() < 60, server.memory_mib()
    finally:
        server.stop()
