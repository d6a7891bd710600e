r"""The parameter update of a step, fused: the penalty, the norm, the clipping and the rule.

The gradient of the cost is that of the data plus the penalty's, :math:`g \leftarrow g + \lambda p`.
Its norm is summed in float64 over blocks of fixed size in a fixed order, so that it has the same
bits on any number of threads. Parameters and caches are not changed in place: a rule reads old arrays
and fills new ones, so a step that is interrupted or refused leaves everything as it was.
"""

import math
from collections.abc import Sequence

import numpy as np

from rngru.kernels import threads
from rngru.kernels.compiling import kernel
from rngru.kernels.elementwise import VECTOR

RMSPROP, ADAM, SGD, ADAGRAD = range(4)

RULES = {"rmsprop": RMSPROP, "adam": ADAM, "adamw": ADAM, "sgd": SGD, "adagrad": ADAGRAD}
"""The rule of each optimizer."""

BLOCK = 1 << 16
"""Numbers that one thread updates at a time."""


@kernel(**VECTOR)
def _penalise(gradient, parameter, penalty, first, last):
    """Add ``penalty * parameter`` to ``gradient`` and return the sum of its squares."""
    total, g, p = 0.0, gradient[first:last], parameter[first:last]
    if penalty != 0:
        for i in range(g.size):
            g[i] += penalty * p[i]
    whole = g.size // 8
    for i in range(whole):
        # A tree of additions: in a chain, each would wait for the one before.
        part = g[8 * i : 8 * i + 8]
        low = (part[0] ** 2 + part[1] ** 2) + (part[2] ** 2 + part[3] ** 2)
        high = (part[4] ** 2 + part[5] ** 2) + (part[6] ** 2 + part[7] ** 2)
        total += low + high
    for i in range(8 * whole, g.size):
        total += g[i] ** 2
    return total


@kernel(keep=False, **VECTOR)
def _cut(g, scale, clip):
    """Scale a gradient, then cut off its elements."""
    for i in range(g.size):
        x = g[i] * scale
        x = clip if x > clip else x
        g[i] = -clip if x < -clip else x


@kernel(**VECTOR)
def _signs(rule, g, scale, clip, keep, m):
    """Cut a gradient; return how many new means agree with it in sign, and how many are opposite."""
    _cut(g, scale, clip)
    same, other, zero, one = 0, 0, g.dtype.type(0), g.dtype.type(1)
    weight = one if rule == SGD else one - keep
    for i in range(g.size):
        product = (keep * m[i] + weight * g[i]) * g[i]
        same += product > zero
        other += product < zero
    return same, other


@kernel(**VECTOR)
def _apply(
    rule, g, scale, clip, rate, keep, keep_square, fix, fix_square, newest, same, other, shrink,
    p, m, v, a, new_p, new_m, new_v, new_a,
):  # fmt: skip
    """Apply one rule to parameter p and caches m and v (v: Adam only), then average p in a.

    With momentum, a step is multiplied by ``same`` where mean and gradient have the same sign, and by
    ``other`` where they have opposite signs. The gradient g is overwritten.
    """
    kind = g.dtype.type
    zero, one, small, tiny = kind(0), kind(1), kind(1e-6), kind(1e-8)
    _cut(g, scale, clip)
    if rule == RMSPROP:
        for i in range(g.size):
            new_m[i] = keep * m[i] + (one - keep) * g[i] * g[i]
            new_p[i] = p[i] - rate * g[i] / np.sqrt(new_m[i] + small)
    elif rule == ADAM:
        for i in range(g.size):
            new_m[i] = keep * m[i] + (one - keep) * g[i]
            new_v[i] = keep_square * v[i] + (one - keep_square) * g[i] * g[i]
            product = new_m[i] * g[i]
            mean = new_m[i] * fix * (same if product > zero else other if product < zero else one)
            step = mean / (np.sqrt(new_v[i] * fix_square) + tiny)
            new_p[i] = p[i] - rate * (step + shrink * p[i])
    elif rule == SGD:
        for i in range(g.size):
            new_m[i] = keep * m[i] + g[i]
            product = new_m[i] * g[i]
            step = new_m[i] * (same if product > zero else other if product < zero else one)
            new_p[i] = p[i] - rate * step
    else:
        for i in range(g.size):
            new_m[i] = m[i] + g[i] * g[i]
            new_p[i] = p[i] - rate * g[i] / np.sqrt(new_m[i] + tiny)
    if newest > 0:
        for i in range(g.size):
            new_a[i] = a[i] + newest * (new_p[i] - a[i]) if newest < one else new_p[i]


def _blocks(arrays: Sequence[np.ndarray]) -> list[tuple[int, int, int]]:
    """Cut flat arrays into (which, first, last), none longer than ``BLOCK``."""
    return [
        (which, first, min(first + BLOCK, array.size))
        for which, array in enumerate(arrays)
        for first in range(0, array.size, BLOCK)
    ]


def _penalised(block, gradients, parameters, penalties) -> float:
    """Add the penalty to the gradients of a block; return the sum of their squares."""
    which, first, last = block
    g = gradients[which]
    return _penalise(g, parameters[which], g.dtype.type(penalties[which]), first, last)


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
            squares[i] = _penalised(blocks[i], gradients, parameters, penalties)

    total = sum(gradient.size for gradient in gradients)
    threads.run(share, len(blocks), threads.worth(total, count))
    return _length(squares)


def _length(squares: Sequence[float]) -> float:
    return math.sqrt(math.fsum(squares)) if all(map(math.isfinite, squares)) else math.nan


def apply(
    name: str,
    gradients: Sequence[np.ndarray],
    old: Sequence[Sequence[np.ndarray]],
    new: Sequence[Sequence[np.ndarray]],
    *,
    penalties: Sequence[float],
    rate: float,
    number: int,
    clipnorm: float | None,
    clip: float,
    decay: float,
    momentum: float,
    beta2: float,
    shrinks: Sequence[float],
    newest: float = 0.0,
    cautious: bool = False,
    count: int,
) -> float:
    """Fill ``new`` from ``old``, both (parameters, cache, cache …), by a rule of :data:`RULES`.

    Returns the norm of all gradients, see :func:`norm`. If it is not finite, ``new`` must not be used.

    Parameters
    ----------
    name: the rule; :mod:`rngru.optim` has its equations.
    gradients: flat arrays like the parameters; they are overwritten.
    penalties: each is first added, times its parameter, to its gradient.
    rate: the learning rate.
    number: updates so far plus one; Adam's correction needs it.
    clipnorm: the norm that the gradients are scaled down to; None for any.
    clip: the number that each gradient is cut off at after that; infinity for none.
    decay, momentum, beta2: the hyperparameters of those names.
    shrinks: weight decay of each parameter (adamw).
    newest: share of the new parameters in their average, the last cache; 0 if there is none.
    cautious: see :func:`rngru.optim.cautious`.
    count: how many threads.
    """
    rule, scale, same, other = RULES[name], 1.0, 1.0, 1.0
    cautious = cautious and rule in (ADAM, SGD)
    waits = cautious or clipnorm is not None
    length = norm(gradients, old[0], penalties, count=count) if waits else 0.0
    if clipnorm is not None:
        scale = min(1.0, clipnorm / max(length, 1e-30))
    if cautious:
        same, other = _caution(rule, gradients, old[1], (scale, clip, momentum), count), 0.0
        scale = 1.0
    keep = decay if rule == RMSPROP else momentum
    numbers = (
        scale, clip, rate, keep, beta2, 1 / (1 - momentum**number), 1 / (1 - beta2**number), newest,
        same, other,
    )  # fmt: skip
    blocks = _blocks(gradients)
    squares, places = [0.0] * len(blocks), (0, 1, 2, len(old) - 1)

    def share(first: int, last: int) -> None:
        for i in range(first, last):
            which, start, stop = blocks[i]
            g = gradients[which][start:stop]
            if not waits:  # one pass does it all
                squares[i] = _penalised(blocks[i], gradients, old[0], penalties)
            arrays = [
                side[min(cache, len(side) - 1)][which][start:stop]
                for side in (old, new)
                for cache in places
            ]
            constants = [g.dtype.type(each) for each in (*numbers, shrinks[which])]
            _apply(rule, g, *constants, *arrays)

    threads.run(share, len(blocks), count)
    return length if waits else _length(squares)


def _caution(
    rule: int,
    gradients: Sequence[np.ndarray],
    means: Sequence[np.ndarray],
    numbers: Sequence[float],
    count: int,
) -> float:
    """Cut the gradients; return the factor of those steps that agree with their gradient in sign."""
    blocks = _blocks(gradients)
    signs = [(0, 0)] * len(blocks)

    def share(first: int, last: int) -> None:
        for i in range(first, last):
            which, start, stop = blocks[i]
            g = gradients[which][start:stop]
            signs[i] = _signs(rule, g, *map(g.dtype.type, numbers), means[which][start:stop])

    threads.run(share, len(blocks), count)
    same, other = map(sum, zip(*signs, strict=True))
    return (same + other) / max(same, 1)


@kernel(**VECTOR)
def _towards(array, target, share):
    """Move ``array`` by a ``share`` of the way to ``target``, elementwise."""
    for i in range(array.size):
        array[i] += share[i] * (target[i] - array[i])


def towards(
    arrays: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    shares: Sequence[np.ndarray],
    *,
    count: int,
) -> None:
    """Move each number of flat arrays, in place, by its share of the way to its target."""
    blocks = _blocks(arrays)

    def share(first: int, last: int) -> None:
        for i in range(first, last):
            which, start, stop = blocks[i]
            _towards(*(each[which][start:stop] for each in (arrays, targets, shares)))

    total = sum(array.size for array in arrays)
    threads.run(share, len(blocks), threads.worth(total, count))
