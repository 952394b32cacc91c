"""Buckets as folders: one bucket whole and to be written to, a part of it to be read only, and one that is public."""

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import time

import modal

app = modal.App("buckets")

# Only the local side defines anything; a container's mounts are made before its program runs.
get = os.environ.get
BUCKET, ENDPOINT = get("CHECK_BUCKET", "data"), get("CHECK_ENDPOINT", "http://127.0.0.1:1")
MANY = int(get("CHECK_MANY", "0"))
BIG = int(get("CHECK_BIG_MIB", "200")) << 20
keys = modal.Secret.from_dict(
    {"AWS_ACCESS_KEY_ID": get("CHECK_KEY", "x"), "AWS_SECRET_ACCESS_KEY": get("CHECK_SECRET", "x"), "NOT_FOR_STORES": "1"}
)


def bucket(name=BUCKET, **options):
    options = {"bucket_endpoint_url": ENDPOINT, "secret": keys, **options}
    return modal.CloudBucketMount(name, **options)


volumes = {
    "/data": bucket(),
    "/part": bucket(key_prefix="nested/deep/", read_only=True),
    "/public": bucket("public", secret=None, read_only=True),
}


def error_of(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "nothing"


def digest_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write(path, text, mode="w"):
    with open(path, mode) as file:
        file.write(text)


def read(path):
    with open(path) as file:
        return file.read()


@app.function(volumes=volumes, timeout=120)
def do(what, *arguments):
    return globals()[what](*arguments)


@app.function(volumes={"/other": bucket()})
def read_elsewhere(name):
    return read(f"/other/{name}")


@app.cls()
class Reader:
    @modal.method()
    def read(self, path):
        return read(path)


# --- reading


def look():
    tree = sorted(os.path.join(at, n)[5:] for at, folders, files in os.walk("/data") for n in folders + files)
    info = os.stat("/data/hello.txt")
    return {
        "tree": [name for name in tree if not name.startswith("/written")],
        "hello": read("/data/hello.txt"),
        "owner": (info.st_uid, info.st_gid, stat.filemode(info.st_mode), info.st_size),
        "folder": stat.filemode(os.stat("/data/nested").st_mode),
        "unicode": read("/data/ünï/日本 + %20&?#.txt"),
        "both": os.path.isdir("/data/both"),
        "inside both": read("/data/both/inside"),
        "part": sorted(os.listdir("/part")),
        "part file": read("/part/leaf.txt"),
        "public": read("/public/page"),
        "missing": error_of(lambda: open("/data/no such")),
        "missing folder": error_of(lambda: os.listdir("/data/no such")),
        "empty": os.path.getsize("/data/empty"),
        "many": len(os.listdir("/data/many")),
        "many sizes": sum(entry.stat().st_size for entry in os.scandir("/data/many")),
        "keys": [os.environ.get(name) for name in ("AWS_SECRET_ACCESS_KEY", "NOT_FOR_STORES")],
    }


def check_what_is_in_a_bucket_is_seen_as_files():
    seen = do.remote("look")
    assert seen["hello"] == "hello" and seen["owner"] == (0, 0, "-rw-r--r--", 5) and seen["folder"] == "drwxr-xr-x", seen
    assert seen["unicode"] == "ü" and seen["public"] == "page" and seen["empty"] == 0, seen
    # A folder hides the key of its name; markers are no files; what cannot be a name is not shown.
    assert seen["both"] and seen["inside both"] == "inside", seen
    assert seen["part"] == ["leaf.txt", "more"] and seen["part file"] == "leaf", seen
    assert (seen["missing"], seen["missing folder"]) == ("ENOENT", "ENOENT"), seen
    assert (seen["many"], seen["many sizes"]) == (MANY, MANY), seen
    assert seen["keys"] == [None, None], "a mount's secret is not the program's"
    shown = [name for name in seen["tree"] if not name.startswith("/many/")]
    expected = ["/both", "/both!", "/both/inside", "/empty", "/hello.txt", "/many", "/marked", "/nested", "/nested/deep"]
    expected += ["/nested/deep/leaf.txt", "/nested/deep/more", "/nested/deep/more/x", "/odd", "/ünï", "/ünï/日本 + %20&?#.txt"]
    assert [name for name in shown if name not in ("/big", "/jump")] == expected, shown


def check_options_of_a_class_may_bring_a_bucket():
    if int(modal.__version__.split(".")[0]) < 1 or modal.__version__.startswith("1.0."):
        return "skip: this client takes only volumes there"
    assert Reader.with_options(volumes={"/optional": bucket(read_only=True)})().read.remote("/optional/hello.txt") == "hello"


def jump():
    path = "/data/jump"
    with open(path, "wb") as file:
        for block in range(2048):
            file.write(block.to_bytes(4, "big") * 1024)
    wrong = []
    with open(path, "rb", buffering=0) as file:
        for block in (2047, 0, 1024, 1023, 5, 2046, 600, 601, 602, 599):
            file.seek(block * 4096 + 8)
            if file.read(4) != block.to_bytes(4, "big"):
                wrong.append(block)
    return wrong


def check_files_are_read_anywhere():
    assert do.remote("jump") == []


# --- writing


def write_files():
    os.makedirs("/data/written/new/deeper", exist_ok=True)
    write("/data/written/new/deeper/file", "text")
    write("/data/written/once", "old")
    write("/data/written/once", "new")
    write("/data/written/ümlaut ☃", "snow")
    open("/data/written/touched", "w").close()
    subprocess.run("echo one > /data/written/shell; (echo two; echo three) > /data/written/subshell", shell=True, check=True)
    shutil.copyfile("/data/hello.txt", "/data/written/copy")
    shutil.copy("/data/hello.txt", "/data/written/copy with mode")
    subprocess.run(["cp", "/data/hello.txt", "/data/written/cp"], check=True)
    with open("/data/written/synced", "w") as file:
        file.write("synced")
        file.flush()
        os.fsync(file.fileno())
        synced = os.path.getsize("/data/written/synced")
    return {
        "read back": read("/data/written/once"),
        "listed": sorted(os.listdir("/data/written/new/deeper")),
        "copy": read("/data/written/copy"),
        "synced": synced,
        "touched": os.path.getsize("/data/written/touched"),
        "shell": read("/data/written/shell") + read("/data/written/subshell"),
    }


def check_files_are_written_and_seen_by_other_containers():
    seen = do.remote("write_files")
    assert seen["read back"] == "new" and seen["listed"] == ["file"] and seen["copy"] == "hello", seen
    assert seen["synced"] == 6 and seen["touched"] == 0 and seen["shell"] == "one\ntwo\nthree\n", seen
    assert read_elsewhere.remote("written/new/deeper/file") == "text"
    assert read_elsewhere.remote("written/ümlaut ☃") == "snow"


def limits():
    write("/data/written/whole", "whole")
    with open("/data/written/held", "w") as file:
        file.write("x")
        file.flush()
        unlinked = error_of(lambda: os.unlink("/data/written/held"))
        not_yet = error_of(lambda: open("/data/written/held").read())
        again = error_of(lambda: open("/data/written/held", "w"))
    write("/data/written/order", "good")
    file = open("/data/written/order", "wb", buffering=0)
    file.write(b"0123456789")
    order = error_of(lambda: os.pwrite(file.fileno(), b"x", 3))
    after = error_of(lambda: os.pwrite(file.fileno(), b"x", 10))
    closed = error_of(file.close)
    os.makedirs("/data/written/full", exist_ok=True)
    write("/data/written/full/f", "")
    return {
        "append": error_of(lambda: open("/data/written/whole", "a")),
        "change": error_of(lambda: write("/data/written/whole", "x", "r+")),
        "rename": error_of(lambda: os.rename("/data/written/whole", "/data/written/renamed")),
        "truncate": error_of(lambda: os.truncate("/data/written/whole", 2)),
        "chmod": error_of(lambda: os.chmod("/data/written/whole", 0o755)),
        "same mode": error_of(lambda: os.chmod("/data/written/whole", 0o644)),
        "link": error_of(lambda: os.link("/data/written/whole", "/data/written/linked")),
        "symlink": error_of(lambda: os.symlink("whole", "/data/written/linked")),
        "rmdir full": error_of(lambda: os.rmdir("/data/written/full")),
        "mkdir again": error_of(lambda: os.mkdir("/data/written/full")),
        "long name": error_of(lambda: open("/data/written/" + "x" * 300, "w")),
        "unlinked": unlinked,
        "not yet": not_yet,
        "again": again,
        "order": order,
        "after": after,
        "closed": closed,
        "kept": read("/data/written/order"),
        "whole": read("/data/written/whole"),
    }


def check_what_cannot_be_done_well_fails_at_once():
    seen = do.remote("limits")
    expected = {
        "append": "EPERM", "change": "EPERM", "rename": "EOPNOTSUPP", "truncate": "EPERM", "chmod": "EPERM",
        "same mode": "nothing", "link": "EPERM", "symlink": "EPERM", "rmdir full": "ENOTEMPTY", "mkdir again": "EEXIST",
        "long name": "ENAMETOOLONG", "unlinked": "EBUSY", "not yet": "EBUSY", "again": "EBUSY", "order": "EINVAL",
        "after": "EINVAL", "closed": "EINVAL", "kept": "good", "whole": "whole",
    }  # fmt: skip
    if seen["rename"] == "ENOTSUP":
        expected["rename"] = "ENOTSUP"
    assert seen == expected, {name: (seen[name], expected[name]) for name in expected if seen[name] != expected[name]}


def remove_files():
    os.makedirs("/data/written/gone", exist_ok=True)
    write("/data/written/gone/f", "x")
    os.unlink("/data/written/gone/f")
    os.makedirs("/data/written/empty/inner")
    os.rmdir("/data/written/empty/inner")
    os.rmdir("/data/written/empty")
    # What is known of the folder is believed for a second.
    time.sleep(1.1)
    return [os.path.exists(f"/data/written/{name}") for name in ("gone/f", "gone", "empty")]


def check_files_and_empty_folders_are_removed():
    assert do.remote("remove_files") == [False, False, False]


def try_read_only():
    return [
        error_of(lambda: open("/part/new", "w")),
        error_of(lambda: os.mkdir("/part/folder")),
        error_of(lambda: os.unlink("/part/leaf.txt")),
        error_of(lambda: open("/part/leaf.txt", "r+")),
    ]


def check_a_read_only_mount_is_one():
    assert do.remote("try_read_only") == ["EROFS"] * 4


def write_big(size):
    digest, block = hashlib.sha256(), bytes(range(256)) * 4096
    with open("/data/big", "wb") as file:
        for number in range(size // len(block)):
            piece = number.to_bytes(8, "big") + block[8:]
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def check_a_big_file_goes_and_comes_whole():
    written = do.remote("write_big", BIG)
    assert do.remote("digest_of", "/data/big") == written


def die_writing():
    child = subprocess.Popen(["python", "-c", "f = open('/data/written/half', 'w'); f.write('x' * 10**6); f.flush(); input()"], stdin=subprocess.PIPE)
    while not os.path.exists("/data/written/half") or not os.path.getsize("/data/written/half"):
        assert child.poll() is None
    child.kill()
    child.wait()
    return os.path.exists("/data/written/half")


def check_a_writer_that_is_killed_publishes_nothing():
    do.remote("die_writing")


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
