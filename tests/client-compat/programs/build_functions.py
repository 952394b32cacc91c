"""`run_function`: what a function wrote is in the image, and what it may see while it runs."""

import os
import sys

import modal

app = modal.App("build-functions")

# These differ per test run where the function is to run again: one as an argument, one as a global that it names. (In the
# container the module is imported anew, without these variables: the global has its default there.)
GREETING = os.environ.get("CHECK_GREETING", "hello")
EDITION = os.environ.get("CHECK_EDITION", "first")


def fetch_weights(name, *, size, greeting, fail=""):
    """Arguments, a global of the module, a secret; writes outside of what is mounted."""
    print(f"fetching {name}, {size} bytes, {EDITION}")
    os.makedirs("/weights", exist_ok=True)
    with open(f"/weights/{name}", "w") as file:
        file.write("x" * size)
    with open("/weights/greeting", "w") as file:
        file.write(greeting)
    with open("/weights/seen", "w") as file:
        file.write(str(len(os.environ["HUSH"])))
    os.symlink("greeting", "/weights/link")
    if fail:
        raise ValueError(f"told to fail: {fail}")


def fetch_nothing():
    with open("/nothing", "w") as file:
        file.write("done")


image = (
    modal.Image.debian_slim()
    .run_function(
        fetch_weights,
        args=("model.bin",),
        kwargs={"size": 1000, "greeting": GREETING, "fail": os.environ.get("CHECK_FAIL", "")},
        secrets=[modal.Secret.from_dict({"HUSH": "secret"})],
    )
    .env({"AFTER": "yes"})
)


@app.function(image=image)
def look():
    return {
        "size": os.path.getsize("/weights/model.bin"),
        "greeting": open("/weights/link").read(),
        "seen": open("/weights/seen").read(),
        "hush": os.environ.get("HUSH"),
        "after": os.environ.get("AFTER"),
        "sources": sorted(os.listdir("/root")),
    }


@app.function(image=modal.Image.debian_slim().run_function(fetch_nothing).run_commands("cat /nothing > /copied"))
def look_again():
    return open("/copied").read()


def check_what_a_build_function_wrote_is_in_the_image():
    seen = look.remote()
    assert seen["size"] == 1000 and seen["greeting"] == GREETING and seen["seen"] == "6", seen
    assert seen["after"] == "yes", seen


def check_a_build_secret_is_gone_at_run_time():
    assert look.remote()["hush"] is None


def check_a_layer_can_be_built_on_what_a_function_wrote():
    assert look_again.remote() == "done"


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
