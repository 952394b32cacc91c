"""Follows an app's log from an entry on, until a text came; prints each line with the id of its entry.

The command line's follower ends when its server dies, so this one asks as the client's library would. Runs in the newest
client's environment, which has the library for the wire. Not a Modal program.
"""

import asyncio
import os
import sys
import urllib.parse

from grpclib.client import Channel, UnaryStreamMethod
from modal_proto import api_pb2

METADATA = {
    "x-modal-client-version": "1.6.4",
    "x-modal-client-type": "1",
    "x-modal-token-id": os.environ["MODAL_TOKEN_ID"],
    "x-modal-token-secret": os.environ["MODAL_TOKEN_SECRET"],
}


async def main(app_id, last_entry_id, text):
    server = urllib.parse.urlparse(os.environ["MODAL_SERVER_URL"])
    async with Channel(server.hostname, server.port) as channel:
        name = "/modal.client.ModalClient/AppGetLogs"
        follow = UnaryStreamMethod(channel, name, api_pb2.AppGetLogsRequest, api_pb2.TaskLogsBatch)
        request = api_pb2.AppGetLogsRequest(app_id=app_id, last_entry_id=last_entry_id, timeout=55)
        async with follow.open(timeout=60, metadata=METADATA) as stream:
            await stream.send_message(request, end=True)
            async for batch in stream:
                for item in batch.items:
                    print(batch.entry_id, item.data.strip(), flush=True)
                    if text in item.data:
                        return await stream.cancel()


asyncio.run(main(*sys.argv[1:]))
