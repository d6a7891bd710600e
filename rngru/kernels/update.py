r"""The parameter update of a step, fused: the penalty, the norm, the clipping and the rule.

The gradient of the cost is that of the data plus the penalty's, :math:`g \leftarrow g + \lambda p`.
Its norm is summed in float64 over blocks of fixed size in a fixed order, so that it has the same
bits on any number of threads. Nothing is written over: a rule reads old arrays and fills new ones, so
a step that is interrupted or refused leaves everything as it was.
"""

import math
from collections.abc import Sequence

import numba
import numpy as np

from rngru.kernels import threads
from rngru.kernels.elementwise import VECTOR

BLOCK = 1 << 16
"""Numbers that one thread updates at a time."""


@numba.njit(nogil=True, cache=True, **VECTOR)
def _penalise(gradient, parameter, penalty, first, last):
    """Add ``penalty * parameter`` to ``gradient`` and return the sum of its squares."""
    # Eight partial sums: one chain of additions would wait for each of them in turn.
    sums = np.zeros(8)
    for i in range(first, last):
        gradient[i] += penalty * parameter[i]
    for i in range(first, last - 7, 8):
        for j in range(8):
            sums[j] += gradient[i + j] * gradient[i + j]
    for i in range(last - (last - first) % 8, last):
        sums[0] += gradient[i] * gradient[i]
    return sums.sum()


@numba.njit(nogil=True, cache=True, **VECTOR)
def _rmsprop(gradient, clip, old, new, old_mean, new_mean, rate, decay, first, last):
    kind = gradient.dtype.type
    rest, small = kind(1) - decay, kind(1e-6)
    for i in range(first, last):
        g = clip if gradient[i] > clip else gradient[i]
        g = -clip if g < -clip else g
        mean = decay * old_mean[i] + rest * g * g
        new_mean[i] = mean
        new[i] = old[i] - rate * g / np.sqrt(mean + small)


def _blocks(arrays: Sequence[np.ndarray]) -> list[tuple[int, int, int]]:
    """Cut flat arrays into (which, first, last), none longer than ``BLOCK``."""
    return [
        (which, first, min(first + BLOCK, array.size))
        for which, array in enumerate(arrays)
        for first in range(0, array.size, BLOCK)
    ]


def norm(
    gradients: Sequence[np.ndarray],
    parameters: Sequence[np.ndarray],
    penalties: Sequence[float],
    *,
    count: int,
) -> float:
    """Add each penalty times its parameter to its gradient; return the norm of all gradients.

    Arrays are flat; ``count`` is the number of threads.
    """
    blocks = _blocks(gradients)
    squares = [0.0] * len(blocks)

    def share(first: int, last: int) -> None:
        for i in range(first, last):
            which, start, stop = blocks[i]
            g, p = gradients[which], parameters[which]
            squares[i] = _penalise(g, p, g.dtype.type(penalties[which]), start, stop)

    threads.run(share, len(blocks), count)
    return math.sqrt(math.fsum(squares)) if all(map(math.isfinite, squares)) else math.nan


def rmsprop(gradients, old, new, *, rate, decay, clip, count) -> None:
    r"""Fill ``new`` = (parameters, means of squares) from ``old``, by RMSProp.

    .. math:: m' = d m + (1 - d) g^2, \qquad p' = p - \eta\, g / \sqrt{m' + 10^{-6}}

    with :math:`g` the gradient clipped elementwise to ±``clip``. Arrays are flat.
    """
    blocks = _blocks(gradients)

    def share(first: int, last: int) -> None:
        for i in range(first, last):
            which, start, stop = blocks[i]
            g = gradients[which]
            kind = g.dtype.type
            _rmsprop(
                g, kind(clip), old[0][which], new[0][which],
                old[1][which], new[1][which], kind(rate), kind(decay), start, stop,
            )  # fmt: skip

    threads.run(share, len(blocks), count)
