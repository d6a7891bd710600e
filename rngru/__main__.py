"""``python -i -m rngru``: a prompt with everything ready, and ``demo``, a first model in a minute.

The names stay behind in the interpreter, for ``-i`` hands the prompt to this module's namespace.
"""

import argparse
import sys

from rngru import HyperParams, ModelState, RngruError, Texts, __version__, corpora, generatestring
from rngru.errors import WorkdirError
from rngru.workdir import Workdir

READY = (ModelState, HyperParams, generatestring, Texts, corpora)
"""What the prompt has at hand."""

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
            corpora.named("pydoc"), folder, layers=2, state_size=128, learnrate=0.002, rng=1
        )
    history = ms.trainmodel(batchsize=32, train_len=100, print_every=100, max_seconds=seconds)
    print(f"\n{history}\n")
    print(f"{SEED}{ms.generatestring(600, temp=0.5, seed=SEED)}\n")
    print(f"Saved in {ms.workdir}. The model is in ms; try:")
    print("  ms.generatestring(300, temp=0.8, seed='A class ')")
    print("  ms.trainmodel(batchsize=32, max_seconds=60)")
    print(f"  ms = ModelState.load({str(ms.workdir)!r})  # tomorrow")
    return ms


def positive(text: str) -> float:
    """Read a number of seconds above 0, for argparse."""
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise ValueError
    return seconds


def main(arguments: list[str] | None = None) -> ModelState | None:
    """Do what the command line asks; returns the model of a demo."""
    parser = argparse.ArgumentParser(
        prog="python -i -m rngru", description="Recurrent language models from the Python prompt."
    )
    commands = parser.add_subparsers(dest="command")
    trial = commands.add_parser("demo", help="train a small model on Python's own help topics")
    trial.add_argument("--seconds", type=positive, default=60.0, help="how long to train (60)")
    trial.add_argument("--workdir", default=HOME, help=f"where to keep it ({HOME})")
    try:
        chosen = parser.parse_args(arguments)
        if chosen.command == "demo":
            return demo(chosen.seconds, chosen.workdir)
    except RngruError as problem:
        print(f"{type(problem).__name__}: {problem}", file=sys.stderr)
        return None
    except SystemExit:  # argparse has said why; with -i the prompt stays open
        if not sys.flags.interactive:
            raise
        return None
    print(f"rngru {__version__}, Python {sys.version.split()[0]}: recurrent language models.")
    print(f"Ready: {', '.join(ready.__name__.rpartition('.')[2] for ready in READY)}.")
    print("help(ModelState) is the manual.")
    return None


if __name__ == "__main__":
    ms = main()
