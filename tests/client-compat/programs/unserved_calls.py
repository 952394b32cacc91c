"""Makes every call of the client's service that Dorian does not declare; prints `CALL STATUS MESSAGE` for each.

Runs in a client's own environment, which has the library for the wire. Not a Modal program.
"""

import asyncio
import os
import re
import sys
import urllib.parse

from google.protobuf.empty_pb2 import Empty
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.exceptions import GRPCError
from modal_proto import api_pb2


async def main(served):
    url = urllib.parse.urlsplit(os.environ["MODAL_SERVER_URL"])
    channel = Channel(url.hostname, url.port)
    metadata = {
        "x-modal-client-version": "1.6.4",
        "x-modal-client-type": "1",
        "x-modal-token-id": os.environ["MODAL_TOKEN_ID"],
        "x-modal-token-secret": os.environ["MODAL_TOKEN_SECRET"],
    }
    methods = [method.name for method in api_pb2.DESCRIPTOR.services_by_name["ModalClient"].methods]
    for name in [name for name in methods if name not in served]:
        call = UnaryUnaryMethod(channel, f"/modal.client.ModalClient/{name}", Empty, Empty)
        try:
            await call(Empty(), metadata=metadata, timeout=20)
            print(name, "OK", flush=True)
        except GRPCError as refused:
            print(name, refused.status.name, refused.message, flush=True)
    channel.close()


if __name__ == "__main__":
    with open(sys.argv[1]) as declared:
        asyncio.run(main(set(re.findall(r"^\s*rpc (\w+)", declared.read(), re.M))))
