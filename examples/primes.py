"""A search spread over containers, its results arriving as they are ready.

dorian run examples/primes.py --limit 2000000 --pieces 8
"""

import time

import modal

app = modal.App("primes")


@app.function(cpu=1.0, timeout=120)
def primes_between(low: int, high: int) -> list[int]:
    sieve = bytearray([1]) * (high - low)
    for factor in range(2, int(high**0.5) + 1):
        first = max(factor * factor, -(-low // factor) * factor)
        sieve[first - low :: factor] = bytes(len(range(first, high, factor)))
    return [low + i for i, is_prime in enumerate(sieve) if is_prime and low + i > 1]


@app.local_entrypoint()
def main(limit: int = 1_000_000, pieces: int = 8):
    step = -(-limit // pieces)
    ranges = [(low, min(low + step, limit)) for low in range(0, limit, step)]
    started, found = time.monotonic(), 0
    for piece in primes_between.starmap(ranges, order_outputs=False):
        found += len(piece)
        print(f"{time.monotonic() - started:5.2f} s  {found} primes so far, one of them {piece[-1]}")
    print(f"{found} primes below {limit}")
