"""Calls of kernels that several threads make together, and how they do so without Python.

A :class:`Phase` is what may be done at the same time. One thread conducts it (:func:`conduct`): it posts the
phase to others, which serve (:func:`serve`). All read in memory what there is to do, so none waits for the
GIL. A thread begins its share by claiming it. The conductor, when it has done its own share, claims those
that nobody has begun: a thread that is slow to wake up, or whose core another process has, delays nobody.

A thread with nothing to do watches for a moment before it sleeps, for to be woken takes tens of
microseconds, and a training step has a dozen such gaps. It offers its core to others meanwhile. While a plan
is done it does not sleep at all: it would miss the rest.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rngru.kernels.atomic import PATIENCE, add, give_way, pause, read, swap, until, write
from rngru.kernels.calls import Call, enter
from rngru.kernels.compiling import kernel
from rngru.kernels.processors import processor


class Phase(NamedTuple):
    """Calls that may be made at the same time; see :func:`side_by_side` and :func:`deal`.

    ``rows`` has of each call the addresses of its entry and record, its units and their cost; ``kept`` are
    the calls, which keep alive what lies there. With ``beside``, each thread makes all calls. ``threads`` is
    the most of them.
    """

    beside: bool
    rows: list[tuple[int, int, int, int]]
    threads: int
    kept: Sequence[Call]


def side_by_side(calls: Sequence[Call], units: int, threads: int) -> Phase:
    """Plan calls on ``range(units)``: each thread makes all of them, in order, on its part of it."""
    rows = [(call.entry, call.record, units, 1) for call in calls]
    return Phase(True, rows, max(1, min(units, threads)), calls)


def deal(jobs: Sequence[tuple[Call, int, int]], threads: int) -> Phase:
    """Plan calls, each on ``range(units)``, dealt out to the threads at equal cost.

    A job is a call, how many units it has, and the cost of each: a whole number, 1 or more. No share differs
    from an even one by more than the cost of one unit.
    """
    rows = [(call.entry, call.record, units, cost) for call, units, cost in jobs]
    calls = [call for call, _, _ in jobs]
    return Phase(False, rows, max(1, min(sum(row[2] for row in rows), threads)), calls)


def numbers(phases: Sequence[Phase]) -> np.ndarray:
    """Return how many phases there are, and each of them, as :func:`_share` reads it."""
    found = [len(phases)]
    for beside, rows, threads, _ in phases:
        found += len(rows), beside, threads
        for row in rows:
            found += row
    return np.array(found, np.int64)


WATCH = 6000
"""Looks after ``PATIENCE``, each of which offers the core, before a thread sleeps: some milliseconds."""

# What a thread is told, and what it tells: numbers of a row of MAIL. Those that different threads write
# lie on different lines of the cache.
_POSTED, _PHASE, _COUNT, CALLS = range(4)
"""How many phases were posted; where the last one is; for how many threads; how many calls of Python came."""
_CLAIMED, _DONE, LISTENS, AT = 8, 16, 17, 24
"""How many phases were claimed, and done; whether the thread watches; which processor it runs on."""
WORDS = 32

MOST = 1024
"""Threads at most, beside the caller's."""

_LOCK = MOST * WORDS
"""1 while plans are done: the threads know of one at a time."""

MAIL = np.zeros(_LOCK + 1, np.int64)

_ROWS, _BESIDE, _THREADS, _FIRST = range(4)
"""A phase: how many calls, whether side by side, for how many threads; then entry, record, units, cost."""
_WIDTH = 4

_DONE_ALL, CROWDED, ASLEEP = range(3)
"""What became of a plan: all is done; also, but another thread is on the caller's processor; nothing, for
threads sleep."""


@intrinsic
def _number(typingctx, address, at):
    """Return the number ``at`` of those, int64, that begin at an address."""

    def generate(context, builder, signature, args):
        numbers = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load(builder.gep(numbers, [args[1]]))

    return types.int64(types.int64, types.int64), generate


@kernel(keep=False, error_model="numpy")
def _share(phase, i, count):
    """Do share ``i`` of ``count`` of the phase at an address."""
    rows, beside = _number(phase, _ROWS), _number(phase, _BESIDE)
    total = 0
    for k in range(rows):
        at = _FIRST + _WIDTH * k
        total += _number(phase, at + 2) * _number(phase, at + 3)
    first, last, done = i * total // count, (i + 1) * total // count, 0
    for k in range(rows):
        at = _FIRST + _WIDTH * k
        units, cost = _number(phase, at + 2), _number(phase, at + 3)
        if beside:
            low, high = i * units // count, (i + 1) * units // count
        else:
            low = min(max((first - done + cost // 2) // cost, 0), units)
            high = min(max((last - done + cost // 2) // cost, 0), units)
            done += units * cost
        if low < high:
            enter(_number(phase, at), _number(phase, at + 1), low, high)


@kernel(keep=False, inline="always")
def _claimed(mail, at, i):
    """Do what was posted to thread ``i``, unless another has begun it; return whether it was done here."""
    posted = read(mail, at + _POSTED)
    if not swap(mail, at + _CLAIMED, posted - 1, posted):
        return False
    _share(mail[at + _PHASE], i, mail[at + _COUNT])
    write(mail, at + _DONE, posted)
    return True


@kernel()
def serve(mail, i, calls):
    """Do what is posted to thread ``i``, until no plan has been done for a while, or Python calls it."""
    at = (i - 1) * WORDS
    looks = 0
    mail[at + AT] = processor()
    write(mail, at + LISTENS, 1)
    while read(mail, at + CALLS) == calls and (looks < PATIENCE + WATCH or read(mail, _LOCK) == 1):
        if read(mail, at + _CLAIMED) < read(mail, at + _POSTED) and _claimed(mail, at, i):
            looks = 0
        looks += 1
        if looks < PATIENCE:
            pause()
        else:
            give_way()
            mail[at + AT] = processor()  # the system may have moved it
    write(mail, at + LISTENS, 0)


@kernel(keep=False, inline="always")
def _phase(mail, phase, count):
    """Do the phase at an address on the caller's thread and ``count - 1`` others."""
    for i in range(1, count):
        at = (i - 1) * WORDS
        mail[at + _PHASE], mail[at + _COUNT] = phase, count
        add(mail, at + _POSTED, 1)
    _share(phase, np.int64(0), count)  # a literal would be compiled for itself
    for i in range(1, count):
        _claimed(mail, (i - 1) * WORDS, i)
    for i in range(1, count):
        at = (i - 1) * WORDS
        until(mail, at + _DONE, mail[at + _POSTED])


@kernel()
def conduct(mail, plan, most, anyway):
    """Do the phases of a plan, one after another, on at most so many threads.

    If threads sleep, nothing is done, unless ``anyway``. If another thread conducts a plan, this one does all
    of its own itself.
    """
    most = most if most == 1 or swap(mail, _LOCK, 0, 1) else 1
    for i in range(1, most):
        if not (anyway or read(mail, (i - 1) * WORDS + LISTENS)):
            write(mail, _LOCK, 0)
            return ASLEEP
    at = np.int64(plan.ctypes.data) + 8
    for _ in range(plan[0]):
        _phase(mail, at, min(most, _number(at, _THREADS)))
        at += 8 * (_FIRST + _WIDTH * _number(at, _ROWS))
    found, here = _DONE_ALL, processor()
    for i in range(1, most):
        if here >= 0 and mail[(i - 1) * WORDS + AT] == here:
            found = CROWDED
    if most > 1:
        write(mail, _LOCK, 0)
    return found
