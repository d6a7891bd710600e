"""A first model: point rngru at a text, train it, and watch it learn to write.

What one learns here:

- ``ModelState.initfromsrcfile`` makes a model for a text, and a working directory for the model;
- ``trainmodel`` trains it, for some rounds or for some seconds, and returns a table;
- ``generatestring`` lets it write, and ``evaluate`` says how well it reads.

The text is the prose of Python's own ``help()``, which every Python has. Any text file will do:
give its name in place of the corpus. The model stays in the folder that is named at the end;
02_resume_and_sample.py can go on with it.

    python examples/01_first_model.py [folder]
"""

import sys
import tempfile
from pathlib import Path

from rngru import ModelState, corpora


def main(workdir: Path, seconds: float = 40) -> None:
    """Train a model for a while; its text and all of its progress are kept in ``workdir``."""
    # Two layers of 128 neurons read one character after another and guess the next. With rng=1
    # the model begins with the same random numbers every time.
    ms = ModelState.initfromsrcfile(
        corpora.named("pydoc"), workdir, layers=2, state_size=128, learnrate=0.002, rng=1
    )
    print(f"\nBefore training it writes:\n{ms.generatestring(100)}\n")

    # A round is 100 batches: 32 places in the text, 100 characters from each. After each round the
    # model is measured on text that it is not trained on, and saved.
    history = ms.trainmodel(batchsize=32, train_len=100, print_every=100, max_seconds=seconds)
    print(f"\n{history}\n")

    # A low temperature repeats what is common, a high one is bold and makes more mistakes.
    for temp in (0.4, 0.7, 1.0):
        sample = ms.generatestring(200, temp=temp, seed="The ", rng=1)
        print(f"--- temperature {temp}\nThe {sample}\n")

    print(f"On text it has never seen: {ms.evaluate()}")
    print(ms)
    print(f"It is saved in {workdir}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="rngru-")))
