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

RMSPROP, ADAM, SGD, ADAGRAD = range(4)

RULES = {"rmsprop": RMSPROP, "adam": ADAM, "adamw": ADAM, "sgd": SGD, "adagrad": ADAGRAD}
"""The rule of each optimizer."""

BLOCK = 1 << 16
"""Numbers that one thread updates at a time."""


@numba.njit(nogil=True, cache=True, **VECTOR)
def _penalise(gradient, parameter, penalty, first, last):
    """Add ``penalty * parameter`` to ``gradient`` and return the sum of its squares."""
    total = 0.0
    for i in range(first, last):
        gradient[i] += penalty * parameter[i]
    for i in range(first, last - 7, 8):
        # A tree: one chain of additions would wait for each of them in turn.
        pairs = (gradient[i] ** 2 + gradient[i + 1] ** 2) + (
            gradient[i + 2] ** 2 + gradient[i + 3] ** 2
        )
        others = (gradient[i + 4] ** 2 + gradient[i + 5] ** 2) + (
            gradient[i + 6] ** 2 + gradient[i + 7] ** 2
        )
        total += pairs + others
    for i in range(last - (last - first) % 8, last):
        total += gradient[i] ** 2
    return total


@numba.njit(nogil=True, cache=True, **VECTOR)
def _apply(
    rule, gradient, scale, clip, rate, keep, keep_square, fix, fix_square, shrink,
    p, m, v, new_p, new_m, new_v, first, last,
):  # fmt: skip
    """One rule on elements ``first`` … ``last - 1``: parameter p, caches m and v (v: Adam only)."""
    kind = gradient.dtype.type
    one, small, tiny = kind(1), kind(1e-6), kind(1e-8)
    for i in range(first, last):
        g = gradient[i] * scale
        g = clip if g > clip else g
        gradient[i] = -clip if g < -clip else g
    if rule == RMSPROP:
        for i in range(first, last):
            g = gradient[i]
            new_m[i] = keep * m[i] + (one - keep) * g * g
            new_p[i] = p[i] - rate * g / np.sqrt(new_m[i] + small)
    elif rule == ADAM:
        for i in range(first, last):
            g = gradient[i]
            new_m[i] = keep * m[i] + (one - keep) * g
            new_v[i] = keep_square * v[i] + (one - keep_square) * g * g
            step = new_m[i] * fix / (np.sqrt(new_v[i] * fix_square) + tiny)
            new_p[i] = p[i] - rate * (step + shrink * p[i])
    elif rule == SGD:
        for i in range(first, last):
            new_m[i] = keep * m[i] + gradient[i]
            new_p[i] = p[i] - rate * new_m[i]
    else:
        for i in range(first, last):
            g = gradient[i]
            new_m[i] = m[i] + g * g
            new_p[i] = p[i] - rate * g / np.sqrt(new_m[i] + tiny)


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


def apply(
    name: str,
    gradients: Sequence[np.ndarray],
    old: Sequence[Sequence[np.ndarray]],
    new: Sequence[Sequence[np.ndarray]],
    *,
    rate: float,
    number: int,
    scale: float,
    clip: float,
    decay: float,
    momentum: float,
    beta2: float,
    shrinks: Sequence[float],
    count: int,
) -> None:
    """Fill ``new`` from ``old``, both (parameters, cache, cache …), by a rule of :data:`RULES`.

    Parameters
    ----------
    name: the rule; :mod:`rngru.optim` has its equations.
    gradients: flat arrays like the parameters; used up.
    rate: the learning rate.
    number: 1 for the first update, for Adam's correction.
    scale, clip: multiply the gradient, then clip it elementwise; infinity for no clipping.
    decay, momentum, beta2: the hyperparameters of those names.
    shrinks: weight decay of each parameter (adamw).
    count: how many threads.
    """
    rule = RULES[name]
    keep = decay if rule == RMSPROP else momentum
    numbers = (
        scale, clip, rate, keep, beta2, 1 / (1 - momentum**number), 1 / (1 - beta2**number),
    )  # fmt: skip
    blocks = _blocks(gradients)

    def share(first: int, last: int) -> None:
        for i in range(first, last):
            which, start, stop = blocks[i]
            kind = gradients[which].dtype.type
            arrays = [(side[min(c, len(side) - 1)][which]) for side in (old, new) for c in range(3)]
            constants = [kind(each) for each in (*numbers, shrinks[which])]
            _apply(rule, gradients[which], *constants, *arrays, start, stop)

    threads.run(share, len(blocks), count)
