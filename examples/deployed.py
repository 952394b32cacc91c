"""A deployed app: a model that stays loaded between calls, and a job that runs every night.

    modal deploy examples/deployed.py
    python examples/deployed.py "five little words are here"
    modal app logs deployed        modal app history deployed        modal app rollback deployed
"""

import sys

import modal

app = modal.App("deployed")


@app.cls(scaledown_window=120)
class Counter:
    @modal.enter()
    def load(self):
        # What is dear to load is loaded once for each container.
        self.vowels = set("aeiou")
        print("loaded")

    @modal.method()
    def vowels_in(self, text: str) -> int:
        return sum(letter in self.vowels for letter in text)


@app.function(schedule=modal.Cron("0 3 * * *", timezone="Europe/Berlin"))
def nightly():
    print("it is three in the morning")


if __name__ == "__main__":
    counter = modal.Cls.from_name("deployed", "Counter")()
    print(counter.vowels_in.remote(sys.argv[1]))
