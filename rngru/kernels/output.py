r"""Affine maps, and from the last layer's states to the loss and back.

.. math:: o = s V + c, \qquad p = \mathrm{softmax}(o), \qquad \ell = -\ln p_{y}

Shapes: N rows (every step of every lane), I inputs, K outputs (symbols), P = padded(K).
"""

import math

import numpy as np

from rngru.kernels import threads
from rngru.kernels.calls import shared
from rngru.kernels.compiling import kernel
from rngru.kernels.elementwise import VECTOR, exp
from rngru.kernels.layers import Packing, Sums, narrowed, widened
from rngru.kernels.memory import reused
from rngru.kernels.panels import span
from rngru.kernels.phases import side_by_side
from rngru.kernels.sequence import ROWS_AT_ONCE, fill, project
from rngru.kernels.tiles import padded, provide


@kernel(outside=False, **VECTOR)
def _softmax(row):
    """Turn logits (P,) into probabilities in place; return the logarithm of the sum of exponentials."""
    # Four maxima and four sums: in one chain, each number would wait for the one before.
    a, b, c, d = row[0], row[1], row[2], row[3]
    for j in range(4, row.size, 4):
        a, b = max(a, row[j]), max(b, row[j + 1])
        c, d = max(c, row[j + 2]), max(d, row[j + 3])
    largest = max(max(a, b), max(c, d))
    for j in range(row.size):
        row[j] = exp(row[j] - largest)
    e, f, g, h = 0.0, 0.0, 0.0, 0.0
    for j in range(0, row.size, 4):
        e, f = e + row[j], f + row[j + 1]
        g, h = g + row[j + 2], h + row[j + 3]
    total = (e + f) + (g + h)
    scale = row.dtype.type(1 / total)
    for j in range(row.size):
        row[j] *= scale
    return largest + math.log(total)


@kernel()
def softmax(rows):
    """Turn logits (N, P) into probabilities in place."""
    width = rows.shape[1]
    for i in range(rows.shape[0]):
        _softmax(span(rows, i * width, width))


@shared()
def _score(states, panels, bias, targets, deltas, losses, first, last):
    """Fill ``losses`` (N,) and ``deltas`` (N, P): the probabilities, minus one at the target."""
    width = deltas.shape[1]
    for top in range(first, last, ROWS_AT_ONCE):
        bottom = min(top + ROWS_AT_ONCE, last)
        fill(states, panels, bias, deltas, top, bottom)
        for i in range(top, bottom):
            target = targets[i]
            chosen = deltas[i, target]
            losses[i] = _softmax(span(deltas, i * width, width)) - chosen
            deltas[i, target] -= 1


@shared()
def _scale(deltas, scale, first, last):
    """Multiply rows ``first`` … ``last - 1`` by ``scale`` in place."""
    width = deltas.shape[1]
    part = span(deltas, first * width, (last - first) * width)
    for j in range(part.size):
        part[j] *= scale


def _wide_bias(bias):
    """Return the bias padded with minus infinity, so that the padding has probability zero."""
    wide = np.full(padded(bias.size), -np.inf, bias.dtype)
    wide[: bias.size] = bias
    return wide


def _worth(rows: np.ndarray, weights: np.ndarray, count: int) -> int:
    """Return how many threads a product is worth: thirty multiply-adds take as long as moving a number."""
    return threads.worth(len(rows) * weights.size // 30, count)


def affine(rows, weights, bias, *, count):
    """Return ``rows @ weights + bias``, (N, K), for (N, I), (I, K) and (K,)."""
    provide(weights.dtype)
    count = _worth(rows, weights, count)
    packing, wide = Packing(count), widened(bias, 1)
    panels = packing.add_matrix(weights)
    results = np.empty((len(rows), wide.size), rows.dtype)
    calls = [project.bind(rows, panels, wide, results)]
    threads.do(packing.phase(), side_by_side(calls, len(rows), count))
    return narrowed(results, 1, bias.size)


def affine_back(rows, weights, deltas, *, scale=None, old=None, count):
    """Return the gradients of rows, weights and bias of :func:`affine`, from that of its result.

    ``deltas`` may be (N, K) or padded, (N, P); ``old`` is the gradient of rows of an earlier call, to
    be overwritten. With a ``scale``, padded deltas are multiplied by it in place first.
    """
    provide(weights.dtype)
    size, columns = weights.shape
    count = _worth(rows, weights, count)
    deltas, wide = widened(deltas, 1), widened(weights, 1)
    packing = Packing(count)
    panels = packing.add_matrix(wide, transpose=True)
    zero = np.zeros(padded(size), rows.dtype)
    drows = reused(old, (len(rows), padded(size)), rows.dtype)

    scaling = [] if scale is None else [_scale.bind(deltas, scale)]
    calls = [*scaling, project.bind(deltas, panels, zero, drows)]
    dweights, dbias = np.empty(wide.shape, rows.dtype), np.zeros(wide.shape[1], rows.dtype)
    sums = Sums(count)
    sums.product([(rows, deltas)], 0, dweights, 0, wide.shape[1])
    sums.rows(deltas, dbias)
    through = side_by_side(calls, len(rows), count)
    threads.do(packing.phase(), through, sums.phase())
    return narrowed(drows, 1, size), narrowed(dweights, 1, columns), dbias[:columns]


def score(states, weights, bias, targets, *, smoothing=0.0, old=(None, None), count):
    """Return the losses (N,) in nats of ``targets`` (N,), and what :func:`score_back` needs.

    ``states`` is (N, S), ``weights`` (S, K), ``bias`` (K,); ``old`` holds the results of an earlier
    call, to be overwritten. The gradient is that of the losses with label ``smoothing``, a share of each
    target that is spread over all K; the losses are without it.
    """
    provide(weights.dtype)
    losses = reused(old[0], (len(states),), states.dtype)
    deltas = reused(old[1], (len(states), padded(bias.size)), states.dtype)
    packing, wide = Packing(count), _wide_bias(bias)
    panels = packing.add_matrix(weights)
    calls = [_score.bind(states, panels, wide, targets, deltas, losses)]
    threads.do(packing.phase(), side_by_side(calls, len(states), count))
    if smoothing:
        deltas[:, : bias.size] -= deltas.dtype.type(smoothing / bias.size)
        deltas[np.arange(len(targets)), targets] += deltas.dtype.type(smoothing)
    return losses, deltas


def score_back(states, weights, deltas, scale, *, old=None, count):
    """Return the gradients (dstates, dweights, dbias) of ``scale`` times the sum of the losses.

    ``deltas`` comes from :func:`score` and is overwritten; so is ``old``, the dstates of an earlier
    call.
    """
    scale = deltas.dtype.type(scale)
    return affine_back(states, weights, deltas, scale=scale, old=old, count=count)
