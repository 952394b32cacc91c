"""Functions that run by themselves, as the environment says at deployment."""

import inspect
import os

import modal

app = modal.App(os.environ.get("CHECK_APP", "scheduled"))

SECONDS = float(os.environ.get("CHECK_SECONDS", "3"))


@app.function(schedule=modal.Period(seconds=SECONDS))
def often():
    print("often ran")


def cron(expression):
    # Old clients know no zones.
    zoned = "timezone" in inspect.signature(modal.Cron.__init__).parameters
    return modal.Cron(expression, *([os.environ.get("CHECK_ZONE", "America/New_York")] if zoned else []))


@app.function(schedule=cron(os.environ.get("CHECK_CRON", "30 6 * * 1-5")))
def on_weekdays():
    print("a weekday")


@app.function(schedule=modal.Period(days=1))
def fails():
    raise ValueError("the report is empty")


@app.local_entrypoint()
def main():
    print("called", often.remote())
