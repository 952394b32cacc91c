"""Dicts and queues next to Redis, on loopback, each through comparable clients in Python."""

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

from processes import BENCH, Program, Server

ACTS = ["dict put", "dict get", "queue put", "queue get"]
# (way, callers): the clients as programs use them; and without their layers, one caller after the other, and many.
WAYS = [("client", 1), ("wire", 1), ("wire", 32)]
SECONDS = 2
WAKES = 100
WAITING = 1_000
WAITING_S = 5


def measure(options, say):
    say("starting the server and two Redis, one that keeps nothing and one that waits for the disk as we do")
    synced = ["--appendonly", "yes", "--appendfsync", "always"]
    with (
        Server(options.binaries / "dorian", options.data) as server,
        redis_server(options.data / "redis-memory", ["--appendonly", "no"]) as memory,
        redis_server(options.data / "redis-always", synced) as always,
        Program(sys.executable, BENCH / "programs/contents_of_dorian.py", env=server.client_environment()) as ours,
        Program(options.redis, BENCH / "programs/contents_of_redis.py", memory.port) as forgetful,
        Program(options.redis, BENCH / "programs/contents_of_redis.py", always.port) as durable,
    ):
        pids = {"dorian": server.process.pid, "redis": memory.process.pid, "redis_always": always.process.pid}
        programs = {"dorian": ours, "redis": forgetful, "redis_always": durable}
        for program in programs.values():
            for act in ACTS:
                program.ask("rate", "client", act.replace(" ", "-"), 1, 0.2)
        rounds = []
        for number in range(options.rounds):
            say(f"dicts and queues, round {number + 1} of {options.rounds}")
            rounds.append(one_round(programs, pids))
        waiting = {name: cpu_while_waiting(programs[name], pids[name]) for name in ("dorian", "redis")}
        versions = {name: program.about["version"] for name, program in programs.items()}
    return {"rounds": rounds, "waiting_cpu": waiting, "versions": versions}


def one_round(programs, pids):
    rates = {}
    for way, callers in WAYS:
        for act in ACTS:
            rates[f"{way} {callers} {act}"] = {
                name: rate(program, pids[name], way, act, callers) for name, program in programs.items()
            }
    wakes = {name: program.ask("wake", WAKES) for name, program in programs.items()}
    return {"rates": rates, "wakes": wakes, "load": os.getloadavg()[0]}


def rate(program, pid, way, act, callers):
    """Operations in a second, and what each takes of a core in the client's process and in the server."""
    before = cpu_seconds(pid)
    found = program.ask("rate", way, act.replace(" ", "-"), callers, SECONDS)
    return {**found, "server_us": (cpu_seconds(pid) - before) / found["done"] * 1e6}


def cpu_while_waiting(program, pid):
    """The share of one core that a server uses while consumers wait for what does not come."""
    program.process.stdin.write(f"wait {WAITING} {WAITING_S}\n")
    program.process.stdin.flush()
    program.answer()
    before, start = cpu_seconds(pid), time.monotonic()
    time.sleep(WAITING_S - 1)
    share = (cpu_seconds(pid) - before) / (time.monotonic() - start)
    program.answer()
    return share


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Redis:
    def __init__(self, process, port):
        self.process, self.port = process, port


@contextmanager
def redis_server(folder, arguments):
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", ""]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while socket.socket().connect_ex(("127.0.0.1", port)):
            if time.monotonic() > deadline:
                raise RuntimeError("`redis-server` does not answer")
            time.sleep(0.05)
        yield Redis(process, port)
    finally:
        process.terminate()
        process.wait(10)
