"""``python -i -m rngru``: a prompt with everything ready, and ``demo``, a first model in a minute.

The names stay behind in the interpreter, for ``-i`` hands the prompt to this module's namespace.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from rngru import HyperParams, ModelState, Texts, __version__, corpora, generatestring

READY = (ModelState, HyperParams, generatestring, Texts, corpora)
"""What the prompt has at hand."""

SEED = "The "


def demo(seconds: float, workdir: str | None) -> ModelState:
    """Train on the help topics of this Python for a while, and say what to try next."""
    folder = Path(workdir or tempfile.mkdtemp(prefix="rngru-demo-"))
    print("A two-layer GRU learns to write from the help topics of this Python, one character")
    print(f"after another, for {seconds:g} seconds.\n")
    ms = ModelState.initfromsrcfile(
        corpora.named("pydoc"),
        folder,
        layers=2,
        state_size=128,
        learnrate=0.002,
        rng=1,
        overwrite=True,
    )
    history = ms.trainmodel(batchsize=32, train_len=100, print_every=100, max_seconds=seconds)
    print(f"\n{history}\n")
    print(f"{SEED}{ms.generatestring(600, temp=0.5, seed=SEED)}\n")
    print(f"Saved in {folder}. The model is in ms; try:")
    print("  ms.generatestring(300, temp=0.8, seed='A class ')")
    print("  ms.trainmodel(batchsize=32, max_seconds=60)")
    print(f"  ms = ModelState.load({str(folder)!r})        # tomorrow")
    return ms


def main(arguments: list[str] | None = None) -> ModelState | None:
    """Do what the command line asks; returns the model of a demo."""
    parser = argparse.ArgumentParser(prog="python -i -m rngru", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    trial = commands.add_parser("demo", help="train a small model on Python's own help topics")
    trial.add_argument("--seconds", type=float, default=60.0, help="how long to train (60)")
    trial.add_argument("--workdir", help="where to keep it (a new temporary directory)")
    chosen = parser.parse_args(arguments)
    if chosen.command == "demo":
        return demo(chosen.seconds, chosen.workdir)
    print(f"rngru {__version__}, Python {sys.version.split()[0]}: recurrent language models.")
    names = ", ".join(ready.__name__.rpartition(".")[2] for ready in READY)
    print(f"{names} are ready; help(ModelState) is the manual.")
    return None


if __name__ == "__main__":
    ms = main()
