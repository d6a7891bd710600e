"""A PyTensor graph as a function of JAX arrays.

PyTensor's own JAX linker wants the length of every text to be known when a graph is made. Here the
graph is walked each time JAX traces the function, which it does once for each shape: then the lengths
are numbers, and whatever depends on nothing else is computed at once, by the ``Op`` itself.

>>> import numpy as np
>>> import pytensor.tensor as pt
>>> x = pt.fmatrix("x")
>>> count = jax.jit(computing([x], [pt.zeros((x.shape[0] + 1,), "float32") + x.sum()]))
>>> np.asarray(count(np.ones((2, 3), np.float32))[0])
array([6., 6., 6.], dtype=float32)
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from pytensor.graph.basic import Apply, Constant
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.basic import MergeOptimizer
from pytensor.tensor.elemwise import CAReduce
from pytensor.tensor.shape import Shape, Shape_i


@lru_cache(1)
def dispatch() -> Any:
    """Import what knows an ``Op`` in JAX. To import it switches float64 on, for everybody."""
    before = jax.config.jax_enable_x64
    from pytensor.link.jax.dispatch import jax_funcify

    jax.config.update("jax_enable_x64", before)
    return jax_funcify


def computing(inputs: Sequence[Any], outputs: Sequence[Any]) -> Callable[..., list[Any]]:
    """Return a function from values of the inputs to a list of those of the outputs."""
    graph = FunctionGraph(list(inputs), list(outputs))
    MergeOptimizer().rewrite(graph)
    order = graph.toposort()

    def compute(*given: Any) -> list[Any]:
        values = dict(zip(graph.inputs, given, strict=True))

        def value(variable: Any) -> Any:
            return variable.data if isinstance(variable, Constant) else values[variable]

        for node in order:
            used = [bool(graph.clients[each]) for each in node.outputs]
            results = _computed(node, [value(each) for each in node.inputs], used)
            values.update(zip(node.outputs, results, strict=True))
        return [value(each) for each in graph.outputs]

    return compute


def parted(
    inputs: Sequence[Any], outputs: Sequence[Any], fixed: int
) -> tuple[Callable[..., list[Any]], Callable[..., list[Any]]]:
    """Cut a graph in two, so that a loop computes only what changes in it; XLA would not see to that.

    Returns
    -------
    before: a function from values of the first ``fixed`` inputs to a list of values.
    after: a function from those values and the other inputs to a list of the outputs.
    """
    graph = FunctionGraph(list(inputs), list(outputs))
    changing, wanted = set(graph.inputs[fixed:]), list(graph.outputs)
    for node in graph.toposort():
        if changing.intersection(node.inputs):
            changing.update(node.outputs)
            wanted += node.inputs
    steady = (each for each in wanted if each not in changing and not isinstance(each, Constant))
    kept = list(dict.fromkeys(steady))
    before = computing(graph.inputs[:fixed], kept)
    return before, computing([*kept, *graph.inputs[fixed:]], graph.outputs)


def _computed(node: Apply, values: list[Any], used: list[bool]) -> Sequence[Any]:
    """Return the outputs of one node; ``used`` says which of them anything needs."""
    if isinstance(node.op, Shape):
        return [np.asarray(values[0].shape, np.int64)]
    if isinstance(node.op, Shape_i):
        return [np.asarray(values[0].shape[node.op.i])]
    known = [not isinstance(value, jax.Array) for value in values]
    if all(known):
        cells: list[list[Any]] = [[None] for _ in node.outputs]
        node.op.perform(node, values, cells)  # type: ignore[attr-defined]
        return [cell[0] for cell in cells]
    op = node.op
    if isinstance(op, CAReduce) and getattr(op, "acc_dtype", None) == "float64":
        op = op.clone(acc_dtype=node.outputs[0].dtype)
    # Numbers alone take the type of what they meet.
    plain = [
        value.item() if there and np.ndim(value) == 0 and hasattr(value, "item") else value
        for value, there in zip(values, known, strict=True)
    ]
    here = [
        each
        if isinstance(each, Constant) or not there
        else each.type.constant_type(each.type, value)
        for each, value, there in zip(node.inputs, values, known, strict=True)
    ]
    exact = Apply(op, here, [each.clone() for each in node.outputs])
    result = dispatch()(op, node=exact, used=used)(*plain)
    return result if isinstance(result, list | tuple) else [result]
