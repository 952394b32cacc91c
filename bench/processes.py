"""The programs that are measured, as processes that this one starts, talks to and ends."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

BENCH = Path(__file__).resolve().parent
READY_S = 900
STOP_S = 30

# What tells how long the phases of a start took, and nothing that is said for every call.
LOGGED = ["owner", "shared", "rpc::containers", "rpc::images"]
LOG = ",".join(["info", *(f"dorian_control_plane::{module}=debug" for module in LOGGED)])


class Server:
    """`dorian up` on a data folder of the bench's own."""

    def __init__(self, binary, data):
        self.binary, self.data = Path(binary).resolve(), Path(data).resolve()
        self.data.mkdir(parents=True, exist_ok=True)
        self.log = self.data / "server.log"

    def __enter__(self):
        command = [self.binary, "up", "--data", self.data, "--listen", "127.0.0.1:0"]
        environment = {**os.environ, "DORIAN_LOG": LOG, "NO_COLOR": "1"}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True, env=environment
            )
        line = self.process.stdout.readline()
        if not line.startswith("ready "):
            raise RuntimeError(f"`dorian up` did not start; see {self.log}")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(STOP_S)

    def client_environment(self):
        said = subprocess.run(
            [self.binary, "env", "--data", self.data], check=True, capture_output=True, text=True
        ).stdout
        exports = [line.removeprefix("export ") for line in said.splitlines() if line.startswith("export ")]
        pairs = (line.partition("=")[::2] for line in exports)
        return {**os.environ, **{name: shlex.split(value)[0] for name, value in pairs}}

    def memory_mib(self):
        """Resident memory of the server and of the launcher that it forked."""
        launchers = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        own = resident_mib(self.process.pid)
        return {"server": own, "launcher": sum(map(resident_mib, launchers))}


def resident_mib(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) / 1024


class Program:
    """A program that answers each line of orders with a line of JSON."""

    def __init__(self, *command, env=None):
        self.command = [str(c) for c in command]
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self.about = self.answer()

    def answer(self):
        # The client prints, too; answers are the lines that are JSON objects.
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"`{shlex.join(self.command)}` ended with {self.process.wait()}")

    def ask(self, *order):
        self.process.stdin.write(" ".join(map(str, order)) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.write("quit\n")
        self.process.stdin.close()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
