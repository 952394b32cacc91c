"""Secrets: kept encrypted, given to functions and builds, never given back."""

import json

from program_checks import assert_check, for_each_check


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


def values_are_nowhere_on_the_disk_in_plain_text(newest, server):
    value = "a-value-that-is-nowhere-else"
    assert newest.modal("secret", "create", "--force", "hidden", f"HIDDEN={value}").code == 0
    kept = [p for p in server.data.rglob("*") if p.is_file() and p.stat().st_size < 1 << 26]
    database = [p for p in kept if p.name.startswith("metadata.sqlite")]
    assert database and not [p for p in kept if "layers" not in p.parts and value.encode() in p.read_bytes()]
    assert (server.data / "secrets.key").stat().st_mode & 0o777 == 0o600
    newest.modal("secret", "delete", "--yes", "hidden")
