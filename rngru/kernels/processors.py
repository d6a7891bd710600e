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

from rngru.kernels.compiling import kernel


@functools.cache
def locate() -> Callable[[], int] | None:
    """Return what says which processor a thread runs on, or None where threads cannot choose."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    with contextlib.suppress(OSError, AttributeError):
        return ctypes.PyDLL(None).sched_getcpu  # holds the GIL: it takes less than giving it up
    return None


@contextlib.contextmanager
def elsewhere(threads: Sequence[int]) -> Iterator[None]:
    """Keep threads, given by their numbers in the system, off the processor of the caller for a while.

    One that sleeps wakes up elsewhere; one that runs moves at once, and stays until the system moves it.
    """
    before: dict[int, set[int]] = {}
    if (where := locate()) is not None:
        here = {where()}
        with contextlib.suppress(OSError):
            for each in threads:
                allowed = os.sched_getaffinity(each)
                if free := allowed - here:
                    before[each] = allowed
                    os.sched_setaffinity(each, free)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for each, allowed in before.items():
                os.sched_setaffinity(each, allowed)


@kernel(keep=False)
def _nowhere():
    return -1


processor = types.ExternalFunction("sched_getcpu", types.int32()) if locate() else _nowhere
"""For use in kernels: return the number of the processor, or -1 where that is not known."""
