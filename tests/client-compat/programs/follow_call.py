"""Makes a call of the app `listed-calls` and follows its log to its end."""

import modal

call = modal.Function.from_name("listed-calls", "work").spawn("returns")
for entry in call.logs.stream(timeout=60):
    print("entry:", entry, flush=True)
print("the stream ended and the call returned", call.get(timeout=60), flush=True)
