"""A cell over time, in three forms with the same arguments and the same numbers.

:func:`scanned` is a ``pytensor.scan``, the definition. :func:`fused` is one ``Op`` that runs the kernels:
forward over the whole sequence, backpropagation through time, and the weight gradients as products
after the loop. :func:`stepped` is one step, for a loop that somebody else writes.

Shapes: T steps, B lanes, I inputs, S units, G gates, H state. ``inputs`` is (T, B) characters with
``weights = (table,)``, one row (G S,) of pre-activations for each; or (T, B, I) floats with
``weights = (U, b)``. ``start`` is (B, H) and ``recurrent`` (S, G S).

>>> import pytensor.tensor as pt
>>> ids, table = pt.imatrix("ids"), pt.fmatrix("table")
>>> start, recurrent = pt.fmatrix("start"), pt.fmatrix("recurrent")
>>> states, ending = fused(LayerSpec("GRU"), ids, (table,), start, recurrent)
>>> states.ndim, ending.ndim
(3, 2)
"""

from typing import Any

import pytensor
from pytensor.compile.mode import Mode
from pytensor.link.vm import VMLinker
from pytensor.scan.op import Scan

from rngru.backends.ops import Recurrence
from rngru.cells import GATE_FUNCTIONS, STEPS
from rngru.kernels.spec import LayerSpec


def scanned(spec: LayerSpec, inputs, weights, start, recurrent, second_bias=None, *, mode=None):
    """Return (states (T, B, S), ending (B, H)) as a ``pytensor.scan`` of the cell's step.

    ``mode`` is the one that the graph around it will be compiled in.
    """
    advance, gate = STEPS[spec.cell], GATE_FUNCTIONS["hard_sigmoid" if spec.hard else "sigmoid"]
    lookup = inputs.ndim == 2
    pre = weights[0][inputs] if lookup else inputs @ weights[0] + weights[1]
    size = recurrent.shape[0]
    shared = [recurrent] if second_bias is None else [recurrent, second_bias]

    def step(pre_t, state, *weights):
        return advance(pre_t, state, gate, *weights)

    trajectory = pytensor.scan(
        step,
        sequences=[pre],
        outputs_info=[start],
        non_sequences=shared,
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


def fused(spec: LayerSpec, inputs, weights, start, recurrent, second_bias=None):
    """Return (states (T, B, S), ending (B, H)) from the kernels."""
    second = () if second_bias is None else (second_bias,)
    states, ending, *_ = Recurrence(spec)(inputs, *weights, start, recurrent, *second)
    return states, ending


def stepped(spec: LayerSpec, inputs, weights, start, recurrent, second_bias=None):
    """Return (states (1, B, S), ending (B, H)) of one step; ``inputs`` is (1, B) or (1, B, I)."""
    gate = GATE_FUNCTIONS["hard_sigmoid" if spec.hard else "sigmoid"]
    pre = weights[0][inputs[0]] if inputs.ndim == 2 else inputs[0] @ weights[0] + weights[1]
    second = () if second_bias is None else (second_bias,)
    ending = STEPS[spec.cell](pre, start, gate, recurrent, *second)
    return ending[:, : recurrent.shape[0]].dimshuffle("x", 0, 1), ending


PLAIN = Mode(linker=VMLinker(use_cloop=False, c_thunks=False), optimizer=None)
"""No generated code and no rewriting: compiles in a second, and does just what the graph says."""
