"""Functions that ask for more of this machine than it has, or for what it does not tell apart."""

import os

import modal

app = modal.App("more-than-there-is")
MORE = 2.0 * (os.cpu_count() or 1)
FOLDER = os.path.dirname(os.path.abspath(__file__))
# Less than all of the disk, and more than can be free of it.
HERE = os.statvfs(FOLDER)
MOST_OF_THE_DISK = int(HERE.f_blocks * HERE.f_frsize * 0.97) >> 20


def free_mib(path):
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize >> 20


@app.function()
def leaf():
    return "leaf"


@app.function(cpu=MORE)
def large():
    return f"{leaf.remote()} called by large"


@app.function(cpu=MORE)
def larger():
    return f"{large.remote()} called by larger"


@app.function()
def small():
    return f"{larger.remote()} called by small"


@app.function(
    region=["eu-west", "us-east"],
    cloud="aws",
    nonpreemptible=True,
    routing_region="eu-west",
    experimental_options={"nothing": "reads this"},
)
def elsewhere():
    return "elsewhere"


@app.function()
def unlimited():
    return [free_mib("/"), free_mib("/tmp")]


@app.function(ephemeral_disk=MOST_OF_THE_DISK)
def limited():
    return [free_mib("/"), free_mib("/tmp")]


@app.local_entrypoint()
def main():
    print("RESULT", small.remote(), flush=True)
    print("RESULT", leaf.with_options(cpu=MORE).remote(), "with options", flush=True)
    print("RESULT", elsewhere.remote(), flush=True)
    here = free_mib(FOLDER)
    root, tmp = unlimited.remote()
    limited_root, limited_tmp = limited.remote()
    print(f"free here {max(here, free_mib(FOLDER))}")
    print(f"free / {root}\nfree /tmp {tmp}\nfree limited:/ {limited_root}\nfree limited:/tmp {limited_tmp}")
