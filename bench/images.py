"""Image builds of Dorian and of `buildah bud`, in turns within each round, above the same base from the same registry.

Dorian is driven by the real client (`programs/dorian_images.py`), buildah by its command line with the Dockerfile that
a person would write for the same image. Both get the base before anything is measured, and both install with the
same indexes, certificates and uv. A round begins with an ENV line that no build had before, so that no layer of an
earlier round serves it.

Package caches are stated with each case. Dorian's builds always share one; "cold" means that it was emptied just before.
Buildah's have none unless the Dockerfile mounts one: "cold" is the plain Dockerfile, "warm" the one with a cache mount
that an earlier build has filled.
"""

import contextlib
import gzip
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time

from buildah import Buildah
from processes import BENCH, Program, Server

sys.path.insert(0, str(BENCH.parent / "tests/client-compat"))
from registry import LAYER, MANIFEST, Registry, base_tar, digest  # noqa: E402

# Ten that people install, with wheels of all sizes and about thirty dependencies.
TEN = """numpy==2.1.3 requests==2.32.3 fastapi==0.115.6 httpx==0.28.1 pydantic==2.10.4 sqlalchemy==2.0.36 rich==13.9.4
pillow==11.0.0 aiohttp==3.11.11 jinja2==3.1.4""".split()
ONE_MORE = "tqdm==4.67.1"
CACHE_MOUNT = "--mount=type=cache,target=/root/.cache "
PROGRAM = BENCH / "programs/dorian_images.py"
UNCHANGED_RUNS = 5
EMPTY_STEPS = 10

# 2026-01-01T00:00:00.000000Z DEBUG dorian_control_plane::rpc::images: an image was asked for image=im-… took_us=…
ASKED = re.compile(r"an image was asked for .*took_us=(\d+)")


def measure_builds(options, say):
    """Samples of every case: a list of rounds, each a map from the case to what was measured."""
    data = options.data.resolve()
    with started_registry(data / "registry") as registry, Server(options.binaries / "dorian", data) as server:
        environment = server.client_environment()
        with Program(sys.executable, PROGRAM, env=environment) as program:
            bench = Bench(data, server, program, environment, push_base(registry))
            with contextlib.closing(bench.buildah):
                say("images: pulling the base on both sides, and filling the caches")
                bench.prepare()
                rounds = []
                for number in range(options.image_rounds):
                    say(f"images: round {number + 1} of {options.image_rounds} (load {os.getloadavg()[0]:.1f})")
                    rounds.append(bench.round(dorian_first=number % 2 == 0))
    return {"driver": bench.buildah.driver, "rounds": rounds}


def measure_sizes(options, say):
    """Cold starts on the base and on an image of 2 GB above it, in turns."""
    data = options.data.resolve()
    with started_registry(data / "registry") as registry, Server(options.binaries / "dorian", data) as server:
        environment = {**server.client_environment(), "BENCH_BASE": push_base(registry)}
        say("sizes: making an image of 2 GB")
        with Program(sys.executable, BENCH / "programs/dorian_sizes.py", env=environment) as program:
            starts = {"slim": [], "large": []}
            for name in starts:
                program.ask(name)
            for _ in range(options.rounds):
                for name, samples in starts.items():
                    samples.append(program.ask(name)["first_line_ms"])
    return starts


@contextlib.contextmanager
def started_registry(folder):
    folder.mkdir(parents=True, exist_ok=True)
    registry = Registry(folder).start()
    try:
        yield registry
    finally:
        registry.stop()


def push_base(registry):
    """A small Debian with Python and pip, as one layer; answers its reference."""
    layer = base_tar().read_bytes()
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": [path]},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        # Buildah insists on as many entries as layers.
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "mmdebstrap"}],
    }
    described = registry.push_blob("bench/base", json.dumps(config).encode())
    packed = registry.push_blob("bench/base", gzip.compress(layer, 1))
    content = {
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **described},
        "layers": [{"mediaType": LAYER + "gzip", **packed}],
    }
    registry.push_manifest("bench/base", "latest", MANIFEST, content)
    return f"{registry.address}/bench/base:latest"


class Bench:
    def __init__(self, data, server, program, environment, base):
        self.data, self.server, self.program, self.environment, self.base = data, server, program, environment, base
        self.context = data / "images-context"
        shutil.rmtree(self.context, ignore_errors=True)
        self.context.mkdir(parents=True)
        self.source = self.context / "app.py"
        self.buildah = Buildah(data / "buildah")

    def prepare(self):
        self.change_source()
        self.buildah.pull_base(self.base)
        self.dorian(installs=[])
        self.dorian(installs=[[ONE_MORE]], tool="uv")
        # Buildah's image gets the file that Dorian's copies from the uv image.
        binary = next((self.data / "images/layers").glob("*/diff/.uv/uv"))
        shutil.copy(binary, self.context / "uv")
        for tool in ("pip", "uv"):
            self.bud([TEN + [ONE_MORE]], tool=tool, token=secrets.token_hex(8), mounted=True)

    def change_source(self):
        self.source.write_text(f"print('{secrets.token_hex(8)}')\n")

    def round(self, dorian_first):
        token = secrets.token_hex(8)
        ten, more, longer = {"installs": [TEN]}, {"installs": [TEN, [ONE_MORE]]}, {"installs": [[*TEN, ONE_MORE]]}
        found = {"load": os.getloadavg()[0]}

        def turns(case, order, before=lambda: None, mounted=False):
            ours = lambda: self.dorian(**order)["seconds"]  # noqa: E731
            theirs = lambda: self.bud(**order, mounted=mounted)  # noqa: E731
            both = [("dorian", ours), ("buildah", theirs)]
            before()
            found[case] = {name: run() for name, run in (both if dorian_first else reversed(both))}

        turns("first, cold", {**ten, "token": token}, before=self.forget_packages)
        found["unchanged"] = self.unchanged({**ten, "token": token})
        turns("changed source file", {**ten, "token": token}, before=self.change_source)
        turns("one more package", {**more, "token": token})
        turns("one more in the list, warm", {**longer, "token": token})
        token = secrets.token_hex(8)
        turns("first, warm", {**ten, "token": token}, mounted=True)
        turns("one more in the list, both warm", {**longer, "token": token}, mounted=True)
        uv = {**ten, "tool": "uv"}
        turns("first with uv, cold", {**uv, "token": secrets.token_hex(8)}, before=self.forget_packages)
        uv["token"] = secrets.token_hex(8)
        turns("first with uv, warm", uv, mounted=True)
        turns("one more package with uv, warm", {**uv, **more, "token": uv["token"]}, mounted=True)
        turns("ten steps that do nothing", {"commands": ["true"] * EMPTY_STEPS, "token": token})
        self.buildah.forget_builds()
        return found

    def unchanged(self, order):
        """Both as whole processes; of ours also what the client's call took, and the server's part of that."""
        order = self.order(**order)
        ours = []
        for _ in range(UNCHANGED_RUNS):
            seen = self.server.log.stat().st_size
            before = time.perf_counter()
            said = subprocess.run(
                [sys.executable, PROGRAM],
                input=json.dumps(order) + "\nquit\n",
                stdout=subprocess.PIPE,
                text=True,
                env=self.environment,
                check=True,
            ).stdout
            process = time.perf_counter() - before
            call = json.loads([line for line in said.splitlines() if line.startswith("{")][-1])["seconds"]
            ours.append({"process": process, "call": call, "server": self.server_seconds(seen)})
        dockerfile = self.lines(order["installs"], order["tool"], order["token"], order["commands"], False)
        theirs = [self.buildah.build(self.context, dockerfile) for _ in range(UNCHANGED_RUNS)]
        return {"dorian": ours, "buildah": theirs}

    def server_seconds(self, seen):
        """The server's time for the images asked for since the log had `seen` bytes."""
        with open(self.server.log, errors="replace") as log:
            log.seek(seen)
            return sum(int(took) for took in ASKED.findall(log.read())) / 1e6

    def order(self, installs=(), tool="pip", token="", commands=()):
        order = {"installs": list(installs), "tool": tool, "token": token, "commands": list(commands)}
        return {**order, "base": self.base, "source": str(self.source)}

    def dorian(self, **order):
        return self.program.ask(json.dumps(self.order(**order)))

    def bud(self, installs=(), tool="pip", token="", commands=(), mounted=False):
        return self.buildah.build(self.context, self.lines(installs, tool, token, commands, mounted))

    @staticmethod
    def lines(installs, tool, token, commands, mounted):
        """The Dockerfile of the same image, without its FROM."""
        mount = CACHE_MOUNT if mounted else ""
        install = "python -m pip install"
        lines = [f"ENV BENCH_TOKEN={token}"]
        if tool == "uv":
            install = "/.uv/uv pip install --python $(command -v python) --compile-bytecode"
            lines += ["COPY uv /.uv/uv", "ENV UV_LINK_MODE=copy"]
        lines += [f"RUN {mount}{install} {' '.join(sorted(packages))}" for packages in installs]
        return [*lines, *(f"RUN {command}" for command in commands), "COPY app.py /root/app.py"]

    def forget_packages(self):
        """Dorian's package caches, emptied while no build runs."""
        for kind in ("pip", "uv", "apt"):
            for folder in (self.data / "images/cache").glob(f"{kind}/*"):
                for entry in folder.iterdir():
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
