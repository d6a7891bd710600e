"""How the learning rate changes: within a call, and after a round."""

import math

from rngru.hyper import HyperParams


def scheduled(hyper: HyperParams, rate: float, *, epoch: float, share: float) -> float:
    r"""Return the learning rate of the next batch, as ``hyper.schedule`` says.

    ==============  ==========================================================================
    constant        ``rate``
    plateau         ``rate``, which :func:`plateau` lowers after a round
    exponential     char-rnn's: × 0.97 at the end of the tenth epoch and of each one after it
    cosine          from 0 up to ``rate`` over ``warmup``, then down to a tenth of it along
                    :math:`(1 + \cos \pi u)/2`; over the length of the call
    ==============  ==========================================================================

    Parameters
    ----------
    rate: the learning rate in force, :attr:`~rngru.training.Progress.learnrate`.
    epoch: passes over the training text so far.
    share: how much of this call to train is over, 0 … 1.

    Example
    -------
    >>> hyper = HyperParams(66, schedule="exponential")
    >>> round(scheduled(hyper, 1.0, epoch=11.5, share=0), 4)
    0.9409
    """
    if hyper.schedule == "exponential":
        return rate * 0.97 ** max(0, math.floor(epoch) - 9)
    if hyper.schedule == "cosine":
        share = min(share, 1.0)
        if share < hyper.warmup:
            return rate * max(share, 0.01 * hyper.warmup) / hyper.warmup
        left = (1 - share) / max(1 - hyper.warmup, 1e-9)
        return rate * (0.1 + 0.9 * (1 - math.cos(math.pi * left)) / 2)
    return rate


def plateau(rate: float, loss: float, previous: float) -> float:
    """Return a lower rate if the validation loss has not come down: the 2016 rule, on losses.

    Halved where it rose by 3 % or more, × 0.8 where it changed by less than 2 or 3 %.

    >>> plateau(1.0, 2.0, 1.0), plateau(1.0, 1.0, 1.0), plateau(1.0, 1.0, 2.0)
    (0.5, 0.8, 1.0)
    """
    ratio = loss / previous
    if ratio >= 1.03:
        return rate * 0.5
    return rate * 0.8 if ratio > 0.98 else rate
