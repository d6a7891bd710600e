"""The smallest character model: one vanilla layer, one lane, Adagrad.

What one learns here:

- ``batchsize=1`` walks through the text in one line, carrying its state;
- ``optimizer='adagrad'`` and gradients clipped to ±5, as in min-char-rnn and its many rewrites.

The job is that of a well-known NumPy gist: 128 neurons, sequences of 30, rate 0.01, 100,000 steps. What
took it an hour takes a minute here, and unlike the gist this prints a held-out loss.

    python examples/06_the_gist.py [folder]
"""

import sys
import tempfile
from pathlib import Path

from rngru import ModelState, corpora


def main(workdir: Path, seconds: float = 50) -> None:
    """Train step by step, and show samples at temperature 1 as the gist did."""
    ms = ModelState.initfromsrcfile(
        corpora.named("pydoc"),
        workdir,
        modeltype="RNNResize",
        layers=1,
        state_size=128,
        seq_len=30,
        optimizer="adagrad",
        learnrate=0.01,
        regcost=0,
        rng=1,
    )
    print(
        ms.trainmodel(
            batchsize=1, train_len=5000, valid_len=500, print_every=0, max_seconds=seconds
        )
    )
    for number in range(3):
        print(f"--- sample {number}\n{ms.generatestring(200, temp=1.0, seed='', rng=number)}")
    print(f"On text it has never seen: {ms.evaluate()}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="rngru-")))
