"""An old model for a new text: its vocabulary grows by the symbols it has not seen, and it learns on.

The symbols of both texts are its vocabulary. What belongs to a symbol (a row of the embedding, a column of
the output weights) goes with it to its new id; a new symbol begins as in a new model. All other
parameters stay, and so does what the optimizer remembers of them.

>>> grown(np.array([[1.0], [2.0]]), np.zeros((3, 1)), np.array([0, 2])).tolist()
[[1.0], [0.0], [2.0]]
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from rngru.backends import freshcaches
from rngru.hyper import REGULARISERS, HyperParams
from rngru.snapshot import Snapshot
from rngru.text import Vocabulary
from rngru.training import Progress

LATER = {
    "learnrate", "decay", "regcost", "optimizer", "momentum", "beta2", "cautious", "weightdecay", "schedule",
    "warmup", "clipnorm", "clip", "bptt_truncate", "average", "average_from", "floor", "cycles", "lifetime",
    *REGULARISERS,
}  # fmt: skip
"""Hyperparameters that an old model may be given anew; the others say what it is."""


def hyperfor(old: Snapshot, size: int, hyperparams: Mapping[str, Any]) -> HyperParams:
    """Return the hyperparameters of an old model for ``size`` symbols, with those given anew."""
    return old.hyper.replace(vocab_size=size, **hyperparams)


def grown(old: np.ndarray, fresh: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return ``fresh`` with ``old`` in it: at the new ``ids`` of its symbols, if it has an axis of them."""
    if old.shape == fresh.shape:
        return old
    (axis,) = (i for i, (a, b) in enumerate(zip(old.shape, fresh.shape, strict=True)) if a != b)
    into = fresh.copy()
    np.moveaxis(into, axis, 0)[ids] = np.moveaxis(old, axis, 0)
    return into


def carried(
    old: Snapshot, vocab: Vocabulary, hyper: HyperParams, fresh: Mapping[str, np.ndarray]
) -> Progress:
    """Return the progress of an old model as one of a new text, which has not been read yet.

    ``fresh`` are the parameters of a new model of these sizes.
    """
    known = [old.chars.charatidx(idx) for idx in range(old.chars.vocab_size)]
    same = vocab == old.chars
    ids = np.arange(len(known)) if same else np.array([vocab.idxofchar(each) for each in known])
    now, same = old.progress, hyper.optimizer == old.made.optimizer
    # An average that does not go on is where it begins anew.
    begins = now.arrays if same and hyper.average is not None else now.weights
    arrays = {name: grown(begins[name], fresh[name], ids) for name in fresh}
    caches = {
        cache: {
            name: grown(now.caches[cache][name], value, ids)
            if same and cache in now.caches
            else value
            for name, value in values.items()
        }
        for cache, values in freshcaches(arrays, hyper).items()
    }
    began = replace(now, arrays=arrays, caches=caches, learnrate=hyper.learnrate, state=None)
    return replace(began, position=0, batches=now.batches if same else 0)


def newsymbols(old: Snapshot, vocab: Vocabulary) -> str:
    """Say which symbols of a new text an old model has not seen; '' if it knows all."""
    known = {old.chars.charatidx(idx) for idx in range(old.chars.vocab_size)}
    every = [vocab.charatidx(idx) for idx in range(vocab.vocab_size)] if vocab != old.chars else []
    new = [symbol for symbol in every if symbol not in known]
    if not new:
        return ""
    some = " ".join(map(repr, new[:20])) + (" …" if new[20:] else "")
    return f"{len(new):,} {vocab.units} are new to the model: {some}"
