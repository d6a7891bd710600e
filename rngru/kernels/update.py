r"""The parameter update of a step, fused: the penalty, the norm, the clipping and the rule.

The gradient of the cost is that of the data plus the penalty's, :math:`g \leftarrow g + \lambda p`.
Its norm is summed in float64 over blocks of fixed size in a fixed order, so that it has the same
bits on any number of threads. Parameters and caches are not changed in place: a rule reads old arrays
and fills new ones, so a step that is interrupted or refused leaves everything as it was.
"""

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, final

import numpy as np

from rngru.kernels import threads
from rngru.kernels.calls import Call, shared
from rngru.kernels.compiling import kernel
from rngru.kernels.elementwise import VECTOR
from rngru.kernels.memory import Pieces
from rngru.kernels.panels import span
from rngru.kernels.phases import deal
from rngru.kernels.plans import Plan, Planned

RMSPROP, ADAM, SGD, ADAGRAD, NONE = range(5)

RULES = {"rmsprop": RMSPROP, "adam": ADAM, "adamw": ADAM, "sgd": SGD, "adagrad": ADAGRAD}
"""The rule of each optimizer."""

BLOCK = 1 << 16
"""Numbers that one thread updates at a time."""


@kernel(keep=False, forceinline=True, **VECTOR)
def _cut(x, scale, clip):
    """Return an element of a gradient, scaled and then cut off."""
    y = x * scale
    y = clip if y > clip else y
    return -clip if y < -clip else y


@shared(**VECTOR)
def _signs(rule, g, numbers, m, same, other, first, last):
    """Count in each block how many new means agree with their gradient in sign, and how many do not."""
    zero, one = g.dtype.type(0), g.dtype.type(1)
    scale, clip, keep = numbers[0], numbers[1], numbers[3]
    weight = one if rule == SGD else one - keep
    for block in range(first, last):
        at, alike, opposite = block * BLOCK, 0, 0
        size = min(BLOCK, g.size - at)
        some, means = span(g, at, size), span(m, at, size)
        for i in range(size):
            x = _cut(some[i], scale, clip)
            product = (keep * means[i] + weight * x) * x
            alike += product > zero
            opposite += product < zero
        same[block], other[block] = alike, opposite


@shared(**VECTOR)
def _apply(
    rule, gradient, squares, numbers, parameter, first_cache, second_cache, average,
    new_parameter, new_first, new_second, new_average, first, last,
):  # fmt: skip
    """Apply one rule to a parameter and its caches (the second: Adam only), then average the new parameter.

    ``numbers`` are those of this parameter, see :meth:`Rule.numbers`. With momentum, a step is multiplied by
    ``same`` where mean and gradient have the same sign, and by ``other`` where they have opposite signs. With
    ``squares``, a number for each block, the penalty times the parameter is first added to the gradient, and
    its squares are summed there. The rule ``NONE`` does no more than that.
    """
    kind = gradient.dtype.type
    zero, one, small, tiny = kind(0), kind(1), kind(1e-6), kind(1e-8)
    scale, clip, rate = numbers[0], numbers[1], numbers[2]
    keep, keep_square, fix, fix_square = numbers[3], numbers[4], numbers[5], numbers[6]
    newest, same, other = numbers[7], numbers[8], numbers[9]
    penalty, shrink = numbers[10], numbers[11]
    for block in range(first, last):
        at = block * BLOCK
        size = min(BLOCK, gradient.size - at)
        g = span(gradient, at, size)
        p, new_p = span(parameter, at, size), span(new_parameter, at, size)
        m, new_m = span(first_cache, at, size), span(new_first, at, size)
        v, new_v = span(second_cache, at, size), span(new_second, at, size)
        a, new_a = span(average, at, size), span(new_average, at, size)
        if squares.size > 0:
            total = 0.0
            if penalty != 0:
                for i in range(size):
                    g[i] += penalty * p[i]
            whole = size // 8
            for i in range(whole):
                # A tree of additions: in a chain, each would wait for the one before.
                part = g[8 * i : 8 * i + 8]
                low = (part[0] ** 2 + part[1] ** 2) + (part[2] ** 2 + part[3] ** 2)
                high = (part[4] ** 2 + part[5] ** 2) + (part[6] ** 2 + part[7] ** 2)
                total += low + high
            for i in range(8 * whole, size):
                total += g[i] ** 2
            squares[block] = total
            if rule == NONE:
                continue
        if rule == RMSPROP:
            for i in range(size):
                x = _cut(g[i], scale, clip)
                new_m[i] = keep * m[i] + (one - keep) * x * x
                new_p[i] = p[i] - rate * x / np.sqrt(new_m[i] + small)
        elif rule == ADAM:
            for i in range(size):
                x = _cut(g[i], scale, clip)
                new_m[i] = keep * m[i] + (one - keep) * x
                new_v[i] = keep_square * v[i] + (one - keep_square) * x * x
                product = new_m[i] * x
                factor = same if product > zero else other if product < zero else one
                mean = new_m[i] * fix * factor
                step = mean / (np.sqrt(new_v[i] * fix_square) + tiny)
                new_p[i] = p[i] - rate * (step + shrink * p[i])
        elif rule == SGD:
            for i in range(size):
                x = _cut(g[i], scale, clip)
                new_m[i] = keep * m[i] + x
                product = new_m[i] * x
                factor = same if product > zero else other if product < zero else one
                new_p[i] = p[i] - rate * (new_m[i] * factor)
        else:
            for i in range(size):
                x = _cut(g[i], scale, clip)
                new_m[i] = m[i] + x * x
                new_p[i] = p[i] - rate * x / np.sqrt(new_m[i] + tiny)
        if newest > 0:
            for i in range(size):
                new_a[i] = a[i] + newest * (new_p[i] - a[i]) if newest < one else new_p[i]


def _blocks(size: int) -> int:
    return -(-size // BLOCK)


def _cut_up(
    plan: Plan, arrays: Sequence[np.ndarray], dtype: type
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return memory for a number of each block of flat arrays, and views of it for each array."""
    bounds = [0, *itertools.accumulate(_blocks(each.size) for each in arrays)]
    numbers = plan.empty((bounds[-1],), dtype)
    return numbers, [numbers[first:last] for first, last in itertools.pairwise(bounds)]


def _deal(plan: Plan, calls: Sequence[Call], arrays: Sequence[np.ndarray], count: int) -> None:
    """Plan a call on the blocks of each array."""
    jobs = zip(calls, map(_blocks, (each.size for each in arrays)), strict=True)
    plan.do(deal([(call, blocks, 1) for call, blocks in jobs], count))


def _flat(plan: Plan, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [plan.contiguous(each).reshape(-1) for each in arrays]


NUMBERS = 12
"""How many numbers the kernels read for each parameter."""


@Planned
def norm(
    plan: Plan,
    gradients: Sequence[np.ndarray],
    parameters: Sequence[np.ndarray],
    numbers: np.ndarray,
) -> np.ndarray:
    """Add each penalty times its parameter to its gradient; return the norm of all gradients, ().

    Arrays are flat. Of ``numbers`` (parameters, NUMBERS), the last but one is the penalty.
    """
    squares, parts = _cut_up(plan, gradients, np.float64)
    calls = [
        _apply.bind(NONE, g, part, some, p, *[g] * 7)
        for g, part, some, p in zip(gradients, parts, numbers, parameters, strict=True)
    ]
    total = sum(gradient.size for gradient in gradients)
    _deal(plan, calls, gradients, threads.worth(total, plan.count))
    return _length(plan, squares)


def _length(plan: Plan, squares: np.ndarray) -> np.ndarray:
    """Plan the norm of what these are the sums of squares of; NaN if one of them is not finite."""
    length = plan.empty((), np.float64)

    def fill() -> None:
        total = math.fsum(squares.tolist())
        length[...] = math.sqrt(total) if math.isfinite(total) else math.nan

    plan.later(fill, length)
    return length


def _scale(numbers: np.ndarray, clipnorm: float, length: np.ndarray) -> None:
    """Have gradients of such a norm scaled down to the one that they may have."""
    numbers[:, 0] = min(1.0, clipnorm / max(float(length), 1e-30))


@final
class Rule:
    """A rule of :data:`RULES`, as it is applied to the parameters of one model.

    Parameters
    ----------
    name: :mod:`rngru.optim` has the equations.
    clipnorm: the norm that the gradients are scaled down to; None for any.
    clip: the number that each gradient is cut off at after that; infinity for none.
    decay, momentum, beta2: the hyperparameters of those names.
    cautious: see :func:`rngru.optim.cautious`.
    """

    def __init__(
        self,
        name: str,
        *,
        clipnorm: float | None,
        clip: float,
        decay: float,
        momentum: float,
        beta2: float,
        cautious: bool = False,
    ) -> None:
        self._rule, self._clipnorm, self._clip = RULES[name], clipnorm, clip
        self._keep = decay if self._rule == RMSPROP else momentum
        self._momentum, self._beta2 = momentum, beta2
        self._cautious = cautious and self._rule in (ADAM, SGD)
        self._numbers = Pieces()

    def numbers(
        self,
        *,
        penalties: Sequence[float],
        shrinks: Sequence[float],
        rate: float,
        number: int,
        newest: float = 0.0,
        dtype: Any = np.float32,
    ) -> np.ndarray:
        """Return what the kernels read, (parameters, NUMBERS); the next call writes over it.

        Parameters
        ----------
        penalties: each is first added, times its parameter, to its gradient.
        shrinks: weight decay of each parameter (adamw).
        rate: the learning rate.
        number: updates so far plus one; Adam's correction needs it.
        newest: share of the new parameters in their average, the last cache; 0 if there is none.
        dtype: that of the parameters.
        """
        found = self._numbers.array(0, (len(penalties), NUMBERS), np.dtype(dtype))
        fixes = 1 / (1 - self._momentum**number), 1 / (1 - self._beta2**number)
        found[:, :-2] = 1, self._clip, rate, self._keep, self._beta2, *fixes, newest, 1, 1
        found[:, -2], found[:, -1] = penalties, shrinks
        return found

    def plan(
        self,
        plan: Plan,
        numbers: np.ndarray,
        gradients: Sequence[np.ndarray],
        old: Sequence[Sequence[np.ndarray]],
        new: Sequence[Sequence[np.ndarray]],
    ) -> np.ndarray:
        """Plan filling ``new`` from ``old``, both (parameters, cache, cache …).

        Returns the norm of all gradients, see :func:`norm`. If it is not finite, ``new`` must not be used.

        Parameters
        ----------
        plan: what to add to.
        numbers: what :meth:`numbers` returns; it is written to.
        gradients: arrays like the parameters; they are overwritten if they are C-contiguous.
        new: arrays that are C-contiguous.
        """
        gradients = _flat(plan, gradients)
        old = [_flat(plan, each) for each in old]
        new = [[each.reshape(-1) for each in some] for some in new]
        squares, parts = _cut_up(plan, gradients, np.float64)
        apart = self._cautious or self._clipnorm is not None  # else one pass does it all
        if apart:
            length = norm.plan(plan, gradients, old[0], numbers)
            parts = [part[:0] for part in parts]
        if self._clipnorm is not None:
            plan.call(partial(_scale, numbers, self._clipnorm, length))
        if self._cautious:
            self._caution(plan, gradients, numbers, old[1])
        caches = (0, 1, 2, len(old) - 1)
        sides = [side[min(cache, len(side) - 1)] for side in (old, new) for cache in caches]
        calls = [
            _apply.bind(self._rule, *some)
            for some in zip(gradients, parts, numbers, *sides, strict=True)
        ]
        _deal(plan, calls, gradients, plan.count)
        return length if apart else _length(plan, squares)

    def _caution(
        self,
        plan: Plan,
        gradients: Sequence[np.ndarray],
        numbers: np.ndarray,
        means: Sequence[np.ndarray],
    ) -> None:
        """Plan counting, and the factor of those elements of the step that agree with their gradient."""
        (alike, same), (opposite, other) = (_cut_up(plan, gradients, np.int64) for _ in range(2))
        calls = [
            _signs.bind(self._rule, *some)
            for some in zip(gradients, numbers, means, same, other, strict=True)
        ]
        _deal(plan, calls, gradients, plan.count)

        def fill() -> None:
            agree = int(alike.sum())
            numbers[:, 8] = (agree + int(opposite.sum())) / max(agree, 1)
            numbers[:, 9] = 0

        plan.call(fill)


@shared(**VECTOR)
def _towards(array, target, share, first, last):
    """Move an array by a ``share`` of the way to ``target``, elementwise, in some blocks."""
    at = first * BLOCK
    size = min(last * BLOCK, array.size) - at
    some, wanted, shares = span(array, at, size), span(target, at, size), span(share, at, size)
    for i in range(size):
        some[i] += shares[i] * (wanted[i] - some[i])


@Planned
def towards(
    plan: Plan,
    arrays: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    shares: Sequence[np.ndarray],
) -> None:
    """Move each number of flat arrays, in place, by its share of the way to its target."""
    calls = [_towards.bind(*each) for each in zip(arrays, targets, shares, strict=True)]
    total = sum(array.size for array in arrays)
    _deal(plan, calls, arrays, threads.worth(total, plan.count))
