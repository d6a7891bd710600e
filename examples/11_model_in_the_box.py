"""The model that comes with rngru: how it was made.

What one learns here:

- ``corpora.model()`` writes and scores before anything is trained;
- ``pack(..., training=False, half=True)`` makes a model small enough to be sent by mail;
- what rounding to 16 bits costs.

It has read the help topics of Python, 465,000 characters. In some five minutes on two cores this script
makes the very model that is in the package.

    python examples/11_model_in_the_box.py [folder]
"""

import sys
import tempfile
from pathlib import Path

from rngru import ModelState, corpora


def main(workdir: Path, seconds: float = 3600) -> None:
    """Let the model in the box write; then make another like it."""
    box = corpora.model()
    print(f"{box}\n{box.generatestring(300, temp=0.6, seed='The ').whole}\n")

    ms = ModelState.initfromsrcfile(
        corpora.named("pydoc"),
        Path(workdir),
        state_size=192,
        regcost=0,
        optimizer="adam",
        learnrate=0.004,
        schedule="cosine",
        dropout=0.3,
        rng=1,
    )
    ms.trainmodel(9, batchsize=32, train_len=500, print_every=0, max_seconds=seconds)
    path = ms.pack(Path(workdir) / "pydoc.rngru", training=False, half=True)
    small = ModelState.load(path)
    text = corpora.pydoc()[-20_000:]
    print(f"{path.name}: {path.stat().st_size:,} bytes")
    print(f"in 32 bits: {ms.evaluate(text)}\nin 16 bits: {small.evaluate(text)}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
