"""Every way of this client to find what is deployed: `look_up_deployed.py APP ENVIRONMENT`, prints the answers."""

import sys

import modal

app, environment = sys.argv[1:]
# The oldest client's `from_name` is for what runs in a container only.
ways = {} if modal.__version__.startswith("0.63") else {"from_name": modal.Function.from_name}
if hasattr(modal.Function, "lookup"):
    ways["lookup"] = modal.Function.lookup
for name, find in ways.items():
    function = find(app, "code", environment_name=environment)
    print(f"{name}: {function.remote()}", flush=True)
    print(f"{name} spawned: {function.spawn().get(timeout=60)}", flush=True)
if hasattr(modal.App, "lookup"):
    found = modal.App.lookup(app, environment_name=environment)
    print(f"app: {found.app_id}", flush=True)
    if hasattr(found, "set_tags"):
        found.set_tags({"team": environment, "tier": "test"})
        print(f"tags: {sorted(found.get_tags().items())}", flush=True)
