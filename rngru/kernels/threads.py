"""The threads that kernels run on: the cores this process may use, or ``RNGRU_THREADS`` of them.

Work is cut so that it never matters how many threads there are: no two shares add to the same number.

Calls of kernels go to :func:`do`, in :mod:`~rngru.kernels.phases`; that needs no Python once it has begun.
What needs Python goes to :func:`run`, which gives each thread one share. Shares that wait for each other,
in a kernel (:func:`meet`) or outside (:class:`Count`), must all run at the same time. Whoever starts such
shares holds :data:`together`: two sets of them in the same queues could wait for ever.
"""

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from rngru.errors import warn
from rngru.forks import Lock, inchild
from rngru.kernels.atomic import add, until
from rngru.kernels.compiling import kernel
from rngru.kernels.phases import (
    ASLEEP,
    CALLS,
    CROWDED,
    MAIL,
    MOST,
    WORDS,
    Phase,
    conduct,
    numbers,
    serve,
)
from rngru.kernels.processors import elsewhere


def available() -> int:
    """Return how many threads to use.

    That is ``RNGRU_THREADS`` if set. Else it is the cores that this process may run on, but no more than
    its container may use, or than ``NUMBA_NUM_THREADS`` or ``OMP_NUM_THREADS`` say.
    """
    if wanted := _told("RNGRU_THREADS"):
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limits = [cores, _quota(), _told("NUMBA_NUM_THREADS"), _told("OMP_NUM_THREADS")]
    return min(filter(None, limits), default=1)


def _told(variable: str) -> int | None:
    """Return a number of threads from the environment; of a list, such as OpenMP's, the first."""
    first = os.environ.get(variable, "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


_PROC, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


@functools.cache
def _quota() -> int | None:
    """Return how many cores the time of this container is worth, rounded up; or None if it has no limit."""
    limits = []
    with contextlib.suppress(OSError, ValueError):
        for line in _PROC.read_text().splitlines():
            number, controllers, group = line.split(":", 2)
            own = Path(group.lstrip("/"))
            for part in (own, *own.parents):
                if number == "0":
                    limits.append(_limit(_CGROUPS / part / "cpu.max"))
                elif "cpu" in controllers.split(","):
                    folder = _CGROUPS / "cpu" / part
                    limits.append(_limit(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"))
    return min(filter(None, limits), default=None)


def _limit(*paths: Path) -> int | None:
    """Return the quota over the period, both in microseconds, rounded up; or None if there is no limit."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = map(int, " ".join(path.read_text() for path in paths).split())
        if quota > 0 and period > 0:
            return -(-quota // period)
    return None


WORTH = 1 << 15
"""Numbers to move or add up that are worth another thread: ten microseconds or more."""


def worth(numbers: int, count: int) -> int:
    """Return how many of ``count`` threads to use for one pass over so many numbers.

    >>> worth(1_000, 8), worth(1_000_000, 8)
    (1, 8)
    """
    return count if numbers >= WORTH else 1


together = Lock()
"""Held while shares run that wait for each other."""


@kernel(keep=False)
def meet(counter, times):
    """Add one to ``counter`` (1,), int64, and wait until it is ``times``: until all threads are here."""
    add(counter, 0, 1)
    until(counter, np.int64(0), times)


@kernel()
def _wait(counter, number):
    until(counter, np.int64(0), number)


class Count:
    """A number that goes up, and that other threads wait for.

    >>> count = Count()
    >>> count.up()
    >>> count.wait(1)
    """

    def __init__(self) -> None:
        self._number = np.zeros(1, np.int64)

    def up(self, by: int = 1) -> None:
        """Add to it."""
        self._number[0] += by

    def wait(self, number: int) -> None:
        """Return when it is at least ``number``."""
        _wait(self._number, number)


class _Worker:
    """One daemon thread: it does shares of phases, and the calls of Python in its queue.

    Parameters
    ----------
    number: from 1 on.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._calls: SimpleQueue[tuple | None] = SimpleQueue()
        self._at = (number - 1) * WORDS
        self._thread = threading.Thread(target=self._work, name="rngru-kernel", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Have it listen."""
        if self._calls.empty():  # else it will
            self._calls.put(None)

    def put(self, call: tuple) -> None:
        """Have it make a call of Python."""
        self._calls.put(call)
        MAIL[self._at + CALLS] += 1

    def identity(self) -> int:
        """Return the number that the system gave it."""
        return self._thread.native_id or 0

    def _work(self) -> None:
        mail = MAIL  # held here: a daemon thread reads it until the very end
        while True:
            before = mail[self._at + CALLS]
            if self._calls.empty():
                serve(mail, self.number, before)
            work = self._calls.get()
            if work is None:
                continue
            call, first, last, done = work
            try:
                call(first, last)
                outcome = None
            except BaseException as error:  # handed to the caller, who raises it
                outcome = error
            del call, work
            done.put(outcome)


_workers: list[_Worker] = []
_grow = Lock()


@inchild
def _forget_workers() -> None:
    """A forked child has the list but not the threads."""
    _workers.clear()
    MAIL[:] = 0


def ready(count: int) -> int:
    """Start threads until there are ``count``, the caller's included; return how many there are."""
    count = min(count, MOST + 1)
    if len(_workers) < count - 1:
        prepare()
        with _grow.held():
            try:
                while len(_workers) < count - 1:
                    _workers.append(_Worker(len(_workers) + 1))
            except RuntimeError as problem:
                _fewer(str(problem))
    return min(count, len(_workers) + 1)


@functools.cache
def _fewer(problem: str) -> None:
    warn(
        f"No more threads can be started ({problem}), so it computes on {len(_workers) + 1}. "
        "The results are the same. See ulimit -u, or the limit of the container (pids.max)."
    )


@functools.cache
def prepare() -> None:
    """Compile what each thread runs."""
    serve(np.zeros(WORDS, np.int64), 1, -1)


def do(*phases: Phase) -> None:
    """Do one phase after another."""
    conducted(numbers(phases), max(phase.threads for phase in phases))


def conducted(plan: np.ndarray, most: int) -> None:
    """Do phases, as :func:`~rngru.kernels.phases.numbers` has them, on at most so many threads."""
    most = ready(most)
    outcome = conduct(MAIL, plan, most, False)
    if outcome == ASLEEP:
        with elsewhere([each.identity() for each in _workers[: most - 1]]):
            for each in _workers[: most - 1]:
                each.wake()
            outcome = conduct(MAIL, plan, most, True)
    if outcome == CROWDED:
        with elsewhere([each.identity() for each in _workers[: most - 1]]):
            pass


def _until_over(begun: list[None], over: list[None]) -> None:
    """Wait until no share runs that has begun, whatever else interrupts: its memory may be another's soon."""
    while True:
        try:
            while len(over) < len(begun):
                time.sleep(0.001)
            return
        except BaseException:  # the first interrupt is raised when they are over
            continue


def run(
    call: Callable[[int, int], object],
    count: int,
    threads: int,
    failed: Callable[[], object] = bool,
) -> None:
    """Call a function of Python on consecutive shares of ``range(count)``, ``first`` and ``last``.

    Returns when all are done; an exception in any of them is raised here, after that. Shares that wait
    for each other need ``failed``, which is called at once, on whatever thread: it ends their waiting.

    >>> total = []
    >>> run(lambda first, last: total.extend(range(first, last)), 5, threads=1)
    >>> total
    [0, 1, 2, 3, 4]
    """
    threads = min(threads, count)
    if threads > 1:
        threads = ready(threads)
    if threads <= 1:
        call(0, count)
        return
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    begun: list[None] = []
    over: list[None] = []
    stopped = threading.Event()

    def share(first: int, last: int) -> None:
        begun.append(None)
        try:
            if not stopped.is_set():
                call(first, last)
        except BaseException:
            failed()
            raise
        finally:
            over.append(None)

    try:
        for i in range(1, threads):
            work = share, i * count // threads, (i + 1) * count // threads, done
            _workers[i - 1].put(work)
        call(0, count // threads)
        outcomes = [done.get() for _ in range(1, threads)]
    except BaseException:  # perhaps an interrupt: shares may still run, or not have begun
        stopped.set()
        failed()
        _until_over(begun, over)
        raise
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
