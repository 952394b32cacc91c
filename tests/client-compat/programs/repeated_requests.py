"""Requests of dicts and queues that are sent again, as clients do when they had no answer. Prints `NAME VALUE`.

Runs in the newest client's environment. `first` sends each once; `again` sends the same ones, as a second process that
knows the same keys would: the server may have died in between. Not a Modal program.
"""

import asyncio
import os
import sys
import urllib.parse

from google.protobuf.empty_pb2 import Empty
from grpclib.client import Channel, UnaryUnaryMethod
from modal_proto import api_pb2

REPLIES = {"QueuePut": Empty, "QueueClear": Empty}
RUN = sys.argv[2]


async def ask(channel, method, key, attempt, /, **fields):
    request, reply = getattr(api_pb2, f"{method}Request"), REPLIES.get(method)
    call = UnaryUnaryMethod(
        channel, f"/modal.client.ModalClient/{method}", request, reply or getattr(api_pb2, f"{method}Response")
    )
    metadata = {
        "x-modal-client-version": "1.6.4",
        "x-modal-client-type": "1",
        "x-modal-token-id": os.environ["MODAL_TOKEN_ID"],
        "x-modal-token-secret": os.environ["MODAL_TOKEN_SECRET"],
        "x-idempotency-key": f"{RUN}-{key}",
        "x-retry-attempt": str(attempt),
    }
    return await call(request(**fields), metadata=metadata, timeout=20)


async def lookup(channel):
    made = {"deployment_name": f"repeated-{RUN}", "object_creation_type": 1}
    queue = await ask(channel, "QueueGetOrCreate", "queue", 0, **made)
    entries = await ask(channel, "DictGetOrCreate", "dict", 0, **made)
    return queue.queue_id, entries.dict_id


async def first(channel):
    queue, entries = await lookup(channel)
    await ask(channel, "QueuePut", "put", 0, queue_id=queue, values=[b"one", b"two", b"three"])
    got = await ask(channel, "QueueGet", "get", 0, queue_id=queue, n_values=2)
    print("got", got.values)
    one = [api_pb2.DictEntry(key=b"lock", value=b"mine")]
    made = await ask(channel, "DictUpdate", "lock", 0, dict_id=entries, updates=one, if_not_exists=True)
    print("created", made.created)
    other = [api_pb2.DictEntry(key=b"a", value=b"1")]
    await ask(channel, "DictUpdate", "set", 0, dict_id=entries, updates=other)
    popped = await ask(channel, "DictPop", "pop", 0, dict_id=entries, key=b"a")
    print("popped", popped.found, popped.value)


async def again(channel):
    queue, entries = await lookup(channel)
    await ask(channel, "QueuePut", "put", 1, queue_id=queue, values=[b"one", b"two", b"three"])
    got = await ask(channel, "QueueGet", "get", 1, queue_id=queue, n_values=2)
    print("got", got.values)
    length = await ask(channel, "QueueLen", "len", 0, queue_id=queue)
    print("left", length.len)
    one = [api_pb2.DictEntry(key=b"lock", value=b"mine")]
    made = await ask(channel, "DictUpdate", "lock", 1, dict_id=entries, updates=one, if_not_exists=True)
    other = await ask(channel, "DictUpdate", "other lock", 0, dict_id=entries, updates=one, if_not_exists=True)
    print("created", made.created, other.created)
    popped = await ask(channel, "DictPop", "pop", 1, dict_id=entries, key=b"a")
    other = await ask(channel, "DictPop", "other pop", 0, dict_id=entries, key=b"a")
    print("popped", popped.found, popped.value, other.found)


async def lost(channel):
    """Callers whose connection ends while they wait, and one that asks again while its first try still waits."""
    queue, _ = await lookup(channel)
    other = Channel(channel._host, channel._port)
    gone = {"queue_id": queue, "n_values": 9, "timeout": 20, "partition_key": b"lost"}
    waiting = [asyncio.ensure_future(ask(other, "QueueGet", f"gone {n}", 0, **gone)) for n in range(20)]
    await asyncio.sleep(0.5)
    other.close()
    await asyncio.gather(*waiting, return_exceptions=True)
    one = asyncio.ensure_future(
        ask(channel, "QueueGet", "twice", 0, queue_id=queue, n_values=1, timeout=20, partition_key=b"lost")
    )
    await asyncio.sleep(0.3)
    two = asyncio.ensure_future(
        ask(channel, "QueueGet", "twice", 1, queue_id=queue, n_values=1, timeout=20, partition_key=b"lost")
    )
    await asyncio.sleep(0.3)
    await ask(channel, "QueuePut", "news", 0, queue_id=queue, values=[b"kept", b"next"], partition_key=b"lost")
    print("kept", (await two).values)
    print("replaced", type((await asyncio.gather(one, return_exceptions=True))[0]).__name__)
    rest = await ask(channel, "QueueGet", "rest", 0, queue_id=queue, n_values=9, timeout=5, partition_key=b"lost")
    print("rest", rest.values)


async def main():
    url = urllib.parse.urlsplit(os.environ["MODAL_SERVER_URL"])
    channel = Channel(url.hostname, url.port)
    await {"first": first, "again": again, "lost": lost}[sys.argv[1]](channel)
    channel.close()


asyncio.run(main())
