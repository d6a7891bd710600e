"""A first model in a minute, on a text that every machine has.

>>> HOME
'rngru-demo'
"""

import sys

from rngru import corpora
from rngru.errors import WorkdirError
from rngru.state import ModelState
from rngru.workdir import Workdir

SEED = "The "
HOME = "rngru-demo"


def demo(seconds: float, folder: str) -> ModelState:
    """Train on the help topics of this Python for a while, and say what to try next."""
    print("A two-layer GRU learns to write, one character after another, from the")
    print(f"help topics of this Python, for {seconds:g} seconds.\n")
    if Workdir(folder).holdsmodel:
        ms = ModelState.load(folder)
        if ms.chars.srcinfo != "pydoc":
            raise WorkdirError(
                f"{folder} holds a model of {ms.chars.srcinfo}. Name another folder."
            )
    else:
        ms = ModelState.initfromsrcfile(
            corpora.named("pydoc"), folder, recipe="quick", seconds=seconds, rng=1
        )
    history = ms.trainmodel(train_len=100, print_every=100, max_seconds=seconds)
    print(f"\n{history}\n")
    print(f"{SEED}{ms.generatestring(600, temp=0.5, seed=SEED)}\n")
    if sys.flags.interactive:
        print(f"Saved in {ms.workdir}. The model is in ms; try:")
        print("  ms.generatestring(300, temp=0.8, seed='A class ')")
        print("  ms.trainmodel(max_seconds=60)")
        print(f"  ms = ModelState.load({str(ms.workdir)!r})  # tomorrow")
    else:
        print(f"Saved in {ms.workdir}. Try:")
        print(f"  rngru sample {folder} --temp 0.8 --seed 'A class ' --numchars 300")
        print(f"  rngru train --workdir {folder} --seconds 60")
        print("  python -i -m rngru demo  # the same, and a prompt with the model in ms")
    return ms
