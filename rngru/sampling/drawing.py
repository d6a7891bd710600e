r"""From logits to the next symbol: what a draw is.

A draw is made from uniform numbers that come from outside, one per symbol, so that the same generator
gives the same text wherever the logits come from.

.. math:: p_j = \frac{e^{o_j / \tau}}{\sum_k e^{o_k / \tau}}, \qquad
          \text{the first } j \text{ with } p_1 + \dots + p_j > u

Temperature :math:`\tau = 0` is greedy: the likeliest symbol. Low temperatures repeat what is common, 1
is the model's own distribution, higher ones are wilder.

Before that symbols may be left out: those that are forbidden, or not allowed. Of the others those that
occur among the last ``repeat_last`` have their probability divided by ``repeat`` (:func:`lowered`; CTRL,
Keskar et al. 2019, divides the logit, so that what it does depends on where zero is). Then, after the
temperature, unlikely ones are left out, in this order (:func:`kept`): all but the ``top_k`` likeliest;
those whose probability is below ``min_p`` times that of the likeliest; and of the others the least
likely ones, as long as what is left has at least ``top_p`` of the probability (Holtzman et al., The
Curious Case of Neural Text Degeneration, 2020). Of equal ones the lower id counts as likelier.

>>> logits = np.array([[0.0, 2.0, 1.0]])
>>> draw(logits, Sampling(temp=0), np.array([0.5]))
array([1], dtype=int32)
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from rngru.errors import InputError
from rngru.settings import Setting, Settings, or_function, or_none, real, string, strings, whole


class Sampling(Settings):
    """How text is drawn.

    {table}

    Example
    -------
    >>> Sampling(0.8)
    Sampling(temp=0.8)
    >>> Sampling(temp=-1)
    Traceback (most recent call last):
    rngru.errors.InputError: temp=-1: expected a finite number of at least 0.
    """

    __slots__ = ()

    temp = Setting(
        "temperature: 0 takes the likeliest symbol, 1 the model's own distribution",
        "ratio",
        real(0, math.inf, below=True),
        0.5,
    )
    top_k = Setting(
        "draw from so many of the likeliest symbols only; None: from all",
        "symbols",
        or_none(whole(1)),
        None,
    )
    top_p = Setting(
        "draw from the likeliest symbols that together have this share of the probability",
        "share",
        real(0, 1, above=True),
        1.0,
    )
    min_p = Setting(
        "leave out what is less likely than this share of the likeliest symbol's probability",
        "share",
        real(0, 1),
        0.0,
    )
    repeat = Setting(
        "what occurs among the last symbols is less likely by this factor; 1: as likely as it is",
        "ratio",
        real(1),
        1.0,
    )
    repeat_last = Setting(
        "how many symbols back repeat looks, those of the seed included",
        "symbols",
        whole(1, 10_000),
        64,
    )
    forbid = Setting(
        "symbols that are never drawn: the characters of a text, or a list of words; or a function "
        "that returns them for the text so far",
        "symbols",
        or_none(or_function(strings())),
        None,
    )
    allow = Setting(
        "the only symbols that are drawn, or a function as for forbid",
        "symbols",
        or_none(or_function(strings())),
        None,
    )
    regex = Setting(
        "a regular expression that the text matches, or can still come to match",
        "pattern",
        or_none(string()),
        None,
    )
    stop = Setting(
        "the text ends with the first of these that it comes to",
        "texts",
        or_none(strings()),
        None,
    )

    @property
    def cuts(self) -> bool:
        """Whether any symbol is left out for its probability."""
        return self.top_k is not None or self.top_p < 1 or self.min_p > 0

    @property
    def plain(self) -> "Sampling":
        """The same without functions, which cannot be written to a file: what a sample remembers."""
        functions = {name: None for name in ("forbid", "allow") if callable(getattr(self, name))}
        return self.replace(**functions)

    @classmethod
    def several(cls, temp: "float | Iterable[float]", **rules: Any) -> "Sampling | list[Sampling]":
        """Return the rules for one temperature, or for each of several.

        >>> Sampling.several([0.5, 1.0], top_k=9)
        [Sampling(top_k=9), Sampling(temp=1.0, top_k=9)]
        """
        if not isinstance(temp, Iterable) or isinstance(temp, str | bytes):
            return cls(temp, **rules)
        found = [cls(each, **rules) for each in temp]
        if not found:
            raise InputError("temp: expected a number, or several; got none.")
        return found


def probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return the distribution over the last axis of ``logits`` (…, V), float64."""
    logits = np.asarray(logits, np.float64)
    if temperature == 0:
        return np.eye(logits.shape[-1])[logits.argmax(-1)]
    # A temperature near 0 makes minus infinity of most logits, and zero of their weights.
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp((logits - logits.max(-1, keepdims=True)) / temperature)
        return weights / weights.sum(-1, keepdims=True)


def lowered(logits: np.ndarray, recent: np.ndarray, repeat: float) -> np.ndarray:
    """Return ``logits`` (B, V), those of ``recent`` symbols (r, B) less by the logarithm of ``repeat``.

    >>> lowered(np.zeros((1, 3)), np.array([[2], [0], [2]]), repeat=np.e)
    array([[-1.,  0., -1.]])
    """
    there = np.zeros(logits.shape, bool)
    there[np.arange(len(logits)), recent] = True
    return np.where(there, logits - logits.dtype.type(math.log(repeat)), logits)


def kept(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Return which symbols may be drawn, for each row of ``logits`` (B, V); bool (B, V).

    >>> kept(np.array([[0.0, 2.0, 1.0]]), Sampling(1.0, top_k=2)).tolist()
    [[False, True, True]]
    """
    logits = np.asarray(logits, np.float64)
    order = np.argsort(-logits, axis=-1, kind="stable")
    keep = np.argsort(order, axis=-1) < (sampling.top_k or logits.shape[-1])
    if sampling.min_p > 0:
        limit = sampling.temp * math.log(sampling.min_p)
        keep &= logits >= logits.max(-1, keepdims=True) + limit
    weights = probabilities(logits, sampling.temp).astype(np.float32).astype(np.float64) * keep
    ranked = np.take_along_axis(weights, order, -1)
    before = ranked.cumsum(-1) - ranked
    within = before < sampling.top_p * ranked.sum(-1, keepdims=True)
    np.put_along_axis(keep, order, within & np.take_along_axis(keep, order, -1), -1)
    return keep


def draw(
    logits: np.ndarray,
    sampling: Sampling,
    uniforms: np.ndarray,
    recent: np.ndarray | None = None,
) -> np.ndarray:
    """Draw one symbol for each row of ``logits`` (B, V), with ``uniforms`` (B,) in [0, 1).

    ``recent`` (r, B) are the last symbols of each text, as many as ``repeat_last`` says or there are.

    Returns
    -------
    ids (B,), int32.
    """
    if recent is not None:
        logits = lowered(np.asarray(logits), recent, sampling.repeat)
    if sampling.temp == 0:
        return np.asarray(logits).argmax(-1).astype(np.int32)
    weights = probabilities(logits, sampling.temp)
    if sampling.cuts:
        weights = weights * kept(logits, sampling)
    reached = weights.cumsum(-1)
    above = reached > np.asarray(uniforms)[:, np.newaxis] * reached[:, -1:]
    return above.argmax(-1).astype(np.int32)
