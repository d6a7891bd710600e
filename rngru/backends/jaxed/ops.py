"""What the ``Op``s of :mod:`rngru.backends.ops` are in JAX.

Registered where PyTensor looks for it, so that a graph with them runs in PyTensor's mode ``"JAX"`` as
well. The gates and sides, in which an ``Op`` hands its gradient what that needs, are here one array, in
the place of the gates.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op

from rngru.backends.jaxed import layers
from rngru.backends.jaxed.computing import dispatch
from rngru.backends.ops import (
    Affine,
    AffineGradient,
    Recurrence,
    RecurrenceGradient,
)

jax_funcify = dispatch()


class Together(Op):
    """The loss and gradients of all lanes, from those of each device's own.

    Inputs and outputs: the total loss (), gradients of means over lanes, and numbers (n,) to add up.
    """

    __props__ = ("axis",)

    def __init__(self, axis: str) -> None:
        self.axis = axis

    def make_node(self, *inputs: Any) -> Apply:
        """Gives as many of the same types."""
        return Apply(self, list(inputs), [each.type() for each in inputs])

    def perform(self, node: Any, inputs: Any, output_storage: Any) -> None:
        """There is one device."""
        for cell, value in zip(output_storage, inputs, strict=True):
            cell[0] = value


@jax_funcify.register(Together)
def _together(op: Together, **_: Any) -> Callable:
    def compute(*values: Any) -> list[Any]:
        # Between processes each sum is waited for: all of them are one.
        flat = jnp.concatenate([each.reshape(-1) for each in values])
        total, count = lax.psum(flat, op.axis), lax.axis_size(op.axis)
        edges = np.cumsum([each.size for each in values])[:-1]
        parts = jnp.split(total, edges)
        pairs = zip(parts, values, strict=True)
        loss, *means, numbers = (part.reshape(each.shape) for part, each in pairs)
        return [loss, *(each / count for each in means), numbers]

    return compute


@jax_funcify.register(Recurrence)
def _recurrence(op: Recurrence, used: Any = None, **_: Any) -> Callable:
    stack, depth = op.stack, op.stack.depth

    def compute(*inputs: Any) -> list[Any]:
        first, weights, start, masks = stack.given(inputs)
        keep = used is None or any(used[-2 * depth :])
        passes = layers.forward(stack.spec, first, weights, start, masks, keep=keep)
        outputs, endings, states, kept = zip(*passes, strict=True)
        nothing = [jnp.zeros((0, 0, 0), start.dtype)] * depth
        return [*outputs, *endings, *(states if stack.masked else ()), *kept, *nothing]

    return compute


@jax_funcify.register(RecurrenceGradient)
def _recurrence_gradient(op: RecurrenceGradient, **_: Any) -> Callable:
    stack, depth = op.stack, op.stack.depth

    def compute(*inputs: Any) -> list[Any]:
        begin = (4 if stack.masked else 3) * depth
        kinds = [inputs[k : k + depth] for k in range(0, begin, depth)]
        kept, states = kinds[0], kinds[2]
        passes = [
            layers.Pass(*each) for each in zip(kinds[-1], [None] * depth, states, kept, strict=True)
        ]
        some = iter(inputs[begin:])
        above = [next(some) if there else None for there in op.linked]
        first, weights, start, masks = stack.given(list(some))
        arriving, began, found = layers.backward(
            stack.spec, first, weights, start, passes, above[:depth], above[depth:], masks
        )
        gradients = [each for layer in found for each in layer.all()]
        return [*([] if arriving is None else [arriving]), began, *gradients]

    return compute


@jax_funcify.register(Affine)
def _affine(op: Affine, **_: Any) -> Callable:
    return lambda rows, weights, bias: rows @ weights + bias


@jax_funcify.register(AffineGradient)
def _affine_gradient(op: AffineGradient, **_: Any) -> Callable:
    return lambda rows, weights, deltas: [deltas @ weights.T, rows.T @ deltas, deltas.sum(axis=0)]
