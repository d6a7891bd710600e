"""A cell of one's own: its equations in a few lines, and everything else is there already.

What one learns here:

- ``rngru.cells.register`` makes a cell from a function of one step, in PyTensor;
- its two model types, with an encoder and without, train, save, resume and write as any other;
- a checkpoint names the cell and holds no code: register it in each process before loading.

The cell is the minimal gated unit: one gate says how much of a neuron is new, and how much of the old
state the new one sees (Zhou et al., "Minimal Gated Unit for Recurrent Neural Networks", arXiv
1603.09420). It has two thirds of a GRU's weights. There are no kernels for it, so it is slower.

    python examples/12_a_cell_of_ones_own.py [folder]
"""

import sys
import tempfile
from pathlib import Path

import pytensor.tensor as pt

from rngru import ModelState, cells, corpora


def minimal(pre, state, gate, recurrent):
    """One step: ``pre`` is the input's part of both gates, side by side; returns the new state."""
    size = state.shape[1]
    f = gate(pre[:, :size] + state @ recurrent[:, :size])
    c = pt.tanh(pre[:, size:] + (f * state) @ recurrent[:, size:])
    return (1 - f) * state + f * c


def main(workdir: Path, seconds: float = 40) -> None:
    """Train the cell and a GRU on the same batches, then load it and let it write."""
    cells.register("MGU", minimal, gates=("f", "c"), initial={"f": -1.0})
    batches = max(5, int(5 * seconds))
    for modeltype in ("MGUEncode", "GRUEncode"):
        ms = ModelState.initfromsrcfile(
            corpora.named("pydoc"),
            workdir / modeltype,
            modeltype=modeltype,
            state_size=64,
            seq_len=50,
            learnrate=0.004,
            rng=1,
        )
        history = ms.trainmodel(batchsize=16, train_len=batches, valid_len=5, print_every=0)
        print(
            f"{modeltype}: {history.validloss[-1]:.3f} nats per character after {batches} batches"
        )

    ms = ModelState.load(workdir / "MGUEncode")
    print(ms.generatestring(200, temp=0.6, rng=1))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
