"""Silence a neuron: find one that counts open brackets, look at it, and see what is lost without it.

What one learns here:

- ``neurons`` looks for the neurons that follow a property of a text, and measures them on text that
  was not used to choose them;
- ``plotneurons`` shows the text in the colours of a neuron: at the prompt, in a notebook, and as a
  picture (``pip install 'rngru[plot]'``);
- ``clamped`` holds neurons at a value. What it returns scores and writes as a model does, so that one
  can see what they were there for.

The model reads Python. Nobody told it about brackets; it was only asked to guess the next character.

    python examples/09_silence_a_neuron.py [folder]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from rngru import ModelState, corpora

CODE = """\
def share(counts, total):
    return [round(100 * (count / max(total, 1)), 2) for count in counts]

print(share(sorted([3, 1, 2], key=(lambda x: (-x, x))), 6))
"""


def main(workdir: Path, seconds: float = 40) -> None:
    """Train a model on Python, then find, draw and silence the neuron that knows of brackets."""
    ms = ModelState.initfromsrcfile(
        corpora.named("stdlib"), workdir, layers=1, state_size=128, learnrate=0.004, rng=1
    )
    ms.trainmodel(batchsize=32, train_len=200, valid_len=20, print_every=0, max_seconds=seconds)

    # How many brackets are open? One half of the text chooses the neurons, the other one judges them.
    text = "".join(path.read_text("utf-8") for path in corpora.stdlib()[-20:])[:200_000]
    found = ms.neurons(text, "brackets")
    print(f"\n{found}\n")

    # The best of them, on a text that is easy to check by eye. At the prompt, ms.plotneurons(CODE, found)
    # is enough: where a terminal shows colours, the text is coloured.
    plot = ms.plotneurons(CODE, found)
    print(f"{plot!r}\n")
    print(f"Drawn: {plot.save(Path(workdir) / 'neuron.png')}")

    # Without it: its state is its mean, whatever is read, and the other neurons have to do with that.
    usual = ms.trackneurons(text[:20_000])[found[0]].mean()
    silenced = ms.clamped({found[0]: usual})
    before, after = ms.score(text[:100_000]), silenced.score(text[:100_000])
    print(f"With it:    {before.evaluation}\nWithout it: {after.evaluation}")

    # Where is it missed? How much worse each kind of symbol is predicted.
    symbols, worse = np.array(before.symbols), after.nats - before.nats
    for kind in ("([{", ")]}", "\n", " ", "e"):
        chosen = np.isin(symbols, list(kind))
        print(f"  {kind!r:6} {worse[chosen].mean():+.3f} nats each, {chosen.sum():,} of them")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="rngru-")))
