"""Images: what `run_function` may be given besides a function and its arguments (`build_functions.py` has those)."""

import inspect
import os
import sys
import time

import modal

if modal.is_local():
    from image_tools import NOT_IN_THIS_CLIENT, VERSION, local_folder, look, refusal

app = modal.App("image-functions")
base = modal.Image.debian_slim()
OPTIONS = inspect.signature(base.run_function).parameters


def write_what_is_seen(*names):
    with open("/seen", "w") as file:
        file.write("|".join([os.environ.get(name, "") for name in names] + [time.strftime("%s"), str(time.time_ns())]))


def write_here():
    with open("/here", "w") as file:
        file.write("here")


def never_run_for_memory():
    pass


def write_alone():
    with open("/alone", "w") as file:
        file.write("written")


def copy_what_is_mounted():
    with open("/mounted/sent.txt") as sent, open("/copied", "w") as copied:
        copied.write(sent.read())


def sleep_for_long():
    time.sleep(60)


def check_run_function_takes_a_limit_of_time():
    started = time.monotonic()
    said = refusal(base.run_function(sleep_for_long, timeout=2))
    assert time.monotonic() - started < 40, "the function was not stopped"
    assert "2" in said and ("timed out" in said or "timeout" in said or "longer" in said), said


def was_lost(said):
    """Clients before 1.0 may lose the error of what a function needs, and show it in their own log."""
    return VERSION < (1, 0) and "CancelledError" in said


def check_run_function_takes_processors_and_memory():
    # More processors than there are: it runs with those.
    image = base.run_function(write_here, cpu=10_000.0, memory=512)
    assert look(image, here="open('/here').read()")["here"] == "here"
    said = refusal(base.run_function(never_run_for_memory, memory=999_999_999))
    assert "memory" in said or was_lost(said), said


def check_run_function_takes_variables():
    if "env" not in OPTIONS:
        return NOT_IN_THIS_CLIENT
    image = base.run_function(write_what_is_seen, args=("HUSH",), env={"HUSH": "hush"})
    found = look(image, seen="open('/seen').read()", variable="os.environ.get('HUSH')")
    assert found["seen"].startswith("hush|") and found["variable"] is None, found


def check_a_single_secret_is_refused_by_its_own_client():
    if "secret" not in OPTIONS:
        return NOT_IN_THIS_CLIENT
    try:
        base.run_function(write_what_is_seen, secret=modal.Secret.from_dict({"HUSH": "hush"}))
    except modal.exception.DeprecationError as raised:
        assert "secrets" in str(raised), raised
        return
    raise AssertionError("`secret` is taken: it has to be tested as the other options are")


def check_run_function_takes_mounts():
    if "mounts" not in OPTIONS:
        return NOT_IN_THIS_CLIENT
    sent = local_folder({"sent.txt": "sent"})
    mounts = [modal.Mount.from_local_dir(str(sent), remote_path="/mounted")]
    image = base.run_function(copy_what_is_mounted, mounts=mounts)
    found = look(image, copied="open('/copied').read()", mounted="os.path.exists('/mounted/sent.txt')")
    assert found == {"copied": "sent", "mounted": False}, found


def check_run_function_runs_again_when_forced():
    image = base.run_function(write_what_is_seen, kwargs={})
    kept = look(image, seen="open('/seen').read()")
    assert look(base.run_function(write_what_is_seen), seen="open('/seen').read()") == kept
    forced = base.run_function(write_what_is_seen, force_build=True)
    assert look(forced, seen="open('/seen').read()") != kept


def check_run_function_may_leave_its_source_out():
    if "include_source" not in OPTIONS:
        return NOT_IN_THIS_CLIENT
    # Without it, the function's module has to be in the image.
    said = refusal(base.run_function(write_alone, include_source=False))
    assert "image_functions" in said, said
    with_source = base.add_local_file(os.path.abspath(__file__), "/root/image_functions.py", copy=True)
    image = with_source.run_function(write_alone, include_source=False)
    assert look(image, alone="open('/alone').read()")["alone"] == "written"


def check_run_function_takes_a_place_to_run():
    if "region" not in OPTIONS:
        return NOT_IN_THIS_CLIENT
    # There is one place: this machine.
    found = look(base.run_function(write_here, cloud="aws", region="eu-north-1"), here="open('/here').read()")
    assert found["here"] == "here", found


def check_what_a_build_cannot_have_yet_is_refused_by_name():
    said = refusal(base.run_function(write_here, gpu="T4"))
    assert "GPU" in said or was_lost(said), said


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
