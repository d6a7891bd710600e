"""Many files as one corpus, a large model with dropout, and validation on files held out.

What one learns here:

- a list of files, a directory or a pattern is one corpus with known boundaries;
- ``validfiles`` holds whole files out;
- ``optimizer='adam'``, ``dropout`` and the sizes of a talk of 2017.

The job is that of "Deep Learning with Recurrent Neural Networks in Python": three layers of 512, batches
of 200 sequences of 30, Adam at 0.001, keep probability 0.8. The talk read 34,000 novels; here it is the
sources of Python's standard library, about 12 million characters, and the model learns to write
Python. A few minutes show the way; an hour makes it readable.

    python examples/05_many_files.py [folder]
"""

import sys
import tempfile
from pathlib import Path

from rngru import ModelState, corpora


def main(workdir: Path, seconds: float = 50) -> None:
    """Train on most of the standard library and validate on the rest of it."""
    files = corpora.stdlib()
    held = files[::50]
    # In the tests this has two seconds: then a small part of it will do.
    few = seconds < 10
    ms = ModelState.initfromsrcfile(
        files[:20] if few else files,
        workdir,
        validfiles=held[:1] if few else held,
        layers=3,
        state_size=64 if few else 512,
        seq_len=30,
        optimizer="adam",
        dropout=0.2,
        regcost=0,
        min_count=2 if few else 20,
        rng=1,
    )
    print(
        ms.trainmodel(
            batchsize=200, train_len=100, valid_len=4, max_seconds=seconds, print_every=50
        )
    )
    print(f"On files it has never seen: {ms.evaluate(Path(held[0]).read_text()[:5000])}")
    print(ms.generatestring(300, temp=0.5, seed="def "))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="rngru-")))
