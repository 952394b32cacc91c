"""A store with S3's interface on loopback for tests of bucket mounts, and a place in front of it that goes bad on request."""

import base64
import json
import socket
import subprocess
import threading
import time
from pathlib import Path

from harness import LANE, STATE

PYTHON = STATE / "s3" / "bin" / "python"
SERVER = Path(__file__).resolve().parent / "servers" / "s3_server.py"
# Python alone takes some seconds to import the store on a busy machine.
READY_S = 60


class Store:
    """Only its own access key may come in; `call` acts with that key, past the server under test."""

    def __init__(self):
        self.log = open(STATE / f"s3-{LANE}.log", "w")
        self.process = subprocess.Popen(
            [PYTHON, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        said = self.process.stdout.readline()
        assert said, f"the store did not start; see {self.log.name}"
        found = json.loads(said)
        self.endpoint = found["endpoint"]
        self.key, self.secret = found["aws_access_key_id"], found["aws_secret_access_key"]
        self.lock = threading.Lock()

    @property
    def port(self):
        return int(self.endpoint.rsplit(":", 1)[1])

    def call(self, call, **arguments):
        with self.lock:
            self.process.stdin.write(json.dumps({"call": call, **arguments}) + "\n")
            self.process.stdin.flush()
            said = json.loads(self.process.stdout.readline())
        if "error" in said:
            raise KeyError(said["error"])
        return said

    def put(self, bucket, key, data, **more):
        data = data.encode() if isinstance(data, str) else data
        self.call("put_object", Bucket=bucket, Key=key, Body=base64.b64encode(data).decode(), **more)

    def get(self, bucket, key):
        return base64.b64decode(self.call("get_object", Bucket=bucket, Key=key)["Body"])

    def head(self, bucket, key):
        return self.call("head_object", Bucket=bucket, Key=key)

    def keys(self, bucket, prefix=""):
        said = self.call("list_objects_v2", Bucket=bucket, Prefix=prefix)
        return [entry["Key"] for entry in said.get("Contents", [])]

    def uploads(self, bucket):
        return self.call("list_multipart_uploads", Bucket=bucket).get("Uploads", [])

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Door:
    """A port in front of another that lets everything through, until it is told to be silent or to shut."""

    def __init__(self, port):
        self.behind = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.is_silent = False
        self.open_sockets = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def silence(self):
        """Connections stand, and nothing comes through."""
        self.is_silent = True

    def shut(self):
        """Nobody is there any more."""
        # Another thread sits in `accept` and would keep the port open.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for each in list(self.open_sockets):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.behind))
            except OSError:
                return
            self.open_sockets |= {near, far}
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source, target):
        try:
            while data := source.recv(1 << 16):
                while self.is_silent:
                    time.sleep(0.1)
                target.sendall(data)
        except OSError:
            pass
        for each in (source, target):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
