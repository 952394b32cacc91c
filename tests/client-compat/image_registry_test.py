"""Images from registries, with every client: open ones, and the ways to log in to private ones."""

import base64
import hashlib
import hmac
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from program_checks import assert_check, for_each_check
from registry import ROOT, Registry

# The hashes of passwords are bcrypt's; `htpasswd -nbB user password` writes such ones.
READER = ("reader", "let me in", "$2b$05$abcdefghijklmnopqrstuu4h2R.N3/mVBA7Xh7aLzKSJDAsK61n52")
# Google's registry takes a service account's key as password.
GOOGLE = ("_json_key", '{"type": "service_account"}', "$2b$05$abcdefghijklmnopqrstuumvrXPGdM5LrB8tVJiQITpbRGBeWf/ry")
AMAZON_KEY = "wJalr/check"


def _header(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class _Amazon(BaseHTTPRequestHandler):
    """The one request by which an access key of Amazon's becomes a registry's password; its signature has to be right."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        right = self.headers["authorization"].endswith(f"Signature={self._signature(body)}")
        token = base64.b64encode(f"{READER[0]}:{READER[1]}".encode()).decode()
        answer = {"authorizationData": [{"authorizationToken": token}]} if right else {"__type": "SignatureDoesNotMatch"}
        answer = json.dumps(answer).encode()
        self.send_response(200 if right else 400)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _signature(self, body):
        fields = dict(part.strip().split("=", 1) for part in self.headers["authorization"].split(" ", 1)[1].split(","))
        scope = fields["Credential"].split("/", 1)[1]
        names = fields["SignedHeaders"].split(";")
        headers = "".join(f"{name}:{self.headers[name].strip()}\n" for name in names)
        digest = hashlib.sha256(body).hexdigest()
        request = "\n".join(["POST", self.path, "", headers, fields["SignedHeaders"], digest])
        text = ["AWS4-HMAC-SHA256", self.headers["x-amz-date"], scope, hashlib.sha256(request.encode()).hexdigest()]
        key = b"AWS4" + AMAZON_KEY.encode()
        for part in [*scope.split("/"), "\n".join(text)]:
            key = hmac.new(key, part.encode(), "sha256").digest()
        return key.hex()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def references(server):
    """An image of an open and of a private registry, for a server that asks our Amazon for passwords."""
    amazon = ThreadingHTTPServer(("127.0.0.1", 0), _Amazon)
    threading.Thread(target=amazon.serve_forever, daemon=True).start()
    opened, private = Registry(), Registry(ROOT / "private", {READER[0]: READER[2], GOOGLE[0]: GOOGLE[2]})
    private.authorization = _header(*READER[:2])
    config = server.data / "config.toml"
    before = config.read_text() if config.exists() else None
    server.stop()
    config.write_text(f'[registries]\necr_endpoint = "http://127.0.0.1:{amazon.server_port}"\n')
    try:
        server.start()
        yield {
            "CHECK_OPEN": f"{opened.start().push_image()}:single",
            "CHECK_PRIVATE": f"{private.start().push_image('team/image')}:indexed",
        }
    finally:
        for registry in (opened, private):
            if registry.process:
                registry.stop()
        amazon.shutdown()
        server.stop()
        config.unlink() if before is None else config.write_text(before)
        server.start()


@for_each_check("image_registry.py")
def registries(clients, references, version, check):
    assert_check(clients, "image_registry.py", version, check, 600, **references)
