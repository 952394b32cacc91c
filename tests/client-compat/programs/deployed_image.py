"""An app whose image is of one deployment only: `IMAGE_OF` makes it another one."""

import os

import modal

app = modal.App(os.environ.get("APP_NAME", "deployed-image"))
image = modal.Image.debian_slim().run_commands(f"echo {os.environ.get('IMAGE_OF', '')} > /image_of")


@app.function(image=image, secrets=[modal.Secret.from_dict({"CODE": os.environ.get("CODE", "")})])
def code():
    return os.environ["CODE"], open("/image_of").read().strip(), os.environ["MODAL_IMAGE_ID"]
