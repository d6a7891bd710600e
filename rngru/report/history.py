"""The record of a training run, as arrays and as a table.

A :class:`Recorder` listens to the events and makes a :class:`History` of them.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, final, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rngru.errors import InputError, choose
from rngru.events import Batch, End, Event, Notice, Round, short
from rngru.tables import Table

REASONS: Final = {
    "done": "all done",
    "time": "stopped because the time was up",
    "patience": "stopped because the validation loss no longer falls",
    "interrupted": "interrupted; trainmodel() goes on from here",
    "listener": "stopped by a listener",
    "past": "all that led to this model",
}
"""Why training stops: the word in events and histories, and a sentence for it."""


@final
class History(Sequence[Round]):
    """The rounds of a training run: an immutable sequence whose repr is a table.

    Parameters
    ----------
    rounds
        The rounds, oldest first.
    losses, positions
        For each batch of the run, its training loss (nats per symbol) and how
        many symbols of training text had been read after it. For past runs,
        each entry is the mean of some batches.
    reason
        Why the run stopped: ``'done'``, ``'time'``, ``'patience'``,
        ``'interrupted'`` or ``'listener'``; or ``'past'`` for the rounds of all
        calls that led to a model.
    earlier
        The lowest validation loss of earlier calls, nats per symbol.
    back
        Whether the model went back to its best round at the end.
    said
        What the listener said that stopped the run.

    Attributes
    ----------
    losses : float64 array, (batches,)
    positions : int64 array, (batches,)
    position : int64 array, (rounds,)
        Symbols of training text read by the end of each round.
    trainloss : float64 array, (rounds,)
        Mean training loss of each round, nats per symbol.
    validloss : float64 array, (rounds,)
        Validation loss after each round, nats per symbol; NaN where nothing was
        validated.
    reason, said : str
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
        earlier: float | None = None,
        back: bool = False,
        said: str = "",
    ) -> None:
        self._earlier, self._back, self.said = earlier, back, said
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

    @property
    def units(self) -> str:
        """What is counted: ``'characters'``, ``'words'`` or ``'bytes'``."""
        return self._rounds[-1].units if self._rounds else "characters"

    def table(self) -> Table:
        """Return the table that the repr shows; the best round is in it, however many there are."""
        unit = short(self.units)
        names = ["round", "epoch", "train", "valid", f"bits/{unit}", "rate", "gradnorm"]
        names += [f"{unit}/s", "seconds"]
        rows = [
            [
                str(entry.round),
                f"{entry.epoch:.2f}",
                f"{entry.trainloss:.4f}",
                "-" if entry.validloss is None else f"{entry.validloss:.4f}",
                "-" if entry.bits is None else f"{entry.bits:.3f}",
                f"{entry.learnrate:.3g}",
                f"{entry.gradnorm:.3g}",
                f"{symbols / seconds:,.0f}" if seconds > 0 else "-",
                f"{seconds:.1f}",
            ]
            for entry, (symbols, seconds) in zip(self._rounds, self._spent(), strict=True)
        ]
        done = _counted(len(self), "round")
        if self.losses.size and self.reason != "past":
            done += f", {_counted(self.losses.size, 'batch', 'batches')}"
        best = [] if np.isnan(self.validloss).all() else [int(np.nanargmin(self.validloss))]
        why = REASONS[self.reason] + (f": {self.said.rstrip('.')}" if self.said else "")
        note = f"{done}: {why}.{self._best(*best)}"
        return Table(names, rows, note=note, always=best)

    def _best(self, row: int | None = None) -> str:
        """Say which round was the best, if that is not the last one."""
        if row is None:
            return ""
        lowest, last = float(self.validloss[row]), float(self.validloss[-1])
        where = f"round {self._rounds[row].round}"
        if self._earlier is not None and self._earlier <= lowest:
            lowest, where = self._earlier, "an earlier call"
        if last <= lowest:
            return ""
        if self._back:
            return f"\nBack to the lowest validation loss, {lowest:.4f}, of {where}."
        now = "was not validated" if math.isnan(last) else f"is now at {last:.4f}"
        return (
            f"\nThe lowest validation loss was {lowest:.4f}, of {where}; the model {now}. "
            "ms.restore('best') goes back."
        )

    def _spent(self) -> Iterator[tuple[int, float]]:
        """Yield symbols and seconds of each round by itself; both counts restart with each run."""
        symbols, seconds, number = 0, 0.0, 0
        for entry in self._rounds:
            again = entry.characters < symbols or entry.seconds < seconds
            if again or entry.round <= number:  # the first round of another call
                symbols, seconds = 0, 0.0
            number = entry.round
            took = entry.seconds - seconds if entry.trained is None else entry.trained
            yield entry.characters - symbols, took
            symbols, seconds = entry.characters, entry.seconds

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
        self._end = End("interrupted")

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
                self._end = event

    def history(self) -> History:
        """Return the history so far; a run that has not ended counts as interrupted."""
        return History(
            self._rounds,
            losses=list(self._losses.values()),
            positions=list(self._losses),
            reason=self._end.reason,
            earlier=self._end.best,
            back=self._end.back,
            said=self._end.said,
        )


def watched(events: Iterable[Event], *listeners: Callable[[Event], object]) -> History:
    """Let a session run: pass each of its events to the listeners, and return its history.

    Example
    -------
    >>> heard = []
    >>> watched([End("done")], heard.append)
    0 rounds: all done.
    >>> heard == [End("done")]
    True
    """
    record = Recorder()
    hearers: tuple[Callable[[Event], object], ...] = (*listeners, record)
    for event in events:
        for hear in hearers:
            hear(event)
    return record.history()


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _frozen(values: ArrayLike, dtype: type = np.float64) -> NDArray[Any]:
    array: NDArray[Any] = np.array(values, dtype=dtype)
    array.setflags(write=False)
    return array
