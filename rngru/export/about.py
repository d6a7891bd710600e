"""What every exported file says of its model, as data that JSON can hold.

>>> import numpy as np
>>> from rngru.text import CharSet
>>> firsts(CharSet("so it goes\\nso it went")).tolist()   # unknown, newline, space, e, g, i, n, o, s, …
[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from rngru.errors import InputError, MissingExtra
from rngru.reader import Reader, unblank
from rngru.sampling import Sampling
from rngru.snapshot import versions
from rngru.text import Vocabulary, WordSet, expression


def described(reader: Reader) -> str:
    """Return what a model is, as JSON: all that is needed to read its weights back."""
    return ascii_json(
        {
            "rngru": versions()["rngru"],
            "modeltype": reader.model.name,
            "level": reader.vocab.level,
            "hyper": {"vocab_size": reader.hyper.vocab_size, **reader.hyper.to_json()},
            "vocabulary": reader.vocab.to_json() | {"srcinfo": source(reader.vocab)},
            "versions": versions(),
        }
    )


def program(reader: Reader) -> dict[str, Any]:
    """Return what a program needs to know that writes text with a model.

    Returns
    -------
    dict
        ``cell``, ``hard`` (gates), ``encode``, ``tied``, ``state`` (layers, numbers in the state of
        each), ``size`` (neurons), ``inputs`` (numbers that encode a symbol), ``level``, ``symbols`` (a
        list, None for bytes), ``barred`` (ids that are never drawn), ``blank`` (those that do not begin a
        text either), ``firsts`` (how often each id begins a line), ``split`` (for words: the regular
        expression of a token).
    """
    model, hyper, vocab = reader.model, reader.hyper, reader.vocab
    spec, barred, starts = model.spec(hyper), reader.barred(Sampling()), firsts(vocab)
    first = unblank(barred, vocab) & ~barred
    return {
        "rngru": versions()["rngru"],
        "modeltype": model.name,
        "cell": spec.cell,
        "hard": spec.hard,
        "encode": model.encode,
        "tied": hyper.tied,
        "size": hyper.state_size,
        "inputs": model.width(hyper),
        "state": [hyper.layers, spec.state(hyper.state_size)],
        "source": source(vocab),
        "level": vocab.level,
        "units": vocab.units,
        "symbols": symbolsof(vocab),
        "barred": np.flatnonzero(barred).tolist(),
        "blank": np.flatnonzero(first).tolist() if starts[~first].any() else [],
        "firsts": starts.tolist(),
        "split": expression(vocab.rule).pattern if isinstance(vocab, WordSet) else None,
    }


def source(vocab: Vocabulary) -> str | None:
    """Return where the text came from, without the folder: that is nobody else's business."""
    return None if vocab.srcinfo is None else re.split(r"[/\\]", vocab.srcinfo)[-1]


def symbolsof(vocab: Vocabulary) -> list[str] | None:
    """Return the symbols of a vocabulary in the order of their ids; None for bytes."""
    if vocab.level == "byte":
        return None
    return [vocab.charatidx(idx) for idx in range(vocab.vocab_size)]


def firsts(vocab: Vocabulary) -> np.ndarray:
    """Return how often each id begins a text, (V,), so that a draw is ``vocab.semirandomidx()``."""
    starts = vocab.linestarts.copy()
    unknown, newline = vocab.unknown_idx, vocab.idxofchar("\n")
    if unknown is not None:
        starts[unknown] = 0
    if not starts.any():  # a text without lines
        starts[:] = 1
        starts[[newline if unknown is None else unknown, newline]] = 0
    if not starts.any():
        starts[newline] = 1
    return starts


def ascii_json(data: object) -> str:
    r"""Return JSON of ASCII characters alone, in one line.

    It is safe inside a page: there is no ``<`` in it that could begin a tag or a comment.

    >>> ascii_json(["</script>", "é"])
    '["\\u003c/script>","\\u00e9"]'
    """
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def arraysof(reader: Reader) -> dict[str, np.ndarray]:
    """Return the parameters of a model, in their own order, as NumPy arrays on this machine."""
    found = reader.backend.fetch(reader.weights)
    return {name: np.asarray(found[name]) for name in reader.model.shapes(reader.hyper)}


def forwards(reader: Reader, ending: str) -> None:
    """Raise InputError for a model that a file of this ending cannot hold."""
    if reader.model.both:
        raise InputError(
            f"{reader.model.name} reads a text in both directions, and what a {ending} file does is go "
            "forwards, one symbol after the other. A .safetensors file holds its weights."
        )
    for name in ("layernorm", "residual"):
        if getattr(reader.hyper, name):
            raise InputError(
                f"{name}=True is not in what a {ending} file does. A .safetensors file holds the weights."
            )
    row = reader.model.spec(reader.hyper).row
    if row.own or (ending == ".pt" and not row.recurrent):
        raise InputError(
            f"A {ending} file cannot compute the layers of {reader.model.name}. A .safetensors file holds "
            "its weights."
        )


@contextmanager
def needs(package: str, install: str) -> Iterator[None]:
    """Turn a failing import of ``package`` into an error that says how to ``install`` it."""
    try:
        yield
    except ImportError as problem:
        raise MissingExtra(
            f"This needs {package}, which is not installed: pip install {install}"
        ) from problem
