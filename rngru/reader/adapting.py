r"""Reading that learns: dynamic evaluation.

A text is read in pieces of 50 symbols. Each is predicted with the parameters as they are, and only then
do they take one step down its gradient, so no symbol is seen before it is predicted (Krause et al.,
Dynamic Evaluation of Neural Sequence Models, 2018, arXiv 1709.07432). With :math:`g` the gradient of the
loss of a piece, :math:`m` the running mean of its square, which starts with that of training,
:math:`\theta_0` the parameters before the text, and :math:`s` the size of the gradients of a weight
against those of all, at most 1,

.. math:: \theta' = \theta - \eta\, g / \sqrt{m + 10^{-6}}, \qquad
          \theta'' = \theta' + \lambda s (\theta_0 - \theta')

where the second, the way back, comes after every fourth piece only. The rate, the decay of the mean and
:math:`\lambda` were chosen on the last tenth of the training text of Tiny Shakespeare, in some 80 runs of
GRUs with 2 layers of 192 and 256 and LSTMs with 2 layers of 512: the best rates were 5e-4, 4e-4 and 2e-4.

Besides, what followed the same symbols earlier in the text is likelier than the parameters say:
:mod:`rngru.kernels.recall`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import final

import numpy as np

from rngru import backends
from rngru.backends import Arrays, Backend, Caches, Step
from rngru.errors import InputError
from rngru.hyper import REGULARISERS, SETTINGS
from rngru.interrupts import never
from rngru.reader.reader import Reader

RATE = 0.1
"""How far a piece of text moves a parameter, times the size of a layer: wide layers want small steps."""

HIGHEST = 1e-3
"""How far at most, however small the layers are."""

PULL = 0.064
"""How much of the way back to where it was a parameter goes at a time."""

SOMETIMES = 4
"""Pieces after which it does. A quarter of the way after each piece takes longer, with the same loss."""

DECAY = 0.98
"""Share of the running mean of squared gradients that each piece keeps."""

PIECE = 50
"""Symbols that are predicted before they are learned."""

TINY = 1e-300
"""A symbol is never less likely: its logarithm must be a number."""

GATHERED = 20_000
"""Symbols of training text whose gradients tell their size, where the optimizer does not."""


@final
class Learner:
    """Reads one text with parameters that follow it; the model that it began with stays as it is.

    Parameters
    ----------
    reader: the model.
    squares: the mean square of the gradient of each parameter, by name: see :func:`gathered`.
    rate: how far a piece of text moves a parameter; None is :data:`RATE` for the size of the layers.
    teacher: what computes the steps, from :func:`teaching`, if several are to share it.

    Attributes
    ----------
    reader : Reader
        The model as it is now.
    recall : Recall
        What has been read. What :meth:`predicted` and :meth:`losses` do with it, others must do themselves.
    """

    def __init__(
        self,
        reader: Reader,
        squares: Mapping[str, np.ndarray],
        rate: float | None = None,
        teacher: Backend | None = None,
    ) -> None:
        from rngru.kernels.recall import Recall  # Numba takes a while to load

        self.recall = Recall()
        self.reader, self._first = reader, reader.backend.fetch(reader.weights)
        usual = min(RATE / reader.hyper.state_size, HIGHEST)
        self._rate = usual if rate is None else rate
        self._backend = teaching(reader) if teacher is None else teacher
        self._caches: Caches = {"mean": dict(squares)}
        sizes = {name: np.sqrt(each) for name, each in squares.items()}
        mean = np.mean([each.mean() for each in sizes.values()])
        self._pull = {name: PULL * np.minimum(1, each / mean) for name, each in sizes.items()}
        self._learned = 0

    def predicted(
        self, ids: np.ndarray, state: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (positions (n,), symbols (n,), log-probabilities (n, V)) of each piece, then learn it.

        The first symbol of ``ids`` (N,) is read and not predicted.
        """
        state = self.reader.freshstate() if state is None else state
        self.recall.learn(int(ids[0]))
        for at, x, y in _pieces(ids):
            step, found = self._backend.predictstep(
                self.reader.weights, self._caches, x, y, state, self._rate
            )
            chances, symbols = found[:, 0], y[:, 0]
            self.recall.read(chances, symbols)
            yield np.arange(at, at + len(y)), symbols, np.log(np.maximum(chances, TINY))
            self._take(step)
            state = step.state

    def losses(self, ids: np.ndarray, state: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Do what :meth:`predicted` does, but yield nats alone."""
        for _, symbols, logits in self.predicted(ids, state):
            yield -logits[np.arange(len(symbols)), symbols]

    def learn(self, x: np.ndarray, y: np.ndarray, state: np.ndarray) -> Step:
        """Learn that each of ``y`` (n, 1), int32, came after its ``x``, read from ``state`` (L, 1, H)."""
        step = self._backend.step(self.reader.weights, self._caches, x, y, state, self._rate)
        self._take(step)
        return step

    def _take(self, step: Step) -> None:
        if not step.finite:  # it teaches nothing
            return
        weights = self._backend.fetch(step.arrays)
        self._learned += 1
        if self._learned % SOMETIMES == 0:
            weights = self._back(weights)
        self.reader, self._caches = replace(self.reader, weights=weights), step.caches

    def _back(self, weights: Arrays) -> Arrays:
        """Return parameters that have gone some of the way back."""
        from rngru.kernels import threads, update  # Numba takes a while to load

        there = {name: np.array(each, order="C") for name, each in weights.items()}
        sides = [
            [side[name].reshape(-1) for name in there] for side in (there, self._first, self._pull)
        ]
        update.towards(*sides, count=threads.available())
        return there


def teaching(reader: Reader) -> Backend:
    """Return what computes the steps of learning a text; nothing is compiled yet.

    Raises
    ------
    InputError
        For a model that reads in both directions.
    """
    if reader.model.both:
        raise InputError(
            f"{reader.model.name} predicts each symbol from the text on both sides of it, so it "
            "cannot learn a text before it has read it. Leave out adapt=."
        )
    plain = {name: SETTINGS[name].default for name in REGULARISERS}
    hyper = reader.hyper.replace(
        optimizer="rmsprop", decay=DECAY, regcost=0.0, clip=None, clipnorm=None,
        average=None, average_from=0, **plain,
    )  # fmt: skip
    return backends.shielded(reader.backend.name, reader.model, hyper)


def _pieces(ids: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (position of the first symbol to predict, x, y), int32, (n, 1) each, of all ``ids`` (N,)."""
    for at in range(0, len(ids) - 1, PIECE):
        piece = ids[at : at + PIECE + 1, np.newaxis].astype(np.int32)
        yield at + 1, piece[:-1], piece[1:]


def gathered(
    reader: Reader, ids: np.ndarray, *, asked: Callable[[], bool] = never
) -> dict[str, np.ndarray]:
    """Return the mean square of the gradient of each parameter over the beginning of a text."""
    zeros = {name: np.zeros_like(array) for name, array in reader.weights.items()}
    backend, state, count = teaching(reader), reader.freshstate(), 0
    caches: Caches = {"mean": zeros}
    for _, x, y in _pieces(ids[:GATHERED]):
        step = backend.step(reader.weights, caches, x, y, state, 0.0)
        caches, state, count = step.caches, step.state, count + 1
        if asked():
            raise KeyboardInterrupt
    share = 1 - DECAY**count  # the mean began at zero
    return {name: each / np.float32(share) for name, each in caches["mean"].items()}
