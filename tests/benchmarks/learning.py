"""What a model has learned after so many seconds: the loss on the whole validation text.

Each row is a process of its own: it makes a model, trains it until so many seconds have passed since the
interpreter was started, and evaluates the tail of the text, which it has not been trained on. Where a row
says so, it is evaluated a second time while it learns the tail (``evaluate(adapt=True)``). Compiled
kernels are cached by a process that does not count.

=================  ==============================================================================
rows               train
=================  ==============================================================================
``recipe …``       recipe ``best``, on each text
``quick …``        recipe ``quick`` and the defaults, which the first is to be 0.15 nats below
``cell …``         recipe ``best``, on the first text, with each kind of model
``words …``        recipe ``best`` at word level, counted in bits per character; the words are those
                   of the whole text, so that none is unknown
=================  ==============================================================================

The texts are a file (``--text``, or ``RNGRU_TEXT``; Tiny Shakespeare is what the README has), the
sources of the standard library, the help topics of Python, and a file in another language (``--other``,
or ``RNGRU_OTHER``). A row whose file is not there is skipped, and says so.
"""

import fnmatch
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rngru.models import MODELS
from tests.benchmarks.clock import Figure, Options, child, threads

LONG, SHORT = 150.0, 60.0
"""Seconds of a row, unless the command line says how many."""

BETTER = 0.15
"""Nats per character that ``quick`` is to be below the defaults."""

TEXTS = {"text": "RNGRU_TEXT", "stdlib": "", "pydoc": "", "other": "RNGRU_OTHER"}
"""The texts by name, and the variable that says where the file is."""

LEARN = """
import json, math, sys, time
from pathlib import Path
import rngru
from rngru import ModelState, corpora
began, row = float(sys.argv[1]), json.loads(sys.argv[2])
source = corpora.named(row["source"]) if row["source"] in corpora.CORPORA else row["source"]
ms = ModelState.initfromsrcfile(source, sys.argv[3], rng=1, report="silent", **row["making"])
left = max(row["seconds"] - (time.time() - began), 0.1)
history = ms.trainmodel(max_seconds=left, print_every=0, report="silent")
found = ms.evaluate()
ids, split = ms._validation
characters = sum(len(ms.chars.charatidx(int(each))) for each in ids[split:])
print(json.dumps({
    "nats": found.nats, "bits": found.bits * found.characters / characters,
    "adapted": ms.evaluate(adapt=True).nats if row["adapt"] else None,
    "rate": history[-1].characters / history[-1].seconds, "epoch": history[-1].epoch,
    "parameters": sum(each.size for each in ms.parameters().values()), "model": repr(ms),
    "hyper": repr(ms.hyper),
}))
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One model: which ``text``, for how many ``seconds``, and what ``initfromsrcfile`` is told."""

    name: str
    text: str
    seconds: float = LONG
    making: Mapping[str, Any] = field(default_factory=lambda: {"recipe": "best"})
    adapt: bool = False


def rows() -> Iterator[Row]:
    """Yield all rows; those of ``quick`` follow those of the defaults, which they are compared with."""
    for text in TEXTS:
        yield Row(f"recipe {text}", text, adapt=True)
    for text in TEXTS:
        yield Row(f"quick {text}: defaults", text, SHORT, {})
        yield Row(f"quick {text}: recipe", text, SHORT, {"recipe": "quick"})
    for modeltype, model in MODELS.items():
        if not model.both:  # these see both sides of a character, so their losses are others
            yield Row(
                f"cell {modeltype}", "text", making={"recipe": "best", "modeltype": modeltype}
            )
    for text in TEXTS:
        yield Row(f"words {text}", text, making={"recipe": "best", "level": "word"})


def figures(options: Options) -> Iterator[Figure]:
    """Train the models that were asked for, one after the other."""
    chosen = [row for row in rows() if fnmatch.fnmatch(row.name, f"*{options.rows}*")]
    losses: dict[str, float] = {}
    with threads(options.threads), tempfile.TemporaryDirectory() as folder:
        _trained(Row("", "pydoc", 1.0), "pydoc", Path(folder, "warm"))
        for number, row in enumerate(chosen):
            source = _source(row.text, options)
            if not source:
                print(f"{row.name}: skipped, for no file is given; --{row.text} PATH names one")
                continue
            seconds = options.seconds or row.seconds
            found = _trained(row, source, Path(folder, str(number)), seconds)
            losses[row.name] = found["nats"]
            yield _figure(row, found)
            defaults = losses.get(row.name.replace(": recipe", ": defaults"))
            if row.name.endswith(": recipe") and defaults is not None:
                yield Figure(
                    f"{row.name.partition(':')[0]}: below the defaults", defaults - found["nats"],
                    "nats", BETTER, detail={"note": f"{seconds:g} s for each"},
                )  # fmt: skip


def _source(text: str, options: Options) -> str:
    """Return the path of a text, or the name of one that every machine has; '' if there is none."""
    if not TEXTS[text]:
        return text
    path = Path(options.texts.get(text) or os.environ.get(TEXTS[text], ""))
    return str(path.absolute()) if path.is_file() else ""


def _trained(row: Row, source: str, folder: Path, seconds: float = 0.0) -> dict[str, Any]:
    """Train a model in a fresh interpreter, and return what it tells."""
    seconds = seconds or row.seconds
    making = dict(row.making) | ({"seconds": seconds} if "recipe" in row.making else {})
    told = {"source": source, "seconds": seconds, "making": making, "adapt": row.adapt}
    wall, printed = child(LEARN, time.time(), json.dumps(told), folder)
    return json.loads(printed.splitlines()[-1]) | {"wall": wall}


def _figure(row: Row, found: dict[str, Any]) -> Figure:
    """Return what a row has learned: nats per character, or bits where it reads words."""
    words = row.making.get("level") == "word"
    adapted = f", {found['adapted']:.3f} nats adapted" if row.adapt else ""
    nats = f", {found['nats']:.3f} nats per word" if words else ""
    note = (
        f"{found['bits']:.3f} bits per character{adapted}{nats}; {found['rate']:,.0f} "
        f"{'words' if words else 'characters'} per second, {found['epoch']:.1f} epochs, "
        f"{found['parameters']:,} parameters"
    )
    value, unit = (found["bits"], "bits") if words else (found["nats"], "nats")
    return Figure(row.name, value, unit, detail={"note": note, **found})
