"""What the losses of a run say of how it learns, in words, when that is first seen.

>>> verdict = Verdict(Scores(latest=3.3))
>>> verdict.opening(0.5, "adam")[0]  # doctest: +ELLIPSIS
"learnrate=0.5 is far above what optimizer='adam' learns with: at most 0.05, ..."
"""

import math
from typing import Final, final

from rngru.events import Round
from rngru.training.progress import Scores

HIGH: Final = {"rmsprop": 0.05, "adam": 0.05, "adamw": 0.05, "adagrad": 1.0, "sgd": 10.0}
"""Learning rates above which no model of ours has learned anything."""

ROUNDS = 3
"""Rounds without a lower validation loss that may be chance."""

HIGHER = 1.01
"""How many times the lowest validation loss may come back by chance."""

ENOUGH = 100
"""Batches after which a loss that has not fallen says something."""


@final
class Verdict:
    """Judges the rounds of one call to train; says each thing once.

    Parameters
    ----------
    before: what validation had said before the call.
    """

    def __init__(self, before: Scores) -> None:
        self._before, self._told = before, False
        self._lowest = math.inf  # the training loss of the round with the lowest validation loss

    def opening(self, rate: float, optimizer: str) -> list[str]:
        """Return what there is to say of a learning rate."""
        if rate <= HIGH[optimizer]:
            return []
        return [
            f"learnrate={rate:g} is far above what optimizer={optimizer!r} learns with: at most "
            f"{HIGH[optimizer]:g}, and often a hundredth of that."
        ]

    def closing(self, done: Round, scores: Scores, batches: int) -> list[str]:
        """Return what there is to say after a round, whose loss ``scores`` have; ``batches`` of the call."""
        told, valid, start = [], done.validloss, self._before.latest
        if valid is not None and valid == scores.best:
            self._lowest = done.trainloss
        elif not self._told and valid is not None and self._overfits(done, scores):
            self._told = True
            told.append(
                f"Overfitting: the validation loss was lowest {scores.worse} rounds ago, "
                f"{scores.best:.4f}, and is {valid:.4f} now, while the training loss falls. "
                "ms.restore('best') goes back. With dropout=, a smaller model or more text it learns "
                "less by heart."
            )
        untrained = self._before.best is None and start is not None and done.round == 1
        if untrained and start is not None and batches >= ENOUGH and done.trainloss > start:
            told.append(
                f"The training loss, {done.trainloss:.3f}, is not below that before training, "
                f"{start:.3f}: learnrate={done.learnrate:g} is probably too high."
            )
        return told

    def _overfits(self, done: Round, scores: Scores) -> bool:
        best, valid = scores.best, done.validloss
        return (
            best is not None
            and valid is not None
            and scores.worse >= ROUNDS
            and valid > HIGHER * best
            and done.trainloss < self._lowest
        )
