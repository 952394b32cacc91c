"""Owners above 65535: in builds, in containers, in volumes and network file systems, and what is beyond all of them."""

import io
import os
import subprocess
import sys
import tarfile

import modal

if modal.is_local():
    from image_tools import local_folder, look, refusal
    from volume_tools import anew

    volume = anew("large-owners")
else:
    # Known by its id here; the name does not matter.
    volume = modal.Volume.from_name("large-owners")
shared = modal.NetworkFileSystem.from_name("large-owners", create_if_missing=True)
app = modal.App("large-owners")
base = modal.Image.debian_slim()
# A directory's, Cygwin's, OpenShift's, and the largest.
IDS = [100_500, 197_609, 1_000_650_000, 2_147_483_647]
BEYOND = 4_294_967_294


def archive_of(owner):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("unpacked/file")
        entry.uid, entry.gid, entry.size = owner, owner, 3
        archive.addfile(entry, io.BytesIO(b"abc"))
    return packed.getvalue()


def leave_a_file():
    with open("/by-function", "w"):
        pass
    os.chown("/by-function", 1_000_650_000, 100_500)


def owned_image():
    context = local_folder({"file.txt": "content\n", "owned.tar": archive_of(197_609)})
    lines = [
        "FROM base AS made",
        "COPY --chown=100500:100500 --chmod=600 file.txt /made",
        "FROM base",
        "COPY --from=made /made /copied",
        "ADD owned.tar /added",
        "COPY owned.tar /",
        "RUN tar -xf /owned.tar -C / && echo a > /a && install -o 1000650000 -g 1000650000 /a /installed",
        "RUN groupadd -g 100500 big && useradd -u 100500 -g big -m big && touch /changed && chown 2147483647:2147483647 /changed",
        "USER 1000650000",
        "RUN id -u > /tmp/by-number && touch /tmp/made",
        "USER big",
        "RUN id -u > /tmp/by-name && touch ~/made",
    ]
    return base.dockerfile_commands(lines, context_dir=context).run_function(leave_a_file)


def check_builds_give_files_large_owners():
    paths = ["/copied", "/added/unpacked/file", "/unpacked/file", "/installed", "/changed", "/tmp/made", "/home/big/made"]
    seen = look(
        owned_image(),
        by_function="(os.stat('/by-function').st_uid, os.stat('/by-function').st_gid)",
        owners=f"{{path: (os.stat(path).st_uid, os.stat(path).st_gid) for path in {paths!r}}}",
        users="open('/tmp/by-number').read().split() + open('/tmp/by-name').read().split()",
        said="shell('set -e; cat /copied; for f in " + " ".join(paths) + "; do echo more >> $f; chown 0:0 $f; "
        "chown 100501 $f; rm $f; done; rm -r /home/big; echo removed')",
    )
    owners = [100_500, 197_609, 197_609, 1_000_650_000, 2_147_483_647, 1_000_650_000, 100_500]
    # The group of a user that the image does not know is the same number.
    assert seen["owners"] == {path: (id, id) for path, id in zip(paths, owners)}, seen
    assert seen["by_function"] == (1_000_650_000, 100_500), seen
    assert seen["users"] == ["1000650000", "100500"], seen
    assert seen["said"] == "content\nremoved", seen


@app.function(volumes={"/volume": volume}, network_file_systems={"/shared": shared})
def leave_files():
    for folder in ("/volume", "/shared"):
        for id in IDS:
            path = f"{folder}/{id}"
            with open(path, "w") as file:
                file.write("old")
            os.chmod(path, 0o600)
            os.chown(path, id, id)
    # Large files are kept beside the volume's layers.
    with open("/volume/large", "wb") as file:
        file.write(bytes(1 << 20))
    os.chown("/volume/large", IDS[2], IDS[2])
    volume.commit()


@app.function(volumes={"/volume": volume}, network_file_systems={"/shared": shared})
def use_files():
    volume.reload()
    owners = {}
    for folder in ("/volume", "/shared"):
        for name in sorted(os.listdir(folder)):
            path = f"{folder}/{name}"
            owners[path] = (os.stat(path).st_uid, os.stat(path).st_gid)
            with open(path, "a") as file:
                file.write("new")
            os.chown(path, 100_501, 0)
            os.remove(path)
    volume.commit()
    return owners


@app.function()
def run_as(id):
    """A program under this id, which makes a file that root then removes."""
    command = ["setpriv", f"--reuid={id}", f"--regid={id}", f"--groups={id},100500", "sh", "-c", "id -u; id -G; touch /tmp/made"]
    ended = subprocess.run(command, capture_output=True, text=True)
    owner = os.stat("/tmp/made").st_uid
    os.remove("/tmp/made")
    return ended.stdout.split() + [owner]


@app.function()
def change_to(id):
    with open("/tmp/file", "w"):
        pass
    return subprocess.run(["chown", str(id), "/tmp/file"], capture_output=True, text=True).stderr


def check_volumes_and_network_file_systems_keep_large_owners():
    leave_files.remote()
    expected = {f"{folder}/{id}": (id, id) for folder in ("/volume", "/shared") for id in IDS}
    assert use_files.remote() == {"/volume/large": (IDS[2], IDS[2]), **expected}


def check_programs_run_under_large_ids():
    for id in IDS[1:]:
        assert run_as.remote(id) == [str(id), str(id), "100500", id]


def check_what_no_container_has_is_refused_with_the_limit():
    assert "Invalid argument" in change_to.remote(BEYOND)
    context = local_folder({"file.txt": "content\n", "owned.tar": archive_of(BEYOND)})
    # The client sends only what a COPY names.
    for lines, place in [
        ([f"COPY --chown={BEYOND} file.txt /x"], f"--chown={BEYOND}"),
        (["COPY owned.tar /", "ADD owned.tar /x"], "unpacked/file"),
        ([f"RUN touch /x && chown {BEYOND} /x"], "chown"),
    ]:
        said = refusal(base.dockerfile_commands(lines, context_dir=context))
        assert place in said and "2147483647" in said, said


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
