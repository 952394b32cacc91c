"""Much at once: a thousand inputs, large arguments and results, and many short lines."""

import modal

app = modal.App("burst")


@app.function(max_containers=4)
def small(number):
    print("\n".join(f"input {number} says {line}" for line in range(10)))
    return number


@app.function(max_containers=4)
def large(data):
    return data[::-1]


@app.local_entrypoint()
def main():
    assert sum(small.map(range(1000))) == 1000 * 999 // 2
    sent = [bytes([number]) * 1_500_000 for number in range(60)]
    assert list(large.map(sent)) == sent
    print("burst over")
