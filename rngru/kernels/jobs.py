"""What plans are made of: matrices to pack, and sums over all steps and lanes, dealt out to the threads.

Shapes: S units, P = padded(S), G gates.
"""

from functools import partial
from typing import Any

import numpy as np

from rngru.kernels import calls, threads
from rngru.kernels.panels import WIDE, pack, products, ribbons, room
from rngru.kernels.phases import Phase, deal
from rngru.kernels.plans import Plan
from rngru.kernels.sequence import column_sums
from rngru.kernels.tiles import PANEL, padded


def padding(plan: Plan, array: np.ndarray, gates: int) -> np.ndarray:
    """Plan padding each gate's S columns of ``array`` (…, G S) to whole panels with zeros.

    Returns (…, G P), to be filled; or the array, if its panels are whole.
    """
    size = array.shape[-1] // gates
    if size == padded(size):
        return plan.contiguous(array)
    wide = plan.empty((*array.shape[:-1], gates, padded(size)), array.dtype)
    narrow = plan.contiguous(array).reshape(*array.shape[:-1], gates, size)

    def fill() -> None:
        wide[..., :size], wide[..., size:] = narrow, 0

    plan.call(fill)
    return wide.reshape(*array.shape[:-1], -1)


def widened(array: np.ndarray, gates: int) -> np.ndarray:
    """Return what :func:`padding` plans.

    >>> widened(np.ones((2, 6), np.float32), gates=3).shape == (2, 3 * padded(2))
    True
    """
    plan = Plan(count=1)
    wide = padding(plan, array, gates)
    plan.run()
    return wide


def trimmed(plan: Plan, array: np.ndarray, gates: int, size: int) -> np.ndarray:
    """Plan undoing :func:`padding`: return (…, G S), to be filled from (…, G P) where they differ."""
    if array.shape[-1] == gates * size:
        return array
    result = plan.empty((*array.shape[:-1], gates * size), array.dtype)
    into, source = (each.reshape(*each.shape[:-1], gates, -1) for each in (result, array))
    plan.later(partial(np.copyto, into, source[..., :size]), result)
    return result


class Jobs:
    """Several calls, most of them over panels, dealt out to the threads at equal cost.

    Parameters
    ----------
    plan: what they are a part of.
    count: how many threads; by default those of the plan.
    """

    def __init__(self, plan: Plan, count: int | None = None) -> None:
        self.plan, self.count = plan, plan.count if count is None else count
        self.work: list[tuple[calls.Call, int, int]] = []

    def add(self, call: calls.Call, units: int, cost: int) -> None:
        """Plan a call over so many panels or other units, each of that cost."""
        self.work.append((call, units, max(cost, 1)))

    def phase(self) -> Phase:
        """Return all of it."""
        return deal(self.work, self.count)


class Packing(Jobs):
    """Several matrices to pack into panels."""

    def add_matrix(
        self,
        matrix: np.ndarray,
        *,
        left: int = 0,
        right: int | None = None,
        transpose: bool = False,
    ) -> np.ndarray:
        """Plan packing columns ``left:right`` of a contiguous matrix, or their transpose.

        Returns the panels, to be filled.
        """
        inner, row = matrix.shape
        columns = (row if right is None else right) - left
        column = 1
        if transpose:
            inner, columns, row, column = columns, inner, column, row
        flat = matrix.reshape(-1)[left:]
        panels = self.plan.empty((inner * padded(columns),), matrix.dtype)
        if columns:
            call = pack.bind(flat, row, column, inner, columns, panels)
            self.add(call, padded(columns) // PANEL, inner)
        return panels

    def phase(self) -> Phase:
        """Return all of it."""
        numbers = PANEL * sum(panels * cost for _, panels, cost in self.work)
        return deal(self.work, threads.worth(numbers, self.count))


def packed(matrix: np.ndarray, count: int, **which: Any) -> np.ndarray:
    """Return one matrix in panels; ``which`` as in :meth:`Packing.add_matrix`."""
    plan = Plan(count)
    packing = Packing(plan)
    panels = packing.add_matrix(matrix, **which)
    plan.do(packing.phase())
    plan.run()
    return panels


ADDITION = 10
"""Multiply-adds of a product that take as long as one addition to a number in memory."""


class Sums(Jobs):
    """Sums over all steps and lanes: the gradients of weights."""

    def product(self, pairs, from_column: int, result, to_column: int, columns: int) -> None:
        """Plan filling columns of ``result`` with the sum of ``left.T @ right`` of one or two pairs.

        It is cut by panels, or by rows of the result where there are more of these.
        """
        (left, right), *more = pairs
        [(more_left, more_right)] = more or [(left[:0], right[:0])]
        rows, panels = len(result), columns // PANEL
        by_rows = ribbons(rows) > panels
        call = products.bind(
            left, right, more_left, more_right, from_column, result, to_column, panels if by_rows else 0,
            self.plan.empty((self.count, room(rows)), result.dtype), np.zeros(1, np.int64),
        )  # fmt: skip
        units, other = (ribbons(rows), panels * WIDE) if by_rows else (panels, rows)
        self.add(call, units, other * (len(left) + len(more_left)))

    def rows(self, matrix, result) -> None:
        """Plan filling ``result`` with the sum of the rows of ``matrix``."""
        self.add(column_sums.bind(matrix, result), matrix.shape[1] // PANEL, ADDITION * len(matrix))
