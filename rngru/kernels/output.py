r"""Affine maps, and from the last layer's states to the loss and back.

.. math:: o = s V + c, \qquad p = \mathrm{softmax}(o), \qquad \ell = -\ln p_{y}

Shapes: N rows (every step of every lane), I inputs, K outputs (symbols), P = padded(K).
"""

import math

import numpy as np

from rngru.kernels import threads
from rngru.kernels.calls import shared
from rngru.kernels.compiling import kernel
from rngru.kernels.elementwise import VECTOR, exp, largest, total
from rngru.kernels.jobs import Packing, Sums, padding, trimmed
from rngru.kernels.panels import span
from rngru.kernels.phases import side_by_side
from rngru.kernels.plans import Plan, Planned
from rngru.kernels.sequence import ROWS_AT_ONCE, copyrow, project
from rngru.kernels.tiles import PANEL, multiply, padded, provide


@kernel(outside=False, **VECTOR)
def _softmax(row):
    """Turn logits (P,) into probabilities in place; return the logarithm of the sum of exponentials."""
    most = largest(row)
    for j in range(row.size):
        row[j] = exp(row[j] - most)
    mass = total(row)
    scale = row.dtype.type(1 / mass)
    for j in range(row.size):
        row[j] *= scale
    return most + math.log(mass)


@kernel()
def softmax(rows):
    """Turn logits (N, P) into probabilities in place."""
    width = rows.shape[1]
    for i in range(rows.shape[0]):
        _softmax(span(rows, i * width, width))


@shared()
def _score(states, panels, bias, targets, deltas, losses, first, last):
    """Fill ``losses`` (N,) and ``deltas`` (N, P): the probabilities, minus one at the target."""
    size, symbols, width = states.shape[1], bias.size, deltas.shape[1]
    for top in range(first, last, ROWS_AT_ONCE):
        bottom = min(top + ROWS_AT_ONCE, last)
        for i in range(top, bottom):
            copyrow(bias, span(deltas, i * width, symbols))
            for j in range(symbols, width):
                deltas[i, j] = -math.inf
        multiply(
            states, top * size, size, 1, bottom - top, size,
            panels, 0, width // PANEL, deltas, top * width, width, unused=width - symbols,
        )  # fmt: skip
        for i in range(top, bottom):
            target = targets[i]
            chosen = deltas[i, target]
            losses[i] = _softmax(span(deltas, i * width, width)) - chosen
            deltas[i, target] -= 1


@shared()
def _scale(deltas, scale, first, last):
    """Multiply rows ``first`` … ``last - 1`` by ``scale`` (1,) in place."""
    width, by = deltas.shape[1], scale[0]
    part = span(deltas, first * width, (last - first) * width)
    for j in range(part.size):
        part[j] *= by


def _worth(rows: np.ndarray, weights: np.ndarray, count: int) -> int:
    """Return how many threads a product is worth: thirty multiply-adds take as long as moving a number."""
    return threads.worth(len(rows) * weights.size // 30, count)


@Planned
def affine(plan: Plan, rows, weights, bias):
    """Return ``rows @ weights + bias``, (N, K), for (N, I), (I, K) and (K,)."""
    provide(weights.dtype)
    count = _worth(rows, weights, plan.count)
    packing = Packing(plan, count)
    panels = packing.add_matrix(weights)
    wide = plan.empty((len(rows), padded(bias.size)), rows.dtype)
    calls = [project.bind(rows, panels, padding(plan, bias, 1), wide)]
    plan.do(packing.phase(), side_by_side(calls, len(rows), count))
    return trimmed(plan, wide, 1, bias.size)


@Planned
def affine_back(plan: Plan, rows, weights, deltas, scale=None):
    """Return the gradients of rows, weights and bias of :func:`affine`, from that of its result.

    ``deltas`` may be (N, K) or padded, (N, P). With a ``scale`` (1,), padded deltas are multiplied by it in
    place first.
    """
    provide(weights.dtype)
    size, columns = weights.shape
    count = _worth(rows, weights, plan.count)
    deltas, dtype, width = padding(plan, deltas, 1), rows.dtype, padded(columns)
    packing = Packing(plan, count)
    panels = packing.add_matrix(weights, transpose=True)
    drows = plan.empty((len(rows), padded(size)), dtype)
    scaling = [] if scale is None else [_scale.bind(deltas, scale)]
    calls = [*scaling, project.bind(deltas, panels, np.zeros(drows.shape[1], dtype), drows)]
    found = plan.empty((size + 1, width), dtype)
    dweights, dbias = found[:-1], found[-1]
    sums = Sums(plan, count)
    sums.product([(rows, deltas)], 0, found, 0, width, used=columns)
    plan.do(packing.phase(), side_by_side(calls, len(rows), count), sums.phase())
    return trimmed(plan, drows, 1, size), trimmed(plan, dweights, 1, columns), dbias[:columns]


@Planned
def score(plan: Plan, states, weights, bias, targets, smoothing=0.0):
    """Return the losses (N,) in nats of ``targets`` (N,), and what :func:`score_back` needs.

    ``states`` is (N, S), ``weights`` (S, K), ``bias`` (K,). The gradient is that of the losses with label
    ``smoothing``, a share of each target that is spread over all K; the losses are without it.
    """
    provide(weights.dtype)
    losses = plan.empty((len(states),), states.dtype)
    symbols = len(bias)
    deltas = plan.empty((len(states), padded(symbols)), states.dtype)
    packing = Packing(plan)
    panels = packing.add_matrix(weights)
    calls = [_score.bind(states, panels, bias, targets, deltas, losses)]
    plan.do(packing.phase(), side_by_side(calls, len(states), plan.count))

    def smooth() -> None:
        deltas[:, :symbols] -= deltas.dtype.type(smoothing / symbols)
        deltas[np.arange(len(targets)), targets] += deltas.dtype.type(smoothing)

    if smoothing:
        plan.call(smooth)
    return losses, deltas


@Planned
def score_back(plan: Plan, states, weights, deltas, scale):
    """Return the gradients (dstates, dweights, dbias) of ``scale`` (1,) times the sum of the losses.

    ``deltas`` comes from :func:`score` and is overwritten.
    """
    return affine_back.plan(plan, states, weights, deltas, scale)
