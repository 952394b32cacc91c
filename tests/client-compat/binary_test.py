"""The binary's own commands: `up`, `env`, `login`, `run`, and their help."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

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


def up_says_what_to_type_next_and_where_its_log_is(server):
    said = dict(line.rstrip("\n").split(": ", 1) for line in server.lines if ": " in line)
    assert said["log"] == str(server.log), server.lines
    point, _, program = said["next, in another shell"].partition(" && ")
    assert program == "modal run hello.py", server.lines
    typed = subprocess.run(["sh", "-c", f"{point} && env"], stdout=subprocess.PIPE, text=True, check=True)
    assert f"MODAL_SERVER_URL=http://127.0.0.1:{server.port}\n" in typed.stdout, typed


def env_waits_for_a_server_that_is_starting_and_refuses_when_none_runs(tmp_path):
    server = Server(tmp_path / "data", free_port())
    config = tmp_path / "modal.toml"

    def refuses_where_nothing_runs():
        for command in ("env", "login"):
            said = dorian(command, "--data", server.data, env={**os.environ, "MODAL_CONFIG_PATH": str(config)})
            assert said.returncode == 1 and said.stdout == "", said
            assert f"dorian up --data {server.data}" in said.stderr, said
        assert not config.exists()

    refuses_where_nothing_runs()
    for end in (server.kill, server.stop):
        # Never the address of the time before, nor the default one.
        server.port = free_port()
        said = _env_while_it_starts(server)
        assert f"MODAL_SERVER_URL=http://127.0.0.1:{server.port}\n" in said, said
        end()
        refuses_where_nothing_runs()


def _env_while_it_starts(server):
    """What `dorian env` prints that was asked after the server took its data directory and before it was ready."""
    server.begin()
    files = Path(f"/proc/{server.process.pid}/fd")
    lock = str(server.data / "lock")
    wait_for(lambda: lock in _targets(files), 30, "a server that holds its data directory")
    server.process.send_signal(signal.SIGSTOP)
    said = server.data.parent / "env-said"
    with said.open("w") as out:
        asked = subprocess.Popen([binary(), "env", "--data", server.data], stdout=out, stderr=subprocess.STDOUT)
        # Should the server have been faster than the signal, then it is ready, and there is nothing to wait for.
        wait_for(lambda: asked.poll() is not None or "waiting for" in said.read_text(), 30, "a word about the wait")
        server.process.send_signal(signal.SIGCONT)
        assert asked.wait(60) == 0, said.read_text()
    return said.read_text()


def _targets(folder):
    found = set()
    for entry in folder.iterdir():
        try:
            found.add(os.readlink(entry))
        except OSError:
            pass
    return found


def a_server_on_all_interfaces_is_told_by_an_address_that_other_machines_can_use(tmp_path):
    server = Server(tmp_path / "data", free_port(), host="0.0.0.0").start()
    try:
        client = Client(NEWEST, server, tmp_path)
        host = urlsplit(client.variables["MODAL_SERVER_URL"]).hostname
        assert host == _address_towards_the_world(), client.variables
        assert client.modal("app", "list").code == 0
        named = dorian("env", "--data", server.data, "--host", "gpu1.example.org:8080").stdout
        assert "export MODAL_SERVER_URL=http://gpu1.example.org:8080\n" in named, named
        refused = dorian("env", "--data", server.data, "--host", "$(id)")
        assert refused.returncode == 1 and refused.stdout == "" and "`$(id)`" in refused.stderr, refused
    finally:
        server.stop()


def _address_towards_the_world():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return probe.getsockname()[0]


def other_people_of_the_machine_cannot_read_what_a_server_keeps(tmp_path):
    server = Server(tmp_path / "data", free_port()).start()
    try:
        kept = [path for path in server.data.iterdir() if path.name != "client"]
        assert len(kept) > 10
        assert not [path.name for path in kept if path.lstat().st_mode & 0o077], kept
    finally:
        server.stop()


def what_is_wrong_is_said_before_anything_is_installed(tmp_path):
    hello = REPOSITORY / "examples" / "hello.py"
    for program, said in (("nowhere.py", "no such file"), ("nowhere", "add `-m`")):
        ended = dorian("run", "--data", tmp_path, program)
        assert ended.returncode == 1 and said in ended.stderr, ended
    (tmp_path / "config.toml").write_text("[registries]\nmirors_only = true\n")
    ended = dorian("run", "--data", tmp_path, hello)
    assert ended.returncode == 1 and "config.toml" in ended.stderr and "`mirors_only`" in ended.stderr, ended
    assert not (tmp_path / "client").exists()


def a_python_that_is_asked_for_is_never_another(tmp_path):
    # As an earlier run leaves it: a client that was installed with whatever Python was there.
    installed = tmp_path / "client" / NEWEST
    (installed / "bin").mkdir(parents=True)
    (installed / "bin" / "python").symlink_to("/bin/true")
    (installed / "complete").write_text("")
    program = REPOSITORY / "examples" / "hello.py"
    said = dorian("run", "--data", tmp_path, "--python", "/bin/false", program)
    assert said.returncode == 1 and "`/bin/false` is not a Python" in said.stderr, said


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
