"""A progress bar in a notebook, drawn in place; the one part of reporting that knows IPython.

>>> with NotebookReporter() as report:  # nothing has happened yet, so nothing is shown
...     pass
"""

import html
import time
from typing import Any, Self, final

from rngru.events import Batch, Begin, Drawn, End, Event, Notice, Reading, Round, Validating
from rngru.report.live import Meter, roundwords
from rngru.tables import printable

LINES = 60
"""Samples, rounds and notices that stay above the bar; the history has all rounds."""

EVERY = 0.25
"""Seconds between two drawings."""


@final
class NotebookReporter:
    """Keep a progress bar under the cell; samples and rounds stand above it.

    All of it is one output that is drawn again in place, so that an hour of training leaves no more
    behind than its last lines.
    """

    def __init__(self) -> None:
        self._meter = Meter()
        self._lines: list[str] = []
        self._drawn = 0.0
        self._handle: Any = None

    def __call__(self, event: Event, /) -> None:
        """Show ``event``."""
        self._meter.follow(event)
        match event:
            case Begin():
                self._draw()
            case Reading() if event.seconds < 0.5:
                pass
            case Batch() | Reading() | Validating():
                if time.monotonic() >= self._drawn + EVERY:
                    self._draw()
            case Drawn():
                self._say(f"epoch {event.epoch:.2f}", event.text)
            case Round():
                self._say("", roundwords(event), bold=True)
            case Notice():
                self._say("", event.text)
            case End():
                self._draw(bar=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._handle is not None:
            self._draw(bar=False)

    def _say(self, head: str, text: str, *, bold: bool = False) -> None:
        words = html.escape(printable(text))
        words = f"<b>{words}</b>" if bold else words
        dim = f'<span style="opacity:.6">{html.escape(head)}</span><br>' if head else ""
        self._lines.append(f'<div style="white-space:pre-wrap;margin:2px 0">{dim}{words}</div>')
        self._draw()

    def _draw(self, *, bar: bool = True) -> None:
        from IPython.display import HTML, display

        self._drawn = time.monotonic()
        body = "".join(self._lines[-LINES:])
        if bar:
            words, share = html.escape(self._meter.words()), self._meter.share
            body += (
                f'<div><progress max="1" value="{share:.4f}" style="width:12em"></progress> '
                f"<code>{words}</code></div>"
            )
        page = HTML(f'<div style="line-height:1.3">{body}</div>')
        if self._handle is None:
            self._handle = display(page, display_id=True)
        else:
            self._handle.update(page)
