"""`buildah bud`, Debian's, as somebody uses it who wants the same image: with its cache of layers, and overlayfs.

It runs as root without an OCI runtime (`--isolation chroot`), which is its quickest way to run a step, with the host's
network. What the host says about proxies, indexes and certificates is given to it as Dorian gives it to its builds.
"""

import os
import subprocess
import time
from pathlib import Path

BASE = "localhost/bench-base"
CA_INSIDE = "/etc/ssl/certs/ca-certificates.crt"

# As in `crates/image-builder/src/host.rs`, as far as pip, uv and apt read them.
PASSED = """http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY PIP_INDEX_URL PIP_EXTRA_INDEX_URL
PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT PIP_RETRIES UV_INDEX_URL UV_EXTRA_INDEX_URL UV_DEFAULT_INDEX UV_INDEX
UV_INSECURE_HOST UV_HTTP_TIMEOUT""".split()
CA_VARIABLES = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE"]


class Buildah:
    def __init__(self, data):
        self.root, self.run_root = data / "root", data / "run"
        # Where it writes layers on their way, and keeps what cache mounts hold.
        self.environment = {**os.environ, "TMPDIR": str(data / "tmp")}
        (data / "tmp").mkdir(parents=True, exist_ok=True)
        self.storage = ["--root", self.root, "--runroot", self.run_root, "--storage-driver"]
        self.driver = self._driver()

    def _driver(self):
        """Overlayfs where the kernel lets it; otherwise whole copies, which are far slower."""
        probe = subprocess.run(["buildah", *self.storage, "overlay", "images"], capture_output=True)
        return "vfs" if probe.returncode else "overlay"

    def __call__(self, *arguments):
        """Runs it to its end and answers how long that took."""
        before = time.perf_counter()
        command = ["buildah", *self.storage, self.driver, *arguments]
        done = subprocess.run(
            list(map(str, command)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
        )
        seconds = time.perf_counter() - before
        if done.returncode:
            raise RuntimeError(f"`{' '.join(map(str, command))}` failed:\n{done.stdout[-4000:]}")
        return seconds

    def pull_base(self, reference):
        self("pull", "--tls-verify=false", reference)
        self("tag", reference, BASE)

    def build(self, folder, lines):
        """Builds `lines` above the base, with `folder` as context."""
        dockerfile = folder / "Dockerfile"
        dockerfile.write_text("\n".join([f"FROM {BASE}", *lines]) + "\n")
        options = ["--isolation", "chroot", "--layers", "--pull-never", "--network", "host", "-q", *host_settings()]
        return self("bud", *options, "-t", "bench-image", "-f", dockerfile, folder)

    def forget_builds(self):
        """Its images would fill the disk; the base stays."""
        self("rmi", "-f", "bench-image")
        self("rmi", "--prune", "-f")

    def close(self):
        """Ends what a failed build left, and the mount that it keeps for its overlays."""
        self("rm", "--all")
        subprocess.run(["umount", "-q", self.root / "overlay"], check=False)


def host_settings():
    settings = {name: os.environ[name] for name in PASSED if os.environ.get(name)}
    settings["PIP_ROOT_USER_ACTION"], settings["PIP_DISABLE_PIP_VERSION_CHECK"] = "ignore", "1"
    candidates = [os.environ.get(name) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")]
    bundle = next((c for c in [*candidates, CA_INSIDE] if c and Path(c).is_file()), None)
    volumes = []
    if bundle:
        settings |= dict.fromkeys(CA_VARIABLES, CA_INSIDE)
        volumes = ["-v", f"{Path(bundle).resolve()}:{CA_INSIDE}:ro"]
    return [*(f"--env={name}={value}" for name, value in settings.items()), *volumes]
