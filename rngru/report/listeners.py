"""Listeners: whoever hears the events of a training run, ``trainmodel(listen=…)``.

A listener is any callable that takes one event of :mod:`rngru.events`. It cannot change the run, but it
may end it: by returning True, or a string that says why. :class:`Listeners` calls several of them, and
sees to it that none harms the run.

>>> from rngru.events import Batch, End
>>> with Listeners([lambda event: isinstance(event, Batch) and event.loss < 2 and "good enough"]) as heard:
...     heard(Batch(1, 1, 9, 100, 0.2, loss=1.9, gradnorm=1.0, characters=100, seconds=0.5))
>>> heard.told()
'good enough'
"""

import csv
import io
import json
import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO, Any, Final, Self, final

import numpy as np

from rngru.disk import isforeign, refusals, topath
from rngru.errors import InputError, WorkdirError, warn
from rngru.events import Batch, Begin, Drawn, End, Event, Notice, Round, short
from rngru.tables import finite, oneline

Listener = Callable[[Event], object]


@final
class Listeners:
    """The listeners of one call to train, as one.

    One that raises an exception is left out from then on, with a warning. On leaving the ``with``
    block, ``close()`` of each that has it is called.

    Parameters
    ----------
    listen
        A callable, several, or None.

    Raises
    ------
    InputError
        If one of them cannot be called.
    """

    def __init__(self, listen: Listener | Sequence[Listener] | None) -> None:
        several = [listen] if callable(listen) else listen or ()
        if not isinstance(several, list | tuple) or not all(map(callable, several)):
            raise InputError(
                f"listen={listen!r}: expected a function that takes an event, or a list of them."
            )
        self._hearers = list(several)
        self._said = ""

    def told(self) -> str:
        """Return why a listener wants the run to stop; '' if none does."""
        return self._said

    def __call__(self, event: Event, /) -> None:
        """Let each of them hear ``event``."""
        for hear in tuple(self._hearers):
            try:
                answer = hear(event)
            except Exception as error:
                self._hearers.remove(hear)
                warn(_failure(hear, error) + " It is left out from here on; training goes on.")
                continue
            # Nothing but these: what file.write returns is true as well.
            if isinstance(answer, bool | np.bool_) and answer:
                answer = f"{_name(hear)} returned True"
            if isinstance(answer, str) and not self._said:
                self._said = answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for hear in self._hearers:
            try:
                getattr(hear, "close", lambda: None)()
            except Exception as problem:
                warn(_failure(hear, problem))


def _name(hear: Listener) -> str:
    return getattr(hear, "__qualname__", type(hear).__name__)


def _failure(hear: Listener, error: Exception) -> str:
    _, *inner = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(inner[0].filename).name}, line {inner[0].lineno})" if inner else ""
    return f"The listener {_name(hear)} failed{where}: {type(error).__name__}: {error}."


_COLUMNS: Final = list(
    dict.fromkeys(["event", *(each.name for kind in (Batch, Round) for each in fields(kind))])
)


@final
class Lines:
    """A listener that appends the events of a run to a file, one a line.

    Parameters
    ----------
    path
        The file. If its name ends in ``.csv`` it gets a table of batches and rounds, with a column for
        each of their fields; else all events as JSON Lines: objects with the name of the ``event`` and its
        fields. Numbers that are not finite become null.

    Raises
    ------
    InputError
        If the file is there and holds something else.
    WorkdirError
        If it cannot be written.

    Example
    -------
    ::

        ms.trainmodel(max_seconds=60, listen=rngru.report.Lines('run.jsonl'))
        pandas.read_json('run.jsonl', lines=True)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = topath(path).expanduser().absolute()
        self._csv = self.path.suffix.lower() == ".csv"
        self._stream: IO[str] | None = None
        if isforeign(self.path, rb"\A" + (b"event," if self._csv else rb'\{"event": ')):
            raise InputError(
                f"{self.path} is there, and holds no events of a run. Name another file."
            )
        with refusals("Nothing can be written", self.path.parent, None, WorkdirError):
            self._open()
        self.close()

    def __call__(self, event: Event, /) -> None:
        """Append ``event``."""
        if self._stream is None:
            self._stream = self._open()
        values = finite({"event": type(event).__name__} | asdict(event))
        if not self._csv:
            self._stream.write(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")
        elif isinstance(event, Batch | Round):
            self._stream.write(_row(values.get(name) for name in _COLUMNS))

    def _open(self) -> IO[str]:
        # With line buffering, whoever follows the file sees each event.
        stream = self._stream = self.path.open("a", 1, encoding="utf-8", newline="")
        if self._csv and not stream.tell():
            stream.write(_row(_COLUMNS))
        return stream

    def close(self) -> None:
        """Close the file; the next event opens it again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _row(cells: Any) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


@final
class Log:
    """A listener that gives the events of a run to Python's logging.

    Notices are warnings; the beginning, each round, each sample and the end are information; each batch
    is for debugging.

    Parameters
    ----------
    name
        The name of the logger.

    Example
    -------
    ::

        logging.basicConfig(level=logging.INFO)
        ms.trainmodel(max_seconds=60, listen=rngru.report.Log())
    """

    def __init__(self, name: str = "rngru") -> None:
        self._logger = logging.getLogger(name)
        self._unit = "char"

    def __call__(self, event: Event, /) -> None:
        """Log ``event``."""
        log = self._logger
        match event:
            case Begin():
                self._unit = short(event.units)
                log.info(
                    "training on %d %s: batches of %d x %d",
                    event.trainlen, event.units, event.batchsize, event.seq_len,
                )  # fmt: skip
            case Batch():
                log.debug(
                    "batch %d of round %d: loss %.4f nats/%s, gradient %.3g",
                    event.batch, event.round, event.loss, self._unit, event.gradnorm,
                )  # fmt: skip
            case Round():
                valid = "" if event.validloss is None else f", valid {event.validloss:.4f}"
                log.info(
                    "round %d: epoch %.2f, train %.4f%s nats/%s, checkpoint %s",
                    event.round, event.epoch, event.trainloss, valid, self._unit, event.checkpoint,
                )  # fmt: skip
            case Drawn():
                log.info("sample at epoch %.2f: %s", event.epoch, oneline(event.text))
            case Notice():
                log.warning("%s", event.text)
            case End():
                log.info("training ended: %s", event.said or event.reason)
