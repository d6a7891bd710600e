"""Ctrl-C that breaks nothing: while a model computes or saves, it is a flag that is asked for.

So are, while training, the signals that end a process: SIGTERM, and SIGHUP, which comes when the
terminal is closed or the connection to it is lost. What was trained is saved before they do their work.

>>> with Interrupts() as interrupts:
...     interrupts.raised
False
"""

import math
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from typing import Any

from rngru.forks import inchild

ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""The signals that end a process; Windows has no SIGHUP."""


def never() -> bool:
    """Say that nobody has asked to stop."""
    return False


class Interrupts:
    """Turns Ctrl-C into a flag for as long as it is entered.

    ``level`` is 1 after one Ctrl-C, and 2 after another within two seconds. With ``terminate``, SIGTERM
    and SIGHUP make it 2 as well; on leaving, they do what they do otherwise: the user's handler is
    called, or the process ends. With ``raises``, KeyboardInterrupt is raised on leaving if Ctrl-C came.
    If one is active already, entering this one joins it. Outside the main thread, where no signal
    arrives, nothing is installed; nor for a signal that is ignored. A forked child has the handlers
    that were there before.
    """

    def __init__(self, *, terminate: bool = False, raises: bool = False) -> None:
        self.level, self.raises, self._presses = 0, raises, 0
        self._ending: list[int] = []  # signals that came, in order
        self._signals = (signal.SIGINT, *ENDS) if terminate else (signal.SIGINT,)
        self._previous: dict[signal.Signals, Any] = {}
        self._at = -math.inf

    @property
    def raised(self) -> bool:
        """Whether Ctrl-C came."""
        return self.level > 0

    def asked(self) -> bool:
        """Whether Ctrl-C came, as a function for whoever stops between two steps of a computation."""
        return self.raised

    def again(self) -> bool:
        """Whether Ctrl-C came a second time, however late, or the process is to end."""
        return self.level > 1 or self._presses > 1

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C came."""
        if self.raised:
            raise KeyboardInterrupt

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is not threading.main_thread():
            return self
        if (outer := _active()) is not None:
            return outer
        for number in self._signals:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: object, error: BaseException | None, *where: object) -> None:
        # Ctrl-C last: once it raises again, nothing is left to do.
        try:
            for number in ENDS:
                self._giveback(number)
            for number in self._ending:
                self._end(number, error)
        finally:
            self._giveback(signal.SIGINT)
        if self.raises and kind is None:
            self.check()

    def _giveback(self, number: signal.Signals) -> None:
        if number in self._previous:
            handler = self._previous.pop(number)
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _end(self, number: int, error: BaseException | None) -> None:
        """Do what a signal does otherwise; an ``error`` that nobody will catch is shown."""
        if callable(signal.getsignal(number)):
            signal.raise_signal(number)
            return
        # Standard output or error may be closed, or gone.
        with suppress(Exception):
            sys.stdout.flush()
        with suppress(Exception):
            if error is not None:
                traceback.print_exception(error)
        os._exit(128 + number)

    def _note(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if number in ENDS and number not in self._ending:
            self._ending.append(number)
        self._presses += number == signal.SIGINT
        self.level = 2 if self._ending or now - self._at < 2 else max(self.level, 1)
        self._at = now

    def _leave(self) -> None:
        """Put all handlers back, and forget what came."""
        for number in self._signals:
            self._giveback(number)
        self.level, self._presses, self._ending = 0, 0, []


def _active() -> Interrupts | None:
    """Return the one that is entered, if there is one."""
    for number in (signal.SIGINT, *ENDS):
        outer = getattr(signal.getsignal(number), "__self__", None)
        if isinstance(outer, Interrupts):
            return outer
    return None


@inchild
def _begin() -> None:
    """Let a forked child be interrupted and ended as usual: nobody in it asks for the flag."""
    if (outer := _active()) is not None:
        outer._leave()
