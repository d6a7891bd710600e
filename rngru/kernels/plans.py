"""Plans of calls: made once, and done again for arrays that lie where those of an earlier call lay.

A training step uses the same memory again and again, so its arrays mostly lie in the places of the last step
or of the one before. To plan a step anew takes Python longer than some of its phases take.

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
...     return results
>>> doubled(np.ones(3), count=1)
array([2., 2., 2.])
>>> plans = Plans(doubled.plan)
>>> plans(np.ones(3), count=1)
array([2., 2., 2.])
"""

import itertools
from collections.abc import Callable, Hashable
from functools import partial, update_wrapper
from typing import Any, Generic, TypeVar, final

import numpy as np

from rngru.kernels import threads
from rngru.kernels.calls import Call
from rngru.kernels.memory import Arena, Pieces, borrowed, place
from rngru.kernels.phases import Phase, numbers

T = TypeVar("T")


@final
class Plan:
    """What is to be done, in order.

    Phases that follow each other are conducted together: between them, no thread waits for Python.

    Parameters
    ----------
    count: how many threads.
    pieces: the memory of earlier plans, to be used again.
    """

    def __init__(self, count: int, pieces: Pieces | None = None) -> None:
        self.count = count
        self._pieces = pieces or Pieces()
        self._used, self._copied = itertools.count(), itertools.count(1)
        self._steps: list[Callable[[], object]] = []
        self._done = 0
        self._phases: list[Phase] = []
        self._later: list[tuple[Callable[[], object], np.ndarray]] = []
        self._calls: list[Call] = []

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return memory of its own, not yet filled."""
        return self._pieces.array(next(self._used), shape, np.dtype(dtype))

    def do(self, *phases: Phase) -> None:
        """Plan one phase after another."""
        if self._later and any(map(self._awaits, phases)):
            self._end_phases()
        self._phases += phases

    def call(self, function: Callable[[], object]) -> None:
        """Plan a call of Python."""
        self._end_phases()
        self._steps.append(function)

    def later(self, function: Callable[[], object], result: np.ndarray) -> None:
        """Plan a call of Python that fills an array. It is made before the first phase that reads this array.

        Phases that are planned after it may be done before it: none may write over what the function reads.
        """
        self._later.append((function, result))

    def copied(self, array: np.ndarray) -> np.ndarray:
        """Plan copying an array; return the copy, C-contiguous."""
        # Of numbers apart: with another layout, those of all that follows would be others.
        copy = self._pieces.array(-next(self._copied), array.shape, array.dtype)
        self.call(partial(np.copyto, copy, array))
        return copy

    def contiguous(self, array: np.ndarray) -> np.ndarray:
        """Return an array, or a copy if it is not C-contiguous."""
        return array if array.flags.c_contiguous else self.copied(array)

    def run(self) -> None:
        """Do all of it."""
        self._end_phases()
        for step in self._steps:
            step()

    def catch_up(self) -> None:
        """Do what has not been done since it was planned."""
        self._end_phases()
        while self._done < len(self._steps):
            self._steps[self._done]()
            self._done += 1

    def _awaits(self, phase: Phase) -> bool:
        """Say whether a phase reads what is filled later."""
        args = (arg for call in phase.kept for arg in call.kept[1] if isinstance(arg, np.ndarray))
        return any(np.may_share_memory(arg, each) for arg in args for _, each in self._later)

    def _end_phases(self) -> None:
        if self._phases:
            most = max(phase.threads for phase in self._phases)
            self._steps.append(partial(threads.conducted, numbers(self._phases), most))
            self._calls += (call for phase in self._phases for call in phase.kept)
        self._steps += (function for function, _ in self._later)
        self._phases, self._later = [], []


@final
class Planned(Generic[T]):
    """Makes a function out of one that plans: it takes a ``count`` of threads instead of a plan.

    Parameters
    ----------
    plan: its first argument is a :class:`Plan`, to which it adds. It returns the results, arrays that are
        filled when that has been done.
    """

    def __init__(self, plan: Callable[..., T]) -> None:
        self.plan = plan
        update_wrapper(self, plan)

    def __call__(self, *args: Any, count: int, **more: Any) -> T:
        """Plan it, do it once, and return the results."""
        plan = Plan(count)
        results = self.plan(plan, *args, **more)
        plan.catch_up()
        return results


KEPT = 4
"""Plans of one call: the parameters of a model lie now in one place, now in another."""


@final
class Plans(Generic[T]):
    """A call that keeps its last plans. Its results are overwritten by the next call.

    Parameters
    ----------
    make: adds to a plan, for some arrays, and returns the results; see :class:`Planned`.
    arena: where its memory comes from.
    """

    def __init__(self, make: Callable[..., T], arena: Arena | None = None) -> None:
        self._make, self._pieces = make, Pieces(arena)
        self._kept: dict[Hashable, tuple[Plan, T]] = {}

    def __call__(self, *arrays: np.ndarray, count: int, where: Hashable = None) -> T:
        """Do it for some arrays, on so many threads.

        ``where`` may be a key that differs for arrays in different places, if the caller has a quicker one.
        """
        key = count, where or tuple(map(place, arrays))
        found = self._kept.pop(key, None)
        if found is not None:
            plan, results = self._kept[key] = found
            plan.run()
            return results
        plan, before = Plan(count, self._pieces), self._pieces.replaced
        # Borrowed: what is kept must not keep parameters, whose memory would never be used again.
        results = self._make(plan, *map(borrowed, arrays))
        plan.catch_up()
        if self._pieces.replaced > before:
            self._kept.clear()  # they hold the smaller pieces
        self._kept[key] = plan, results
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return results
