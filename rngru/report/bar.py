"""A progress bar in a terminal, drawn by rich; the one part of reporting that imports it.

>>> import io
>>> with RichReporter(RichConsole(file=io.StringIO())) as report:
...     report(Notice("nobody sees this"))
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self, final

import rich.table
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.text import Text

from rngru.events import Batch, Begin, Drawn, End, Event, Notice, Reading, Round, Validating
from rngru.report.live import Meter, roundwords
from rngru.tables import printable


class RichConsole(Console):
    """One that does not end the process when nobody reads any more."""

    def on_broken_pipe(self) -> None:
        """Raise what rich would end the process for."""
        raise  # it is called where BrokenPipeError is being handled


@final
class RichReporter:
    """Keep a progress bar at the bottom of a terminal; samples and rounds scroll by above it.

    The bar appears with the first event, or when encoding a text takes more than half a second; it
    is taken away at the end, on leaving the ``with`` block at the latest, so that an interrupt
    leaves a clean prompt. It is drawn by the thread that trains, ten times a second at most. When the
    terminal is gone, the report falls silent and training goes on.

    Parameters
    ----------
    console
        A rich console; None: one on standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = RichConsole(stderr=True) if console is None else console
        self._meter = Meter()
        self._drawn = -math.inf
        self._live = Live(
            _Line(self._meter), console=self._console, auto_refresh=False, transient=True
        )
        self._gone = False

    def __call__(self, event: Event, /) -> None:
        """Show ``event``."""
        self._meter.follow(event)
        if not self._gone:
            with self._perhapsgone():
                self._show(event)

    @contextmanager
    def _perhapsgone(self) -> Iterator[None]:
        """Fall silent if the terminal is gone."""
        try:
            yield
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and not self._console.file.closed:
                raise
            self._gone = True
            with suppress(OSError, ValueError):
                self._live.stop()  # gives standard output back to whoever writes to it

    def _show(self, event: Event) -> None:
        match event:
            case Begin():
                self._live.start()
            case Reading() if event.done >= event.total:
                self._live.stop()
            case Reading() if event.seconds < 0.5:
                pass
            case Reading() if not self._live.is_started:
                self._live.start(refresh=True)
            case Batch() | Reading() | Validating():
                if (now := self._console.get_time()) >= self._drawn + 0.1:
                    self._drawn = now
                    self._live.refresh()
            case Drawn():
                self._console.print(
                    Rule(f"epoch {event.epoch:.2f}", align="left", style="dim"),
                    self._text(event.text),
                )
            case Round():
                self._console.print(self._text(roundwords(event), style="bold"))
            case Notice():
                self._console.print(self._text(event.text, style="yellow"))
            case End():
                self._live.stop()

    def _text(self, text: str, style: str = "") -> Text:
        # A Text is never read as markup, whatever brackets and colons the model has written.
        return Text(printable(text, self._console.encoding), style=style)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self._perhapsgone():
            self._live.stop()


class _Line:
    """What a meter says, as a line that fits the width of a terminal."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        narrow = options.max_width < 76
        words = Text(self.meter.words(narrow=narrow), no_wrap=True, overflow="crop")
        if narrow:
            yield words
            return
        line = rich.table.Table.grid(expand=True, padding=(0, 2))
        line.add_column(width=66)
        line.add_column(ratio=1)
        line.add_row(words, ProgressBar(total=1.0, completed=self.meter.share))
        yield line
