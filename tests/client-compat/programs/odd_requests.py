"""Requests that no honest client makes, sent over a real connection; prints `NAME STATUS MESSAGE` for each.

Runs in the newest client's environment, which has the library for the wire. Not a Modal program.
"""

import asyncio
import os
import urllib.parse

from google.protobuf.empty_pb2 import Empty
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.exceptions import GRPCError
from modal_proto import api_pb2


class Raw:
    """Bytes that are sent as they are, in place of a message."""

    def __init__(self, data):
        self.data = data

    def SerializeToString(self):
        return self.data

    @classmethod
    def FromString(cls, data):
        return cls(data)


def metadata(**changed):
    known = {
        "x-modal-client-version": "1.6.4",
        "x-modal-client-type": "1",
        "x-modal-token-id": os.environ["MODAL_TOKEN_ID"],
        "x-modal-token-secret": os.environ["MODAL_TOKEN_SECRET"],
    }
    changed = {f"x-modal-{name.replace('_', '-')}": value for name, value in changed.items()}
    return {name: value for name, value in {**known, **changed}.items() if value is not None}


async def ask(channel, name, method, message, reply=Raw, **headers):
    kind = type(message)
    call = UnaryUnaryMethod(channel, f"/modal.client.ModalClient/{method}", kind, reply)
    try:
        await call(message, metadata=metadata(**headers), timeout=20)
        print(name, "OK", flush=True)
    except GRPCError as refused:
        print(name, refused.status.name, (refused.message or "").replace("\n", " "), flush=True)
    except Exception as broken:
        print(name, "BROKEN", type(broken).__name__, broken, flush=True)


async def main():
    url = urllib.parse.urlsplit(os.environ["MODAL_SERVER_URL"])
    channel = Channel(url.hostname, url.port)
    hello = api_pb2.AppListRequest()
    await ask(channel, "honest", "AppList", hello)
    await ask(channel, "no-token", "AppList", hello, token_id=None, token_secret=None)
    await ask(channel, "wrong-secret", "AppList", hello, token_secret="as-wrong")
    await ask(channel, "wrong-id", "AppList", hello, token_id="ak-wrong")
    await ask(
        channel, "container-without-a-socket", "AppList", hello, client_type="3", token_id=None, token_secret=None
    )
    await ask(channel, "unknown-method", "InventedMethod", Empty())
    await ask(channel, "known-method-not-served", "NotebookKernelPublishResults", Empty())
    await ask(channel, "garbage", "AppList", Raw(b"\xff\xff\xff\xff"))
    await ask(channel, "cut-short", "AppCreate", Raw(b"\x12\xff"))
    await ask(channel, "unknown-field", "AppList", Raw(b"\xfa\x3f\x03abc"))
    await ask(channel, "old-client", "ClientHello", Empty(), client_version="0.62.16")
    await ask(
        channel, "old-client-app", "AppCreate", api_pb2.AppCreateRequest(description="x"), client_version="0.62.16"
    )
    await ask(channel, "odd-version", "AppList", hello, client_version="banana")
    await ask(channel, "no-such-app", "AppStop", api_pb2.AppStopRequest(app_id="ap-0123456789012345678901"))
    await ask(channel, "no-app-id", "AppStop", api_pb2.AppStopRequest(app_id="\x00 not an id"))
    await ask(channel, "no-such-call", "FunctionGetOutputs", api_pb2.FunctionGetOutputsRequest(
        function_call_id="fc-0123456789012345678901", timeout=1, last_entry_id="0-0"))  # fmt: skip
    await ask(channel, "no-such-function", "FunctionMap", api_pb2.FunctionMapRequest(
        function_id="fu-0123456789012345678901"))  # fmt: skip
    await ask(channel, "no-such-image", "ImageFromId", api_pb2.ImageFromIdRequest(image_id="im-0123456789012345678901"))
    await ask(channel, "no-such-task", "ContainerStop", api_pb2.ContainerStopRequest(task_id="ta-" + "0" * 26))
    await ask(channel, "no-such-blob", "BlobGet", api_pb2.BlobGetRequest(blob_id="bl-0123456789012345678901"))
    await ask(channel, "no-such-environment", "AppCreate", api_pb2.AppCreateRequest(
        description="x", environment_name="nowhere"))  # fmt: skip
    await ask(channel, "odd-environment-name", "EnvironmentCreate", api_pb2.EnvironmentCreateRequest(name="../etc"))
    await ask(channel, "long-name", "AppStop", api_pb2.AppStopRequest(app_id="x" * 400_000))
    await ask(channel, "input-over-the-limit", "FunctionPutInputs", api_pb2.FunctionPutInputsRequest(
        function_call_id="fc-0123456789012345678901",
        inputs=[api_pb2.FunctionPutInputsItem(input=api_pb2.FunctionInput(args=b"x" * (120 << 20)))]))  # fmt: skip
    await ask(channel, "still-honest", "AppList", hello)
    channel.close()


asyncio.run(main())
