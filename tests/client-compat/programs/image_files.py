"""Images: files of the user's machine, in a layer or brought when the container starts."""

import sys

import modal
import modal.mount
from image_tools import NOT_IN_THIS_CLIENT, VERSION, local_folder, look, refusal

# Some clients have it that no longer show it.
Mount = modal.mount.Mount
MOUNTS = hasattr(Mount, "from_local_dir")

app = modal.App("image-files")
base = modal.Image.debian_slim()

TREE = {"kept.txt": "kept", "deep/kept.txt": "deep", "deep/left.log": "never", "left.pyc": "never", "run.sh": "#!/bin/sh"}
tree = local_folder(TREE, "tree")
(tree / "run.sh").chmod(0o755)

SEEN = "sorted(os.path.relpath(os.path.join(r, n), '/there') for r, _, names in os.walk('/there') for n in names)"
KEPT = ["deep/kept.txt", "kept.txt", "run.sh"]
# From any depth: the clients differ in what a pattern without `**` is relative to.
IGNORED = ["**/*.log", "**/*.pyc"]


def both_ways(add):
    """The images that have something in a layer and brought at the start."""
    return [add(copy=True), add(copy=False)]


def check_add_local_file_puts_it_under_its_name():
    if not hasattr(base, "add_local_file"):
        return NOT_IN_THIS_CLIENT
    for image in both_ways(lambda copy: base.add_local_file(str(tree / "run.sh"), "/there/", copy=copy)):
        found = look(image, seen=SEEN, text="open('/there/run.sh').read()", runs="os.access('/there/run.sh', os.X_OK)")
        assert found == {"seen": ["run.sh"], "text": "#!/bin/sh", "runs": True}, found


def check_add_local_dir_leaves_out_what_is_ignored():
    if not hasattr(base, "add_local_dir"):
        return NOT_IN_THIS_CLIENT
    for image in both_ways(lambda copy: base.add_local_dir(str(tree), "/there", ignore=IGNORED, copy=copy)):
        assert look(image, seen=SEEN)["seen"] == KEPT

    def is_ignored(path):
        return path.suffix != ".txt"

    for image in both_ways(lambda copy: base.add_local_dir(tree, "/there", ignore=is_ignored, copy=copy)):
        assert look(image, seen=SEEN)["seen"] == ["deep/kept.txt", "kept.txt"]


def check_add_local_python_source_is_imported():
    if not hasattr(base, "add_local_python_source"):
        return NOT_IN_THIS_CLIENT
    modules = {"image_check_one.py": "said = 'one'\n", "image_check_two/__init__.py": "said = 'two'\n",
               "image_check_two/data.txt": "never", "image_check_two/part.py": "said = 'part'\n"}  # fmt: skip
    folder = local_folder(modules)
    sys.path.insert(0, str(folder))
    names = ("image_check_one", "image_check_two", "image_check_two.part")
    said = f"[__import__('importlib').import_module(name).said for name in {names!r}]"
    data = "os.path.exists(os.path.join(os.path.dirname(__import__('image_check_two').__file__), 'data.txt'))"
    for image in both_ways(lambda copy: base.add_local_python_source(*names[:2], copy=copy)):
        assert look(image, said=said, data=data) == {"said": ["one", "two", "part"], "data": False}


def check_a_layer_on_files_of_the_start_is_refused_by_the_client():
    if not hasattr(base, "add_local_file"):
        return NOT_IN_THIS_CLIENT
    said = refusal(base.add_local_file(str(tree / "run.sh"), "/there/run.sh").run_commands("true"))
    assert "copy=True" in said, said


def check_a_changed_file_makes_a_new_layer_and_the_same_file_none():
    folder = local_folder({"file": "one"})

    def build():
        image = (
            base.add_local_dir(str(folder), "/there", copy=True)
            if hasattr(base, "add_local_dir")
            else base.copy_local_dir(str(folder), "/there")
        )
        image = image.run_commands("cat /proc/sys/kernel/random/uuid > /built")
        return look(image, file="open('/there/file').read()", built="open('/built').read()")

    first, again = build(), build()
    (folder / "file").write_text("two")
    changed = build()
    assert first == again and first["file"] == "one", (first, again)
    assert changed["file"] == "two" and changed["built"] != first["built"], changed


def check_copy_local_file_copies_to_a_path_or_the_working_folder():
    if not hasattr(base, "copy_local_file"):
        return NOT_IN_THIS_CLIENT
    image = base.copy_local_file(str(tree / "kept.txt"), "/there/other.txt").workdir("/there")
    image = image.copy_local_file(tree / "kept.txt")
    assert look(image, seen=SEEN)["seen"] == ["kept.txt", "other.txt"]


def check_copy_local_dir_copies_to_a_path_or_the_working_folder():
    if not hasattr(base, "copy_local_dir"):
        return NOT_IN_THIS_CLIENT
    everything = sorted(TREE)
    assert look(base.copy_local_dir(str(tree), "/there"), seen=SEEN)["seen"] == everything
    assert look(base.workdir("/there").copy_local_dir(tree), seen=SEEN)["seen"] == everything
    if hasattr(base, "add_local_dir"):
        assert look(base.copy_local_dir(tree, "/there", ignore=IGNORED), seen=SEEN)["seen"] == KEPT


def check_copy_mount_copies_a_mount():
    if not hasattr(base, "copy_mount"):
        return NOT_IN_THIS_CLIENT
    mount = Mount.from_local_dir(str(tree), remote_path="/below", condition=lambda path: path.endswith(".txt"))
    mount = mount.add_local_file(str(tree / "run.sh"), "/below/more/run.sh")
    found = look(base.copy_mount(mount, "/there"), seen=SEEN)["seen"]
    assert found == ["below/deep/kept.txt", "below/kept.txt", "below/more/run.sh"], found


def check_mounts_of_a_function_are_there_at_its_start():
    if VERSION >= (1, 0):
        return NOT_IN_THIS_CLIENT
    folder = local_folder({"image_check_mounted/__init__.py": "said = 'mounted'\n"})
    sys.path.insert(0, str(folder))
    mounts = [
        Mount.from_local_file(str(tree / "run.sh"), "/there/run.sh"),
        Mount.from_local_dir(str(tree), remote_path="/there/all", recursive=False),
        Mount.from_local_python_packages("image_check_mounted"),
    ]
    assert all(mount.is_local() for mount in mounts)
    found = look(base, mounts, seen=SEEN, said="__import__('image_check_mounted').said")
    assert found == {"seen": ["all/kept.txt", "all/left.pyc", "all/run.sh", "run.sh"], "said": "mounted"}, found


def check_a_mount_is_what_dockerfile_commands_copy_from():
    if not MOUNTS:
        return NOT_IN_THIS_CLIENT
    folder = local_folder({"image_check_packed/__init__.py": "said = 'packed'\n"})
    sys.path.insert(0, str(folder))

    def is_text(path):
        return path.endswith(".txt")

    chosen = {"remote_path": "/sent", "condition": is_text, "recursive": False}
    mounts = {
        "COPY sent /there/": Mount.from_local_dir(str(tree), **chosen),
        "COPY d /there/": Mount.from_local_file(str(tree / "run.sh"), "/d/one")
        .add_local_file(str(tree / "run.sh"), "/d/two")
        .add_local_dir(str(tree), **{**chosen, "remote_path": "/d/sent"}),
        "COPY root /there/": Mount.from_local_python_packages(
            "image_check_packed", remote_dir="/root/deep", condition=lambda path: True
        ),
    }
    expected = [["kept.txt"], ["one", "sent/kept.txt", "two"], ["deep/image_check_packed/__init__.py"]]
    for (line, mount), paths in zip(mounts.items(), expected, strict=True):
        assert mount.is_local() and len(mount.entries) >= 1
        image = base.dockerfile_commands(line, context_mount=mount)
        assert look(image, seen=SEEN)["seen"] == paths


def check_python_packages_of_a_mount_leave_out_what_is_ignored():
    if not MOUNTS or VERSION < (0, 70):
        return NOT_IN_THIS_CLIENT
    names = {"image_check_partly/__init__.py": "", "image_check_partly/left.py": ""}
    sys.path.insert(0, str(local_folder(names)))
    mount = Mount.from_local_python_packages("image_check_partly", remote_dir="/root", ignore=["**/left.py"])
    image = base.dockerfile_commands("COPY root /there/", context_mount=mount)
    assert look(image, seen=SEEN)["seen"] == ["image_check_partly/__init__.py"]


def check_a_mount_that_has_no_such_name_is_refused():
    if not MOUNTS:
        return NOT_IN_THIS_CLIENT
    name = "image-check-no-such-mount"
    said = refusal(base.dockerfile_commands("COPY . /there/", context_mount=Mount.from_name(name, namespace=1)))
    assert name in said, said
    try:
        Mount.lookup(name, environment_name="main")
    except Exception as raised:  # each client has its own kinds
        assert name in str(raised), raised
        return
    raise AssertionError("a mount was found that nobody made")


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
