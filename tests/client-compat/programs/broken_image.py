"""An image whose build fails."""

import modal

app = modal.App("broken-image")


@app.function(image=modal.Image.debian_slim().run_commands("echo about to fail", "false || exit 41"))
def work():
    return 1


@app.local_entrypoint()
def main():
    print("never here", work.remote())
