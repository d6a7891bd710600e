"""From the start of the interpreter to a first training step, and to a first text.

Whole processes, with the wall clock around them: they import rngru, do one thing, and exit. "A new
model" is ``initfromsrcfile`` on a text of 100,000 characters of which one in a hundred is for
validation, then ``trainmodel(train_len=1)``, with its evaluations and two checkpoints. "A saved model"
is ``ModelState.load`` and ``traintime(batches=1)``, which is two steps. The model has the default
size. Caches are directories of this run: filled by a process that does not count, or empty.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.benchmarks.clock import Figure, Options, child, threads

NEW = """
import sys
from rngru import ModelState
ms = ModelState.initfromsrcfile(sys.argv[1], sys.argv[2], trainfrac=0.99, rng=1, report="silent")
ms.trainmodel(train_len=1, print_every=0, report="silent")
"""
SAVED = """
import sys
from rngru import ModelState
ModelState.load(sys.argv[2]).traintime(batches=1)
"""
GENERATE = """
import sys
from rngru import ModelState
assert len(ModelState.load(sys.argv[2]).generatestring(200, rng=1).text) == 200
"""
# An installer that compiles nothing leaves that to the first process too.
NO_BYTECODE = "and no .pyc"

TARGETS = {"cached": 1.1, "every cache empty": 6.0, NO_BYTECODE: None}


def figures(options: Options) -> Iterator[Figure]:
    """Measure processes one after another; those that start with empty caches at most three times."""
    with tempfile.TemporaryDirectory() as folder, threads(options.threads):
        home = Path(folder)
        text = home / "text.txt"
        text.write_text(_prose(100_000), encoding="utf-8")
        caches = [0]

        def seconds(code: str, caching: str) -> float:
            """Run one process; ``ending`` names its working directory, new for a new model."""
            caches[0] += 1
            number = 0 if caching == "cached" else caches[0]
            places = {
                "NUMBA_CACHE_DIR": str(home / f"numba{number}"),
                "PYTENSOR_FLAGS": f"base_compiledir={home / f'pytensor{number}'}",
            }
            if caching == NO_BYTECODE:
                places["PYTHONPYCACHEPREFIX"] = str(home / f"pyc{number}")
            workdir = home / (f"work{caches[0]}" if code == NEW else "work1")
            return child(code, text, workdir, **places)[0]

        seconds(NEW, "cached")
        for caching, target in TARGETS.items():
            for name, code in (("a new model", NEW), ("a saved model", SAVED)):
                runs = options.runs if caching == "cached" else min(options.runs, 3)
                yield _figure(
                    f"first step of {name}, {caching}",
                    [seconds(code, caching) for _ in range(runs)],
                    target,
                )
        seconds(GENERATE, "cached")
        yield _figure(
            "200 characters from a saved model, cached",
            [seconds(GENERATE, "cached") for _ in range(options.runs)],
            0.5,
        )
        bare = [child("import numpy")[0] for _ in range(options.runs)]
        yield _figure("for comparison: import numpy", bare, None)


def _figure(name: str, seconds: list[float], target: float | None) -> Figure:
    note = f"{min(seconds):.2f}..{max(seconds):.2f}, {len(seconds)} runs"
    detail = {"note": note, "seconds": seconds}
    return Figure(name, median(seconds), "s", target, most=True, detail=detail)


def _prose(length: int) -> str:
    """Return English text that every Python has."""
    from rngru.corpora import pydoc

    return pydoc()[:length]
