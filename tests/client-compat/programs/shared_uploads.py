"""Clients that put the same small file, one after the other. Prints `NAME VALUE`.

Runs in the newest client's environment. `begin` lets the first one of each pair put it while the second one has been told of it;
`end` lets the second one go on, after space was given back. Not a Modal program.
"""

import asyncio
import hashlib
import os
import sys
import urllib.parse

import aiohttp
from google.protobuf.empty_pb2 import Empty
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.exceptions import GRPCError
from modal_proto import api_pb2

REPLIES = {"VolumePutFiles": Empty}
RUN = sys.argv[2]
SHARED = f"shared by all {RUN}".encode()


async def ask(channel, method, key, /, **fields):
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
    }
    return await call(request(**fields), metadata=metadata, timeout=60)


async def said(name, call):
    try:
        await call
        print(name, "OK")
    except GRPCError as refused:
        print(name, refused.status.name)


def files_of(name, bytes):
    return [api_pb2.MountFile(filename=name, sha256_hex=hashlib.sha256(bytes).hexdigest())]


async def put(channel, volume, name):
    return await ask(channel, "VolumePutFiles", f"put {name}", volume_id=volume, files=files_of(name, SHARED))


async def put2(channel, volume, name, bytes, *, comes_again):
    """Answers with where to send what is missing."""
    block = api_pb2.VolumePutFiles2Request.Block(contents_sha256=hashlib.sha256(bytes).digest())
    if comes_again:
        block.put_response = b""
    files = [api_pb2.VolumePutFiles2Request.File(path=name, size=len(bytes), blocks=[block])]
    key = f"put2 {name} {comes_again}"
    answer = await ask(channel, "VolumePutFiles2", key, volume_id=volume, files=files)
    return [block.put_url for block in answer.missing_blocks]


async def send(url, bytes):
    async with aiohttp.ClientSession() as session, session.put(url, data=bytes) as response:
        return response.status


async def begin(channel, volume):
    sha = hashlib.sha256(SHARED).hexdigest()
    await ask(channel, "MountPutFile", "send", sha256_hex=sha, data=SHARED)
    await put(channel, volume, "one")
    told = await ask(channel, "MountPutFile", "other", sha256_hex=sha)
    print("other told", told.exists)
    of_one = await put2(channel, volume, "one2", SHARED, comes_again=False)
    of_other = await put2(channel, volume, "other2", SHARED, comes_again=False)
    print("missing", len(of_one), len(of_other))
    print("sent", await send(of_one[0], SHARED))
    print("missing", len(await put2(channel, volume, "one2", SHARED, comes_again=True)))
    print("url", of_other[0])


async def end(channel, volume):
    await said("other put", put(channel, volume, "other"))
    await said("one repeated", put(channel, volume, "one"))
    print("sent", await send(sys.argv[3], SHARED))
    print("missing", len(await put2(channel, volume, "other2", SHARED, comes_again=True)))


async def gone(channel, volume):
    await said("third put", put(channel, volume, "third"))
    print("missing", len(await put2(channel, volume, "third2", SHARED, comes_again=False)))


async def main():
    url = urllib.parse.urlsplit(os.environ["MODAL_SERVER_URL"])
    channel = Channel(url.hostname, url.port)
    made = await ask(channel, "VolumeGetOrCreate", "volume", deployment_name=f"shared-{RUN}", object_creation_type=1)
    await {"begin": begin, "end": end, "gone": gone}[sys.argv[1]](channel, made.volume_id)
    channel.close()


asyncio.run(main())
