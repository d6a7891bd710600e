"""What the ``Op``s of :mod:`rngru.backends.ops` are in JAX.

Registered where PyTensor looks for it, so that a graph with them runs in PyTensor's mode ``"JAX"`` as
well. The gates and sides, in which an ``Op`` hands its gradient what that needs, are here one array, in
the place of the gates.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from rngru.backends.jaxed import layers
from rngru.backends.jaxed.computing import dispatch
from rngru.backends.ops import (
    Affine,
    AffineGradient,
    CrossEntropy,
    CrossEntropyGradient,
    Recurrence,
    RecurrenceGradient,
    Stack,
)

jax_funcify = dispatch()


def _sorted(stack: Stack, inputs: Any) -> tuple[Any, Any, Any, Any]:
    """Sort the inputs of ``Recurrence``: (inputs, weights, start, masks)."""
    first, start, *rest = inputs
    masks = rest.pop(0) if stack.masked else None
    return first, stack.weights(rest, first.ndim), start, masks


@jax_funcify.register(Recurrence)
def _recurrence(op: Recurrence, used: Any = None, **_: Any) -> Callable:
    stack, depth = op.stack, op.stack.depth

    def compute(*inputs: Any) -> list[Any]:
        first, weights, start, masks = _sorted(stack, inputs)
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
            layers.Pass(*each)
            for each in zip(kinds[-1], [None] * depth, states, kept, strict=True)
        ]
        some = iter(inputs[begin:])
        above = [next(some) if there else None for there in op.linked]
        first, weights, start, masks = _sorted(stack, list(some))
        arriving, began, found = layers.backward(
            stack.spec, first, weights, start, passes, above[:depth], above[depth:], masks
        )
        gradients = [each for layer in found for each in layer.all()]
        memory = [jnp.zeros((0, 0, 0), start.dtype)] * (depth - 1)
        return [*([] if arriving is None else [arriving]), began, *gradients, *memory]

    return compute


@jax_funcify.register(Affine)
def _affine(op: Affine, **_: Any) -> Callable:
    return lambda rows, weights, bias: rows @ weights + bias


@jax_funcify.register(AffineGradient)
def _affine_gradient(op: AffineGradient, **_: Any) -> Callable:
    return lambda rows, weights, deltas: [deltas @ weights.T, rows.T @ deltas, deltas.sum(axis=0)]
