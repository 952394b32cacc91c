"""Dicts and queues: what is in them is kept, and nothing of it is delivered twice."""

import json
import re
import time

import pytest
from harness import VERSIONS, wait_for
from program_checks import assert_check, for_each_check

READY_AGAIN_S = 60


@pytest.mark.older_clients("they send and page dicts with other calls")
@for_each_check("dicts.py")
def dicts(clients, version, check):
    assert_check(clients, "dicts.py", version, check, 300)


@pytest.mark.older_clients("a program of this area", oldest_only=True)
@for_each_check("queues.py")
def queues(clients, version, check):
    assert_check(clients, "queues.py", version, check, 300)


# The commands of the versions between are those of the oldest.
by_hand = pytest.mark.parametrize("version", sorted({VERSIONS[0], VERSIONS[-1]}))


@by_hand
def a_dict_is_made_read_listed_cleared_and_deleted_by_hand(clients, version):
    client, name = clients[version], f"by-hand-{version}"
    assert client.modal("dict", "create", name).code == 0
    assert client.modal("dict", "create", name).code == 0, "made once, found the second time"
    script = "import modal, sys; modal.Dict.from_name(sys.argv[1]).update(**{'a': 1, 'b': 'two', 'c': None})"
    assert client.python("-c", script, name).code == 0
    got = client.modal("dict", "get", name, "b")
    assert got.code == 0 and got.out.strip() == "two", got
    items = client.rows("dict", "items", name, "--json")
    assert sorted(row["key"] for row in items) == ["a", "b", "c"], items
    few = client.modal("dict", "items", name, "1")
    assert few.code == 0 and "..." in few.out, few
    assert [row for row in client.rows("dict", "list", "--json") if row["name"] == name]
    assert client.modal("dict", "clear", "--yes", name).code == 0
    assert client.rows("dict", "items", name, "--json") == []
    assert client.modal("dict", "delete", "--yes", name).code == 0
    missing = client.modal("dict", "get", name, "b")
    said = missing.out + missing.err
    assert missing.code != 0 and f"Dict '{name}' not found" in said, missing


@by_hand
def a_queue_is_made_peeked_listed_cleared_and_deleted_by_hand(clients, version):
    client, name = clients[version], f"by-hand-{version}"
    assert client.modal("queue", "create", name).code == 0
    script = """
import modal, sys
queue = modal.Queue.from_name(sys.argv[1])
queue.put_many(["one", "two"])
queue.put_many([1, 2, 3], partition="other")
"""
    assert client.python("-c", script, name).code == 0
    peeked = client.modal("queue", "peek", name, "2")
    assert peeked.code == 0 and peeked.out.split() == ["one", "two"], peeked
    assert client.modal("queue", "len", name).out.strip() == "2"
    assert client.modal("queue", "len", name, "--partition", "other").out.strip() == "3"
    assert client.modal("queue", "len", name, "--total").out.strip() == "5"
    row = next(row for row in client.rows("queue", "list", "--json") if row["name"] == name)
    assert (int(row["partitions"]), int(row["total_size"])) == (2, 5), row
    assert client.modal("queue", "clear", "--yes", "--partition", "other", name).code == 0
    assert client.modal("queue", "len", name, "--total").out.strip() == "2"
    assert client.modal("queue", "clear", "--yes", "--all", name).code == 0
    assert client.modal("queue", "len", name, "--total").out.strip() == "0"
    assert client.modal("queue", "delete", "--yes", name).code == 0
    missing = client.modal("queue", "len", name)
    assert missing.code != 0 and f"Queue '{name}' not found" in missing.out + missing.err, missing


@pytest.mark.crash
def a_request_that_is_repeated_is_answered_as_the_first_time_also_by_the_next_server(newest, server):
    mark = str(time.time_ns())
    first = newest.python("repeated_requests.py", "first", mark)
    said = ["got [b'one', b'two']", "created True", "popped True b'1'"]
    assert first.code == 0 and first.out.splitlines() == said, first
    again = ["got [b'one', b'two']", "left 1", "created True False", "popped True b'1' False"]
    for dies in (False, True):
        if dies:
            server.kill()
            server.start(READY_AGAIN_S)
        ended = newest.python("repeated_requests.py", "again", mark)
        assert ended.code == 0 and ended.out.splitlines() == again, ended


def what_is_put_goes_to_nobody_who_has_gone(newest, server):
    ended = newest.python("repeated_requests.py", "lost", str(time.time_ns()))
    said = ["kept [b'kept']", "replaced GRPCError", "rest [b'next']"]
    assert ended.code == 0 and ended.out.splitlines() == said, ended


def an_odd_request_is_refused_as_wrong_and_not_as_a_failure(newest, server):
    ended = newest.python("repeated_requests.py", "odd", str(time.time_ns()))
    wrong = ["no values wanted", "long key", "long life", "no life", "odd entry", "one and all", "several at once"]
    said = [f"{name} INVALID_ARGUMENT" for name in [*wrong, "another kind"]]
    said += ["no such dict NOT_FOUND", "no such queue NOT_FOUND", "nothing to put OK", "not a number OK"]
    assert ended.code == 0 and ended.out.splitlines() == said, ended


def a_request_that_is_larger_than_any_may_be_is_refused_as_too_large(newest, server):
    script = """
import modal
with modal.Dict.ephemeral() as entries:
    try:
        entries["a"] = b"x" * (130 << 20)
    except modal.exception.RequestSizeError as error:
        print("refused", error)
    print("left", entries.len())
"""
    ended = newest.python("-c", script)
    assert ended.code == 0 and "refused" in ended.out and "left 0" in ended.out, ended


WRITER = """
import modal, sys, time
queue, entries = modal.Queue.from_name("crashes"), modal.Dict.from_name("crashes")
number = 0
while number < 100_000:
    for what, act in (("put", lambda: queue.put(number)), ("set", lambda: entries.put(number, number))):
        try:
            act()
            print(what, number, flush=True)
        except Exception as error:
            print("unsure", number, flush=True)
            time.sleep(0.3)
    number += 1
"""

READER = """
import modal, queue as stdlib, time
items = modal.Queue.from_name("crashes")
while True:
    try:
        print("got", items.get(timeout=5), flush=True)
    except stdlib.Empty:
        pass
    except Exception as error:
        print("failed", type(error).__name__, flush=True)
        time.sleep(0.3)
"""

REST = """
import json, modal
items, entries = modal.Queue.from_name("crashes"), modal.Dict.from_name("crashes")
rest = []
while values := items.get_many(5_000, block=False):
    rest += values
print("REST", json.dumps({"queue": rest, "dict": dict(entries.items())}))
"""


@pytest.mark.crash
def what_was_acknowledged_survives_kills_and_nothing_is_got_twice(newest, server):
    for kind in ("dict", "queue"):
        assert newest.modal(kind, "create", "crashes").code == 0
        assert newest.modal(kind, "clear", "--yes", "crashes").code == 0
    writer, reader = newest.start_python("-c", WRITER), newest.start_python("-c", READER)
    try:
        for _ in range(4):
            lines = len(writer.lines) + 40
            wait_for(lambda: len(writer.lines) > lines, 60, f"40 more puts: {writer.text()[-500:]}")
            server.kill()
            server.start(READY_AGAIN_S)
    finally:
        writer.kill()
        reader.kill()
    wrote, read = writer.end(5).out, reader.end(5).out
    ended = newest.python("-c", REST)
    rest = json.loads(re.search(r"^REST (.*)$", ended.out, re.M).group(1))
    put = [int(n) for n in re.findall(r"^put (\d+)$", wrote, re.M)]
    got = [int(n) for n in re.findall(r"^got (\d+)$", read, re.M)] + rest["queue"]
    assert len(put) > 60, wrote[-2000:]
    assert len(got) == len(set(got)), sorted(n for n in set(got) if got.count(n) > 1)
    # The reader was killed in the end: one value may have been on its way to it.
    lost = set(put) - set(got)
    assert len(lost) <= 1, (sorted(lost), read[-2000:])
    acknowledged = {n for n in re.findall(r"^set (\d+)$", wrote, re.M)}
    assert acknowledged <= set(rest["dict"]), sorted(acknowledged - set(rest["dict"]))
    assert all(str(value) == key for key, value in rest["dict"].items())
    for kind in ("dict", "queue"):
        newest.modal(kind, "delete", "--yes", "crashes")
