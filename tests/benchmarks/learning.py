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
``each …``         2 layers of 128 on the first 200,000 characters of the first text, with one setting
                   more: an optimizer, a schedule, a regulariser, a cell. Medians of three seeds, with
                   the distance to ``each nothing``; each model on one core, as many side by side as
                   there are ``--threads``
=================  ==============================================================================

The texts are a file (``--text``, or ``RNGRU_TEXT``; Tiny Shakespeare is what the README has), the
sources of the standard library, the help topics of Python, and a file in another language (``--other``,
or ``RNGRU_OTHER``). A row whose file is not there is skipped, and says so.
"""

import concurrent.futures
import fnmatch
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rngru.models import MODELS
from tests.benchmarks.clock import Figure, Options, child, threads

LONG, SHORT, EACH = 150.0, 60.0, 25.0
"""Seconds of a row, unless the command line says how many."""

SEEDS = 1, 2, 3
"""Each row of ``each`` is trained from these."""

LENGTH = 200_000
"""Characters of its text: so few that the models learn them by heart."""

SMALL = {
    "state_size": 128,
    "regcost": 0.0,
    "optimizer": "adam",
    "learnrate": 0.008,
    "schedule": "cosine",
}
"""What all its rows have, unless they say something else."""

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "nothing": {},
    "adamw": {"optimizer": "adamw", "weightdecay": 0.2},
    "cautious": {"cautious": True},
    "rmsprop": {"optimizer": "rmsprop", "learnrate": 0.004},
    "adagrad": {"optimizer": "adagrad", "learnrate": 0.03},
    "sgd": {"optimizer": "sgd", "learnrate": 0.02, "clipnorm": 20.0},
    "constant": {"schedule": "constant", "learnrate": 0.004},
    "linear": {"schedule": "linear"},
    "onecycle": {"schedule": "onecycle"},
    "average": {"average": 0.99},
    "regcost": {"regcost": 0.1},
    "dropout": {"dropout": 0.2},
    "dropout, locked": {"dropout": 0.2, "locked": True},
    "dropout_in, locked": {"dropout_in": 0.1, "locked": True},
    "dropout_out, locked": {"dropout_out": 0.2, "locked": True},
    "embed_dropout": {"embed_dropout": 0.05},
    "dropconnect": {"dropconnect": 0.2},
    "ar": {"ar": 0.5},
    "tar": {"tar": 0.5},
    "smoothing": {"smoothing": 0.05},
    "random_len": {"random_len": 0.05},
    "layernorm": {"layernorm": True},
    "residual": {"residual": True},
    "layernorm, residual": {"layernorm": True, "residual": True},
    "tied": {"tied": True},
    "embed_size": {"embed_size": 32},
    "reset_after": {"reset_after": True},
    "gate_init": {"gate_init": "uniform"},
    "GRUResize": {"modeltype": "GRUResize"},
    "LSTMEncode": {"modeltype": "LSTMEncode"},
    "LSTMResize": {"modeltype": "LSTMResize"},
    "RNNEncode": {"modeltype": "RNNEncode", "learnrate": 0.003},
    "MinGRUEncode": {"modeltype": "MinGRUEncode"},
    "MinLSTMEncode": {"modeltype": "MinLSTMEncode"},
}  # fmt: skip
"""The rows of ``each``: what the model has besides."""

BETTER = 0.15
"""Nats per character that ``quick`` is to be below the defaults."""

TEXTS = {"text": "RNGRU_TEXT", "stdlib": "", "pydoc": "", "other": "RNGRU_OTHER"}
"""The texts by name, and the variable that says where the file is."""

LEARN = """
import json, math, sys, time
from pathlib import Path
import rngru
from rngru import ModelState, Texts, corpora
began, row = float(sys.argv[1]), json.loads(sys.argv[2])
source = corpora.named(row["source"]) if row["source"] in corpora.CORPORA else row["source"]
if row["length"]:
    source = Texts([Path(source).read_text(encoding="utf-8")[: row["length"]]])
ms = ModelState.initfromsrcfile(source, sys.argv[3], rng=row["seed"], report="silent", **row["making"])
left = max(row["seconds"] - (time.time() - began), 0.1)
history = ms.trainmodel(max_seconds=left, print_every=0, report="silent", **row["plan"])
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
    """One model: which ``text``, for how many ``seconds``, and what it is made and trained with.

    Of the text the first ``length`` characters are taken, or all.
    """

    name: str
    text: str
    seconds: float = LONG
    making: Mapping[str, Any] = field(default_factory=lambda: {"recipe": "best"})
    adapt: bool = False
    length: int | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)


def rows() -> Iterator[Row]:
    """Yield all rows; those of ``quick`` follow those of the defaults, which they are compared with."""
    for text in TEXTS:
        # To learn the last tenth of millions of characters takes longer than the training.
        yield Row(f"recipe {text}", text, adapt=text == "text")
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
    for name, more in SETTINGS.items():
        plan = {"batchsize": 32, "train_len": 10_000}
        yield Row(f"each {name}", "text", EACH, {**SMALL, **more}, length=LENGTH, plan=plan)


def figures(options: Options) -> Iterator[Figure]:
    """Train the models that were asked for, one after the other, or those of ``each`` side by side."""
    chosen = list(_chosen(options))
    losses: dict[str, float] = {}
    with threads(options.threads), tempfile.TemporaryDirectory() as folder:
        _trained(Row("", "pydoc", 1.0), "pydoc", Path(folder, "warm"))
        for row in (row for row in chosen if not row.length):
            seconds = options.seconds or row.seconds
            found = _trained(row, _source(row.text, options), Path(folder, row.name), seconds)
            losses[row.name] = found["nats"]
            yield _figure(row, found)
            defaults = losses.get(row.name.replace(": recipe", ": defaults"))
            if row.name.endswith(": recipe") and defaults is not None:
                yield Figure(
                    f"{row.name.partition(':')[0]}: below the defaults", defaults - found["nats"],
                    "nats", BETTER, detail={"note": f"{seconds:g} s for each"},
                )  # fmt: skip
        yield from _each([row for row in chosen if row.length], options, Path(folder))


def _chosen(options: Options) -> Iterator[Row]:
    """Yield the rows that were asked for, but those whose text is not there."""
    for row in rows():
        if fnmatch.fnmatch(row.name, f"*{options.rows}*"):
            if _source(row.text, options):
                yield row
            else:
                print(f"{row.name}: skipped, for no file is given; --{row.text} PATH names one")


def _each(chosen: list[Row], options: Options, folder: Path) -> Iterator[Figure]:
    """Train each model from each seed, on one core each; tell the medians of the seeds."""
    plain = None
    with threads(1), concurrent.futures.ThreadPoolExecutor(options.threads) as pool:
        runs = {
            row.name: [
                pool.submit(
                    _trained, row, _source(row.text, options), folder / f"{row.name} {seed}",
                    options.seconds, seed,
                )
                for seed in SEEDS
            ]
            for row in chosen
        }  # fmt: skip
        for row in chosen:
            found = sorted((run.result() for run in runs[row.name]), key=lambda each: each["nats"])
            middle = found[len(found) // 2]
            plain = middle["nats"] if plain is None else plain
            note = (
                f"{middle['nats'] - plain:+.3f}; {found[0]['nats']:.3f}..{found[-1]['nats']:.3f}, "
                f"{median(each['rate'] for each in found):,.0f} characters per second, "
                f"{middle['epoch']:.1f} epochs"
            )
            yield Figure(row.name, middle["nats"], "nats", detail={"note": note, "runs": found})


def _source(text: str, options: Options) -> str:
    """Return the path of a text, or the name of one that every machine has; '' if there is none."""
    if not TEXTS[text]:
        return text
    path = Path(options.texts.get(text) or os.environ.get(TEXTS[text], ""))
    return str(path.absolute()) if path.is_file() else ""


def _trained(
    row: Row, source: str, folder: Path, seconds: float | None = None, seed: int = 1
) -> dict[str, Any]:
    """Train a model in a fresh interpreter, and return what it tells."""
    seconds = seconds or row.seconds
    making = dict(row.making) | ({"seconds": seconds} if "recipe" in row.making else {})
    told = {
        "source": source, "seconds": seconds, "making": making, "adapt": row.adapt,
        "length": row.length, "plan": dict(row.plan), "seed": seed,
    }  # fmt: skip
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
