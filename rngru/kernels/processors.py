"""Which processor a thread runs on, and having it run on another one.

Some systems wake a thread on the processor of the one that wakes it and leave both there for seconds,
with another idle: all takes twice as long.
"""

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Iterator, Sequence

from numba import types

from rngru.forks import Lock
from rngru.kernels.compiling import kernel


@functools.cache
def locate() -> Callable[[], int] | None:
    """Return what says which processor a thread runs on, or None where threads cannot choose."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    with contextlib.suppress(OSError, AttributeError):
        return ctypes.PyDLL(None).sched_getcpu  # holds the GIL: it takes less than giving it up
    return None


_moving = Lock()


def _allow(threads: Sequence[int], processors: set[int]) -> None:
    for each in threads:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(each, processors)


@contextlib.contextmanager
def elsewhere(threads: Sequence[int]) -> Iterator[None]:
    """Keep threads, given by their numbers in the system, off the processor of the caller for a while.

    One that sleeps wakes up elsewhere; one that runs moves at once, and stays until the system moves it.
    """
    where = locate()
    with _moving.held(
        blocking=False
    ) as alone:  # two that move the same threads would undo each other's work
        if where is None or not alone:
            yield
            return
        allowed = os.sched_getaffinity(
            os.getpid()
        )  # what the main thread may use, and so may others
        free = allowed - {where()}
        try:
            _allow(threads if free else (), free)
            yield
        finally:
            _allow(threads if free else (), allowed)


@kernel(keep=False)
def _nowhere():
    return -1


processor = types.ExternalFunction("sched_getcpu", types.int32()) if locate() else _nowhere
"""For use in kernels: return the number of the processor, or -1 where that is not known."""
