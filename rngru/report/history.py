"""A training run after the fact: what was recorded, as arrays and as a table.

:class:`Recorder` hears the events and gives a :class:`History`; a :class:`Table` is how it, and
anything else in columns, looks at the prompt and in a notebook.

>>> Table(["name", "V"], [["small", "66"]])
 name   V
small  66
"""

import html
import itertools
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, final, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rngru.errors import InputError, choose
from rngru.training import Batch, End, Event, Notice, Round


@final
class Table:
    """Cells of text in right-aligned columns; the repr is the table, cut to fit the terminal.

    Of a long table the middle is left out, of a wide one the columns on the right.

    Parameters
    ----------
    names
        The heading of each column.
    rows
        The cells, as many per row as there are names.
    note
        A line below the table.

    Example
    -------
    >>> Table(["step", "loss"], [["100", "2.5"], ["2000", "1.75"]], note="Two checkpoints.")
    step  loss
     100   2.5
    2000  1.75
    Two checkpoints.
    """

    def __init__(
        self, names: Sequence[str], rows: Iterable[Sequence[str]], *, note: str = ""
    ) -> None:
        self.names = tuple(names)
        self.rows = tuple(map(tuple, rows))
        self.note = note

    def _shown(self) -> list[tuple[str, ...]]:
        if len(self.rows) <= 24:
            return list(self.rows)
        return [*self.rows[:8], ("…",) * len(self.names), *self.rows[-12:]]

    def __repr__(self) -> str:
        lines = [self.names, *self._shown()] if self.rows else []
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        space = shutil.get_terminal_size().columns
        while len(widths) > 1 and sum(widths) + 2 * (len(widths) - 1) > space:
            widths.pop()
        text = [
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=False))
            for line in lines
        ]
        return "\n".join(text + [self.note] * bool(self.note))

    def _repr_html_(self) -> str:
        def row(cells: Iterable[str], tag: str) -> str:
            inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
            return f"<tr>{inner}</tr>"

        body = "".join(row(cells, "td") for cells in self._shown())
        return f"<table>{row(self.names, 'th')}{body}</table><p>{html.escape(self.note)}</p>"


REASONS: Final = {
    "done": "all done",
    "time": "stopped because the time was up",
    "patience": "stopped because the validation loss no longer falls",
    "interrupted": "interrupted; trainmodel() goes on from here",
}
"""Why training stops, as the events and a history say it, and in words."""


@final
class History(Sequence[Round]):
    """The rounds of a training run: an immutable sequence whose repr is a table.

    Parameters
    ----------
    rounds
        What to hold, in order of time.
    losses, positions
        For each batch of the run, its training loss (nats per character) and how many characters
        of training text had been consumed after it.
    reason
        Why the run stopped: ``'done'``, ``'time'``, ``'patience'`` or ``'interrupted'``.

    Attributes
    ----------
    losses : float64 array, (batches,)
    positions : int64 array, (batches,)
    position : int64 array, (rounds,)
        Characters of training text consumed at the end of each round.
    trainloss : float64 array, (rounds,)
        Mean training loss of each round, nats per character.
    validloss : float64 array, (rounds,)
        Validation loss after each round, nats per character; NaN where nothing was validated.
    reason : str
    interrupted : bool

    Example
    -------
    >>> history = History([], losses=[2.5, 2.25], positions=[800, 1600], reason="interrupted")
    >>> history
    0 rounds, 2 batches: interrupted; trainmodel() goes on from here.
    >>> history.interrupted, history.losses.mean()
    (True, np.float64(2.375))
    """

    def __init__(
        self,
        rounds: Iterable[Round] = (),
        *,
        losses: ArrayLike = (),
        positions: ArrayLike = (),
        reason: str = "done",
    ) -> None:
        self._rounds = tuple(rounds)
        self.losses = _frozen(losses)
        self.positions = _frozen(positions, np.int64)
        if self.losses.shape != self.positions.shape:
            raise InputError(
                "History: losses and positions must be as many as each other, got shapes "
                f"{self.losses.shape} and {self.positions.shape}."
            )
        self.reason = choose("reason", reason, REASONS)
        self.interrupted = reason == "interrupted"
        self.position = _frozen([r.position for r in self._rounds], np.int64)
        self.trainloss = _frozen([r.trainloss for r in self._rounds])
        self.validloss = _frozen(
            [math.nan if r.validloss is None else r.validloss for r in self._rounds]
        )

    def __len__(self) -> int:
        return len(self._rounds)

    @overload
    def __getitem__(self, index: int) -> Round: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Round, ...]: ...
    def __getitem__(self, index: int | slice) -> Round | tuple[Round, ...]:
        return self._rounds[index]

    def table(self) -> Table:
        """Return the table that the repr shows."""
        rows = []
        for entry, (characters, seconds) in zip(self._rounds, self._spent(), strict=True):
            rows.append(
                [
                    str(entry.round),
                    f"{entry.epoch:.2f}",
                    f"{entry.trainloss:.4f}",
                    "-" if entry.validloss is None else f"{entry.validloss:.4f}",
                    "-" if entry.bits is None else f"{entry.bits:.3f}",
                    f"{entry.learnrate:.3g}",
                    f"{entry.gradnorm:.3g}",
                    f"{characters / seconds:,.0f}" if seconds > 0 else "-",
                    f"{seconds:.1f}",
                ]
            )
        names = [
            "round",
            "epoch",
            "train",
            "valid",
            "bits/char",
            "rate",
            "gradient",
            "char/s",
            "seconds",
        ]
        done = _counted(len(self), "round")
        if self.losses.size:
            done += f", {_counted(self.losses.size, 'batch', 'batches')}"
        return Table(names, rows, note=f"{done}: {REASONS[self.reason]}.")

    def _spent(self) -> Iterator[tuple[int, float]]:
        """Characters and seconds of each round by itself; both counts restart with each run."""
        characters, seconds = 0, 0.0
        for entry in self._rounds:
            if entry.characters < characters or entry.seconds < seconds:
                characters, seconds = 0, 0.0
            yield entry.characters - characters, entry.seconds - seconds
            characters, seconds = entry.characters, entry.seconds

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


@final
class Recorder:
    """Keep the events of a training run as a :class:`History`; shows nothing."""

    def __init__(self) -> None:
        self._rounds: list[Round] = []
        self._losses: dict[int, float] = {}  # by position
        self._reason = "interrupted"

    def __call__(self, event: Event) -> None:
        """Take note of ``event``."""
        match event:
            case Batch():
                self._losses[event.position] = event.loss
            case Notice(position=int(back)):
                self._losses = {at: loss for at, loss in self._losses.items() if at <= back}
            case Round():
                self._rounds.append(event)
            case End():
                self._reason = event.reason

    def curve(self) -> list[tuple[int, float]]:
        """Return position and loss of each batch since the last round."""
        last = self._rounds[-1].position if self._rounds else -1
        recent = itertools.takewhile(lambda each: each[0] > last, reversed(self._losses.items()))
        return list(recent)[::-1]

    def history(self) -> History:
        """Return the history so far; a run that has not ended counts as interrupted."""
        return History(
            self._rounds,
            losses=list(self._losses.values()),
            positions=list(self._losses),
            reason=self._reason,
        )


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _frozen(values: ArrayLike, dtype: type = np.float64) -> NDArray[Any]:
    array: NDArray[Any] = np.array(values, dtype=dtype)
    array.setflags(write=False)
    return array
