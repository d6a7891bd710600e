"""The next day: load a model, go on training where it was, and use what it has learned.

What one learns here:

- ``ModelState.load`` brings back everything: the weights, what the optimizer remembers, the place in
  the text. Training goes on as if it had never stopped;
- every round left a checkpoint; ``checkpoints`` lists them, ``restore`` goes back to one;
- a ``seed`` is what the model continues, a sample's ``state`` is how to go on with a sample, and the
  same ``rng`` draws the same text again;
- ``evaluate`` scores any text: what the model finds likelier, it predicts with fewer nats.

Give it the folder of 01_first_model.py to go on with that model; without one it makes its own.

    python examples/02_resume_and_sample.py [folder]
"""

import sys
import tempfile
from pathlib import Path

from rngru import ModelState, corpora
from rngru.errors import NoModelError


def main(workdir: Path, seconds: float = 30) -> None:
    """Train for half of the time, come back, and train for the other half."""
    try:
        ms = ModelState.load(workdir)
    except NoModelError:
        ms = ModelState.initfromsrcfile(
            corpora.named("pydoc"), workdir, state_size=128, learnrate=0.002, rng=1
        )
        ms.trainmodel(batchsize=32, train_len=100, print_every=0, max_seconds=seconds / 2)

    # Another process, another day: all that is needed is the folder.
    del ms
    ms = ModelState.load(workdir)
    print(f"\nHere it is again: {ms}\n")
    ms.trainmodel(batchsize=32, train_len=100, print_every=0, max_seconds=seconds / 2)
    print(f"\n{ms.checkpoints()}\n")
    ms.restore("best")

    # A model continues what it is given. The seed is read first; the sample is what follows it.
    for seed in ("The value of ", "If the class ", "   >>> "):
        print(f"{seed}{ms.generatestring(100, temp=0.5, seed=seed, rng=1)}\n")

    # A sample that goes on, as if it had not stopped.
    first = ms.generatestring(80, seed="An object ", rng=1)
    more = ms.generatestring(80, init_state=first, rng=2)
    print(f"An object {first}{more}\n")

    # How surprising is a text? Fewer nats per character is likelier.
    for text in (
        "The function returns a list of strings.",
        "The fnuction returs a lits of stirngs.",
    ):
        print(f"{text:40}  {ms.evaluate(text).nats:.2f} nats per character")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="rngru-")))
