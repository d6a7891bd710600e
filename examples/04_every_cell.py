"""Every cell on the same text, and one picture with all their error curves.

What one learns here:

- ``modeltype`` chooses the cell: vanilla RNN, GRU, LSTM, and their bidirectional versions;
- ``comparefigure`` draws several runs together (``pip install 'rngru[plot]'``).

This is the experiment of theano-recurrence (2016): one layer of 100 neurons, sequences of 50, RMSProp.
A bidirectional model predicts each character from the text on both sides of it, so its loss is a
cloze loss, lower by nature: it fills gaps, but it cannot write.

    python examples/04_every_cell.py [folder]
"""

import sys
import tempfile
from pathlib import Path

from rngru import ModelState, corpora
from rngru.plots import comparefigure, savepicture

CELLS = ("RNNEncode", "GRUEncode", "LSTMEncode", "BiRNN", "BiGRU", "BiLSTM")


def main(workdir: Path, seconds: float = 360) -> None:
    """Train each cell for an equal share of the time."""
    runs = {}
    for name in CELLS:
        ms = ModelState.initfromsrcfile(
            corpora.named("pydoc"),
            Path(workdir) / name,
            modeltype=name,
            layers=1,
            state_size=100,
            seq_len=50,
            rng=1,
            report="silent",
        )
        print(f"{name} …", flush=True)
        runs[name] = ms.trainmodel(
            batchsize=30,
            train_len=250,
            valid_len=20,
            print_every=0,
            max_seconds=seconds / len(CELLS),
            report="silent",
        )
        print(f"  {ms.evaluate()}, after {ms.position:,} characters of training")
    picture = savepicture(comparefigure(runs), Path(workdir) / "cells.png")
    print(f"Drawn: {picture}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="rngru-")))
