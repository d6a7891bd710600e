"""Ctrl-C that breaks nothing: while a model computes or saves, it is a flag that is asked for.

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
from typing import Any, Self


def never() -> bool:
    """Say that nobody has asked to stop."""
    return False


class Interrupts:
    """Turns Ctrl-C into a flag for as long as it is entered.

    ``level`` is 1 after one Ctrl-C, and 2 after another within two seconds. With ``terminate``, SIGTERM
    makes it 2 as well; on leaving, SIGTERM does what it does otherwise: the user's handler is called,
    or the process ends. With ``raises``, KeyboardInterrupt is raised on leaving if Ctrl-C came. If one
    is active already, entering this one joins it. Outside the main thread, where no signal arrives,
    nothing is installed; nor for a signal that is ignored.
    """

    def __init__(self, *, terminate: bool = False, raises: bool = False) -> None:
        self.level, self.raises, self._terminated = 0, raises, False
        self._signals = (signal.SIGINT, signal.SIGTERM) if terminate else (signal.SIGINT,)
        self._previous: dict[signal.Signals, Any] = {}
        self._at = -math.inf

    @property
    def raised(self) -> bool:
        """Whether Ctrl-C came."""
        return self.level > 0

    def asked(self) -> bool:
        """Whether Ctrl-C came, as a function for whoever stops between two steps of a computation."""
        return self.raised

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C came."""
        if self.raised:
            raise KeyboardInterrupt

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (signal.SIGINT, signal.SIGTERM):
            outer = getattr(signal.getsignal(number), "__self__", None)
            if isinstance(outer, type(self)):
                return outer
        for number in self._signals:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: object, error: BaseException | None, *where: object) -> None:
        # Ctrl-C last: once it raises again, nothing is left to do.
        try:
            self._giveback(signal.SIGTERM)
            if self._terminated:
                self._terminate(error)
        finally:
            self._giveback(signal.SIGINT)
        if self.raises and kind is None:
            self.check()

    def _giveback(self, number: signal.Signals) -> None:
        if number in self._previous:
            handler = self._previous.pop(number)
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _terminate(self, error: BaseException | None) -> None:
        """Do what SIGTERM does otherwise; an ``error`` that nobody will catch is shown."""
        if callable(signal.getsignal(signal.SIGTERM)):
            signal.raise_signal(signal.SIGTERM)
            return
        # Standard output or error may be closed, or gone.
        with suppress(Exception):
            sys.stdout.flush()
        with suppress(Exception):
            if error is not None:
                traceback.print_exception(error)
        os._exit(128 + signal.SIGTERM)

    def _note(self, number: int, frame: object) -> None:
        now = time.monotonic()
        self._terminated |= number == signal.SIGTERM
        self.level = 2 if self._terminated or now - self._at < 2 else max(self.level, 1)
        self._at = now
