"""A forked process works, or says at once that it cannot: it never waits for a thread it does not have.

A fork copies every lock as it is, and of all threads only the one that forked. So in the child each
:class:`Lock` is a new one, and :func:`inchild` has other things made anew. What another thread had
half done in Numba, or in an import, cannot be made anew: :func:`check` refuses to go on from there.

>>> lock = Lock()
>>> with lock.held() as got, lock.held(blocking=False) as again:
...     got, again
(True, False)
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final
from weakref import WeakSet

from rngru.errors import RngruError

_UNFINISHED = {"numba", "llvmlite", "pytensor", "numpy", "scipy", "rngru"}
"""Packages of which a child needs all modules, or what it imports waits for ever."""

_locks: "WeakSet[Lock]" = WeakSet()
_calls: list[Callable[[], object]] = []
_stuck = ""


@final
class Lock:
    """A lock that is free in a forked child, whoever held it in the parent.

    Parameters
    ----------
    make: makes the lock inside, ``threading.Lock`` or ``threading.RLock``.
    """

    def __init__(self, make: Callable[[], Any] = threading.Lock) -> None:
        self._make, self._lock = make, make()
        _locks.add(self)

    @contextmanager
    def held(self, *, blocking: bool = True) -> Iterator[bool]:
        """Hold it; what comes is whether that is so, always true where it may wait."""
        lock = self._lock  # in a child that was forked in between, this one is released
        got = lock.acquire(blocking=blocking)
        try:
            yield got
        finally:
            if got:
                lock.release()

    def locked(self) -> bool:
        """Whether anybody holds it, this thread included where it may not hold it twice."""
        with self.held(blocking=False) as got:
            return not got

    def _renew(self) -> None:
        self._lock = self._make()


def inchild(call: Callable[[], object]) -> Callable[[], object]:
    """Have a function called in every forked child, before anything else of ours; return it."""
    _calls.append(call)
    return call


def check() -> None:
    """Raise RngruError in a child that was forked while another thread compiled or imported.

    >>> check()
    """
    if _stuck:
        raise RngruError(
            f"Process {os.getpid()} was forked while another thread {_stuck}, and cannot compute: "
            "that will never end here. Start processes with multiprocessing's 'spawn', or fork when "
            "no other thread works with a model for the first time."
        )


def _begin() -> None:
    """Begin a child's life; it has one thread, so that nothing changes meanwhile."""
    global _stuck
    for lock in list(_locks):
        lock._renew()
    for call in _calls:
        call()
    _stuck = _stuck or _halfdone()


def _halfdone() -> str:
    """Return what another thread was in the middle of, '' if of nothing that matters."""
    compiling = getattr(sys.modules.get("numba.core.compiler_lock"), "global_compiler_lock", None)
    library = getattr(sys.modules.get("llvmlite.binding.ffi"), "lib", None)
    for inner in (getattr(each, "_lock", None) for each in (compiling, library)):
        inner = getattr(inner, "_lock", inner)
        if inner is not None:
            if not inner.acquire(blocking=False):  # nobody is left who could release it
                return "compiled with Numba"
            inner.release()
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if name.split(".")[0] in _UNFINISHED and getattr(spec, "_initializing", False):
            return f"imported {name}"
    return ""


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin)
