"""Functions that run by themselves, as the environment says at deployment."""

import os

import modal

app = modal.App(os.environ.get("CHECK_APP", "scheduled"))

SECONDS = float(os.environ.get("CHECK_SECONDS", "3"))


@app.function(schedule=modal.Period(seconds=SECONDS))
def often():
    print("often ran")


@app.function(schedule=modal.Cron(os.environ.get("CHECK_CRON", "30 6 * * 1-5"), **(
    {} if modal.__version__.startswith("0.63") else {"timezone": os.environ.get("CHECK_ZONE", "America/New_York")}
)))
def on_weekdays():
    print("a weekday")


@app.function(schedule=modal.Period(days=1))
def fails():
    raise ValueError("the report is empty")


@app.local_entrypoint()
def main():
    print("called", often.remote())
