"""An image with a package of its own, a generator that streams, and a function that calls others.

dorian run examples/words.py --text "the quick brown fox and the lazy dog and the fox"
"""

import modal

app = modal.App("words")
image = modal.Image.debian_slim().pip_install("inflect==7.5.0")


@app.function(image=image)
def in_words(count: int) -> str:
    import inflect

    return inflect.engine().number_to_words(count)


@app.function()
def counted(text: str):
    words = text.lower().split()
    for word in sorted(set(words), key=words.index):
        yield word, words.count(word)


@app.function()
def report(text: str) -> list[str]:
    pairs = list(counted.remote_gen(text))
    spelled = in_words.map([count for _, count in pairs])
    return [f"{word}: {count}" for (word, _), count in zip(pairs, spelled)]


@app.local_entrypoint()
def main(text: str = "so it goes and so it goes and so it goes and goes"):
    for line in report.remote(text):
        print(line)
