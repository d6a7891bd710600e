"""What plans are made of: matrices to pack, and sums over all steps and lanes, dealt out to the threads.

Shapes: S units, P = padded(S), G gates.
"""

from typing import Any

import numpy as np

from rngru.kernels import calls, threads
from rngru.kernels.panels import STRIP, clear, pack, products, room, span, strips
from rngru.kernels.phases import Phase, deal, side_by_side
from rngru.kernels.plans import Plan
from rngru.kernels.sequence import copyrow
from rngru.kernels.tiles import PANEL, padded


@calls.shared()
def _fit(source, into, first, last):
    """Copy rows ``first`` … ``last - 1`` of a matrix to narrower ones, or to wider ones with zeros behind."""
    before, after = source.shape[1], into.shape[1]
    size = min(before, after)
    for i in range(first, last):
        copyrow(span(source, i * before, size), span(into, i * after, size))
        clear(span(into, i * after + size, after - size))


def _fitted(plan: Plan, array: np.ndarray, gates: int, size: int) -> np.ndarray:
    """Plan copying so many columns of each gate of ``array``; what a gate does not have is zero."""
    result = plan.empty((*array.shape[:-1], gates * size), array.dtype)
    if result.size:
        into, source = result.reshape(-1, size), array.reshape(-1, array.shape[-1] // gates)
        count = threads.worth(into.size, plan.count)
        plan.do(side_by_side([_fit.bind(source, into)], len(into), count))
    return result


def padding(plan: Plan, array: np.ndarray, gates: int) -> np.ndarray:
    """Plan padding each gate's S columns of ``array`` (…, G S) to whole panels with zeros.

    Returns (…, G P), to be filled; or the array, if its panels are whole.
    """
    array, size = plan.contiguous(array), array.shape[-1] // gates
    return array if size == padded(size) else _fitted(plan, array, gates, padded(size))


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
    return _fitted(plan, array, gates, size)


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

    def product(
        self, pairs, from_column: int, result, to_column: int, columns: int, used: int | None = None
    ) -> None:
        """Plan filling columns of ``result`` with the sum of ``left.T @ right`` of one or two pairs.

        If it has a row more than that, this is filled with the sums of the columns of ``right``. It is cut by
        panels, or by rows of the result where there are more of these. Of the columns, those after the ones
        that are ``used`` have to be zero.
        """
        (left, right), *more = pairs
        [(more_left, more_right)] = more or [(left[:0], right[:0])]
        rows, panels = len(result), columns // PANEL
        by_rows = strips(rows) > panels
        call = products.bind(
            left, right, more_left, more_right, from_column, result, to_column, panels if by_rows else 0,
            columns if used is None else used,
            self.plan.empty((self.count, room(rows)), result.dtype), np.zeros(1, np.int64),
        )  # fmt: skip
        units, other = (strips(rows), panels * STRIP) if by_rows else (panels, rows)
        self.add(call, units, other * (len(left) + len(more_left)))
