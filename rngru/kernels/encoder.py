r"""The gradients of the encoder, which stands before the first layer.

.. math:: e = \tanh(E + a)

This itself is left to NumPy, whose tanh has other bits than that of the kernels.

Shapes: V symbols, I numbers that encode each.
"""

import numpy as np

from rngru.kernels import threads
from rngru.kernels.calls import shared
from rngru.kernels.panels import clear, span
from rngru.kernels.phases import side_by_side
from rngru.kernels.plans import Plan, Planned
from rngru.kernels.tiles import PANEL, padded


@shared()
def _encode_back(encoded, deltas, drows, sums, dbias, first, last):
    """Fill panels ``first`` … ``last - 1`` of ``drows`` and ``dbias``; the last may be narrower.

    ``sums`` (I,), float64, is overwritten.
    """
    width, left, one = dbias.size, first * PANEL, dbias.dtype.type(1)
    size = min(last * PANEL, width) - left
    total, bias = span(sums, left, size), span(dbias, left, size)
    clear(total)
    for i in range(drows.shape[0]):
        at = i * width + left
        value, delta, into = span(encoded, at, size), span(deltas, at, size), span(drows, at, size)
        for j in range(size):
            into[j] = delta[j] * (one - value[j] * value[j])
            total[j] += into[j]
    for j in range(size):
        bias[j] = total[j]


@Planned
def encode_back(plan: Plan, encoded, deltas):
    """Return the gradients of E and a, (V, I) and (I,), from e and its gradient, (V, I)."""
    drows, dbias = (
        plan.empty(shape, encoded.dtype) for shape in (encoded.shape, encoded.shape[1:])
    )
    sums = plan.empty(dbias.shape, np.float64)
    count, panels = threads.worth(encoded.size, plan.count), padded(dbias.size) // PANEL
    call = _encode_back.bind(encoded, deltas, drows, sums, dbias)
    plan.do(side_by_side([call], panels, count))
    return drows, dbias
