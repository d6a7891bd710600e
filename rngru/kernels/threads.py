"""The threads that kernels run on: the cores this process may use, or ``RNGRU_THREADS`` of them.

A kernel releases the GIL, so a plain Python thread is enough. Work is cut so that it never matters
how many threads there are: no two tasks add to the same number. :func:`run` gives each thread its
share of ``range(count)``; the caller's thread takes the first share and waits for the others.

Shares that wait for each other inside a kernel (:func:`meet`) must all run at the same time. Whoever
starts such shares holds :data:`together`: two sets of them in the same queues could wait for ever.
"""

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rngru.forks import Lock, inchild


def available() -> int:
    """Return how many threads to use: ``RNGRU_THREADS`` if set, or the cores of this process."""
    wanted = os.environ.get("RNGRU_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


WORTH = 1 << 17
"""Numbers to move or add up that are worth waking another thread, which takes tens of microseconds."""


def worth(numbers: int, count: int) -> int:
    """Return how many of ``count`` threads to use for one pass over so many numbers.

    >>> worth(1_000, 8), worth(10_000_000, 8)
    (1, 8)
    """
    return count if numbers >= WORTH else 1


together = Lock()
"""Held while shares run that wait for each other."""


@intrinsic
def _add_one(typingctx, counter):
    """Add one to ``counter[0]``, atomically."""

    def generate(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        builder.atomic_rmw("add", array.data, ir.Constant(ir.IntType(64), 1), "seq_cst")
        return context.get_dummy_value()

    return types.void(counter), generate


@intrinsic
def _read(typingctx, counter):
    """Read ``counter[0]``, with what other threads have added."""

    def generate(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.load_atomic(array.data, "seq_cst", 8)

    return types.int64(counter), generate


@numba.njit(nogil=True)
def meet(counter, times):
    """Add one to ``counter`` (1,), int64, and wait until it is ``times``: until all threads are here."""
    _add_one(counter)
    while _read(counter) < times:
        pass


class _Worker:
    """One daemon thread with its queue of calls."""

    def __init__(self) -> None:
        self.calls: SimpleQueue = SimpleQueue()
        threading.Thread(target=self._serve, name="rngru-kernel", daemon=True).start()

    def _serve(self) -> None:
        while True:
            call, first, last, done = self.calls.get()
            try:
                call(first, last)
                outcome = None
            except BaseException as error:  # handed to the caller, who raises it
                outcome = error
            del call
            done.put(outcome)


_workers: list[_Worker] = []
_grow = Lock()


@inchild
def _forget_workers() -> None:
    """A forked child has the list but not the threads."""
    _workers.clear()


def run(call: Callable[[int, int], object], count: int, threads: int) -> None:
    """Call ``call(first, last)`` on consecutive shares of ``range(count)``, one per thread.

    Returns when all are done; an exception in any of them is raised here, after that.

    >>> total = []
    >>> run(lambda first, last: total.extend(range(first, last)), 5, threads=1)
    >>> total
    [0, 1, 2, 3, 4]
    """
    threads = min(threads, count)
    if threads <= 1:
        call(0, count)
        return
    if len(_workers) < threads - 1:
        with _grow.held():
            while len(_workers) < threads - 1:
                _workers.append(_Worker())
    done: SimpleQueue = SimpleQueue()
    for i in range(1, threads):
        share = (call, i * count // threads, (i + 1) * count // threads, done)
        _workers[i - 1].calls.put(share)
    try:
        call(0, count // threads)
    finally:
        outcomes = [done.get() for _ in range(threads - 1)]
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
