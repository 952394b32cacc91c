"""An app for `modal serve`, which a test copies and changes: its one container says which edition it is of."""

import modal

EDITION = "first"
NEW_NAMES = tuple(int(part) for part in modal.__version__.split(".")[:2]) >= (0, 73)

app = modal.App("served")
if not modal.is_local():
    print(f"imported the {EDITION} edition", flush=True)


@app.function(**({"min_containers": 1} if NEW_NAMES else {"keep_warm": 1}))
def edition():
    return EDITION
