"""What the image programs share: a look into a container of an image, files to put into images, and packages to install.

Nothing here is part of an image. The packages are wheels and source trees of a few hundred bytes, made here with fixed
dates, so that their layers stay in the cache, and installed from folders, so that no index has to be asked.
"""

import atexit
import hashlib
import shutil
import tempfile
import zipfile
from pathlib import Path

import modal

VERSION = tuple(int(part) for part in modal.__version__.split(".")[:2])
NOT_IN_THIS_CLIENT = "skip: this client has no such method"


def look(image, mounts=None, volumes=None, **expressions):
    """Each expression's value in a container of the image; `os`, `sys` and `shell` are there."""

    # Inside another function, so that it is sent by value.
    def evaluate(expressions):
        import os
        import subprocess
        import sys

        def shell(command):
            ended = subprocess.run(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            return ended.stdout.strip()

        names = {"os": os, "sys": sys, "shell": shell}
        return {name: eval(expression, names) for name, expression in expressions.items()}

    app = modal.App("image-look")
    more = {name: value for name, value in [("mounts", mounts), ("volumes", volumes)] if value is not None}
    remote = app.function(image=image, serialized=True, **more)(evaluate)
    with app.run():
        return remote.remote(expressions)


def made(image):
    """The image's id, once it is built; no container is started."""

    def never_called():
        pass

    app = modal.App("image-made")
    app.function(image=image, serialized=True)(never_called)
    with app.run():
        return image.object_id


def refusal(image):
    """What the user is told about an image that cannot be built."""
    try:
        found = look(image, built="True")
    except Exception as raised:  # each client has its own kinds
        return f"{type(raised).__name__}: {raised}"
    raise AssertionError(f"the image was built: {found}")


def local_folder(files, name="files"):
    """A folder on the user's machine with these files, gone when the program ends."""
    root = Path(tempfile.mkdtemp(prefix="image-check-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for path, text in files.items():
        file = root / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root / name


def with_folder(image, folder, remote):
    """A layer with a local folder in it, in this client's words."""
    if hasattr(image, "add_local_dir"):
        return image.add_local_dir(str(folder), remote, copy=True)
    return image.copy_local_dir(str(folder), remote)


def wheel(name, version, requires=()):
    """`{file name: bytes}` of a package whose module says its version; a requirement may carry a marker."""
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    extras = sorted({line.split("extra == ")[1].strip("'\" ") for line in requires if "extra == " in line})
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"]
    metadata += [f"Provides-Extra: {extra}\n" for extra in extras]
    metadata += [f"Requires-Dist: {line}\n" for line in requires]
    files = {
        f"{module}.py": f"version = {version!r}\n",
        f"{info}/METADATA": "".join(metadata),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: check\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = Path(tempfile.mkdtemp(prefix="image-check-")) / "packed"
    with zipfile.ZipFile(path, "w") as packed:
        for member, text in files.items():
            packed.writestr(zipfile.ZipInfo(member, (2020, 1, 1, 0, 0, 0)), text)
    data = path.read_bytes()
    shutil.rmtree(path.parent)
    return {f"{module}-{version}-py3-none-any.whl": data}


def index(wheels):
    """The files of a package index that has these wheels, as pip reads it from a `file://` URL."""
    files, names = {}, {}
    for file, data in wheels.items():
        name = file.split("-")[0].replace("_", "-")
        names.setdefault(name, []).append(f'<a href="{file}#sha256={hashlib.sha256(data).hexdigest()}">{file}</a>')
        files[f"{name}/{file}"] = data
    files |= {f"{name}/index.html": f"<!DOCTYPE html><body>{''.join(links)}</body>" for name, links in names.items()}
    return files


def installed(*names):
    """An expression: which version of each package there is, if any."""
    one = "next((p.version for p in __import__('importlib.metadata').metadata.distributions(name=name)), None)"
    return "{name: " + one + f" for name in {names!r}" + "}"
