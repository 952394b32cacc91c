"""Secrets: kept encrypted, given to functions and builds, never given back."""

import json
import secrets as random
import time
from pathlib import Path

import pytest
from harness import VERSIONS
from program_checks import assert_check, for_each_check


@pytest.mark.older_clients("a program of this area", oldest_only=True)
@for_each_check("secrets.py")
def secrets(clients, version, check):
    assert_check(clients, "secrets.py", version, check, 300)


def a_secret_is_created_used_listed_replaced_and_deleted(newest, server):
    newest.modal("secret", "delete", "--yes", "a-token")
    made = newest.modal("secret", "create", "a-token", "TOKEN=first-value", "OTHER=1")
    assert made.code == 0, made
    again = newest.modal("secret", "create", "a-token", "TOKEN=second-value")
    assert again.code != 0 and "exists already" in again.out + again.err, again
    forced = newest.modal("secret", "create", "--force", "a-token", "TOKEN=second-value")
    assert forced.code == 0, forced
    listed = newest.rows("secret", "list", "--json")
    assert [row for row in listed if "a-token" in json.dumps(row)], listed
    ended = newest.run("named_secret.py")
    assert ended.code == 0 and "token second-value" in ended.out, ended
    script = "import modal; s = modal.Secret.from_name('a-token'); s.update({'TOKEN': 'third-value'}); print(s.info().name)"
    updated = newest.python("-c", script)
    assert updated.code == 0 and "a-token" in updated.out, updated
    assert "token third-value" in newest.run("named_secret.py").out
    missing = newest.run("named_secret.py", CHECK_REQUIRED="WANTED")
    assert missing.code != 0 and "missing key(s): WANTED" in missing.out + missing.err, missing
    gone = newest.modal("secret", "delete", "--yes", "a-token")
    assert gone.code == 0, gone
    without = newest.run("named_secret.py")
    said = without.out + without.err
    assert without.code != 0 and "Secret 'a-token' not found" in said and "modal secret create" in said, without


@pytest.mark.parametrize("version", VERSIONS)
def secrets_come_from_files_and_are_listed_and_deleted(clients, version, tmp_path):
    if clients[version].numbers < (1, 0):
        pytest.skip("this client's command line cannot")
    client, name = clients[version], f"from-files-{version}"
    (tmp_path / "some.env").write_text("PLAIN=as is\nQUOTED='a = b'\n")
    (tmp_path / "some.json").write_text(json.dumps({"JSON": "{}", "UNICODE": "gr\u00fcn"}))
    (tmp_path / "bad.json").write_text(json.dumps({"NUMBER": 1}))
    made = client.modal(
        "secret", "create", name, "TOKEN=1", "--from-dotenv", tmp_path / "some.env", "--from-json", tmp_path / "some.json"
    )  # fmt: skip
    assert made.code == 0, made
    bad = client.modal("secret", "create", f"{name}-bad", "--from-json", tmp_path / "bad.json")
    assert bad.code != 0 and "NUMBER" in bad.out + bad.err, bad
    required = "TOKEN,PLAIN,QUOTED,JSON,UNICODE"
    seen = client.run("named_secret.py", CHECK_NAME=name, CHECK_REQUIRED=required, CHECK_SHOWN="QUOTED,JSON,UNICODE")
    assert seen.code == 0 and "values a = b|{}|gr\u00fcn" in seen.out, seen
    assert name in client.modal("secret", "list", "--json").out
    assert client.modal("secret", "delete", "--yes", name).code == 0
    assert name not in client.modal("secret", "list", "--json").out
    again = client.modal("secret", "delete", "--yes", name)
    assert again.code != 0 and f"'{name}' not found" in again.out + again.err, again


def a_long_list_comes_in_pages(newest):
    script = """
import modal
names = [f"paged-{number}" for number in range(230)]
for name in names:
    modal.Secret.objects.create(name, {"A": "1"}, allow_existing=True)
listed = [s.name for s in modal.Secret.objects.list() if s.name.startswith("paged-")]
assert listed == names[::-1], listed
some = modal.Secret.objects.list(max_objects=110)
assert [s.name for s in some] == names[::-1][:110], some
before = some[-1].info().created_at
assert [s.name for s in modal.Secret.objects.list(max_objects=2, created_before=before)] == ["paged-119", "paged-118"]
for name in names:
    modal.Secret.objects.delete(name)
assert not [s for s in modal.Secret.objects.list() if s.name.startswith("paged-")]
print("done")
"""
    ended = newest.python("-c", script)
    assert ended.code == 0 and "done" in ended.out, ended


def values_are_nowhere_on_the_disk_in_plain_text(newest, server, tmp_path):
    value, started = random.token_hex(40), time.time()
    # As an argument of the client itself, the value would be on a command line: on the user's machine.
    (tmp_path / "it.json").write_text(json.dumps({"HIDDEN": value}))
    assert newest.modal("secret", "create", "--force", "hidden", "--from-json", tmp_path / "it.json").code == 0
    running = newest.start("run", "hidden_secret.py", HIDDEN=value, GO_ON=tmp_path / "go-on")
    try:
        running.wait_for_line("seen", 120)
        command_lines = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
        assert not [line for line in command_lines if value.encode() in line]
        # Layers among them; what is older cannot have it.
        written = [p for p in server.data.rglob("*") if p.is_file() and p.lstat().st_ctime >= started]
        assert [p for p in written if p.name.startswith("metadata.sqlite")] and [p for p in written if p.name == "length"]
        assert not [p for p in [server.log, *written] if value.encode() in p.read_bytes()]
    finally:
        (tmp_path / "go-on").touch()
    ended = running.end()
    assert ended.code == 0 and value not in ended.out + ended.err, ended
    assert (server.data / "secrets.key").stat().st_mode & 0o777 == 0o600
    newest.modal("secret", "delete", "--yes", "hidden")


def large_secrets_at_once_leave_the_server_small(newest, server):
    server.forget_memory_peak()
    before = server.memory_mib("VmHWM")
    script = """
import concurrent.futures, modal
def refused(number):
    try:
        modal.Secret.objects.create(f"large-{number}", {"LARGE": "x" * (50 << 20)})
    except modal.exception.InvalidError as error:
        return "a secret holds at most 256 KiB" in str(error)
with concurrent.futures.ThreadPoolExecutor(4) as threads:
    print("refused", sum(threads.map(refused, range(4))))
"""
    ended = newest.python("-c", script)
    assert "refused 4" in ended.out, ended
    assert server.memory_mib("VmHWM") < before + 40, (before, server.memory_mib("VmHWM"))
