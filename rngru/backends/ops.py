"""The kernels as PyTensor ``Op``s with gradients of their own, and how they are compiled.

Shapes: T steps, B lanes, S units, G gates, H state, P = S padded to whole panels, V symbols; N rows of
I or S numbers.

>>> import pytensor
>>> rows, weights, bias = pt.fmatrix("rows"), pt.fmatrix("weights"), pt.fvector("bias")
>>> gradient = pytensor.grad(Affine()(rows, weights, bias).sum(), weights)
>>> gradient.ndim, gradient.dtype
(2, 'float32')
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.compile.mode import Mode
from pytensor.gradient import DisconnectedType, grad_undefined
from pytensor.graph.basic import Apply
from pytensor.graph.destroyhandler import DestroyHandler
from pytensor.graph.features import ReplaceValidate
from pytensor.graph.op import Op
from pytensor.graph.rewriting.basic import GraphRewriter, MergeOptimizer, SequentialGraphRewriter
from pytensor.graph.utils import InconsistencyError
from pytensor.link.basic import PerformLinker

from rngru.kernels import layers, output, threads
from rngru.kernels.spec import LayerSpec


def zeros_like(value):
    """Zeros of the shape of ``value``; PyTensor's own run element by element without generated code."""
    return pt.zeros(value.shape, dtype=value.dtype)


def _arguments(given: Sequence[np.ndarray]) -> Any:
    """Sort a node's inputs into what :func:`rngru.kernels.layers.forward` takes, all contiguous."""
    inputs = [np.ascontiguousarray(each) for each in given]
    count = 1 if inputs[0].ndim == 2 else 2
    start, recurrent, *second = inputs[1 + count :]
    return inputs[0], inputs[1 : 1 + count], start, recurrent, second[0] if second else None


class Recurrence(Op):
    """One layer over a sequence, on the kernels.

    Inputs: ``inputs, *weights, start, recurrent[, second_bias]``. Outputs: states (T, B, S),
    ending (B, H), and two that the gradient needs: gates (T, B, G P) and side (T, B, P or 0).
    """

    __props__ = ("spec",)

    def __init__(self, spec: LayerSpec) -> None:
        self.spec = spec

    def make_node(self, *inputs) -> Apply:
        dtype = inputs[-1].dtype
        outputs = [pt.tensor(dtype=dtype, shape=(None,) * ndim) for ndim in (3, 2, 3, 3)]
        return Apply(self, list(inputs), outputs)

    def perform(self, node, inputs, output_storage) -> None:
        states, _, gates, side = (cell[0] for cell in output_storage)
        results = layers.forward(
            self.spec, *_arguments(inputs), old=(states, gates, side), count=threads.available()
        )
        for cell, result in zip(output_storage, results, strict=True):
            cell[0] = result

    def pullback(self, inputs, outputs, cotangents):
        states, ending, gates, side = outputs
        above, below = (
            zeros_like(value) if isinstance(gradient.type, DisconnectedType) else gradient
            for value, gradient in zip((states, ending), cotangents[:2], strict=True)
        )
        gradients = RecurrenceGradient(self.spec)(gates, side, states, above, below, *inputs)
        if inputs[0].ndim == 2:
            return [grad_undefined(self, 0, inputs[0], "characters are not numbers"), *gradients]
        return gradients

    L_op = pullback


class RecurrenceGradient(Op):
    """Backpropagation through time of :class:`Recurrence`.

    Inputs: ``gates, side, states`` of ``Recurrence``, the gradients of states and ending, and the
    inputs of ``Recurrence``. Outputs: the gradient of each of those but characters. With ``inplace``
    it writes over ``gates`` and ``side``, the largest arrays of all.
    """

    __props__ = ("spec", "inplace")

    def __init__(self, spec: LayerSpec, inplace: bool = False) -> None:
        self.spec, self.inplace = spec, inplace
        # Which input each output writes over; for PyTensor any two outputs will do.
        self.destroy_map = {0: [0], 1: [1]} if inplace else {}

    def make_node(self, *inputs) -> Apply:
        wanted = inputs[5:] if inputs[5].ndim == 3 else inputs[6:]
        return Apply(self, list(inputs), [each.type() for each in wanted])

    def perform(self, node, inputs, output_storage) -> None:
        gates, side, states, above, ending = map(np.ascontiguousarray, inputs[:5])
        if not self.inplace:
            gates, side = gates.copy(), side.copy()
        text, weights, start, recurrent, _ = _arguments(inputs[5:])
        dinputs, dweights, *others = layers.backward(
            self.spec, text, weights, start, recurrent, states, gates, side, above, ending,
            old=output_storage[0][0] if text.ndim == 3 else None, count=threads.available(),
        )  # fmt: skip
        results = (each for each in (dinputs, *dweights, *others) if each is not None)
        for cell, result in zip(output_storage, results, strict=True):
            cell[0] = result


class Affine(Op):
    """``rows @ weights + bias`` on the kernels, for (N, I), (I, K) and (K,)."""

    __props__ = ()

    def make_node(self, *inputs) -> Apply:
        return Apply(self, list(inputs), [inputs[0].type()])

    def perform(self, node, inputs, output_storage) -> None:
        inputs = map(np.ascontiguousarray, inputs)
        output_storage[0][0] = output.affine(*inputs, count=threads.available())

    def pullback(self, inputs, outputs, cotangents):
        return AffineGradient()(*inputs[:2], *cotangents)

    L_op = pullback


class AffineGradient(Op):
    """Gradients of :class:`Affine`. Inputs: rows, weights and the gradient of the result."""

    __props__ = ()

    def make_node(self, rows, weights, deltas) -> Apply:
        bias = pt.tensor(dtype=weights.dtype, shape=(None,))
        return Apply(self, [rows, weights, deltas], [rows.type(), weights.type(), bias])

    def perform(self, node, inputs, output_storage) -> None:
        inputs = map(np.ascontiguousarray, inputs)
        results = output.affine_back(*inputs, count=threads.available())
        for cell, result in zip(output_storage, results, strict=True):
            cell[0] = result


class CrossEntropy(Op):
    """Softmax and cross-entropy of a linear readout, on the kernels.

    Inputs: states (N, S), weights (S, V), bias (V,), targets (N,) int32. Outputs: the total loss in
    nats (), the loss of each row (N,), and what the gradient needs (N, padded(V)). Only the total
    has a gradient.
    """

    __props__ = ()

    def make_node(self, *inputs) -> Apply:
        dtype = inputs[0].dtype
        outputs = [pt.tensor(dtype=dtype, shape=(None,) * ndim) for ndim in (0, 1, 2)]
        return Apply(self, list(inputs), outputs)

    def perform(self, node, inputs, output_storage) -> None:
        _, losses, deltas = (cell[0] for cell in output_storage)
        results = output.score(
            *map(np.ascontiguousarray, inputs), old=(losses, deltas), count=threads.available()
        )
        total = results[0].sum(dtype=np.float64).astype(results[0].dtype)
        for cell, result in zip(output_storage, (np.asarray(total), *results), strict=True):
            cell[0] = result

    def connection_pattern(self, node):
        return [[True, False, False]] * 3 + [[False] * 3]

    def pullback(self, inputs, outputs, cotangents):
        states, weights, _, _ = inputs
        gradients = CrossEntropyGradient()(outputs[2], cotangents[0], states, weights)
        return [*gradients, DisconnectedType()()]

    L_op = pullback


class CrossEntropyGradient(Op):
    """Gradient of the total of :class:`CrossEntropy` for states, weights and bias.

    Inputs: the third output of ``CrossEntropy``, which ``inplace`` writes over; the gradient of the
    total (); states and weights.
    """

    __props__ = ("inplace",)

    def __init__(self, inplace: bool = False) -> None:
        self.inplace = inplace
        self.destroy_map = {0: [0]} if inplace else {}

    def make_node(self, deltas, scale, states, weights) -> Apply:
        bias = pt.tensor(dtype=weights.dtype, shape=(None,))
        return Apply(self, [deltas, scale, states, weights], [states.type(), weights.type(), bias])

    def perform(self, node, inputs, output_storage) -> None:
        deltas, scale, states, weights = inputs
        results = output.score_back(
            np.ascontiguousarray(states), np.ascontiguousarray(weights),
            deltas if self.inplace else deltas.copy(), scale,
            old=output_storage[0][0], count=threads.available(),
        )  # fmt: skip
        for cell, result in zip(output_storage, results, strict=True):
            cell[0] = result


class InPlace(GraphRewriter):
    """Let each gradient write over the arrays that nothing reads after it."""

    def add_requirements(self, fgraph) -> None:
        fgraph.attach_feature(ReplaceValidate())
        fgraph.attach_feature(DestroyHandler())

    def apply(self, fgraph) -> None:
        for node in fgraph.toposort():
            if isinstance(node.op, RecurrenceGradient):
                op: Op = RecurrenceGradient(node.op.spec, inplace=True)
            elif isinstance(node.op, CrossEntropyGradient):
                op = CrossEntropyGradient(inplace=True)
            else:
                continue
            new = op.make_node(*node.inputs).outputs
            with suppress(InconsistencyError):  # something else still reads them: it stays a copy
                fgraph.replace_all_validate(
                    list(zip(node.outputs, new, strict=True)), reason="in place"
                )


CPU_MODE = Mode(
    linker=PerformLinker(allow_gc=False),
    optimizer=SequentialGraphRewriter(MergeOptimizer(), InPlace()),
)
"""No generated code at all, and results kept, so that the next batch writes into them."""
