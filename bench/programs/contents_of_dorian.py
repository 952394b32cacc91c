"""Dicts and queues of Dorian: through the client (`client`), and through its wire alone (`wire`).

Orders: `rate WAY WHAT CALLERS SECONDS`, `wake COUNT`, `wait COUNT SECONDS`, `quit`. See `rates.py`.
"""

import os
import urllib.parse
import uuid

import modal
import rates
from google.protobuf.empty_pb2 import Empty
from grpclib.client import Channel, UnaryUnaryMethod
from modal_proto import api_pb2

VALUE = b"v" * rates.VALUE_BYTES
NAME = "bench-contents"


def client_acts():
    """Called by one thread after the other, as programs do."""
    entries = modal.Dict.from_name(NAME, create_if_missing=True)
    items = modal.Queue.from_name(NAME, create_if_missing=True)
    return {
        "dict put": lambda n: entries.put(n % rates.KEYS, VALUE),
        "dict get": lambda n: entries.get(n % rates.KEYS),
        "queue put": lambda n: items.put(VALUE, partition=f"puts-{n // 4_000}"),
        "queue get": lambda n: items.get(partition="gets"),
        "fill": lambda n: items.put_many([VALUE] * n, partition="gets"),
        "clear": lambda: items.clear(all=True),
    }


class Wire:
    """The client's messages over the client's gRPC library, with the metadata that every call of a client carries."""

    def __init__(self):
        url = urllib.parse.urlsplit(os.environ["MODAL_SERVER_URL"])
        self.channel = Channel(url.hostname, url.port)
        self.methods = {}
        self.metadata = {
            "x-modal-client-version": modal.__version__,
            "x-modal-client-type": "1",
            "x-modal-token-id": os.environ["MODAL_TOKEN_ID"],
            "x-modal-token-secret": os.environ["MODAL_TOKEN_SECRET"],
            "x-retry-attempt": "0",
        }

    async def ask(self, method, /, **fields):
        if method not in self.methods:
            request, reply = getattr(api_pb2, f"{method}Request"), getattr(api_pb2, f"{method}Response", Empty)
            call = UnaryUnaryMethod(self.channel, f"/modal.client.ModalClient/{method}", request, reply)
            self.methods[method] = (request, call)
        request, call = self.methods[method]
        return await call(request(**fields), metadata={**self.metadata, "x-idempotency-key": str(uuid.uuid4())})

    async def open(self):
        made = {"deployment_name": NAME, "object_creation_type": 1}
        self.queue = (await self.ask("QueueGetOrCreate", **made)).queue_id
        self.dict = (await self.ask("DictGetOrCreate", **made)).dict_id

    def acts(self):
        queue, entries = self.queue, self.dict

        def entry(n):
            return [api_pb2.DictEntry(key=b"key-%d" % (n % rates.KEYS), value=VALUE)]

        def partition(n):
            return b"puts-%d" % (n // 4_000)

        return {
            "dict put": lambda n: self.ask("DictUpdate", dict_id=entries, updates=entry(n)),
            "dict get": lambda n: self.ask("DictGet", dict_id=entries, key=b"key-%d" % (n % rates.KEYS)),
            "queue put": lambda n: self.ask("QueuePut", queue_id=queue, values=[VALUE], partition_key=partition(n)),
            "queue get": lambda n: self.get(b"gets"),
            "fill": lambda n: self.ask("QueuePut", queue_id=queue, values=[VALUE] * n, partition_key=b"gets"),
            "clear": lambda: self.ask("QueueClear", queue_id=queue, all_partitions=True),
            "waiting get": lambda: self.get(b"wake"),
            "waking put": lambda: self.ask("QueuePut", queue_id=queue, values=[VALUE], partition_key=b"wake"),
            "idle get": lambda n: self.get(b"idle-%d" % n),
        }

    def get(self, partition):
        return self.ask("QueueGet", queue_id=self.queue, n_values=1, timeout=50, partition_key=partition)


async def on_the_wire(order):
    wire = Wire()
    await wire.open()
    try:
        return await order(wire.acts())
    finally:
        wire.channel.close()


rates.serve({"version": modal.__version__}, client_acts, on_the_wire)
