"""A deployed app with one of each: what it finds says what of a server's state is there."""

import modal

app = modal.App("backed-up")
volume = modal.Volume.from_name("backed-up", create_if_missing=True)
numbers = modal.Dict.from_name("backed-up", create_if_missing=True)
secret = modal.Secret.from_name("backed-up")


@app.function(volumes={"/kept": volume}, secrets=[secret])
def look():
    import hashlib
    import os

    with open("/kept/large", "rb") as large, open("/kept/small") as small, open("/kept/db.sqlite3") as named:
        found = hashlib.sha256(large.read()).hexdigest(), small.read(), named.read()
    return *found, numbers["answer"], os.environ["BACKED_UP"]
