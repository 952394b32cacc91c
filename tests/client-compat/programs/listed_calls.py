"""An app to deploy, whose calls end in different ways."""

import modal

app = modal.App("listed-calls")


@app.function()
def work(how):
    print("how:", how, flush=True)
    if how == "fails":
        raise ValueError("as it was told")
    return how
