"""How the learning rate changes: within a call or a life, and after a round."""

import math
from collections.abc import Callable

from rngru.errors import InputError
from rngru.hyper import FALLING, HyperParams
from rngru.settings import checked, real

Rule = Callable[[float, float], float]
"""A schedule of one's own: from (share, epoch) to what the rate is multiplied by."""


def scheduled(
    hyper: HyperParams, rate: float, *, epoch: float, share: float, rule: Rule | None = None
) -> float:
    r"""Return the learning rate of the next batch, as ``hyper.schedule`` says.

    ==============  ==========================================================================
    constant        ``rate``
    plateau         ``rate``, which :func:`plateau` lowers after a round
    exponential     char-rnn's: × 0.97 at the end of the tenth epoch and of each one after it
    cosine          down to ``floor`` times it, along :math:`(1 + \cos \pi u)/2`
    linear          the same in a straight line
    onecycle        the same as cosine, after a climb from ``floor`` along the same curve
    ==============  ==========================================================================

    Before that the rate climbs over ``warmup``, in a straight line from 0 (but onecycle): by default
    over 0.05 of what cosine and linear span, 0.3 for onecycle, and not at all for the first three. The
    last three, and the climb, span the call, or the first ``lifetime`` batches of a model. In
    ``cycles`` equal parts of that, the rate climbs and falls each time. Cosine and cycles: Loshchilov
    and Hutter, arXiv 1608.03983; onecycle: Smith and Topin, arXiv 1708.07120, with half waves, and
    the momentum is left alone.

    Parameters
    ----------
    rate: the learning rate in force, :attr:`~rngru.training.Progress.learnrate`.
    epoch: passes over the training text so far.
    share: how much of the span is over, 0 … 1.
    rule: a function of (share, epoch) that gives the factor instead.

    Raises
    ------
    InputError
        If ``rule`` gives anything but a number of at least 0.

    Example
    -------
    >>> hyper = HyperParams(66, schedule="exponential")
    >>> round(scheduled(hyper, 1.0, epoch=11.5, share=0), 4)
    0.9409
    >>> hyper = HyperParams(66, schedule="linear", warmup=0, floor=0, cycles=2)
    >>> [scheduled(hyper, 1.0, epoch=0, share=share) for share in (0, 0.25, 0.5, 0.75, 1)]
    [1.0, 0.5, 1.0, 0.5, 0.0]
    """
    if rule is not None:
        return rate * checked(f"schedule({share:g}, {epoch:g})", rule(share, epoch), real())
    kind, floor, warmup = hyper.schedule, hyper.floor, hyper.warmup
    if warmup is None:
        warmup = {"cosine": 0.05, "linear": 0.05, "onecycle": 0.3}.get(kind, 0.0)
    done = min(share, 1.0) * hyper.cycles
    share = done - min(math.floor(done), hyper.cycles - 1)
    if share < warmup:
        if kind == "onecycle":
            return rate * (floor + (1 - floor) * _wave(share / warmup))
        rate = rate * max(share, 0.01 * warmup) / warmup
        return rate if kind in FALLING else rate * _fallen(kind, epoch)
    if kind not in FALLING:
        return rate * _fallen(kind, epoch)
    left = (1 - share) / max(1 - warmup, 1e-9)
    return rate * (floor + (1 - floor) * (left if kind == "linear" else _wave(left)))


def _wave(share: float) -> float:
    """Half a wave, from 0 up to 1."""
    return (1 - math.cos(math.pi * share)) / 2


def _fallen(kind: str, epoch: float) -> float:
    """Return the factor after so many epochs."""
    return 0.97 ** max(0, math.floor(epoch) - 9) if kind == "exponential" else 1.0


def checkrule(rule: object) -> None:
    """Raise InputError for a schedule of one's own that is no function."""
    if rule is not None and not callable(rule):
        raise InputError(
            f"schedule={rule!r}: expected a function of (share, epoch) that returns what the learning "
            "rate is multiplied by. A schedule with a name belongs to the model: "
            "initfromsrcfile(..., schedule='cosine')."
        )


def checkend(hyper: HyperParams) -> None:
    """Refuse a schedule that needs an end, for a call that has none.

    Raises
    ------
    InputError
        If a call without an end would stay at its beginning.
    """
    if not hyper.lifetime and (hyper.schedule in FALLING or hyper.warmup):
        told = (
            f"schedule={hyper.schedule!r}"
            if hyper.schedule in FALLING
            else f"warmup={hyper.warmup}"
        )
        raise InputError(
            f"max_seconds=inf: {told} needs an end. Give num_rounds= or a number of seconds, or make "
            "the model with lifetime=."
        )


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
