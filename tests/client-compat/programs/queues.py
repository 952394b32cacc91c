"""Queues, from the program and from its containers."""

import queue
import sys
import threading
import time

import modal

app = modal.App("queues")
VERSION = tuple(int(part) for part in modal.__version__.split(".")[:2])
NAME = f"checks-{modal.__version__}"
HAS_OBJECTS = VERSION >= (1, 2)
# Clients round what they send, and their own work is in these times as well.
SLACK_S = 2.0


def named(name=NAME):
    return modal.Queue.from_name(name, create_if_missing=True)


def delete(name):
    modal.Queue.objects.delete(name) if HAS_OBJECTS else modal.Queue.delete(name)


@app.function()
def take(name, partition):
    """Gets until nothing came for a while."""
    items, got = named(name), []
    while True:
        try:
            got.append(items.get(timeout=1, partition=partition))
        except queue.Empty:
            return got


@app.function()
def answer(name):
    """Waits for one value, and answers it in another partition."""
    items = named(name)
    items.put(("answer to", items.get(timeout=30)), partition="answers")


def check_values_come_out_in_the_order_in_which_they_were_put():
    with modal.Queue.ephemeral() as items:
        items.put(1)
        items.put_many(["two", None, {"four": b"\0"}])
        assert items.len() == 4
        assert items.get() == 1
        assert items.get_many(2) == ["two", None]
        assert items.get_many(10) == [{"four": b"\0"}]
        assert items.get(block=False) is None and items.get_many(3, block=False) == []


def check_a_get_waits_as_long_as_it_was_told():
    from checks import raises

    with modal.Queue.ephemeral() as items:
        started = time.monotonic()
        raises(queue.Empty, items.get, timeout=0.7)
        took = time.monotonic() - started
        assert 0.6 < took < 0.7 + SLACK_S, took
        raises(queue.Empty, items.get_many, 3, timeout=0.1)


def check_a_get_that_waits_is_woken_by_a_put():
    with modal.Queue.ephemeral() as items:
        got = []
        waiter = threading.Thread(target=lambda: got.append((items.get(timeout=20), time.monotonic())))
        waiter.start()
        time.sleep(0.5)
        items.put("news")
        put_at = time.monotonic()
        waiter.join(20)
        assert got and got[0][0] == "news" and got[0][1] - put_at < SLACK_S, got


def check_partitions_are_queues_of_their_own():
    from checks import raises

    with modal.Queue.ephemeral() as items:
        items.put("default")
        items.put("a", partition="a")
        items.put_many(["b1", "b2"], partition="größe-✓")
        assert items.get(partition="a") == "a" and items.get(partition="a", block=False) is None
        assert items.len() == 1 and items.len(partition="größe-✓") == 2 and items.len(total=True) == 3
        items.clear(partition="größe-✓")
        assert items.len(total=True) == 1
        items.put("x", partition="k" * 64)
        items.clear(all=True)
        assert items.len(total=True) == 0
        for bad in ("", "k" * 65, "ü" * 33):
            raises(modal.exception.InvalidError, items.put, 1, partition=bad)


def check_a_partition_goes_when_its_time_is_over():
    with modal.Queue.ephemeral() as items:
        items.put("short", partition="short", partition_ttl=1)
        items.put("long", partition="long", partition_ttl=7 * 24 * 3600)
        items.put("early", partition="renewed", partition_ttl=1)
        items.put("late", partition="renewed", partition_ttl=60)
        time.sleep(1.3)
        assert items.get(block=False, partition="short") is None
        assert items.get_many(5, partition="renewed") == ["early", "late"], "the last put says how long"
        assert items.get(partition="long") == "long"


def check_iteration_sees_everything_and_takes_nothing():
    with modal.Queue.ephemeral() as items:
        assert [item for item in items.iterate()] == []
        items.put_many(list(range(450)))
        assert [item for item in items.iterate()] == list(range(450))
        assert items.len() == 450
        items.clear()
        seen = []

        def watch():
            for item in items.iterate(item_poll_timeout=2.0):
                seen.append(item)

        watcher = threading.Thread(target=watch)
        watcher.start()
        for number in range(3):
            time.sleep(0.3)
            items.put(number)
        watcher.join(20)
        assert seen == [0, 1, 2] and items.len() == 3, seen


def check_a_full_partition_refuses_until_there_is_room():
    from checks import raises

    with modal.Queue.ephemeral() as items:
        items.put_many([0] * 5_000)
        raises(queue.Full, items.put, 1, block=False)
        started = time.monotonic()
        raises(queue.Full, items.put, 1, timeout=3)
        assert time.monotonic() - started < 3 + SLACK_S + 2
        items.put(1, partition="another", block=False)

        def make_room():
            time.sleep(0.5)
            items.get_many(100)

        maker = threading.Thread(target=make_room)
        maker.start()
        items.put("in the end", timeout=20)
        maker.join()
        assert items.len() == 4_901, items.len()


def check_items_at_the_limit_are_taken_and_over_it_refused():
    from checks import raises

    with modal.Queue.ephemeral() as items:
        # What the pickle adds.
        largest = b"x" * ((1 << 20) - 64)
        items.put_many([largest] * 3)
        assert [len(item) for item in items.get_many(3)] == [len(largest)] * 3
        raises(modal.exception.RequestSizeError, items.put, b"x" * ((1 << 20) + 1))
        raises(modal.exception.RequestSizeError, items.put_many, [0] * 5_001)
        assert items.len() == 0


def check_a_full_partition_of_bytes_refuses():
    from checks import raises

    with modal.Queue.ephemeral() as items:
        part = [b"x" * 1_000_000] * 16
        for _ in range(4):
            items.put_many(part)
        raises(queue.Full, items.put_many, [b"x" * 1_000_000] * 4, block=False)
        assert items.len() == 64
        assert items.get_many(2) == part[:2]


def check_each_value_is_taken_by_one_caller_only():
    name, count = f"{NAME}-shared", 150
    items = named(name)
    items.clear(all=True)
    calls = [take.spawn(name, "work") for _ in range(2)]
    items.put_many(list(range(50)), partition="work")
    got = []
    taker = threading.Thread(target=lambda: got.extend(take.local(name, "work")))
    taker.start()
    for number in range(50, count):
        items.put(number, partition="work")
    taker.join()
    for call in calls:
        got += call.get()
    # The containers may have come when everything was taken.
    got += take.local(name, "work")
    assert sorted(got) == list(range(count)), sorted(got)
    delete(name)


def check_a_container_waits_for_the_program_and_answers():
    name = f"{NAME}-answers"
    items = named(name)
    items.clear(all=True)
    call = answer.spawn(name)
    items.put("a question")
    assert items.get(timeout=30, partition="answers") == ("answer to", "a question")
    call.get()
    delete(name)


def check_a_deleted_queue_is_gone_with_what_was_in_it():
    from checks import raises

    name = f"{NAME}-deleted"
    items = named(name)
    items.put(1)
    ended = []

    def wait():
        try:
            ended.append(items.get(partition="empty", timeout=30))
        except Exception as error:
            ended.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0.5)
    delete(name)
    waiter.join(20)
    assert ended and "deleted" in str(ended[0]), ended
    raises(modal.exception.NotFoundError, lambda: modal.Queue.from_name(name).len())
    assert named(name).len() == 0
    delete(name)


def check_queues_are_made_listed_looked_up_by_id_and_deleted():
    from checks import raises

    if not HAS_OBJECTS:
        return "skip: came with 1.1.2"
    objects, name = modal.Queue.objects, f"{NAME}-managed"
    objects.create(name)
    raises(modal.exception.AlreadyExistsError, objects.create, name)
    objects.create(name, allow_existing=True)
    found = [each for each in objects.list() if each.name == name]
    assert len(found) == 1 and len(objects.list(max_objects=1)) == 1
    by_id = modal.Queue.from_id(found[0].object_id)
    by_id.put("a")
    assert by_id.info().name == name and named(name).get() == "a"
    objects.delete(name)
    raises(modal.exception.NotFoundError, objects.delete, name)
    objects.delete(name, allow_missing=True)


async def check_a_caller_that_gives_up_takes_nothing_with_it():
    import asyncio

    async with modal.Queue.ephemeral() as items:
        waiting = asyncio.ensure_future(items.get.aio(timeout=20))
        await asyncio.sleep(0.5)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.sleep(0.3)
        await items.put.aio("still here")
        assert await items.get.aio(timeout=5) == "still here"


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
