"""Bad input: each gets the right status or exit code and one sentence that says what to do, and harms nothing else."""

import os
import socket
import subprocess

import pytest
from harness import DATA, Server, binary, dorian, free_port


@pytest.fixture(scope="module")
def answers(clients, server):
    """Name of the odd request to (status, message)."""
    ended = clients["1.6.4"].python("odd_requests.py")
    assert ended.code == 0, ended
    found = {}
    for line in ended.out.splitlines():
        name, status, *message = line.split(" ", 2)
        found[name] = (status, message[0] if message else "")
    return found


@pytest.mark.parametrize(
    ("name", "statuses"),
    [
        ("honest", ["OK"]),
        ("no-token", ["UNAUTHENTICATED"]),
        ("wrong-secret", ["UNAUTHENTICATED"]),
        ("wrong-id", ["UNAUTHENTICATED"]),
        ("container-without-a-socket", ["UNAUTHENTICATED", "PERMISSION_DENIED"]),
        ("unknown-method", ["UNIMPLEMENTED"]),
        ("known-method-not-served", ["UNIMPLEMENTED"]),
        # `INTERNAL` would make clients try again; but a message that cannot be read is refused below our code.
        ("garbage", ["INVALID_ARGUMENT", "INTERNAL"]),
        ("cut-short", ["INVALID_ARGUMENT", "INTERNAL"]),
        ("unknown-field", ["OK"]),
        ("old-client", ["FAILED_PRECONDITION"]),
        ("old-client-app", ["FAILED_PRECONDITION"]),
        ("odd-version", ["OK", "FAILED_PRECONDITION", "INVALID_ARGUMENT"]),
        ("no-such-app", ["NOT_FOUND"]),
        ("no-app-id", ["NOT_FOUND", "INVALID_ARGUMENT"]),
        ("no-such-call", ["NOT_FOUND"]),
        ("no-such-function", ["NOT_FOUND"]),
        ("no-such-image", ["NOT_FOUND"]),
        ("no-such-task", ["NOT_FOUND"]),
        ("no-such-blob", ["NOT_FOUND"]),
        ("no-such-environment", ["NOT_FOUND"]),
        ("odd-environment-name", ["INVALID_ARGUMENT"]),
        ("long-name", ["INVALID_ARGUMENT"]),
        ("input-over-the-limit", ["RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "OUT_OF_RANGE", "NOT_FOUND"]),
        ("still-honest", ["OK"]),
    ],
)
def an_odd_request_is_answered(answers, name, statuses):
    status, message = answers[name]
    assert status in statuses, (status, message)
    if status != "OK":
        assert len(message) > 10, f"no sentence with {status}: `{message}`"


def an_unserved_method_is_named(answers):
    assert "InventedMethod" in answers["unknown-method"][1], answers["unknown-method"]


def a_name_of_400_kilobytes_is_refused_in_a_short_sentence(answers):
    assert "… is not an app id" in answers["long-name"][1].replace("`", "") and len(answers["long-name"][1]) < 300


def a_wrong_token_is_an_authentication_error(client):
    ended = client.run("entries.py::shout", "--text", "x", MODAL_TOKEN_SECRET="as-wrong")
    assert ended.code != 0 and "token" in (ended.out + ended.err).lower(), ended


def a_missing_token_is_an_authentication_error(client):
    ended = client.run("entries.py::shout", "--text", "x", MODAL_TOKEN_ID="", MODAL_TOKEN_SECRET="")
    assert ended.code != 0 and "token" in (ended.out + ended.err).lower(), ended


LOOK_UP = """
import sys, modal
try:
    print("returned", modal.functions.FunctionCall.from_id(sys.argv[1]).get(timeout=5))
except BaseException as raised:
    print("raised", type(raised).__name__, raised)
"""


def an_id_that_does_not_exist_is_an_error_not_silence(client):
    ended = client.python("-c", LOOK_UP, "fc-0123456789012345678901")
    assert "raised" in ended.out and "Timeout" not in ended.out.split()[1], ended


MAP_OVER_FIVE = """
import modal
app = modal.App("not-iterable")
@app.function(serialized=True)
def f(x):
    return x
with app.run():
    try:
        print("returned", list(f.map(5)))
    except (TypeError, AssertionError) as raised:
        # The newest client asserts where the older ones raise a TypeError.
        print("raised", type(raised).__name__, raised)
    print("after", f.remote(3))
"""


def a_map_over_something_not_iterable_is_an_error_and_harms_nothing(client):
    if client.numbers < (0, 64):
        pytest.skip("this client goes on waiting after its feeding loop has raised; the cause is not known")
    ended = client.python("-c", MAP_OVER_FIVE)
    assert "raised " in ended.out and "after 3" in ended.out, ended


def stopping_an_app_that_does_not_exist_says_so(client):
    ended = client.modal("app", "stop", "ap-0123456789012345678901", *(["-y"] if client.numbers >= (1, 2) else []))
    said = (ended.out + ended.err).lower()
    assert ended.code != 0 and any(words in said for words in ("not found", "not_found", "no app", "not exist")), ended


# --- the binary's own bad input


def _refuses_to_start(data, port, *words):
    """`dorian up` ends by itself with an error that has these words; 101 would be a panic."""
    ended = dorian("up", "--data", data, "--listen", f"127.0.0.1:{port}", within_s=90)
    said = ended.stdout + ended.stderr
    assert ended.returncode not in (0, 101) and "panicked" not in said, (ended.returncode, said)
    for word in words:
        assert word in said, f"`{word}` is not in: {said}"


def a_taken_port_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        _refuses_to_start(tmp_path / "data", port, str(port), "--listen")


def a_data_directory_in_use_is_named(server):
    _refuses_to_start(DATA, free_port(), str(DATA))


def a_data_directory_of_a_newer_version_is_left_alone(tmp_path):
    data = tmp_path / "data"
    own = Server(data, free_port()).start()
    assert own.stop() == 0
    databases = [p for p in data.rglob("*") if p.is_file() and p.read_bytes()[:15] == b"SQLite format 3"]
    assert databases, list(data.rglob("*"))
    for database in databases:
        was = database.read_bytes()
        _mark_as_newer(database)
        marked = database.read_bytes()
        _refuses_to_start(data, free_port(), "newer")
        assert database.read_bytes() == marked, f"the newer {database.name} was changed"
        database.write_bytes(was)


def _mark_as_newer(database):
    import sqlite3

    connection = sqlite3.connect(database)
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if "schema_versions" in tables:
        connection.execute("INSERT INTO schema_versions VALUES (9999, 0)")
    else:
        connection.execute("PRAGMA user_version = 9999")
    connection.commit()
    connection.close()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to give it up")
def not_being_root_is_said_with_the_cure(tmp_path):
    tmp_path.chmod(0o777)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    command = [*nobody, str(binary()), "up", "--data", f"{tmp_path}/data", "--listen", f"127.0.0.1:{free_port()}"]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, cwd="/")
    if ended.returncode == 126 or "Permission denied" in ended.stdout[:80]:
        pytest.skip("the binary lies where nobody may run it")
    assert ended.returncode not in (0, 101) and "root" in ended.stdout, ended.stdout


def a_wrong_option_is_a_usage_error():
    assert dorian("up", "--no-such-option").returncode == 2
    assert dorian("up", "--listen", "nonsense").returncode in (1, 2)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to mount a small file system")
def a_full_disk_is_an_error_and_not_a_panic(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", small], check=True)
    try:
        (small / "filler").write_bytes(b"x" * ((4 << 20) - 64 * 1024))
        _refuses_to_start(small / "data", free_port(), "space")
    finally:
        subprocess.run(["umount", "-l", small], check=True)
