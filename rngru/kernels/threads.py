"""The threads that kernels run on: the cores this process may use, or ``RNGRU_THREADS`` of them.

A kernel releases the GIL, so a plain Python thread is enough. Work is cut so that it never matters
how many threads there are: no two tasks add to the same number. :func:`run` gives each thread its
share of ``range(count)``; the caller's thread takes the first share and waits for the others.

Between two calls a thread that has nothing to do watches for a moment (:data:`WATCH`) before it goes to
sleep: to be woken takes tens of microseconds, and a training step has a dozen such gaps. No longer
than that, for the core may be wanted by somebody else.

Some systems wake a thread on the processor of the one that wakes it and leave both there for seconds,
with another idle: all takes twice as long. So a thread that finds itself there moves (:func:`_part`).

Shares that wait for each other, in a kernel (:func:`meet`) or outside (:class:`Count`), must all run at
the same time. Whoever starts such shares holds :data:`together`: two sets of them in the same queues could
wait for ever.
"""

import contextlib
import ctypes
import functools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rngru.errors import warn
from rngru.forks import Lock, inchild
from rngru.kernels.compiling import kernel


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


WORTH = 1 << 18
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


@intrinsic
def _pause(typingctx):
    """Let the other thread of this core run for some tens of cycles."""

    def generate(context, builder, signature, args):
        processor, number = builder.module.triple.split("-")[0], ir.IntType(32)
        wait, given = {
            "x86_64": ("llvm.x86.sse2.pause", []),
            "aarch64": ("llvm.aarch64.hint", [number(1)]),
            "arm64": ("llvm.aarch64.hint", [number(1)]),
        }.get(processor, ("", []))
        if wait:
            kind = ir.FunctionType(ir.VoidType(), [number] * len(given))
            builder.call(cgutils.get_or_insert_function(builder.module, kind, wait), given)
        return context.get_dummy_value()

    return types.void(), generate


PATIENCE = 2000
"""Looks at a counter before a thread offers its core to others: about 50 microseconds."""

_give_way = types.ExternalFunction(
    "SwitchToThread" if os.name == "nt" else "sched_yield", types.int32()
)


@kernel(keep=False)
def meet(counter, times):
    """Add one to ``counter`` (1,), int64, and wait until it is ``times``: until all threads are here."""
    _add_one(counter)
    looks = 0
    while _read(counter) < times:
        looks += 1
        if looks < PATIENCE:
            _pause()
        else:  # the other may wait for this very core
            _give_way()


@kernel()
def _watch(counter, before, looks):
    """Return when ``counter`` (1,), int64, is no longer ``before``, or after so many looks at it."""
    for _ in range(looks):
        if _read(counter) != before:
            return
        _pause()


WATCH = 200e-6
"""Seconds for which a thread watches before it sleeps."""


@functools.cache
def looks() -> int:
    """Return how many looks at a counter take :data:`WATCH`."""
    counter, some = np.zeros(1, np.int64), 200
    _watch(counter, 0, some)  # compiled now, if it was not
    took = []
    for _ in range(3):
        began = time.perf_counter()
        _watch(counter, 0, some)
        took.append(time.perf_counter() - began)
    return max(1, round(some * WATCH / max(min(took), 1e-9)))


_offer = getattr(os, "sched_yield", functools.partial(time.sleep, 0))


class Count:
    """A number that goes up, and that other threads watch.

    >>> count = Count()
    >>> count.up()
    >>> count.wait(1)
    """

    def __init__(self) -> None:
        self._number = np.zeros(1, np.int64)

    def up(self, by: int = 1) -> None:
        """Add to it."""
        self._number[0] += by

    def now(self) -> int:
        """Return it."""
        return int(self._number[0])

    def watch(self, before: int) -> None:
        """Return when it is no longer what it was ``before``, or after a moment: :data:`WATCH`."""
        _watch(self._number, before, looks())

    def wait(self, number: int) -> None:
        """Return when it is at least ``number``."""
        while (now := self.now()) < number:
            self.watch(now)
            if self.now() < number:
                _offer()  # the other may wait for this very core


class _Mail:
    """A queue whose reader watches for a moment before it sleeps."""

    def __init__(self) -> None:
        self._queue: SimpleQueue = SimpleQueue()
        self._count = Count()

    def put(self, item: object) -> None:
        self._queue.put(item)
        self._count.up()

    def get(self) -> Any:
        before = self._count.now()
        try:
            return self._queue.get_nowait()
        except Empty:
            self._count.watch(before)
            return self._queue.get()


@functools.cache
def _locate() -> Callable[[], int] | None:
    """Return what says which processor a thread runs on, or None where threads cannot choose."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    with contextlib.suppress(OSError, AttributeError):
        return ctypes.PyDLL(None).sched_getcpu  # holds the GIL: it takes less than giving it up
    return None


def _part(places: list[int | None], i: int) -> None:
    """Note in ``places`` where this thread, number ``i``, runs; if another is there, go elsewhere."""
    locate = _locate()
    if locate is None:
        return
    places[i] = locate()
    taken = {*places[:i], *places[i + 1 :]}
    if places[i] in taken:
        with contextlib.suppress(OSError):
            allowed = os.sched_getaffinity(0)
            if free := allowed - taken:
                os.sched_setaffinity(0, free)
                os.sched_setaffinity(0, allowed)  # it stays, until the system wants it elsewhere
                places[i] = locate()


class _Worker:
    """One daemon thread with its queue of calls."""

    def __init__(self) -> None:
        self.calls = _Mail()
        threading.Thread(target=self._serve, name="rngru-kernel", daemon=True).start()

    def _serve(self) -> None:
        while True:
            call, first, last, done, places, i = self.calls.get()
            try:
                _part(places, i)
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


def ready(count: int) -> int:
    """Start threads until there are ``count``, the caller's included; return how many there are."""
    if len(_workers) < count - 1:
        with _grow.held():
            try:
                while len(_workers) < count - 1:
                    _workers.append(_Worker())
            except RuntimeError as problem:
                _fewer(str(problem))
    return min(count, len(_workers) + 1)


@functools.cache
def _fewer(problem: str) -> None:
    warn(
        f"No more threads can be started ({problem}), so it computes on {len(_workers) + 1}. "
        "The results are the same. See ulimit -u, or the limit of the container (pids.max)."
    )


def run(
    call: Callable[[int, int], object],
    count: int,
    threads: int,
    failed: Callable[[], object] = bool,
) -> None:
    """Call ``call(first, last)`` on consecutive shares of ``range(count)``, one per thread.

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
    done, sent = _Mail(), 0
    places: list[int | None] = [None] * threads

    def share(first: int, last: int) -> None:
        try:
            call(first, last)
        except BaseException:
            failed()
            raise

    _part(places, 0)
    try:
        for i in range(1, threads):
            work = (share, i * count // threads, (i + 1) * count // threads, done, places, i)
            _workers[i - 1].calls.put(work)
            sent += 1
        call(0, count // threads)
    except BaseException:
        failed()
        raise
    finally:
        outcomes = [done.get() for _ in range(sent)]
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
