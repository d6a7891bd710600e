"""Plans of calls: made once, and done again for arrays that lie where those of an earlier call lay.

A training step uses the same memory again and again, so most of its calls find their arrays in the places of
the last step or the one before. To plan such a call anew takes Python longer than some of its phases take.

>>> from rngru.kernels.calls import shared
>>> from rngru.kernels.phases import side_by_side
>>> @shared()
... def double(numbers, results, first, last):
...     for i in range(first, last):
...         results[i] = 2 * numbers[i]
>>> @Planned
... def doubled(plan, numbers):
...     results = plan.empty(numbers.shape, numbers.dtype)
...     plan.do(side_by_side([double.bind(numbers, results)], numbers.size, plan.count))
...     return lambda: results
>>> doubled(np.ones(3), count=1)
array([2., 2., 2.])
>>> plans = Plans(doubled.plan)
>>> plans(np.ones(3), count=1)
array([2., 2., 2.])
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial, update_wrapper
from typing import Any, Generic, TypeVar, final

import numpy as np

from rngru.kernels import threads
from rngru.kernels.calls import Call
from rngru.kernels.memory import Arena, Pieces, address
from rngru.kernels.phases import Phase, numbers

T = TypeVar("T")


@final
class Plan:
    """What is to be done, in order.

    Parameters
    ----------
    count: how many threads.
    pieces: the memory of earlier plans, to be used again.
    """

    def __init__(self, count: int, pieces: Pieces | None = None) -> None:
        self.count = count
        self.lasting = True
        """Whether it may be done again: all that it reads is in the arrays that it was made for."""
        self._pieces, self._used = pieces or Pieces(), itertools.count()
        self._steps: list[Callable[[], object]] = []
        self._alive: list[object] = []
        self._calls: list[Call] = []

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return memory of its own, not yet filled."""
        array = self._pieces.array(next(self._used), shape, np.dtype(dtype))
        self._alive.append(array)
        return array

    def do(self, *phases: Phase) -> None:
        """Plan one phase after another."""
        most = max(phase.threads for phase in phases)
        self._steps.append(partial(threads.conducted, numbers(phases), most))
        self._calls += (call for phase in phases for call in phase.kept)

    def call(self, function: Callable[[], object]) -> None:
        """Plan a call of Python."""
        self._steps.append(function)

    def run(self) -> None:
        """Do all of it."""
        for step in self._steps:
            step()

    def forget(self, given: Sequence[np.ndarray]) -> None:
        """Keep nothing alive that lies in the memory of these arrays."""
        roots = {id(_root(each)) for each in given}
        for call in self._calls:
            record, args = call.kept
            self._alive += (arg for arg in args if id(_root(arg)) not in roots)
            self._alive.append(record)
        self._calls.clear()


def _root(value: Any) -> object:
    """Return the array whose memory an array is a part of; what is no array, as it is."""
    while isinstance(value, np.ndarray) and isinstance(value.base, np.ndarray):
        value = value.base
    return value


@final
class Planned(Generic[T]):
    """Makes a function out of one that plans: it takes a ``count`` of threads instead of a plan.

    Parameters
    ----------
    plan: its first argument is a :class:`Plan`, to which it adds. What it returns is called when that has
        been done, and returns the results.
    """

    def __init__(self, plan: Callable[..., Callable[[], T]]) -> None:
        self.plan = plan
        update_wrapper(self, plan)

    def __call__(self, *args: Any, count: int, **more: Any) -> T:
        """Plan it, do it once, and return the results."""
        plan = Plan(count)
        finish = self.plan(plan, *args, **more)
        plan.run()
        return finish()


KEPT = 4
"""Plans of one call: the parameters of a model lie now in one place, now in another."""


@final
class Plans(Generic[T]):
    """A call that keeps its last plans. Its results are overwritten by the next call.

    Parameters
    ----------
    make: adds to a plan, for some arrays; see :class:`Planned`. What it plans must not hold parameters: their
        memory would never be used again.
    arena: where its memory comes from.
    """

    def __init__(self, make: Callable[..., Callable[[], T]], arena: Arena | None = None) -> None:
        self._make, self._pieces = make, Pieces(arena)
        self._kept: dict[tuple[object, ...], tuple[Plan, Callable[[], T]]] = {}
        if arena is not None:
            arena.used(self._free)

    def _free(self) -> None:
        self._kept.clear()
        self._pieces = Pieces()

    def __call__(self, *arrays: np.ndarray, count: int) -> T:
        """Do it for some arrays, C-contiguous, on so many threads."""
        key = count, *((address(each), each.shape, each.dtype.char) for each in arrays)
        found = self._kept.pop(key, None)
        if found is None:
            plan, before = Plan(count, self._pieces), self._pieces.replaced
            found = plan, self._make(plan, *arrays)
            plan.forget(arrays)
            if self._pieces.replaced > before:
                self._kept.clear()  # they hold the smaller pieces
        plan, finish = found
        if plan.lasting:
            self._kept[key] = found
            if len(self._kept) > KEPT:
                del self._kept[next(iter(self._kept))]
        plan.run()
        return finish()
