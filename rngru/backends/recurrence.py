"""Cells over time, in three forms with the same numbers.

:func:`scanned` is a ``pytensor.scan`` of one layer, the definition. :func:`stepped` is one step of a
layer, for a loop that somebody else writes. :func:`fused` is one ``Op`` that runs the kernels on a whole
stack of layers: forward over the whole sequence, backpropagation through time, and the weight
gradients as products after the loop.

Shapes: T steps, B lanes, I inputs, S units, G gates, H state, L layers. ``inputs`` is (T, B) characters
with ``weights = (table,)``, one row (G S,) of pre-activations for each; or (T, B, I) floats with
``weights = (U, b)``. ``start`` is (B, H), for a stack (L, B, H), and ``recurrent`` (S, G S).

>>> import pytensor.tensor as pt
>>> ids, table = pt.imatrix("ids"), pt.fmatrix("table")
>>> start, recurrent = pt.ftensor3("start"), pt.fmatrix("recurrent")
>>> outputs, endings = fused(LayerSpec("GRU"), ids, [Weights((table,), recurrent)], start)
>>> outputs[0].ndim, endings[0].ndim
(3, 2)
"""

from collections.abc import Sequence
from typing import Any

import pytensor
from pytensor.compile.mode import Mode
from pytensor.link.vm import VMLinker
from pytensor.scan.op import Scan

from rngru.backends.ops import Filled, Recurrence, Stack
from rngru.cells import GATE_FUNCTIONS, STEPS
from rngru.kernels.spec import LayerSpec, Weights


def scanned(spec: LayerSpec, inputs, weights, start, *recurrent, mode=None):
    """Return (states (T, B, S), ending (B, H)) as a ``pytensor.scan`` of the cell's step.

    ``recurrent`` is what else the cell has: W, the second bias. ``mode`` is the one that the graph around
    it will be compiled in.
    """
    advance, gate = STEPS[spec.cell], GATE_FUNCTIONS["hard_sigmoid" if spec.hard else "sigmoid"]
    lookup = inputs.ndim == 2
    pre = weights[0][inputs] if lookup else inputs @ weights[0] + weights[1]
    size = spec.size(start.shape[1])

    def step(pre_t, state, *weights):
        return advance(pre_t, state, gate, *weights)

    trajectory = pytensor.scan(
        step,
        sequences=[pre],
        outputs_info=[start],
        non_sequences=list(recurrent),
        truncate_gradient=spec.truncate,
        strict=True,
        return_updates=False,
    )
    setmode(trajectory, mode)
    return trajectory[:, :, :size], trajectory[-1]


def setmode(output, mode: Any) -> None:
    """Have the body of the scan that ``output`` comes from compiled in ``mode``.

    Else PyTensor 3.0 compiles it in its default mode, and 3.3 in C where there is a compiler. Not as
    an argument of scan, at which 3.3 warns.
    """
    node = output.owner
    while not isinstance(node.op, Scan):
        node = node.inputs[0].owner
    node.op.mode = mode


def fused(spec: LayerSpec, inputs, weights: Sequence[Weights], start, masks=None):
    """Return (outputs (T, B, S), endings (B, H)) of every layer of a stack, from the kernels.

    The arguments are those of :func:`rngru.kernels.layers.forward`.
    """
    stack = Stack(spec, len(weights), masks is not None)
    given = [inputs, start, *(() if masks is None else (masks,))]
    flat = [each for layer in weights for each in layer.all()]
    results = Recurrence(stack)(*given, *flat)
    return results[: stack.depth], results[stack.depth : 2 * stack.depth]


def stepped(spec: LayerSpec, inputs, weights, start, *recurrent):
    """Return (states (1, B, S), ending (B, H)) of one step; ``inputs`` is (1, B) or (1, B, I)."""
    gate = GATE_FUNCTIONS["hard_sigmoid" if spec.hard else "sigmoid"]
    pre = weights[0][inputs[0]] if inputs.ndim == 2 else inputs[0] @ weights[0] + weights[1]
    ending = STEPS[spec.cell](pre, start, gate, *recurrent)
    return ending[:, : spec.size(start.shape[1])].dimshuffle("x", 0, 1), ending


PLAIN = Mode(linker=VMLinker(use_cloop=False, c_thunks=False), optimizer=Filled())
"""No generated code, and no other rewriting: compiles in a second, and does just what the graph says."""
