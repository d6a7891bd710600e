"""What a person sees of checkpoints: one line for each, and a table of all.

>>> Checkpoints([Checkpoint(0, Path("0"), validloss=4.6), Checkpoint(9, Path("9"), validloss=2.1)])
step  epoch  train loss  valid loss  saved
   0      -           -       4.600      -
   9      -           -       2.100      -  best
"""

import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rngru.tables import Table


@dataclass(frozen=True, repr=False)
class Checkpoint(os.PathLike[str]):
    """One checkpoint of a folder; it can be used wherever a path is expected.

    Attributes
    ----------
    step : int
        Its number; the largest is the newest.
    path : Path
        Its directory.
    saved : datetime or None
        When it was saved; aware, in local time.
    epoch : float or None
        Passes over the training text.
    position : int or None
        Symbols of training text read.
    trainloss, validloss : float or None
        Nats per symbol.
    summary : dict
        Everything that was given as ``meta['summary']``, these four included.
    problem : str
        Why it cannot be used; empty if no problem is known.
    needs : str
        The oldest rngru that can read it.

    Example
    -------
    >>> Checkpoint(1000, Path("checkpoints/1000"), epoch=0.52, validloss=1.79)
    <checkpoint 1000: epoch 0.52, valid loss 1.790>
    """

    step: int
    path: Path
    saved: datetime | None = None
    epoch: float | None = None
    position: int | None = None
    trainloss: float | None = None
    validloss: float | None = None
    summary: dict[str, Any] = field(default_factory=dict, hash=False)
    problem: str = ""
    needs: str = ""

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        if self.problem:
            return f"<checkpoint {self.step} {self.problem}>"
        labels = ("epoch", "train loss", "valid loss", "saved")
        cells = zip(labels, self._cells(), strict=True)
        words = ", ".join(f"{label} {cell}" for label, cell in cells if cell)
        return f"<checkpoint {self.step}: {words}>" if words else f"<checkpoint {self.step}>"

    def _cells(self) -> list[str]:
        """Return epoch, losses and date as text, '' for what is not known."""
        return [
            "" if self.epoch is None else f"{self.epoch:.2f}",
            "" if self.trainloss is None else f"{self.trainloss:.3f}",
            "" if self.validloss is None else f"{self.validloss:.3f}",
            "" if self.saved is None else f"{self.saved:%Y-%m-%d %H:%M}",
        ]


class Checkpoints(tuple[Checkpoint, ...]):
    """The checkpoints of a folder, oldest first: a tuple that shows itself as a table."""

    __slots__ = ()

    @property
    def intact(self) -> "Checkpoints":
        """Those without a known problem."""
        return Checkpoints(one for one in self if not one.problem)

    @property
    def best(self) -> Checkpoint | None:
        """The intact one with the lowest validation loss, the first of equals."""
        losses = {one: one.validloss for one in self.intact if one.validloss is not None}
        return min(losses, key=losses.__getitem__, default=None)

    def table(self) -> Table:
        """Return the table that the repr shows; the best and the damaged ones are always in it."""
        if not self:
            return Table([], [], note="no checkpoints")
        best = self.best
        names = ["step", "epoch", "train loss", "valid loss", "saved", ""]
        rows = [
            [
                str(one.step),
                *(cell or "-" for cell in one._cells()),
                one.problem or "best" * (one is best),
            ]
            for one in self
        ]
        return Table(names, rows, always=[i for i, row in enumerate(rows) if row[-1]])

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()
