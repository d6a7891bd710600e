"""Filling the gaps of a text, with a model that reads in both directions.

>>> logits = np.array([[0.0, 2.0], [1.0, 0.0]])
>>> ids, found = climb(np.zeros(2, int), np.array([0]), lambda ids: logits, None)
>>> ids.tolist(), found.shape
([1, 0], (1, 2))
"""

from collections.abc import Callable

import numpy as np

from rngru.errors import InputError
from rngru.reader.reader import Reader
from rngru.sampling import Filled, probabilities


def fillgaps(
    reader: Reader, text: str, blank: str, choices: int, *, check: Callable[[], object]
) -> Filled:
    """Fill every ``blank`` of a text, for a model that reads in both directions.

    ``choices`` says how many alternatives to list for each gap; ``check`` raises KeyboardInterrupt to
    stop.
    """
    if not reader.model.both:
        raise InputError(
            f"{reader.model.name} reads forwards only, so it cannot fill gaps. Train a model with "
            "modeltype='BiGRU', 'BiLSTM' or 'BiRNN'."
        )
    if not isinstance(text, str):
        raise InputError(f"Expected a text as one string, got {type(text).__name__}.")
    vocab, text = reader.vocab, reader.respelt(text)
    symbols = vocab.split(text)
    gaps = np.array([i for i, symbol in enumerate(symbols) if symbol == blank], np.int64)
    if not len(gaps):
        raise InputError(
            f"There is no {blank!r} in the text, so nothing to fill. Put blank={blank!r} where "
            "something is missing, or name another blank."
        )
    ids = vocab.encode(text).astype(np.int32)
    if vocab.unknown_idx is not None:
        unknown = {symbols[i] for i in np.flatnonzero(ids == vocab.unknown_idx)}
        reader.warn(" ".join(sorted(unknown - {blank, vocab.unknown_char})))
    return fill(reader, ids, gaps, choices, check=check)


def fill(
    reader: Reader,
    ids: np.ndarray,
    gaps: np.ndarray,
    choices: int = 1,
    *,
    check: Callable[[], object] = lambda: None,
) -> Filled:
    """Fill the ``gaps`` (m,) of encoded text ``ids`` (n,), which may hold anything there."""

    def logits(ids: np.ndarray) -> np.ndarray:
        check()
        (trace,) = reader.read(ids)
        return trace.logits[:, 0]

    vocab = reader.vocab
    ids, found = climb(ids, gaps, logits, vocab.unknown_idx)
    alternatives = [
        tuple((vocab.charatidx(int(i)), float(p[i])) for i in (-p).argsort()[:choices])
        for p in found
    ]
    return Filled(vocab.decode(ids), tuple(zip(gaps.tolist(), alternatives, strict=True)))


def climb(
    ids: np.ndarray,
    gaps: np.ndarray,
    logits: Callable[[np.ndarray], np.ndarray],
    forbidden: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Fill gaps together: the surest first, then each again, given all the others, until none changes.

    This climbs to a maximum of the product of the conditional probabilities (iterated conditional
    modes: Besag, J. R. Statist. Soc. B 48, 1986).

    Parameters
    ----------
    ids: (n,), int32, anything at the gaps.
    gaps: (m,), where they are.
    logits: gives the logits (n, V) of each symbol, from all the others.
    forbidden: the id that nothing is filled with.

    Returns
    -------
    (ids (n,) filled, probabilities (m, V) of each gap given the others).
    """

    def distribution(ids: np.ndarray) -> np.ndarray:
        scores = np.array(logits(ids)[gaps], np.float64)
        if forbidden is not None:
            scores[:, forbidden] = -np.inf
        return probabilities(scores, 1.0)

    ids, empty = ids.copy(), np.ones(len(gaps), bool)
    while empty.any():
        found = distribution(ids)
        surest = int(np.argmax(np.where(empty, found.max(-1), -1.0)))
        ids[gaps[surest]], empty[surest] = found[surest].argmax(), False
    for _ in range(10):
        before = ids.copy()
        for i in range(len(gaps)):
            ids[gaps[i]] = distribution(ids)[i].argmax()
        if np.array_equal(ids, before):
            break
    return ids, distribution(ids)
