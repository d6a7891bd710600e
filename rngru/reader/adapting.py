r"""Reading that learns: dynamic evaluation.

A text is read in pieces of 50 symbols. Each is predicted with the parameters as they are, and only then
do they take one step down its gradient, so no symbol is seen before it is predicted (Krause et al.,
Dynamic Evaluation of Neural Sequence Models, 2018, arXiv 1709.07432). With :math:`g` the gradient of the
loss of a piece, :math:`m` the running mean of its square, which starts with that of training,
:math:`\theta_0` the parameters before the text, and :math:`s` the size of the gradients of a weight
against those of all, at most 1,

.. math:: \theta' = \theta - \eta\, g / \sqrt{m + 10^{-6}}, \qquad
          \theta'' = \theta' + \lambda s (\theta_0 - \theta')

The rate, the decay of the mean and :math:`\lambda` were chosen on the last tenth of the training text of
Tiny Shakespeare, in 18 runs of a GRU of 2 layers of 256.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import final

import numpy as np

from rngru import backends
from rngru.errors import InputError
from rngru.interrupts import never
from rngru.reader.reader import Reader

RATE = 4e-4
"""How far a piece of text moves a parameter."""

PULL = 0.002
"""How much of the way back to where it was a parameter goes after each piece."""

DECAY = 0.98
"""Share of the running mean of squared gradients that each piece keeps."""

PIECE = 50
"""Symbols that are predicted before they are learned."""

GATHERED = 20_000
"""Symbols of training text whose gradients tell their size, where the optimizer does not."""


@final
class Learner:
    """Reads one text with parameters that follow it; the model that it began with stays as it is.

    Parameters
    ----------
    reader: the model.
    squares: the mean square of the gradient of each parameter, by name: see :func:`gathered`.
    rate: how far a piece of text moves a parameter.

    Attributes
    ----------
    reader : Reader
        The model as it is now.
    """

    def __init__(self, reader: Reader, squares: Mapping[str, np.ndarray], rate: float) -> None:
        if reader.model.both:
            raise InputError(
                f"{reader.model.name} predicts each symbol from the text on both sides of it, so it "
                "cannot learn a text before it has read it. Leave out adapt=."
            )
        hyper = reader.hyper.replace(
            optimizer="rmsprop", decay=DECAY, regcost=0.0, dropout=0.0, clip=None, clipnorm=None
        )
        self.reader, self._first, self._rate = reader, reader.weights, rate
        self._backend = backends.shielded(reader.backend.name, reader.model, hyper)
        self._caches: backends.Caches = {"mean": dict(squares)}
        sizes = {name: np.sqrt(each) for name, each in squares.items()}
        usual = np.mean([each.mean() for each in sizes.values()])
        self._pull = {name: PULL * np.minimum(1, each / usual) for name, each in sizes.items()}

    def predicted(
        self, ids: np.ndarray, state: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield, piece by piece, (positions (n,), symbols (n,), logits (n, V)); then learn the piece.

        The first symbol of ``ids`` (N,) is read and not predicted.
        """
        state = self.reader.freshstate() if state is None else state
        for at in range(0, len(ids) - 1, PIECE):
            piece = ids[at : at + PIECE + 1, np.newaxis].astype(np.int32)
            x, y = piece[:-1], piece[1:]
            trace = self.reader.backend.trace(self.reader.weights, x, state)
            yield np.arange(at + 1, at + len(piece)), y[:, 0], trace.logits[:, 0]
            self._learn(x, y, state)
            state = trace.ending

    def losses(self, ids: np.ndarray, state: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Do what :meth:`predicted` does, but yield nats alone: the mean of each piece for its symbols.

        A third faster, for the step that learns a piece says what its loss was.
        """
        state = self.reader.freshstate() if state is None else state
        for at in range(0, len(ids) - 1, PIECE):
            piece = ids[at : at + PIECE + 1, np.newaxis].astype(np.int32)
            step = self._learn(piece[:-1], piece[1:], state)
            yield np.full(len(piece) - 1, step.loss / (len(piece) - 1))
            state = step.state

    def _learn(self, x: np.ndarray, y: np.ndarray, state: np.ndarray) -> backends.Step:
        step = self._backend.step(self.reader.weights, self._caches, x, y, state, self._rate)
        if step.finite:  # else it teaches nothing
            weights = {}
            for name, array in step.arrays.items():
                back = self._first[name] - array
                back *= self._pull[name]
                back += array
                weights[name] = back
            self.reader, self._caches = replace(self.reader, weights=weights), step.caches
        return step


def gathered(
    reader: Reader, ids: np.ndarray, *, asked: Callable[[], bool] = never
) -> dict[str, np.ndarray]:
    """Return the mean square of the gradient of each parameter over the beginning of a text."""
    zeros = {name: np.zeros_like(array) for name, array in reader.weights.items()}
    learner = Learner(reader, {name: each + 1 for name, each in zeros.items()}, 0.0)
    learner._caches = {"mean": zeros}
    pieces = learner.predicted(ids[:GATHERED])
    count = 0
    for _ in pieces:
        count += 1
        if asked():
            raise KeyboardInterrupt
    share = 1 - DECAY**count  # the mean began at zero
    return {name: each / np.float32(share) for name, each in learner._caches["mean"].items()}
