"""Images: packages that only an image has, imported in the module that defines its functions."""

import sys

import modal

app = modal.App("image-imports")
SITE = "$(python -c 'import site; print(site.getsitepackages()[0])')"
with_module = modal.Image.debian_slim().run_commands(f"echo \"said = 'imported'\" > {SITE}/image_check_imported.py")
without_module = modal.Image.debian_slim().env({"WITHOUT": "the module"})

with with_module.imports():
    import image_check_imported

with without_module.imports():
    import image_check_that_is_nowhere


@app.function(image=with_module)
def what_was_imported():
    return image_check_imported.said


@app.function(image=without_module)
def what_was_not_imported():
    return image_check_that_is_nowhere.__name__


def check_imports_are_those_of_the_functions_own_image():
    assert what_was_imported.remote() == "imported"
    try:
        what_was_not_imported.remote()
    except Exception as raised:  # each client has its own kinds
        print(f"raised {type(raised).__name__}: {raised}")
        return
    raise AssertionError("a function ran whose image lacks what it imports")


@app.local_entrypoint()
def main(only: str = ""):
    import checks

    sys.stdout.reconfigure(line_buffering=True)
    checks.run(globals(), only)
