"""Where a run stands: parameters, caches, state and position, replaced whole after each batch."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from rngru.backends import Arrays, Backend, Caches
from rngru.hyper import MEAN


@dataclass(frozen=True, slots=True)
class Scores:
    """What validation has said of a run so far, over all calls.

    Parameters
    ----------
    latest: the last loss, nats per symbol; None before the first.
    best: the lowest loss after a round.
    worse: rounds in a row, since the best, whose loss was not lower.

    Example
    -------
    >>> Scores(latest=4.0).after(2.5).after(2.75)
    Scores(latest=2.75, best=2.5, worse=1)
    """

    latest: float | None = None
    best: float | None = None
    worse: int = 0

    def after(self, loss: float) -> "Scores":
        """Return the scores after one more round."""
        if self.best is None or loss < self.best:
            return Scores(loss, loss)
        return Scores(loss, self.best, self.worse + 1)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands. It is replaced whole after each batch, so it is always consistent.

    Parameters
    ----------
    arrays, caches: parameters and what the optimizer remembers; see :mod:`rngru.backends.base`.
    learnrate: the learning rate in force, which a schedule may scale for one batch.
    state: (L, B, H), what the lanes carry into the next batch, or None to start from zero.
    position: symbols of training text read.
    batches: batches trained on, one update each.
    scores: what validation has said.
    """

    arrays: Arrays
    caches: Caches
    learnrate: float
    state: np.ndarray | None = None
    position: int = 0
    batches: int = 0
    scores: Scores = Scores()

    @property
    def weights(self) -> Arrays:
        """The parameters that read and write: the averaged ones, if there are any."""
        return self.caches.get(MEAN, self.arrays)

    def fetched(self, backend: Backend) -> Self:
        """Return it with NumPy's arrays instead of those that a backend has placed elsewhere."""
        caches = {name: backend.fetch(cache) for name, cache in self.caches.items()}
        state = None if self.state is None else backend.fetch({"state": self.state})["state"]
        return replace(self, arrays=backend.fetch(self.arrays), caches=caches, state=state)
