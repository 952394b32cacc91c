"""A real registry on loopback (Debian's `docker-registry`), and an image that is pushed to it.

The image has what a puller can get wrong: a gzip and a zstd layer, a removed file, a directory made opaque, a replaced
file, a variable in its configuration; and it is there twice, under an index and as a single manifest.
"""

import gzip
import hashlib
import http.client
import io
import json
import shutil
import subprocess
import tarfile
import urllib.parse
from pathlib import Path

from harness import LANE, STATE, free_port, wait_for

ROOT = STATE / "registry" / LANE
SUITE = "bookworm"
PACKAGES = "python3,python3-pip,python3-venv,python-is-python3,ca-certificates"
LAYER = "application/vnd.oci.image.layer.v1.tar+"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def base_tar():
    """A small Debian with Python and pip, made once and kept."""
    path = STATE / "registry" / f"{SUITE}.tar"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"unfinished-{LANE}-{path.name}")
        # Debian's mark that only apt may install would make every `pip install` of a builder fail.
        unmark = 'rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED'
        options = ["--variant=minbase", f"--include={PACKAGES}", f"--customize-hook={unmark}"]
        subprocess.run(["mmdebstrap", *options, SUITE, unfinished], check=True)
        unfinished.rename(path)
    return path


def tar_of(files):
    """`files` maps a path to its text, or to None for a directory."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            if text is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(member)
            else:
                member.size, member.mode = len(text), 0o644
                tar.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


LOWER = {
    "srv": None,
    "srv/kept": "kept",
    "srv/removed": "must not be seen",
    "srv/changed": "old",
    "srv/opaque": None,
    "srv/opaque/below": "must not be seen",
}
UPPER = {
    "srv": None,
    "srv/.wh.removed": "",
    "srv/changed": "new",
    "srv/opaque": None,
    "srv/opaque/.wh..wh..opq": "",
    "srv/opaque/above": "seen",
}


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Registry:
    def __init__(self, root=ROOT, accounts=None):
        """`accounts` maps a user to the bcrypt hash of a password; then nobody else may read or write."""
        self.root = Path(root)
        self.port = free_port()
        self.process = None
        self.accounts = accounts
        # For what the tests themselves push.
        self.authorization = None

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        storage = self.root / "storage"
        shutil.rmtree(storage, ignore_errors=True)
        storage.mkdir(parents=True)
        config = {
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": str(storage)}},
            "http": {"addr": self.address},
            "log": {"level": "warn"},
        }
        if self.accounts:
            users = self.root / "htpasswd"
            users.write_text("".join(f"{user}:{password}\n" for user, password in self.accounts.items()))
            config["auth"] = {"htpasswd": {"realm": "private", "path": str(users)}}
        file = self.root / "config.yml"
        file.write_text(json.dumps(config))  # JSON is YAML
        log = open(self.root / "registry.log", "w")
        self.process = subprocess.Popen(["docker-registry", "serve", file], stdout=log, stderr=log)
        wait_for(self._answers, 10, f"an answer from docker-registry on {self.address}")
        return self

    def stop(self):
        self.process.terminate()
        self.process.wait(10)

    def _answers(self):
        try:
            return self._ask("GET", "/v2/")[0] in (200, 401)
        except OSError:
            return False

    def _ask(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        if self.authorization:
            headers["Authorization"] = self.authorization
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def push_blob(self, name, data):
        status, headers, _ = self._ask("POST", f"/v2/{name}/blobs/uploads/", Content_Length="0")
        assert status == 202, status
        place = urllib.parse.urlsplit(headers["Location"])
        target = f"{place.path}?{place.query}&digest={digest(data)}"
        status, _, said = self._ask("PUT", target, data, Content_Type="application/octet-stream")
        assert status == 201, (status, said)
        return {"digest": digest(data), "size": len(data)}

    def push_manifest(self, name, reference, media_type, content):
        data = json.dumps({"schemaVersion": 2, "mediaType": media_type, **content}).encode()
        status, _, said = self._ask("PUT", f"/v2/{name}/manifests/{reference}", data, Content_Type=media_type)
        assert status == 201, (status, said)
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    def push_image(self, name="sample/image"):
        """The image under the tags `single` and `indexed`."""
        layers = [base_tar().read_bytes(), tar_of(LOWER), tar_of(UPPER)]
        zstd = subprocess.run(["zstd", "-c", "-q"], input=layers[2], stdout=subprocess.PIPE, check=True).stdout
        packed = [(gzip.compress(layers[0], 1), "gzip"), (gzip.compress(layers[1]), "gzip"), (zstd, "zstd")]
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "FROM_THE_IMAGE=yes"]
            },
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        }
        described = {"mediaType": "application/vnd.oci.image.config.v1+json"}
        described |= self.push_blob(name, json.dumps(config).encode())
        content = {
            "config": described,
            "layers": [{"mediaType": LAYER + kind, **self.push_blob(name, data)} for data, kind in packed],
        }
        manifest = self.push_manifest(name, "single", MANIFEST, content)
        # Another platform comes first, so that taking the first entry is wrong.
        other = {**manifest, "platform": {"architecture": "arm64", "os": "linux"}, "digest": "sha256:" + "0" * 64}
        ours = {**manifest, "platform": {"architecture": "amd64", "os": "linux"}}
        try:
            self.push_manifest(name, "indexed", INDEX, {"manifests": [other, ours]})
        except AssertionError:
            # Some registries insist that every entry is there.
            self.push_manifest(name, "indexed", INDEX, {"manifests": [ours]})
        return f"{self.address}/{name}"

    def push_on_top(self, tag, layer, name="sample/image"):
        """The image that is there as `single`, with one more layer, under a tag of its own."""
        content = json.loads(self._ask("GET", f"/v2/{name}/manifests/single", Accept=MANIFEST)[2])
        config = json.loads(self._ask("GET", f"/v2/{name}/blobs/{content['config']['digest']}")[2])
        config["rootfs"]["diff_ids"].append(digest(layer))
        content["config"] |= self.push_blob(name, json.dumps(config).encode())
        content["layers"].append({"mediaType": LAYER + "gzip", **self.push_blob(name, gzip.compress(layer))})
        self.push_manifest(name, tag, MANIFEST, {key: content[key] for key in ("config", "layers")})
        return f"{self.address}/{name}:{tag}"

    def corrupt(self):
        """Changes one byte of the largest blob behind the registry's back."""
        blobs = sorted((self.root / "storage").rglob("data"), key=lambda p: p.stat().st_size)
        with blobs[-1].open("r+b") as blob:
            blob.seek(1000)
            byte = blob.read(1)
            blob.seek(1000)
            blob.write(bytes([byte[0] ^ 1]))
