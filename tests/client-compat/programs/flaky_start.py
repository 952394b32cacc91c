"""A class of which most containers fail in their enter hook, under a map."""

import time

import modal

app = modal.App("flaky-start")
starts = modal.Dict.from_name("flaky-start", create_if_missing=True)


def number_of_this_start():
    number = 0
    while not starts.put(number, True, skip_if_exists=True):
        number += 1
    return number


@app.cls()
class Flaky:
    @modal.enter()
    def load(self):
        number = number_of_this_start()
        if number % 3:
            raise RuntimeError(f"start {number} found no weights")

    @modal.method()
    def work(self, x):
        time.sleep(0.3)
        return x


@app.local_entrypoint()
def main():
    starts.clear()
    answers = list(Flaky().work.map(range(100), return_exceptions=True))
    print(f"{sum(answer == x for x, answer in enumerate(answers))} of 100 inputs were answered", flush=True)
