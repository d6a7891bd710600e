"""Numbers that go wrong, seen before they are saved."""

import math
from typing import final

from rngru.backends import Step


@final
class Guard:
    """Watches the losses of a run.

    Wrong is a loss or gradient that is not finite, and a loss that climbs to twice its start and a nat
    above that of blind guessing.

    Parameters
    ----------
    symbols: how many there are to guess from.
    units: what they are, for messages.

    Attributes
    ----------
    times : int
        How often something was wrong.

    Example
    -------
    >>> guard = Guard(symbols=66)
    >>> guard.fault(4.2), guard.fault(4.1), guard.fault(math.nan)
    ('', '', 'The last update left numbers that are not finite; the loss is nan')
    >>> guard.times
    1
    """

    def __init__(self, symbols: int, units: str = "characters") -> None:
        self.times = 0
        self._blind, self._unit = math.log(symbols), units[:-1]
        self._first: float | None = None
        self._smooth: float | None = None

    def fault(self, loss: float, step: Step | None = None, *, finite: bool = True) -> str:
        """Return what is wrong, in words; '' if nothing is.

        Parameters
        ----------
        loss: nats per symbol of a batch, before its update.
        step: that batch, if it is to be trained on; None if it was only looked at.
        finite: whether the parameters and caches are.
        """
        ahead = loss if self._smooth is None else 0.9 * self._smooth + 0.1 * loss
        first = loss if self._first is None else self._first
        finite = finite and math.isfinite(loss) and (step is None or step.finite)
        # Not "ahead > limit": that is false for NaN.
        sane = ahead <= max(2 * first, self._blind + 1)
        if finite and sane:
            if step is not None:
                self._first, self._smooth = first, ahead
            return ""
        self.times += 1
        self._smooth = None
        if finite:
            return f"The loss climbs far above its start, to {loss:.3g} nats per {self._unit}"
        if step is None or step.finite:
            return f"The last update left numbers that are not finite; the loss is {loss:.3g}"
        return f"The loss is {loss:.3g} and the length of the gradient {step.gradnorm:.3g}"
