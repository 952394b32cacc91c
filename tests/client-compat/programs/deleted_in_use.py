"""What is deleted while something uses it: a network file system, and a volume of a build's step."""

import time

import modal

app = modal.App("deleted-in-use")
shared = modal.NetworkFileSystem.from_name("deleted-in-use", create_if_missing=True)


@app.function(network_file_systems={"/shared": shared})
def hold():
    with open("/shared/mine", "w") as file:
        file.write("mine")
    print("holding", flush=True)
    for _ in range(600):
        try:
            with open("/shared/more", "a") as file:
                file.write("more")
        except OSError as error:
            return type(error).__name__
        time.sleep(0.1)
    return "still there"


@app.local_entrypoint()
def share():
    print("ended with", hold.remote())


@app.local_entrypoint()
def build():
    volume = modal.Volume.from_name("deleted-in-a-build")
    stamp = time.time_ns()
    step = f"echo {stamp} > /v/file && echo written {stamp} && sleep 8"
    modal.Image.debian_slim().run_commands(step, volumes={"/v": volume}).build(app)
