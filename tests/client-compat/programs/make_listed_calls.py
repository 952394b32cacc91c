"""Calls the app `listed-calls` and prints the id of each call that it spawned."""

import modal

work = modal.Function.from_name("listed-calls", "work")
assert work.remote("returns") == "returns"
for how in ("returns", "fails"):
    call = work.spawn(how)
    try:
        call.get(timeout=60)
    except ValueError:
        pass
    print("spawned", how, call.object_id, flush=True)
