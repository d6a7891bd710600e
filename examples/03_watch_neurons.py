"""Look inside: which neuron knows what, drawn on the text that the model reads.

What one learns here:

- ``trackneurons`` returns the state of every neuron after every character of a text;
- with ``ret_output=True`` also what the model expects to come next;
- ``neuronfigure`` draws some neurons as a heat map, or one of them on the text itself, and
  ``savepicture`` writes the picture; they need ``pip install 'rngru[plot]'``.

Here the question is whether any neuron can tell that a quotation is open. Nobody told the model about
quotation marks; it was only asked to guess the next character.

    python examples/03_watch_neurons.py [folder]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from rngru import ModelState, corpora
from rngru.plots import neuronfigure, savepicture

TEXT = (
    'The names "__enter__()" and "__exit__()" are those of methods.\n'
    'If the "with" statement is used, "as" may give a name, such as "stream".\n'
)


def main(workdir: Path, seconds: float = 30) -> None:
    """Train a model, find the neuron that follows quotation marks, and draw it."""
    ms = ModelState.initfromsrcfile(
        corpora.named("pydoc"), workdir, layers=1, state_size=128, learnrate=0.004, rng=1
    )
    ms.trainmodel(batchsize=32, train_len=200, print_every=0, max_seconds=seconds)

    states, outputs = ms.trackneurons(TEXT, temp=1.0, ret_output=True)
    print(f"\n{states.shape[1]} neurons in {states.shape[0]} layer, {states.shape[2]} characters")

    # After each character: has an odd number of quotation marks been read? Then one is open.
    opened = np.cumsum([char == '"' for char in TEXT]) % 2
    follows = np.array([np.corrcoef(neuron, opened)[0, 1] for neuron in states[0]])
    best = [int(neuron) for neuron in np.argsort(-np.abs(follows))[:8]]
    print(f"Neuron {best[0]} follows them best: correlation {follows[best[0]]:+.2f}\n")

    # The text, and below it a mark wherever that neuron says that a quotation is open.
    toward = np.sign(follows[best[0]]) * states[0, best[0]]
    marks = ["^" if value > toward.mean() else " " for value in toward]
    start = 0
    for line in TEXT.splitlines(keepends=True):
        print(line, "".join(marks[start : start + len(line)]), sep="")
        start += len(line)

    for place in (TEXT.index("__exit__") + 3, TEXT.index("used") + 2):
        ranked = np.argsort(outputs[place])[::-1][:3]
        guesses = ", ".join(f"{ms.chars.charatidx(i)!r} {outputs[place, i]:.0%}" for i in ranked)
        print(f"After {TEXT[place - 10 : place + 1]!r} it expects {guesses}")

    for name, neurons in (("eight", best), ("one", best[0])):
        picture = neuronfigure(TEXT, states, neurons=neurons)
        print(f"Drawn: {savepicture(picture, Path(workdir) / f'neurons-{name}.png')}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="rngru-")))
