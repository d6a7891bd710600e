"""Who wrote this? Two models, each of one author, read the same texts.

What one learns here:

- ``score`` says how surprising each character of a text is; ``.words()`` adds that up;
- the scores of two models on one text can be subtracted: who is less surprised has probably read more
  of that author, and an interval says whether the text is long enough to tell;
- ``evaluate`` takes a list of texts and gives one figure;
- ``copied`` says how much of a sample stands in the training text, word for word.

The authors are on every machine: whoever wrote the help topics of Python, and whoever wrote its
library, in code. The library holds a copy of the help topics, which is left out.

    python examples/08_two_authors.py [folder]
"""

import sys
import tempfile
from pathlib import Path

from rngru import ModelState, corpora

DISPUTED = {
    "a sentence": "The method returns a new list. If no argument is given, all items of the old "
    "one are\nused; otherwise, an exception is raised, which names the argument.\n",
    "a function": "def __len__(self):\n        return len(self._items) if self._items else 0\n",
    "a comment": "    # If the file is closed already, there is nothing to do: return at once.\n",
}


def main(workdir: Path, seconds: float = 60) -> None:
    """Train a model of each author, and let them judge texts that neither has read."""
    library = [path for path in corpora.stdlib() if "pydoc_data" not in path.parts]
    authors = {}
    for name, source in {"manual": corpora.named("pydoc"), "library": library}.items():
        ms = ModelState.initfromsrcfile(
            source,
            Path(workdir) / name,
            trainfrac=0.98,
            layers=1,
            state_size=192,
            learnrate=0.004,
            rng=1,
        )
        ms.trainmodel(batchsize=32, train_len=400, print_every=0, max_seconds=seconds / 2)
        authors[name] = ms
        print(f"On text it has never seen, the {name} model has {ms.evaluate()}\n")
    manual, library = authors["manual"], authors["library"]

    # The first model is the manual: below zero, it is the less surprised of the two.
    for kind, text in DISPUTED.items():
        one, other = manual.score(text), library.score(text)
        difference = one - other
        low, high = difference.interval()
        verdict = "the manual" if high < 0 else "the library" if low > 0 else "nobody knows who"
        print(
            f"{kind}: {one.bitspercharacter:.2f} and {other.bitspercharacter:.2f} bits per character, "
            f"difference {difference.mean:+.2f} nats, {low:+.2f} to {high:+.2f}: {verdict}"
        )

    # Which words gave it away? Both models read the same words, so their sums can be subtracted.
    text = "".join(DISPUTED.values())
    pairs = zip(manual.score(text).words(), library.score(text).words(), strict=True)
    told = sorted((one - other, word.strip()) for (word, one), (_, other) in pairs)
    print("\nMost like the manual: ", ", ".join(f"{word!r} {gap:+.1f}" for gap, word in told[:4]))
    print("Most like the library:", ", ".join(f"{word!r} {gap:+.1f}" for gap, word in told[:-5:-1]))

    # At the prompt, the comparison shows where the two differ most.
    print(f"\n{manual.score(text) - library.score(text)}\n")
    for name, ms in authors.items():
        print(f"The {name} model has, on all three texts, {ms.evaluate(DISPUTED.values())}")

    # A model that writes what it has learned by heart is no author. How much is copied?
    sample = manual.generatestring(1000, temp=0.5, seed="The ", forbid="|+", rng=1)
    print(f"\nThe {sample}\n\n{manual.copied(sample)}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="rngru-")))
