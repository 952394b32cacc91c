"""Two functions that say which deployment they are of; `BREAK_IMAGE` makes the second one's image fail to build."""

import os

import modal

app = modal.App(os.environ.get("APP_NAME", "deployed-pair"))
told = modal.Secret.from_dict({"CODE": os.environ.get("CODE", "")})
image = modal.Image.debian_slim()
if word := os.environ.get("BREAK_IMAGE"):
    image = image.run_commands(f"echo this step fails for {word}; false")


@app.function(secrets=[told])
def left():
    return os.environ["CODE"]


@app.function(secrets=[told], image=image)
def right():
    return os.environ["CODE"]


if os.environ.get("BREAK_IMPORT"):
    import a_module_that_is_not_there  # noqa: F401
