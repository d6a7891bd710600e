"""The kernels as PyTensor ``Op``s with gradients of their own, and how they are compiled.

Shapes: L layers, T steps, B lanes, S units, G gates, H state, P = S padded to whole panels, V symbols;
N rows of I or S numbers.

>>> import pytensor
>>> rows, weights, bias = pt.fmatrix("rows"), pt.fmatrix("weights"), pt.fvector("bias")
>>> gradient = pytensor.grad(Affine()(rows, weights, bias).sum(), weights)
>>> gradient.ndim, gradient.dtype
(2, 'float32')
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
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
from pytensor.scalar.basic import Second
from pytensor.tensor.elemwise import Elemwise

from rngru.kernels import encoder, layers, output, threads
from rngru.kernels.plans import Plan, Planned
from rngru.kernels.spec import LayerSpec, Weights


def zeros_like(value):
    """Zeros of the shape of ``value``; PyTensor's own run element by element without generated code."""
    return pt.zeros(value.shape, dtype=value.dtype)


class Kernels(Op):
    """An ``Op`` on the kernels: :meth:`plan` says what they do."""

    def plan(self, plan: Plan, *inputs: np.ndarray) -> Sequence[np.ndarray]:
        """Add to a plan, for C-contiguous inputs; return the outputs, which are filled when it is done."""
        raise NotImplementedError

    def perform(self, node, inputs, output_storage) -> None:
        given = map(np.ascontiguousarray, inputs)
        found = Planned(self.plan)(*given, count=threads.available())
        for cell, result in zip(output_storage, found, strict=True):
            cell[0] = result


@dataclass(frozen=True, slots=True)
class Stack:
    """What a stack of layers is made of, and in which order an ``Op`` takes and gives its parts.

    Parameters
    ----------
    spec: each layer.
    depth: how many there are.
    masked: whether their outputs are multiplied by masks, for dropout.
    """

    spec: LayerSpec
    depth: int
    masked: bool = False

    def weights(self, flat: Sequence[Any], ndim: int) -> list[Weights]:
        """Sort what :meth:`~rngru.kernels.spec.Weights.all` put in a row; ``ndim`` is that of the inputs."""
        rest, sorted_ = iter(flat), []
        for i in range(self.depth):
            into = tuple(next(rest) for _ in range(1 if i == 0 and ndim == 2 else 2))
            recurrent = next(rest) if self.spec.row.recurrent else None
            second = next(rest) if self.spec.row.second_bias else None
            sorted_.append(Weights(into, recurrent, second))
        return sorted_

    def passes(self, flat: Sequence[Any]) -> list[layers.Pass]:
        """Sort outputs, endings, states, gates and sides of all layers; without masks, outputs are states."""
        kinds = [
            flat[k * self.depth : (k + 1) * self.depth] for k in range(len(flat) // self.depth)
        ]
        if not self.masked:
            kinds.insert(2, kinds[0])
        return [layers.Pass(*each) for each in zip(*kinds, strict=True)]

    def flat(self, passes: Sequence[layers.Pass]) -> list[Any]:
        """Undo :meth:`passes`."""
        kinds = list(zip(*passes, strict=True))
        if not self.masked:
            del kinds[2]
        return [each for kind in kinds for each in kind]

    def given(self, inputs: Sequence[np.ndarray]):
        """Sort the inputs of the ``Op``: (inputs, weights, start, masks)."""
        first, start, *rest = inputs
        masks = rest.pop(0) if self.masked else None
        return first, self.weights(rest, first.ndim), start, masks


class Recurrence(Kernels):
    """A stack of layers over a sequence, on the kernels.

    Inputs: ``inputs, start[, masks], *weights``. Outputs, each of all layers: output (T, B, S), ending
    (B, H), and what the gradient needs: [states (T, B, S) if masked,] gates (T, B, G P) and side
    (T, B, P or 0).
    """

    __props__ = ("stack",)

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def make_node(self, *inputs) -> Apply:
        kinds = (3, 2, 3, 3, 3) if self.stack.masked else (3, 2, 3, 3)
        dtype = inputs[-1].dtype
        outputs = [
            pt.tensor(dtype=dtype, shape=(None,) * ndim)
            for ndim in kinds
            for _ in range(self.stack.depth)
        ]
        return Apply(self, list(inputs), outputs)

    def plan(self, plan, *inputs):
        return self.stack.flat(
            layers.forward.plan(plan, self.stack.spec, *self.stack.given(inputs))
        )

    def pullback(self, inputs, outputs, cotangents):
        public = cotangents[: 2 * self.stack.depth]
        linked = tuple(not isinstance(each.type, DisconnectedType) for each in public)
        op = RecurrenceGradient(self.stack, linked)
        some = [each for each, there in zip(public, linked, strict=True) if there]
        passes = self.stack.passes(outputs)
        gates, sides = [each.gates for each in passes], [each.side for each in passes]
        kept = [each.states for each in passes]
        if self.stack.masked:
            kept += [each.output for each in passes]
        found = op(*gates, *sides, *kept, *some, *inputs)
        results = found[: op.wanted(inputs)]
        if inputs[0].ndim == 2:
            results.insert(0, grad_undefined(self, 0, inputs[0], "characters are not numbers"))
        if self.stack.masked:
            results.insert(2, grad_undefined(self, 2, inputs[2], "noise is not a parameter"))
        return results

    L_op = pullback


class RecurrenceGradient(Kernels):
    """Backpropagation through time of :class:`Recurrence`.

    Inputs: of all layers the gates, the sides, the states and, if masked, the outputs; those gradients
    of outputs and endings that are ``linked``, which says of each whether there is one; and the inputs
    of ``Recurrence``. Outputs: the gradient of each of those but characters and masks. With ``inplace`` it
    writes over the gates and sides, the largest arrays of all.
    """

    __props__ = ("stack", "linked", "inplace")

    def __init__(self, stack: Stack, linked: tuple[bool, ...], inplace: bool = False) -> None:
        self.stack, self.linked, self.inplace = stack, linked, inplace
        # Which input each output writes over; for PyTensor any two outputs will do.
        self.destroy_map = {i: [i] for i in range(2 * stack.depth)} if inplace else {}

    def written(self) -> "RecurrenceGradient":
        """Return the one that writes over its inputs."""
        return RecurrenceGradient(self.stack, self.linked, inplace=True)

    def wanted(self, inputs) -> int:
        """Return how many of the inputs of ``Recurrence`` have a gradient."""
        return len(inputs) - (inputs[0].ndim == 2) - self.stack.masked

    def _begin(self) -> int:
        """Return where the inputs of ``Recurrence`` begin."""
        return (4 if self.stack.masked else 3) * self.stack.depth + sum(self.linked)

    def make_node(self, *inputs) -> Apply:
        given = list(inputs[self._begin() :])
        wanted = list(given)
        if self.stack.masked:
            del wanted[2]
        if wanted[0].ndim == 2:
            del wanted[0]
        return Apply(self, list(inputs), [each.type() for each in wanted])

    def plan(self, plan, *inputs):
        depth, begin = self.stack.depth, self._begin()
        gates, sides, states, *rest = (
            inputs[k * depth : (k + 1) * depth] for k in range(begin // depth)
        )
        outputs = rest[0] if self.stack.masked else states
        if not self.inplace:
            gates, sides = (tuple(map(plan.copied, each)) for each in (gates, sides))
        passes = [
            layers.Pass(output, None, *more)
            for output, *more in zip(outputs, states, gates, sides, strict=True)
        ]
        some = iter(inputs[begin - sum(self.linked) : begin])
        above = [next(some) if there else None for there in self.linked]
        text, weights, start, masks = self.stack.given(inputs[begin:])
        found = layers.backward.plan(
            plan, self.stack.spec, text, weights, start, passes, above[:depth], above[depth:], masks
        )
        first = [] if text.ndim == 2 else [found.inputs]
        return [*first, found.start, *(each for layer in found.weights for each in layer.all())]


class Affine(Kernels):
    """``rows @ weights + bias`` on the kernels, for (N, I), (I, K) and (K,)."""

    __props__ = ()

    def make_node(self, *inputs) -> Apply:
        return Apply(self, list(inputs), [inputs[0].type()])

    def plan(self, plan, *inputs):
        return [output.affine.plan(plan, *inputs)]

    def pullback(self, inputs, outputs, cotangents):
        return AffineGradient()(*inputs[:2], *cotangents)

    L_op = pullback


class AffineGradient(Kernels):
    """Gradients of :class:`Affine`. Inputs: rows, weights and the gradient of the result."""

    __props__ = ()

    def make_node(self, rows, weights, deltas) -> Apply:
        bias = pt.tensor(dtype=weights.dtype, shape=(None,))
        return Apply(self, [rows, weights, deltas], [rows.type(), weights.type(), bias])

    def plan(self, plan, *inputs):
        return output.affine_back.plan(plan, *inputs)


class Encode(Kernels):
    """The hyperbolic tangent of ``rows + bias``, for (V, I) and (I,).

    As one node with one for its gradient, it takes a third of the time of PyTensor's seven.
    """

    __props__ = ()

    def make_node(self, *inputs) -> Apply:
        return Apply(self, list(inputs), [inputs[0].type()])

    def plan(self, plan, *inputs):
        rows, bias = inputs
        encoded = plan.empty(rows.shape, rows.dtype)

        def encode() -> None:
            np.add(rows, bias, out=encoded)
            np.tanh(encoded, out=encoded)

        plan.call(encode)
        return [encoded]

    def pullback(self, inputs, outputs, cotangents):
        return EncodeGradient()(*outputs, *cotangents)

    L_op = pullback


class EncodeGradient(Kernels):
    """Gradients of :class:`Encode` for rows and bias. Inputs: its result, and the gradient of that."""

    __props__ = ()

    def make_node(self, encoded, deltas) -> Apply:
        bias = pt.tensor(dtype=encoded.dtype, shape=(None,))
        return Apply(self, [encoded, deltas], [encoded.type(), bias])

    def plan(self, plan, *inputs):
        return encoder.encode_back.plan(plan, *inputs)


class CrossEntropy(Kernels):
    """Softmax and cross-entropy of a linear readout, on the kernels.

    Inputs: states (N, S) or (T, B, S), weights (S, V), bias (V,), int32 targets (N,) or (T, B); N is T B.
    Outputs: the total loss in nats (), the loss of each row (N,), and what the gradient needs
    (N, padded(V)). Only the total has a gradient; it is that of the loss with ``smoothing``, a share of each
    target that is spread over all symbols. What is put out is the loss without it.
    """

    __props__ = ("smoothing",)

    def __init__(self, smoothing: float = 0.0) -> None:
        self.smoothing = smoothing

    def make_node(self, *inputs) -> Apply:
        dtype = inputs[0].dtype
        outputs = [pt.tensor(dtype=dtype, shape=(None,) * ndim) for ndim in (0, 1, 2)]
        return Apply(self, list(inputs), outputs)

    def plan(self, plan, *inputs):
        states, weights, bias, targets = inputs
        rows = states.reshape(-1, states.shape[-1])
        losses, deltas = output.score.plan(
            plan, rows, weights, bias, targets.reshape(-1), self.smoothing
        )
        total = plan.empty((), losses.dtype)

        def fill() -> None:
            total[...] = losses.sum(dtype=np.float64)

        plan.later(fill, total)
        return total, losses, deltas

    def connection_pattern(self, node):
        return [[True, False, False]] * 3 + [[False] * 3]

    def pullback(self, inputs, outputs, cotangents):
        states, weights, _, _ = inputs
        gradients = CrossEntropyGradient()(outputs[2], cotangents[0], states, weights)
        return [*gradients, DisconnectedType()()]

    L_op = pullback


class CrossEntropyGradient(Kernels):
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

    def plan(self, plan, *inputs):
        deltas, scale, states, weights = inputs
        deltas = deltas if self.inplace else plan.copied(deltas)
        shape = states.shape
        rows = states.reshape(-1, shape[-1])
        dstates, *more = output.score_back.plan(plan, rows, weights, deltas, scale.reshape(1))
        return dstates.reshape(shape), *more


class Fill(Op):
    """An array of the shape of ``like``, full of ``value``.

    PyTensor's own ``Alloc`` asks for each length, and to see whether one is known it takes the graph
    behind it apart each time: two thirds of all that it took to compile a scan.
    """

    __props__ = ()

    def make_node(self, like, value):
        return Apply(self, [like, value], [pt.tensor(dtype=value.dtype, shape=like.type.shape)])

    def perform(self, node, inputs, output_storage):
        [[like, value], [cell]] = inputs, output_storage
        if cell[0] is None or cell[0].shape != like.shape:
            cell[0] = np.empty(like.shape, value.dtype)
        cell[0][...] = value


class Filled(GraphRewriter):
    """Let NumPy fill arrays with a number: PyTensor's own ``second`` does so number by number in Python.

    Gradients are full of it. The numbers are the same, more than ten times faster.
    """

    def apply(self, fgraph) -> None:
        for node in fgraph.toposort():
            if isinstance(node.op, Elemwise) and isinstance(node.op.scalar_op, Second):
                fgraph.replace(node.outputs[0], Fill()(*node.inputs), reason="filled")


class InPlace(GraphRewriter):
    """Let each gradient write over the arrays that nothing reads after it."""

    def add_requirements(self, fgraph) -> None:
        fgraph.attach_feature(ReplaceValidate())
        fgraph.attach_feature(DestroyHandler())

    def apply(self, fgraph) -> None:
        for node in fgraph.toposort():
            if isinstance(node.op, RecurrenceGradient):
                op: Op = node.op.written()
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
    PerformLinker(allow_gc=False), SequentialGraphRewriter(Filled(), MergeOptimizer(), InPlace())
)
"""A mode without any generated code."""
