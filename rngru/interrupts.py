"""Ctrl-C that breaks nothing: it is a flag, and what takes long is left to itself.

Where Python raises KeyboardInterrupt in the middle of an import, a compilation or a lock, the rest of
the session suffers: the module cannot be imported again, a thread waits for ever. So no signal raises
anything while a model computes or saves. What takes long runs in another thread, and the main thread,
which waits for it, stops waiting.

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
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from rngru.hyper import HyperParams
from rngru.models import Model

if TYPE_CHECKING:
    from rngru.compiled import Backend

LONG = 0.5
"""Seconds that a second Ctrl-C may have to wait for a computation to end."""


class Interrupts:
    """Turns Ctrl-C into a flag for as long as it is entered.

    ``level`` is 1 after one, and 2 after another within two seconds. With ``terminate``, SIGTERM makes
    it 2 as well, and on leaving it does what it would have done: the user's handler is called, or the
    process ends. With ``late``, KeyboardInterrupt is raised on leaving if one came. Inside another, it
    is that other that is entered. Outside the main thread, where no signal arrives, nothing is
    installed; nor for a signal that is ignored.
    """

    def __init__(self, *, terminate: bool = False, late: bool = False) -> None:
        self.level, self.late, self._terminated = 0, late, False
        self._signals = (signal.SIGINT, signal.SIGTERM) if terminate else (signal.SIGINT,)
        self._previous: dict[signal.Signals, Any] = {}
        self._at = -math.inf

    @property
    def raised(self) -> bool:
        """Whether one came."""
        return self.level > 0

    def check(self) -> None:
        """Raise KeyboardInterrupt if one came."""
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
        if self.late and kind is None:
            self.check()

    def _giveback(self, number: signal.Signals) -> None:
        if number in self._previous:
            handler = self._previous.pop(number)
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _terminate(self, error: BaseException | None) -> None:
        """Do what SIGTERM would have done; an ``error`` that nobody will catch is shown."""
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


class Aside(threading.Thread):
    """A thread that computes ``call()``."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(name="rngru-aside")
        self._call = call
        self._result: Any = None
        self._error: BaseException | None = None
        # Such as what NumPy does about errors.
        self._context = copy_context()
        self.start()

    def run(self) -> None:
        """Compute."""
        try:
            self._result = self._context.run(self._call)
        except BaseException as error:  # raised by the thread that waits
            self._error = error

    def result(self, stop: Callable[[], bool]) -> Any:
        """Return what the call does; or raise KeyboardInterrupt when told to stop waiting."""
        while self.is_alive():
            if stop():
                raise KeyboardInterrupt
            self.join(0.05)
        if self._error is not None:
            raise self._error
        return self._result


class Shielded:
    """A backend that Ctrl-C cannot break: each call is computed to its end, or not at all.

    What computes is imported and compiled when it is first needed. As that may take long, one Ctrl-C
    raises KeyboardInterrupt at once; where it is known how long a computation takes, and that it is
    long, a second one does. It goes on to its end in its own thread. What begins after Ctrl-C is what
    must be done before all can be saved: it is waited for.

    Parameters
    ----------
    name: of the backend, see :mod:`rngru.compiled`.
    model, hyper: what to compute.
    """

    def __init__(self, name: str, model: Model, hyper: HyperParams) -> None:
        self.name, self.model, self.hyper = name, model, hyper
        self._backend: Any = None
        self._seconds: dict[tuple[Any, ...], float] = {}
        self._alone = threading.Lock()

    def freshstate(self, lanes: int) -> np.ndarray:
        """Return the state before any text: zeros (L, B, H)."""
        return self.model.freshstate(self.hyper, lanes)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self._shielded(name, args, kwargs)

    def _shielded(self, name: str, args: Any, kwargs: Any) -> Any:
        def call() -> Any:
            with self._alone:
                if self._backend is None:
                    from rngru.compiled import backend

                    self._backend = backend(self.name, self.model, self.hyper)
            self._backend.hyper = self.hyper
            return getattr(self._backend, name)(*args, **kwargs)

        if threading.current_thread() is not threading.main_thread():
            return call()
        kind = (name, *(each.shape for each in args if isinstance(each, np.ndarray)))
        with Interrupts(late=True) as interrupts:
            began, usual = time.perf_counter(), self._seconds.get(kind, math.inf)
            if usual < LONG:
                result = call()
            else:
                known = usual < math.inf and not interrupts.late
                patience = max(interrupts.level, 1 if known else 0)
                result = Aside(call).result(lambda: interrupts.level > patience)
            self._seconds[kind] = time.perf_counter() - began
        return result


def shielded(name: str, model: Model, hyper: HyperParams) -> "Backend":
    """Return a backend that Ctrl-C cannot break."""
    return cast("Backend", Shielded(name, model, hyper))
