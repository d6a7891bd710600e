"""Texts as points: the state that a model is in after reading each of them.

>>> import numpy as np
>>> Similar(("the sea", "a sum"), np.array([1, 0]), np.array([0.9, 0.25]))
similarity  number
     0.900       1  the sea
     0.250       0  a sum
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from rngru.errors import InputError, choose
from rngru.reader.reader import STEPS, Reader, Text
from rngru.tables import Table, oneline

LANES = 32
"""Texts that are read side by side."""

SHOWN = 60
"""Characters of a text that a table shows."""


@final
@dataclass(frozen=True, repr=False, eq=False)
class Similar(Sequence):
    """Texts by how similar they are to another one, the most similar first.

    A sequence of (text, similarity).

    Attributes
    ----------
    texts : tuple of str, (n,)
        The texts.
    numbers : int array, (n,)
        Where each of them was among those given, from 0.
    similarity : float64 array, (n,)
        The cosine of the angle between the vectors of the two texts, from -1 to 1.
    """

    texts: tuple[str, ...]
    numbers: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.texts[index], float(self.similarity[index])

    def columns(self) -> dict[str, np.ndarray]:
        """Return everything by column, (n,) each, as ``pandas.DataFrame`` takes it."""
        return {
            "number": self.numbers,
            "similarity": self.similarity,
            "text": np.array(self.texts, object),
        }

    def _table(self) -> Table:
        rows = [
            [f"{similarity:.3f}", str(number), oneline(text[:SHOWN]) + "…" * (len(text) > SHOWN)]
            for text, number, similarity in zip(
                self.texts, self.numbers, self.similarity, strict=True
            )
        ]
        return Table(["similarity", "number", ""], rows)

    def __repr__(self) -> str:
        return repr(self._table())

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()


def vectors(
    reader: Reader,
    texts: Sequence[Text],
    how: str = "last",
    *,
    check: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """Return a vector for each text: the state after it, or the mean of the states in it.

    Texts of about the same length are read side by side. ``check`` raises KeyboardInterrupt to stop.

    Returns
    -------
    float32 array, (text, layer times neuron); the first layer comes first.
    """
    choose("how", how, ("last", "mean"))
    encoded = [reader.encode(text) for text in texts]
    lengths = np.array([len(ids) for ids in encoded], np.int64)
    depth, size = reader.model.depth(reader.hyper), reader.hyper.state_size
    found, looks = np.zeros((len(texts), depth * size), np.float32), reader.silent
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        batch = order[:LANES]
        if reader.model.both:  # what reads backwards must not begin behind the end of a text
            batch = batch[lengths[batch] == lengths[batch[0]]]
        order = order[len(batch) :]
        found[batch] = _read(looks, [encoded[i] for i in batch], how == "mean", check)
    return found


def _read(
    reader: Reader, texts: Sequence[np.ndarray], mean: bool, check: Callable[[], object]
) -> np.ndarray:
    """Read texts side by side, the longest first; return their vectors."""
    lengths, both = np.array([len(ids) for ids in texts]), reader.model.both
    padded = np.zeros((lengths[0], len(texts)), np.int32)
    for lane, ids in enumerate(texts):
        padded[: len(ids), lane] = ids
    depth, size = reader.model.depth(reader.hyper), reader.hyper.state_size
    state, found = reader.freshstate(len(texts)), np.zeros((depth, len(texts), size))
    steps = len(padded) if both else STEPS
    for start in range(0, len(padded), steps):
        trace = reader.backend.trace(reader.weights, padded[start : start + steps], state)
        states, state = trace.states, trace.ending
        if mean:
            step = np.arange(start, start + states.shape[1])[:, np.newaxis]
            states[:, step >= lengths] = 0
            found += states.sum(1, dtype=np.float64)
        else:
            (ending,) = np.nonzero((lengths > start) & (lengths <= start + steps))
            found[:, ending] = states[:, lengths[ending] - 1 - start, ending]
            if both:  # the second stack has read it all at its first symbol
                found[depth // 2 :] = states[depth // 2 :, 0]
        check()
    vectors = found.swapaxes(0, 1).reshape(len(texts), -1)
    return vectors / lengths[:, np.newaxis] if mean else vectors


def similar(
    reader: Reader,
    text: Text,
    texts: Sequence[Text],
    how: str = "last",
    *,
    check: Callable[[], object] = lambda: None,
) -> Similar:
    """Sort texts by the cosine of their vectors with that of another text."""
    if not texts:
        raise InputError("Expected texts to compare with, got none.")
    found = vectors(reader, [text, *texts], how, check=check).astype(np.float64)
    lengths = np.linalg.norm(found, axis=1)
    cosines = found[1:] @ found[0] / np.maximum(lengths[1:] * lengths[0], 1e-30)
    order = np.argsort(-cosines, kind="stable")
    shown = ["".join(reader.symbols(texts[i])) for i in order]
    return Similar(tuple(shown), order, cosines[order])
