r"""Update rules: from gradients to new parameters.

Each rule is a function that returns PyTensor's own updates dict, ``{old: new}``, for parameters and
caches, so that the graph of any backend can use it; :data:`RULES` has them by name. The ``cpu``
backend runs the same rules fused, from :mod:`rngru.kernels.update`. The learning rate is an input of
the graph: changing it never compiles anything again.

>>> import numpy as np
>>> p, g, m = pt.fvectors("pgm")
>>> updates = rmsprop([p], [g], [[m]], rate=np.float32(0.001), hyper=HyperParams(2))
>>> [variable.name for variable in updates]
['p', 'm']
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt

from rngru.hyper import HyperParams


def _constants(like, *values):
    """Return values with the dtype of ``like``: PyTensor takes a Python 0.95 for float64."""
    return [np.asarray(value, like.dtype) for value in values]


def cautious(hyper: HyperParams, means: Sequence[Any], gradients: Sequence[Any]) -> list[Any]:
    r"""Return what each step is multiplied by: 1; with ``cautious`` 0 where the gradient disagrees.

    .. math:: k = \frac{n_{>} + n_{<}}{\max(n_{>}, 1)} \text{ where } m' g > 0, \quad
        0 \text{ where } m' g < 0, \quad 1 \text{ where } m' g = 0

    :math:`m'` is the mean of the gradients so far, and g the newest one. :math:`n_{>}` and :math:`n_{<}`
    count the elements of all parameters where the two have the same sign, and where they have opposite
    signs. Where elements do not step, the others step further instead. Liang et al., "Cautious Optimizers:
    Improving Training with One Line of Code", arXiv 2411.16085. They count in each parameter alone, and do
    not step where there is no gradient; then rare words of a vocabulary would hardly learn.
    """
    if not hyper.cautious:
        return [1] * len(means)
    products, like = [m * g for m, g in zip(means, gradients, strict=True)], means[0]
    counts = {"dtype": "int32", "acc_dtype": "int32"}  # JAX has no others
    same, other = (
        sum(sign(each, 0).sum(**counts) for each in products).astype(like.dtype)
        for sign in (pt.gt, pt.lt)
    )
    zero, one = _constants(like, 0, 1)
    more = (same + other) / pt.maximum(same, one)
    return [
        pt.switch(pt.gt(each, 0), more, pt.switch(pt.lt(each, 0), zero, one)) for each in products
    ]


def rmsprop(parameters, gradients, caches, *, rate, hyper, number=None, shrinks=None):
    r"""RMSProp, with the small constant under the root.

    .. math:: m' = d m + (1 - d) g^2, \qquad p' = p - \eta\, g / \sqrt{m' + 10^{-6}}

    d is ``decay``. Torch's ``RMSprop`` adds its ``eps`` outside the root, and so takes larger steps
    where gradients are tiny. The mean starts at zero and is not corrected: the first step is
    :math:`\eta / \sqrt{1 - d}`. Tieleman and Hinton, Coursera "Neural Networks for Machine Learning",
    lecture 6.5 (2012).
    """
    updates = {}
    for p, g, m in zip(parameters, gradients, caches[0], strict=True):
        keep, rest, small = _constants(m, hyper.decay, 1 - hyper.decay, 1e-6)
        new = keep * m + rest * g**2
        updates[p] = p - rate * g / pt.sqrt(new + small)
        updates[m] = new
    return updates


def adam(parameters, gradients, caches, *, rate, hyper, number, shrinks):
    r"""Adam, and AdamW, which also shrinks weights towards zero, whatever the gradient.

    .. math::
        m' &= \beta_1 m + (1 - \beta_1) g, \qquad v' = \beta_2 v + (1 - \beta_2) g^2 \\
        p' &= p - \eta \left( \frac{m' / (1 - \beta_1^t)}{\sqrt{v' / (1 - \beta_2^t)} + 10^{-8}} + w p \right)

    :math:`\beta_1` is ``momentum``, :math:`\beta_2` is ``beta2``; w is ``weightdecay`` for AdamW and 0
    for Adam. The fraction is multiplied by what :func:`cautious` returns. Without that, the numbers are
    torch's, except that biases are never decayed. Kingma and Ba, arXiv 1412.6980; Loshchilov and Hutter,
    arXiv 1711.05101.
    """
    updates, (means, squares) = {}, caches
    b1, b2, one, small = _constants(means[0], hyper.momentum, hyper.beta2, 1, 1e-8)
    new = [b1 * m + (one - b1) * g for m, g in zip(means, gradients, strict=True)]
    factors = cautious(hyper, new, gradients)
    for p, g, m, v, new_m, k, w in zip(
        parameters, gradients, means, squares, new, factors, shrinks, strict=True
    ):
        (shrink,) = _constants(m, w)
        new_v = b2 * v + (one - b2) * g**2
        mean, square = new_m / (one - b1**number), new_v / (one - b2**number)
        updates[p] = p - rate * (k * mean / (pt.sqrt(square) + small) + shrink * p)
        updates[m], updates[v] = new_m, new_v
    return updates


def sgd(parameters, gradients, caches, *, rate, hyper, number=None, shrinks=None):
    r"""Stochastic gradient descent with momentum, as torch's.

    .. math:: v' = \mu v + g, \qquad p' = p - \eta v'

    :math:`\mu` is ``momentum``. The step is multiplied by what :func:`cautious` returns. Sutskever et al.,
    ICML 2013, scale the velocity by the rate instead.
    """
    updates = {}
    (keep,) = _constants(caches[0][0], hyper.momentum)
    new = [keep * v + g for v, g in zip(caches[0], gradients, strict=True)]
    factors = cautious(hyper, new, gradients)
    for p, v, new_v, k in zip(parameters, caches[0], new, factors, strict=True):
        updates[p], updates[v] = p - rate * k * new_v, new_v
    return updates


def adagrad(parameters, gradients, caches, *, rate, hyper, number=None, shrinks=None):
    r"""Adagrad, with the small constant under the root.

    .. math:: a' = a + g^2, \qquad p' = p - \eta\, g / \sqrt{a' + 10^{-8}}

    Torch adds its ``eps``, 1e-10, outside the root. Duchi, Hazan and Singer, JMLR 12 (2011).
    """
    updates = {}
    for p, g, a in zip(parameters, gradients, caches[0], strict=True):
        (small,) = _constants(a, 1e-8)
        updates[a] = a + g**2
        updates[p] = p - rate * g / pt.sqrt(updates[a] + small)
    return updates


RULES: dict[str, Callable] = {
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": adam,
    "sgd": sgd,
    "adagrad": adagrad,
}
"""Every rule by name."""


def averaged(parameters, means, *, number, hyper):
    r"""The average of the parameters after each update; it starts with those after the first.

    .. math:: a' = a + \max(1 - \alpha, 1/n) (p' - a)

    :math:`\alpha` is ``average``, and n counts updates after the first ``average_from``; up to then
    a is p. The factor 1/n makes the plain mean of all p so far, which an :math:`\alpha` of 1 keeps (Polyak
    and Juditsky, SIAM J. Control Optim. 30, 1992; Izmailov et al., arXiv 1803.05407). A smaller one
    forgets: from the batch on that has its number, 1 / (1 - alpha), it is the exponential mean.
    """
    (least, one) = _constants(means[0], 1 - hyper.average, 1)
    share = pt.maximum(least, one / pt.maximum(number - np.float32(hyper.average_from), one))
    return [
        pt.switch(pt.ge(share, one), p, a + share * (p - a))
        for p, a in zip(parameters, means, strict=True)
    ]


def clipped(gradients, hyper: HyperParams, length):
    """Return gradients bounded by ``clipnorm``, then by ``clip``.

    ``clipnorm`` scales all of them together, by their ``length``; ``clip`` cuts every element.
    """
    if hyper.clipnorm is not None:
        one, most = _constants(gradients[0], 1, hyper.clipnorm)
        scale = pt.minimum(one, most / length)
        gradients = [scale * gradient for gradient in gradients]
    if hyper.clip is None:
        return list(gradients)
    low, high = _constants(gradients[0], -hyper.clip, hyper.clip)
    # Not pt.clip: without generated code it runs element by element.
    return [pt.minimum(pt.maximum(gradient, low), high) for gradient in gradients]


def norm(gradients):
    """Return the Euclidean length of all gradients together, ()."""
    return pt.sqrt(sum(pt.sqr(gradient).sum() for gradient in gradients))
