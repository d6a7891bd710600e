r"""The encoder, which stands before the first layer, and its gradients.

.. math:: e = \tanh(E + a)

Shapes: V symbols, I numbers that encode each.
"""

from rngru.kernels import threads
from rngru.kernels.calls import shared
from rngru.kernels.elementwise import VECTOR, tanh
from rngru.kernels.panels import clear, span
from rngru.kernels.phases import side_by_side
from rngru.kernels.plans import Plan, Planned
from rngru.kernels.tiles import PANEL, padded


@shared(**VECTOR)
def _encode(rows, bias, encoded, first, last):
    """Fill rows ``first`` … ``last - 1`` of ``encoded``."""
    width = bias.size
    for i in range(first, last):
        source, into = span(rows, i * width, width), span(encoded, i * width, width)
        for j in range(width):
            into[j] = tanh(source[j] + bias[j])


@shared(**VECTOR)
def _encode_back(encoded, deltas, drows, dbias, first, last):
    """Fill panels ``first`` … ``last - 1`` of ``drows`` and ``dbias``; the last may be narrower."""
    width, left, one = dbias.size, first * PANEL, dbias.dtype.type(1)
    size = min(last * PANEL, width) - left
    total = span(dbias, left, size)
    clear(total)
    for i in range(drows.shape[0]):
        at = i * width + left
        value, delta, into = span(encoded, at, size), span(deltas, at, size), span(drows, at, size)
        for j in range(size):
            into[j] = delta[j] * (one - value[j] * value[j])
            total[j] += into[j]


@Planned
def encode(plan: Plan, rows, bias):
    """Return the hyperbolic tangent of ``rows + bias``, for (V, I) and (I,)."""
    encoded = plan.empty(rows.shape, rows.dtype)
    count = threads.worth(rows.size, plan.count)
    plan.do(side_by_side([_encode.bind(rows, bias, encoded)], len(rows), count))
    return encoded


@Planned
def encode_back(plan: Plan, encoded, deltas):
    """Return the gradients of rows and bias of :func:`encode`, from its result and the gradient of that."""
    drows, dbias = (
        plan.empty(encoded.shape, encoded.dtype),
        plan.empty(encoded.shape[1:], encoded.dtype),
    )
    count, panels = threads.worth(encoded.size, plan.count), padded(dbias.size) // PANEL
    plan.do(side_by_side([_encode_back.bind(encoded, deltas, drows, dbias)], panels, count))
    return drows, dbias
