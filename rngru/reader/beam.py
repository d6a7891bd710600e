"""The likeliest texts: beam search.

>>> likeliest(np.log([[0.5, 0.3, 0.2]]), np.array([-1.0]), 2)
(array([0, 0]), array([0, 1]))
"""

from collections.abc import Callable
from contextlib import suppress

import numpy as np

from rngru.errors import InputError
from rngru.interrupts import never
from rngru.reader.generating import begin, made
from rngru.reader.limits import unblank
from rngru.reader.reader import Reader, Text
from rngru.sampling import Sample, Samples, Sampling


def likeliest(
    logprobs: np.ndarray, reached: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``width`` likeliest ways to go on: (number of the text, symbol), the likeliest first.

    Parameters
    ----------
    logprobs: (B, V), of each next symbol of each text; minus infinity for what must not follow.
    reached: (B,), that of each text so far.

    Of equal ones the text, then the symbol with the lower number comes first.
    """
    total = (reached[:, np.newaxis] + logprobs).ravel()
    best = np.argsort(-total, kind="stable")[:width]
    best = best[np.isfinite(total[best])]
    return best // logprobs.shape[1], best % logprobs.shape[1]


def beam(
    reader: Reader,
    count: int,
    width: int,
    *,
    seed: Text | None,
    start: "np.ndarray | Sample | None",
    asked: Callable[[], bool] = never,
) -> Samples:
    """Search the likeliest texts of ``count`` symbols, keeping the ``width`` likeliest so far.

    Seed and start are those of :func:`rngru.reader.generating.generate`.
    """
    begun = begin(reader, seed, start, asked)
    if not begun.ids.size:
        raise InputError(
            "beam: there is nothing to continue, so no text is the likeliest. Give a seed."
        )
    barred, state, last = reader.barred(Sampling()), begun.state, begun.ids[-1:]
    ids, logprobs = np.empty((0, 1), np.int32), np.empty((0, 1))
    with suppress(KeyboardInterrupt):  # told to stop at once
        while len(ids) < count and not asked():
            trace = reader.backend.trace(reader.weights, last[np.newaxis], state)
            logits = trace.logits[0].astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            own = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            here = barred if begun.given or len(ids) else unblank(barred, reader.vocab)
            texts, last = likeliest(np.where(here, -np.inf, own), logprobs.sum(axis=0), width)
            last, state = last.astype(np.int32), trace.ending.take(texts, axis=1)
            ids = np.concatenate([ids[:, texts], [last]])
            logprobs = np.concatenate([logprobs[:, texts], [own[texts, last]]])
    cut, found = asked(), logprobs.astype(np.float32)
    samples = [
        made(reader, begun, ids[:, b], found[:, b], state[:, b : b + 1], None, cut)
        for b in range(ids.shape[1])
    ]
    return Samples(tuple(samples), shows=("logprob",))
