"""Volumes during image builds: read and written by steps and by `run_function`, and in no image.

Every run has volumes of its own, so that nothing was built with them before.
"""

import inspect
import sys
import time

import modal

if modal.is_local():
    from image_tools import NOT_IN_THIS_CLIENT, look, refusal
    from volume_tools import anew, content, delete, put, tree

app = modal.App("build-volumes")
base = modal.Image.debian_slim()


def takes_volumes():
    return "volumes" in inspect.signature(base.run_commands).parameters


def read_and_write():
    with open("/v/given") as given, open("/seen", "w") as seen:
        seen.write(given.read())
    for path in ["/v/written", "/stamp"]:
        with open(path, "w") as file:
            file.write(f"stamp of {time.time_ns() if path == '/v/written' else open('/v/written').read()}")


def kept_and_cached(build, volume):
    """What each way of building promises; `build` gives the image anew each time that it is called."""
    put(volume, {"given": b"from the volume"})
    mounted = look(build(), volumes={"/v": volume}, written="open('/v/written').read()")
    bare = look(build(), seen="open('/seen').read()", stamp="open('/stamp').read()", names="os.path.exists('/v')")
    assert bare == {"seen": "from the volume", "stamp": f"stamp of {mounted['written']}", "names": False}, bare
    assert content(volume, "written").decode() == mounted["written"]
    # What a volume holds makes no image anew, and an image that is there writes nothing.
    put(volume, {"given": b"changed"}, force=True)
    volume.remove_file("/written")
    assert look(build(), seen="open('/seen').read()", stamp="open('/stamp').read()") == {k: bare[k] for k in ("seen", "stamp")}
    assert "written" not in tree(volume), tree(volume)


def check_run_commands_read_and_write_a_volume():
    if not takes_volumes():
        return NOT_IN_THIS_CLIENT
    volume = anew("build-commands")
    steps = [
        "cat /v/given > /seen && date +%s%N | tr -d '\\n' > /v/written && mkdir /v/deep",
        "test -d /v/deep && printf 'stamp of %s' $(cat /v/written) > /stamp",
    ]
    kept_and_cached(lambda: base.run_commands(*steps, volumes={"/v": volume}), volume)


def check_run_function_reads_and_writes_a_volume():
    volume = anew("build-function")
    kept_and_cached(lambda: base.run_function(read_and_write, volumes={"/v": volume}), volume)


def check_a_step_that_fails_commits_nothing_and_those_before_it_stay():
    if not takes_volumes():
        return NOT_IN_THIS_CLIENT
    volume = anew("build-failing")
    steps = ["mkdir /v/sub && echo 1 > /v/sub/kept", "echo 2 > /v/lost && rm /v/sub/kept && exit 41"]
    said = refusal(base.run_commands(*steps, volumes={"/v": volume}))
    assert "41" in said and set(tree(volume)) == {"sub", "sub/kept"}, (said, tree(volume))
    places = {"/v": volume.with_mount_options(read_only=True, sub_path="sub")}
    image = base.run_commands("cat /v/kept > /seen; if echo x > /v/x; then exit 42; fi", volumes=places)
    assert look(image, seen="open('/seen').read()")["seen"] == "1\n"
    gone = anew("build-gone").hydrate()
    delete(f"build-gone-{modal.__version__}")
    said = refusal(base.run_commands("true", volumes={"/v": gone}))
    assert f"`{gone.object_id}`, which does not exist" in said, said


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
