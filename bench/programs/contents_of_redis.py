"""The same of Redis, through redis-py: its plain client (`client`) and its asyncio one (`wire`)."""

import sys

import rates
import redis
import redis.asyncio

VALUE = b"v" * rates.VALUE_BYTES
PORT = int(sys.argv[1])


def client_acts():
    r = redis.Redis(port=PORT)
    return {
        "dict put": lambda n: r.set(f"key-{n % rates.KEYS}", VALUE),
        "dict get": lambda n: r.get(f"key-{n % rates.KEYS}"),
        "queue put": lambda n: r.lpush("puts", VALUE),
        "queue get": lambda n: r.brpop("gets", timeout=50),
        "fill": lambda n: r.lpush("gets", *[VALUE] * n),
        "clear": lambda: r.flushall(),
    }


async def on_the_wire(order):
    r = redis.asyncio.Redis(port=PORT, max_connections=10_000)
    acts = {
        "dict put": lambda n: r.set(f"key-{n % rates.KEYS}", VALUE),
        "dict get": lambda n: r.get(f"key-{n % rates.KEYS}"),
        "queue put": lambda n: r.lpush("puts", VALUE),
        "queue get": lambda n: r.brpop("gets", timeout=50),
        "fill": lambda n: r.lpush("gets", *[VALUE] * n),
        "clear": lambda: r.flushall(),
        "waiting get": lambda: r.brpop("wake", timeout=50),
        "waking put": lambda: r.lpush("wake", VALUE),
        "idle get": lambda n: r.brpop(f"idle-{n}", timeout=50),
    }
    try:
        return await order(acts)
    finally:
        await r.aclose()


rates.serve({"version": redis.__version__}, client_acts, on_the_wire)
