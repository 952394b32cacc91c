"""Folders nested deeper than any path can name, left behind wherever a program can write."""

import os

import modal

app = modal.App("deep-folders")
volume = modal.Volume.from_name("deep-folders", create_if_missing=True)


def nest(path, depth):
    here = os.open(path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


@app.function(volumes={"/kept": volume})
def leave():
    nest("/tmp", 30_000)
    nest("/kept", 1_000)
    volume.commit()
    os.mkdir("/kept/hopeless")
    nest("/kept/hopeless", 3_000)
    try:
        volume.commit()
    except Exception as error:
        return os.environ["MODAL_TASK_ID"], str(error)
    return os.environ["MODAL_TASK_ID"], "committed"


@app.function(volumes={"/kept": volume})
def depth():
    levels, path = 0, "/kept/d"
    while os.path.isdir(path):
        levels, path = levels + 1, path + "/d"
    return levels


@app.local_entrypoint()
def main():
    task, outcome = leave.remote()
    print("task:", task)
    print("commit:", outcome)


@app.local_entrypoint()
def look():
    print("depth:", depth.remote())
