"""What a person sees of a training run: progress while it goes on, a table when it is over.

A reporter is a context manager that is called with each event of `rngru.events`; it shows them
and changes nothing. :func:`reporter` picks one that suits the screen: a progress bar on a terminal
(:class:`RichReporter`), plain lines anywhere else (:class:`PlainReporter`), or nothing at all
(:class:`SilentReporter`). A :class:`Recorder` is called in the same way and keeps what it hears as
a :class:`History`, whose repr is the table.

Losses are shown in nats per symbol and speed in symbols per second: characters, words or bytes.

>>> import sys
>>> from rngru.events import Batch, Begin, End, Round
>>> record = Recorder()
>>> with PlainReporter(sys.stdout) as report:
...     for event in [
...         Begin(rounds=1, batches=1, batchsize=2, seq_len=50, trainlen=500, max_seconds=None),
...         Batch(1, 1, 1, 100, 0.2, loss=4.2, gradnorm=1.0, characters=100, seconds=0.5),
...         Round(1, 100, 0.2, 4.2, 4.1, 5.92, 1e-3, 1.0, characters=100, seconds=0.5,
...               checkpoint="100"),
...         End("done"),
...     ]:
...         report(event)
...         record(event)
round 1  epoch 0.20  train 4.2000  valid 4.1000 nats/char  checkpoint 100
>>> record.history()
round  epoch   train   valid  bits/char   rate  gradnorm  char/s  seconds
    1   0.20  4.2000  4.1000      5.920  0.001         1     200      0.5
1 round, 1 batch: all done.
"""

from typing import TYPE_CHECKING, Any

from rngru.report.history import REASONS, History, Recorder, watched
from rngru.report.live import (
    KINDS,
    PlainReporter,
    Reporter,
    SilentReporter,
    reporter,
)
from rngru.report.running import Running

__all__ = [
    "KINDS",
    "REASONS",
    "History",
    "PlainReporter",
    "Recorder",
    "Reporter",
    "RichReporter",
    "Running",
    "SilentReporter",
    "reporter",
    "watched",
]

if TYPE_CHECKING:  # rich takes a while to import, and only a terminal needs it
    from rngru.report.bar import RichReporter


def __getattr__(name: str) -> Any:
    if name == "RichReporter":
        from rngru.report.bar import RichReporter

        return RichReporter
    raise AttributeError(f"module 'rngru.report' has no attribute {name!r}")
