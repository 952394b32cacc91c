"""A spawned call that is sent again, as clients do when they had no answer. Prints `called ID` and `returned`.

Runs in the newest client's environment, with `listed_calls.py` deployed. `first` makes the call and waits for its result;
`again` sends the same request, as a client that never heard of that: the server may have died in between, and the call have
left its memory. Then it makes another call, which comes after the first wherever that runs. Not a Modal program.
"""

import asyncio
import os
import pickle
import sys
import urllib.parse

from grpclib.client import Channel, UnaryUnaryMethod
from modal_proto import api_pb2

RUN = sys.argv[2]


async def ask(channel, method, key, attempt, /, **fields):
    request, reply = getattr(api_pb2, f"{method}Request"), getattr(api_pb2, f"{method}Response")
    call = UnaryUnaryMethod(channel, f"/modal.client.ModalClient/{method}", request, reply)
    metadata = {
        "x-modal-client-version": "1.6.4",
        "x-modal-client-type": "1",
        "x-modal-token-id": os.environ["MODAL_TOKEN_ID"],
        "x-modal-token-secret": os.environ["MODAL_TOKEN_SECRET"],
        "x-idempotency-key": f"{RUN}-{key}",
        "x-retry-attempt": str(attempt),
    }
    return await call(request(**fields), metadata=metadata, timeout=90)


async def spawn(channel, function, key, attempt):
    argument = pickle.dumps(((f"{key}-{RUN}",), {}))
    made = await ask(
        channel,
        "FunctionMap",
        key,
        attempt,
        function_id=function,
        function_call_type=api_pb2.FUNCTION_CALL_TYPE_UNARY,
        function_call_invocation_type=api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC,
        pipelined_inputs=[
            api_pb2.FunctionPutInputsItem(
                idx=0, input=api_pb2.FunctionInput(args=argument, data_format=api_pb2.DATA_FORMAT_PICKLE)
            )
        ],
    )
    print("called", made.function_call_id)
    got = await ask(
        channel,
        "FunctionGetOutputs",
        f"{key} outputs {attempt}",
        0,
        function_call_id=made.function_call_id,
        timeout=55,
        max_values=1,
        last_entry_id="0-0",
    )
    assert [output.result.status for output in got.outputs] == [api_pb2.GenericResult.GENERIC_STATUS_SUCCESS], got
    print("returned")


async def main():
    url = urllib.parse.urlsplit(os.environ["MODAL_SERVER_URL"])
    channel = Channel(url.hostname, url.port)
    attempt = {"first": 0, "again": 1}[sys.argv[1]]
    found = await ask(channel, "FunctionGet", f"look {attempt}", 0, app_name="listed-calls", object_tag="work")
    await spawn(channel, found.function_id, "spawned", attempt)
    if attempt:
        await spawn(channel, found.function_id, "another", 0)
    channel.close()


asyncio.run(main())
