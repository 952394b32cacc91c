"""Dicts, from the program and from its containers."""

import sys
import threading
import time

import modal

app = modal.App("dicts")
VERSION = tuple(int(part) for part in modal.__version__.split(".")[:2])
NAME = f"checks-{modal.__version__}"
HAS_OBJECTS = VERSION >= (1, 2)


def named(name=NAME):
    return modal.Dict.from_name(name, create_if_missing=True)


def delete(name):
    modal.Dict.objects.delete(name) if HAS_OBJECTS else modal.Dict.delete(name)


@app.function()
def inside(name, key):
    """What a container sees of an entry, and what it leaves behind."""
    found = named(name)
    seen = found[key]
    found["from inside"] = {"seen": seen, "who": "a container"}
    del found[key]
    return seen, found.len()


@app.function()
def take(name, count):
    """Pops keys that others pop as well."""
    found, got = named(name), []
    for key in range(count):
        try:
            got.append(found.pop(key))
        except KeyError:
            pass
    return got


def check_an_entry_is_put_read_replaced_and_removed():
    with modal.Dict.ephemeral() as entries:
        entries["a"] = 1
        entries.put("b", [2, {"three": None}])
        assert entries["a"] == 1 and entries.get("b") == [2, {"three": None}]
        entries["a"] = "another"
        assert entries["a"] == "another" and entries.len() == 2
        assert entries.contains("a") and "b" in entries and "c" not in entries
        assert entries.get("c") is None and entries.get("c", 7) == 7
        assert entries.pop("a") == "another" and not entries.contains("a")
        del entries["b"]
        assert entries.len() == 0


def check_a_missing_key_is_a_key_error():
    from checks import raises

    with modal.Dict.ephemeral() as entries:
        raises(KeyError, lambda: entries["nothing"])
        raises(KeyError, entries.pop, "nothing")
        if VERSION >= (1, 2):
            assert entries.pop("nothing", 5) == 5


def check_keys_are_as_different_as_their_bytes():
    odd = {None: "none", "": "empty", "größe ✓": "unicode", (1, "two"): "tuple", 1: "one", 1.5: "float", b"\0": "bytes"}
    with modal.Dict.ephemeral() as entries:
        for key, value in odd.items():
            entries[key] = value
        entries["None"] = None
        assert {key: entries[key] for key in odd} == odd
        assert entries.get("None", "default") is None, "a value may be None"
        assert entries.len() == len(odd) + 1


def check_many_entries_are_set_at_once_and_listed():
    wanted = {f"key-{number:05}": "v" * (number % 50) for number in range(2_500)}
    with modal.Dict.ephemeral() as entries:
        entries.update(**wanted)
        assert entries.len() == len(wanted)
        assert dict(entries.items()) == wanted
        assert sorted(entries.keys()) == sorted(wanted)
        assert sorted(entries.values()) == sorted(wanted.values())
        entries.update(**{"key-00001": "changed", "new": 1})
        assert entries["key-00001"] == "changed" and entries.len() == len(wanted) + 1
        entries.clear()
        assert entries.len() == 0 and list(entries.keys()) == []


def check_an_entry_is_put_only_if_it_is_not_there():
    if VERSION < (1, 0):
        return "skip: came with 1.0"
    with modal.Dict.ephemeral() as entries:
        assert entries.put("lock", "mine", skip_if_exists=True) is True
        assert entries.put("lock", "yours", skip_if_exists=True) is False
        assert entries["lock"] == "mine"
        winners = []
        compete = lambda number: winners.append(number) if entries.put("one", number, skip_if_exists=True) else None
        threads = [threading.Thread(target=compete, args=(number,)) for number in range(16)]
        [thread.start() for thread in threads], [thread.join() for thread in threads]
        assert len(winners) == 1 and entries["one"] == winners[0], winners


def check_values_of_megabytes_come_back_and_what_is_too_large_is_refused():
    from checks import raises

    with modal.Dict.ephemeral() as entries:
        large = bytes(range(256)) * (20 << 12)
        entries["large"] = large
        assert entries["large"] == large and list(entries.values()) == [large]
        assert entries.pop("large") == large
        refused = raises(modal.exception.RequestSizeError, entries.put, "x" * (300 << 10), 1)
        assert "too large" in str(refused) or "request" in str(refused), refused
        raises(modal.exception.RequestSizeError, entries.update, **{str(number): 0 for number in range(10_001)})
        assert entries.len() == 0


def check_a_dict_with_a_name_is_the_same_for_everybody():
    entries = named()
    entries.clear()
    entries["from outside"] = "hello"
    seen, length = inside.remote(NAME, "from outside")
    assert (seen, length) == ("hello", 1), (seen, length)
    assert entries["from inside"] == {"seen": "hello", "who": "a container"}
    assert "from outside" not in named()


def check_a_value_is_popped_by_one_caller_only():
    name, count = f"{NAME}-popped", 60
    entries = named(name)
    entries.clear()
    for key in range(count):
        entries[key] = key
    calls = [take.spawn(name, count) for _ in range(2)]
    got = take.local(name, count)
    for call in calls:
        got += call.get()
    assert sorted(got) == list(range(count)), got
    delete(name)


def check_a_deleted_dict_is_gone_with_what_was_in_it():
    from checks import raises

    name = f"{NAME}-deleted"
    entries = named(name)
    entries["a"] = 1
    delete(name)
    raises(modal.exception.NotFoundError, lambda: modal.Dict.from_name(name).len())
    raises(modal.exception.NotFoundError, entries.get, "a") if VERSION >= (1, 2) else None
    assert named(name).len() == 0
    delete(name)


def check_a_dict_begins_with_the_data_given():
    if VERSION >= (1, 2):
        return "skip: clients do not send it any more"
    name = f"{NAME}-data"
    with modal.Dict.ephemeral({"a": 1}) as entries:
        assert dict(entries.items()) == {"a": 1}
    first = modal.Dict.from_name(name, data={"b": 2}, create_if_missing=True)
    assert first["b"] == 2
    first["b"] = 3
    again = modal.Dict.from_name(name, data={"b": 2}, create_if_missing=True)
    assert again["b"] == 3, "one that exists keeps what it has"
    delete(name)


def check_dicts_are_made_listed_looked_up_by_id_and_deleted():
    from checks import raises

    if not HAS_OBJECTS:
        return "skip: came with 1.1.2"
    objects, name = modal.Dict.objects, f"{NAME}-managed"
    objects.create(name)
    raises(modal.exception.AlreadyExistsError, objects.create, name)
    objects.create(name, allow_existing=True)
    found = [each for each in objects.list() if each.name == name]
    assert len(found) == 1 and len(objects.list(max_objects=1)) == 1
    by_id = modal.Dict.from_id(found[0].object_id)
    by_id["a"] = 1
    info = by_id.info()
    assert info.name == name and abs(info.created_at.timestamp() - time.time()) < 600, info
    assert named(name)["a"] == 1
    objects.delete(name)
    raises(modal.exception.NotFoundError, objects.delete, name)
    objects.delete(name, allow_missing=True)


async def check_calls_without_blocking_do_the_same():
    async with modal.Dict.ephemeral() as entries:
        await entries.put.aio("a", 1)
        assert await entries.get.aio("a") == 1
        assert [key async for key in entries.keys.aio()] == ["a"]
        assert await entries.pop.aio("a") == 1


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
