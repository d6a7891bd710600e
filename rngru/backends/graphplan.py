"""What a PyTensor graph computes, as a plan of the kernels.

>>> import numpy as np
>>> import pytensor.tensor as pt
>>> from rngru.kernels.plans import Plans
>>> x, weights, bias = pt.fmatrix("x"), pt.fmatrix("weights"), pt.fvector("bias")
>>> plans = Plans(GraphPlan([x, weights, bias], [ops.Affine()(x, weights, bias), x.shape[0]]))
>>> plans(np.ones((2, 3), "f"), np.ones((3, 1), "f"), np.ones(1, "f"), count=1)
[array([[4.],
       [4.]], dtype=float32), array(2)]
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, final

import numpy as np
import pytensor
from pytensor.graph.basic import Apply, Constant

from rngru.backends import ops
from rngru.kernels.plans import Plan

Cell = list[Any]
"""A value in a list: nodes exchange them in PyTensor."""


@final
class GraphPlan:
    """Adds to a plan what a graph computes.

    Nodes on the kernels are planned. Those of PyTensor's own are calls of Python: they give new arrays each
    time, which are copied to one place before kernels read them. Shapes must follow from those of the inputs.
    """

    def __init__(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        function = pytensor.function(list(inputs), list(outputs), mode=ops.CPU_MODE)
        self._graph = function.maker.fgraph
        self.order: list[Any] = self._graph.toposort()
        """The nodes."""
        self._cells: dict[Any, Cell] = {}
        """The results of PyTensor's own nodes, which all plans share."""

    def __call__(self, plan: Plan, *arrays: np.ndarray) -> list[np.ndarray]:
        """Plan it for some arrays; return the outputs, which are filled when it is done."""
        cells: dict[Any, Cell] = {
            variable: [array] for variable, array in zip(self._graph.inputs, arrays, strict=True)
        }
        moving: set[Any] = set()

        def cell(variable: Any) -> Cell:
            if isinstance(variable, Constant):
                cells.setdefault(variable, [variable.data])
            return cells[variable]

        def placed(variable: Any) -> np.ndarray:
            """Return an array in one place, C-contiguous."""
            here = cell(variable)
            fixed = _followed(plan, here) if variable in moving else plan.contiguous(here[0])
            moving.discard(variable)
            cells[variable] = [fixed]
            return fixed

        for node in self.order:
            if isinstance(node.op, ops.Kernels):
                found = node.op.plan(plan, *map(placed, node.inputs))
                cells.update((each, [one]) for each, one in zip(node.outputs, found, strict=True))
                continue
            before = [cell(each) for each in node.inputs]
            if moving.isdisjoint(node.inputs) and (views := _views(plan, node, before)):
                cells.update(zip(node.outputs, views, strict=True))
                continue
            after = [self._cells.setdefault(each, [None]) for each in node.outputs]
            plan.call(partial(_perform, node, before, after))
            plan.catch_up()
            cells.update(zip(node.outputs, after, strict=True))
            moving.update(node.outputs)
        return [placed(each) for each in self._graph.outputs]


def _views(plan: Plan, node: Apply, before: Sequence[Cell]) -> list[Cell]:
    """Return the results of a node, if they are views, for good, of arrays in one place; else nothing."""
    views: list[Cell] = [[None] for _ in node.outputs]
    seen = {node.inputs[source] for [source] in node.op.view_map.values()}
    steady = all(each in seen or isinstance(each, Constant) for each in node.inputs)
    if len(node.op.view_map) < len(views) or not steady:
        return []
    plan.catch_up()
    _perform(node, before, views)
    shared = (
        np.may_share_memory(views[i][0], before[source][0])
        for i, [source] in node.op.view_map.items()
    )
    return views if all(shared) else []


def _perform(node: Apply, before: Sequence[Cell], after: Sequence[Cell]) -> None:
    node.op.perform(node, [each[0] for each in before], after)


def _followed(plan: Plan, cell: Cell) -> np.ndarray:
    """Plan copying what is in a cell; return the copy."""
    copy = plan.empty(cell[0].shape, cell[0].dtype)
    plan.call(lambda: np.copyto(copy, cell[0]))
    return copy
