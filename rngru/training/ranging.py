"""Which learning rate suits a model: a learning-rate range test.

The rate grows from batch to batch, each time by the same factor, while the loss is watched (Smith,
Cyclical Learning Rates for Training Neural Networks, arXiv 1506.01186). At rates that are too low the
loss stays; then it falls; at rates that are too high it climbs again.

>>> rates = np.geomspace(1e-4, 1, 81)
>>> losses = 3 - np.clip(np.log10(rates) + 3.5, 0, 1.5) + 9 * np.clip(np.log10(rates) + 1, 0, 1)
>>> test = RateTest(rates, losses, optimizer="adam")
>>> round(test.edge, 3), round(test.suggestion, 3)
(0.089, 0.018)
"""

import html
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import numpy as np

from rngru.errors import InputError
from rngru.tables import Table
from rngru.training.rates import timed
from rngru.training.run import Run

if TYPE_CHECKING:
    from rngru.plots import Figure

FEWEST: Final = 20
"""Batches of a test, however short the time."""

MOST: Final = 600
"""Batches after which more of them tell nothing new."""

LATE: Final = 1.5
"""How many times the given time a test may take, where batches are slower than those measured."""

WIDTH: Final = 0.1
"""Decades of the rate to each side that a smoothed loss is averaged over: a factor of 1.26."""

FAR: Final = 0.02
"""Share of the lowest smoothed loss that is still as good as it."""

BELOW: Final = 5.0
"""How far below the edge a rate is chosen.

Of GRUs with two layers of 64, trained on ``pydoc`` for 200 batches, those with a rate from a third to two
thirds of the edge learned most, with each of four optimizers; longer training wants lower rates.
"""

SHOWN: Final = 9
"""Rows of a table."""


@final
@dataclass(frozen=True, repr=False, eq=False)
class RateTest:
    """What a learning-rate range test found; at the prompt a suggestion, and a few of the losses.

    Attributes
    ----------
    rates : float64 array, (n,)
        The learning rate of each batch, from the lowest on.
    losses : float64 array, (n,)
        The loss of each batch before its update, in nats per symbol: what the
        rates before it have led to.
    optimizer : str
        The update rule. A rate that suits one does not suit another.
    units : str
        What a symbol is: ``'characters'``, ``'words'`` or ``'bytes'``.
    interrupted : bool
        Whether Ctrl-C ended it early.
    """

    rates: np.ndarray
    losses: np.ndarray
    optimizer: str = "rmsprop"
    units: str = "characters"
    interrupted: bool = False

    @cached_property
    def smoothed(self) -> np.ndarray:
        """The losses averaged over neighbouring rates, those nearest counting most; (n,)."""
        places = np.log10(self.rates)
        apart = (places[:, None] - places) / WIDTH
        weights = np.clip(1 - apart**2, 0, None)
        return weights @ self.losses / weights.sum(1)

    @property
    def edge(self) -> float:
        """The highest rate whose smoothed loss is within 2 % of the lowest one.

        Not the rate with the lowest loss: of a model that is trained already
        the loss is the same at all low rates, and chance would choose one.
        """
        good = self.smoothed <= (1 + FAR) * self.smoothed.min()
        return float(self.rates[np.flatnonzero(good)[-1]])

    @property
    def suggestion(self) -> float:
        """The rate to try: a fifth of :attr:`edge`.

        The test has taken few steps at each rate. A rate that just does not
        harm for a few steps harms over thousands.
        """
        return self.edge / BELOW

    @property
    def low(self) -> bool:
        """Whether it ended before the loss had climbed: higher rates may suit, too."""
        return self.edge == self.rates[-1]

    def columns(self) -> dict[str, np.ndarray]:
        """Return everything by column, (n,) each, as ``pandas.DataFrame`` takes it."""
        return {"rate": self.rates, "loss": self.losses, "smoothed": self.smoothed}

    @property
    def figure(self) -> "Figure":
        """A matplotlib figure of the losses against the rate.

        Raises
        ------
        MissingExtra
            Without matplotlib.
        """
        from rngru.plots import ratefigure

        return ratefigure(self.rates, self.losses, self.smoothed, self.suggestion, units=self.units)

    def plot(self, path: str | Path) -> Path:
        """Save :attr:`figure` as a picture, whose ending decides the format, and return its path."""
        from rngru.plots import savepicture

        return savepicture(self.figure, path)

    @property
    def _told(self) -> str:
        told = (
            f"Try learnrate={self.suggestion:.2g} with optimizer={self.optimizer!r}: a fifth of "
            f"{self.edge:.2g}, the highest rate in {len(self.rates):,} batches at which the loss did "
            "not climb."
        )
        if self.low:
            told += (
                " It had not climbed at the end: more seconds=, or a higher highest=, tells more."
            )
        return f"{told} (Interrupted.)" if self.interrupted else told

    def _table(self) -> Table:
        rows = [
            [f"{self.rates[i]:.2g}", f"{self.smoothed[i]:.3f}"]
            for i in np.unique(np.linspace(0, len(self.rates) - 1, SHOWN).astype(int))
        ]
        return Table(["learnrate", "loss"], rows)

    def __repr__(self) -> str:
        return f"{self._told}\n{self._table()!r}"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self._told)}</p>{self._table()._repr_html_()}"


def ranged(
    run: Run,
    batchsize: int,
    seq_len: int,
    seconds: float,
    *,
    lowest: float,
    highest: float,
    asked: Callable[[], bool],
    clock: Callable[[], float] = time.monotonic,
) -> RateTest:
    """Train a run with a rate that grows, and return what that led to.

    How many batches it takes follows from the time that one of them takes. The test ends early when a
    loss is not finite, or twice the lowest one so far and a nat more.

    Parameters
    ----------
    run: one of its own, for its progress moves on.
    batchsize, seq_len: of each batch.
    seconds: how long it takes, about; at least :data:`FEWEST` batches are trained.
    lowest, highest: the rates of the first and the last batch.
    asked: whether to stop before the next batch.

    Raises
    ------
    KeyboardInterrupt
        If it is to stop before there is anything to tell.
    InputError
        If the lowest rate is too high already.
    """
    began = clock()
    batch = timed(run, batchsize, seq_len, 3, lambda: _stop(asked())).seconds
    left = seconds - (clock() - began)
    count = int(min(max(left / batch, FEWEST), MOST))
    rates, losses, size = np.geomspace(lowest, highest, count), list[float](), batchsize * seq_len
    for rate in rates:
        late = clock() - began > LATE * seconds and len(losses) >= FEWEST
        if asked() or late:
            break
        step = run.propose(batchsize, seq_len, float(rate))
        loss = step.loss / size
        if not step.finite or loss > 2 * min(losses, default=loss) + 1:
            break
        losses.append(loss)
        run.take(step, size)
    _stop(asked() and len(losses) < 2)
    if len(losses) < 2:
        raise InputError(f"lowest={lowest:g}: the loss climbs at once. Begin with a lower rate.")
    tried, units = rates[: len(losses)], run.data.vocab.units
    return RateTest(tried, np.array(losses), run.hyper.optimizer, units, interrupted=asked())


def _stop(wanted: bool) -> None:
    if wanted:
        raise KeyboardInterrupt
