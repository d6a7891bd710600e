r"""Update rules: from gradients to new parameters.

Each rule is a function that returns PyTensor's own updates dict, ``{old: new}``, for parameters and
caches, so that any backend's graph can use it; :data:`OPTIMIZERS` names them. The ``cpu`` backend runs
the same rules fused, from :mod:`rngru.kernels.update`.

>>> p, g, m = pt.fvectors("pgm")
>>> updates = rmsprop([p], [g], [m], rate=np.float32(0.001), decay=0.95)
>>> [variable.name for variable in updates]
['p', 'm']
"""

import numpy as np
import pytensor.tensor as pt


def rmsprop(parameters, gradients, caches, *, rate, decay):
    r"""RMSProp, with the small constant under the root.

    .. math:: m' = d m + (1 - d) g^2, \qquad p' = p - \eta\, g / \sqrt{m' + 10^{-6}}

    Torch's ``RMSprop`` adds its ``eps`` outside the root, and so takes larger steps where gradients
    are tiny. The mean starts at zero and is not corrected: the first step is
    :math:`\eta / \sqrt{1 - d}`. Tieleman and Hinton, Coursera "Neural Networks for Machine Learning",
    lecture 6.5 (2012).
    """
    updates = {}
    for parameter, gradient, mean in zip(parameters, gradients, caches, strict=True):
        keep, rest, small = (np.asarray(x, mean.dtype) for x in (decay, 1 - decay, 1e-6))
        new = keep * mean + rest * gradient**2
        updates[parameter] = parameter - rate * gradient / pt.sqrt(new + small)
        updates[mean] = new
    return updates


def clipped(gradients, bound):
    """Clip each element of the gradients to ±``bound``; ``None`` leaves them as they are."""
    if bound is None:
        return list(gradients)
    # Not pt.clip: without generated code it runs element by element.
    return [
        pt.minimum(
            pt.maximum(gradient, np.asarray(-bound, gradient.dtype)),
            np.asarray(bound, gradient.dtype),
        )
        for gradient in gradients
    ]


def norm(gradients):
    """Return the Euclidean length of all gradients together, ()."""
    return pt.sqrt(sum(pt.sqr(gradient).sum() for gradient in gradients))
