"""A training run while it goes on: the reporters, and what they say.

A reporter shows events and changes nothing. Whatever a model writes reaches the screen as plain text,
never as markup or control codes.

>>> with reporter("silent") as report:
...     report(Notice("nobody hears this"))
"""

import math
import sys
from types import TracebackType
from typing import Final, Protocol, Self, TextIO, final

from rngru.errors import choose
from rngru.events import Batch, Begin, Drawn, Event, Notice, Reading, Round, Validating, short
from rngru.tables import printable


class Reporter(Protocol):
    """What is called with every event of a training run, inside a ``with`` block."""

    def __call__(self, event: Event, /) -> None:
        """Show ``event``."""

    def __enter__(self) -> Self:
        """Get ready."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        """Leave the screen as it was found, whatever happened."""


@final
class SilentReporter:
    """Show nothing."""

    def __call__(self, event: Event, /) -> None:
        """Show nothing of ``event``."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@final
class PlainReporter:
    """Write lines of plain text: progress every few seconds, every sample and every round.

    Parameters
    ----------
    stream
        Where to write; None: standard output. When it cannot be written to any longer (a closed
        pipe), the report falls silent and training goes on.
    every
        Seconds of training between two lines about progress.

    Example
    -------
    >>> from rngru.events import Drawn
    >>> with PlainReporter(sys.stdout) as report:
    ...     report(Drawn(position=5000, epoch=0.25, text="the cat\\x1b sat"))
    --- epoch 0.25
    the cat␛ sat
    """

    def __init__(self, stream: TextIO | None = None, *, every: float = 5.0) -> None:
        self._stream: TextIO | None = sys.stdout if stream is None else stream
        self._every = every
        self._next = every
        self._meter = Meter()

    def __call__(self, event: Event, /) -> None:
        """Write what ``event`` says, if anything."""
        self._meter.follow(event)
        match event:
            case Begin():
                self._next = self._every
            case Batch() | Reading() | Validating() if event.seconds >= self._next:
                self._next = event.seconds + self._every
                self._write(self._meter.words())
            case Drawn():
                self._write(f"--- epoch {event.epoch:.2f}\n{event.text}")
            case Round():
                self._write(roundwords(event))
            case Notice():
                self._write(event.text)

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(printable(text, self._stream.encoding or "utf-8") + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def innotebook() -> bool:
    """Whether this is a kernel that a notebook talks to."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ == "ZMQInteractiveShell"


KINDS: Final = ("rich", "plain", "silent")
"""The kinds of reporter that :func:`reporter` makes."""


def reporter(kind: str | None = None) -> Reporter:
    """Return a reporter of the given kind, or one that suits the screen.

    Parameters
    ----------
    kind
        ``'rich'``: a progress bar; ``'plain'``: lines on standard output; ``'silent'``: nothing.
        None: a bar in place in a notebook, rich on a terminal (standard error, otherwise standard
        output), plain elsewhere.

    Raises
    ------
    InputError
        For another kind.

    Example
    -------
    >>> with reporter("silent") as report:
    ...     report(Notice("nobody hears this"))
    """
    if kind is None:
        if innotebook():
            from rngru.report.notebook import NotebookReporter

            return NotebookReporter()
        for stream in (sys.stderr, sys.stdout):
            # Rich alone would believe FORCE_COLOR, and a log file has no line to draw over.
            if stream is not None and stream.isatty():
                from rngru.report.bar import RichConsole, RichReporter

                console = RichConsole(file=stream)
                if console.is_terminal and not console.is_dumb_terminal:
                    return RichReporter(console)
        return PlainReporter()
    match choose("report", kind, KINDS):
        case "rich" if innotebook():  # rich draws over nothing there
            return reporter()
        case "rich":
            from rngru.report.bar import RichConsole, RichReporter

            return RichReporter(RichConsole(stderr=True))
        case "plain":
            return PlainReporter()
    return SilentReporter()


class Meter:
    """The progress of a run, in words, and as a line that fits the width of a terminal."""

    def __init__(self) -> None:
        self._plan = Begin(1, 1, 1, 1, 1, None)
        self._reading: Reading | None = None
        self._restart()

    def _restart(self) -> None:
        self._trained = 0
        self._last: Batch | None = None
        self._checked: Validating | None = None
        self._loss = self._weight = 0.0
        self._mark: Batch | Round | None = None
        self._characters = self._seconds = 0.0

    def follow(self, event: Event) -> None:
        """Take ``event`` into account."""
        match event:
            case Reading():
                self._reading = event
            case Begin():
                self._plan, self._reading = event, None
                self._restart()
            case Batch():
                self._trained += 1
                # A running mean over about 20 batches; dividing by its own weight makes it a
                # mean from the first batch on.
                self._loss += 0.05 * (event.loss - self._loss)
                self._weight += 0.05 * (1.0 - self._weight)
                self._last, self._checked = event, None
                self._measure(event)
            case Validating():
                self._checked = event
            case Round():
                self._checked = None
                self._mark = event  # the time since its last batch was not spent on training

    def _measure(self, event: Batch) -> None:
        """Follow the speed of the last five seconds or so, without the first batch's compiling."""
        if self._mark is not None:
            elapsed = event.seconds - self._mark.seconds
            keep = math.exp(-elapsed / 5.0)
            self._characters = keep * self._characters + event.characters - self._mark.characters
            self._seconds = keep * self._seconds + elapsed
        self._mark = event

    @property
    def share(self) -> float:
        """How much of the run, or of reading the text, is done, from 0 to 1."""
        if self._reading is not None:
            return self._reading.done / self._reading.total
        if self._last is None:
            return 0.0
        if self._checked is not None:
            return self._checked.done / max(self._checked.total, 1)
        shares = [0.0]
        if self._plan.max_seconds is not None:
            shares.append(min(self._last.seconds / self._plan.max_seconds, 1.0))
        if self._plan.rounds is not None:
            shares.append(self._trained / (self._plan.rounds * self._plan.batches))
        return max(shares)

    def words(self, *, narrow: bool = False) -> str:
        """Say epoch, smoothed loss, speed and time left, in 66 columns or, if narrow, in 40."""
        if self._reading is not None:
            rate = self._reading.done / max(self._reading.seconds, 1e-9)
            left = (self._reading.total - self._reading.done) / max(rate, 1e-9)
            what = "encoding" if narrow else "encoding the text"
            return f"{what}  {self.share:.0%}  {rate / 1e6:,.1f} MB/s  {_clock(left)} left"
        if self._last is None:
            return "starting" if narrow else "starting: the first batch takes longer than others"
        if self._checked is not None:
            hint = "  Ctrl-C skips it" if self._checked.stopping else ""
            return f"validating  {min(self.share, 1.0):.0%}{hint}"
        speed = self._characters / self._seconds if self._seconds > 0 else 0.0
        left = self._last.seconds * (1.0 / self.share - 1.0) if self.share else math.inf
        if self._plan.max_seconds is not None:
            left = min(left, self._plan.max_seconds - self._last.seconds)
        epoch, loss = f"epoch {self._last.epoch:.2f}", f"loss {self._loss / self._weight:.3f}"
        forever = left > 1e9
        if narrow:
            rest = "" if forever else f"  {_clock(left)}"
            return f"{epoch}  {loss}  {speed / 1000:.0f}k/s{rest}"
        rest = "until Ctrl-C" if forever else f"{_clock(left)} left"
        unit = short(self._plan.units)
        return f"{epoch}  {loss} nats/{unit}  {speed:,.0f} {unit}/s  {rest}"


def roundwords(event: Round) -> str:
    """Return the line that a reporter shows of a round."""
    words = f"round {event.round}  epoch {event.epoch:.2f}  train {event.trainloss:.4f}"
    if event.validloss is not None:
        words += f"  valid {event.validloss:.4f} nats/{short(event.units)}"
    return words + (f"  checkpoint {event.checkpoint}" if event.checkpoint else "")


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(max(seconds, 0.0)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
