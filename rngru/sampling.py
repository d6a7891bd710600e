r"""From logits to the next symbol: what a draw is, and the records of what was drawn.

A draw is made from uniform numbers that come from outside, one per symbol, so that the same generator
gives the same text wherever the logits come from.

.. math:: p_j = \frac{e^{o_j / \tau}}{\sum_k e^{o_k / \tau}}, \qquad
          \text{the first } j \text{ with } p_1 + \dots + p_j > u

Temperature :math:`\tau = 0` is greedy: the likeliest symbol. Low temperatures repeat what is common, 1
is the model's own distribution, higher ones are wilder.

Before that symbols may be left out: those that are forbidden, or not allowed; then unlikely ones, in this
order (:func:`kept`): all but the ``top_k`` likeliest;
those whose probability is below ``min_p`` times that of the likeliest; and of the others the least likely
ones, as long as what is left has at least ``top_p`` of the probability (Holtzman et al., The Curious Case
of Neural Text Degeneration, 2020). Of equal ones the lower id counts as likelier.

>>> logits = np.array([[0.0, 2.0, 1.0]])
>>> draw(logits, Sampling(temp=0), np.array([0.5]))
array([1], dtype=int32)
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rngru.settings import Setting, Settings, or_none, real, strings, whole
from rngru.tables import Table, oneline, printable


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

    forbid = Setting(
        "symbols that are never drawn: the characters of a text, or a list of words",
        "symbols",
        or_none(strings()),
        None,
    )
    allow = Setting("the only symbols that are drawn", "symbols", or_none(strings()), None)
    stop = Setting(
        "the text ends with the first of these that it comes to",
        "texts",
        or_none(strings()),
        None,
    )

    @property
    def cuts(self) -> bool:
        """Whether any symbol is left out."""
        return self.top_k is not None or self.top_p < 1 or self.min_p > 0


def probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return the distribution over the last axis of ``logits`` (…, V), float64."""
    logits = np.asarray(logits, np.float64)
    if temperature == 0:
        return np.eye(logits.shape[-1])[logits.argmax(-1)]
    # A temperature near 0 makes minus infinity of most logits, and zero of their weights.
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp((logits - logits.max(-1, keepdims=True)) / temperature)
        return weights / weights.sum(-1, keepdims=True)


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


def draw(logits: np.ndarray, sampling: Sampling, uniforms: np.ndarray) -> np.ndarray:
    """Draw one symbol for each row of ``logits`` (B, V), with ``uniforms`` (B,) in [0, 1).

    Returns
    -------
    ids (B,), int32.
    """
    if sampling.temp == 0:
        return np.asarray(logits).argmax(-1).astype(np.int32)
    weights = probabilities(logits, sampling.temp)
    if sampling.cuts:
        weights = weights * kept(logits, sampling)
    reached = weights.cumsum(-1)
    above = reached > np.asarray(uniforms)[:, np.newaxis] * reached[:, -1:]
    return above.argmax(-1).astype(np.int32)


@dataclass(frozen=True, repr=False, eq=False)
class Sample:
    """Generated text; at the prompt it shows the text itself, and ``str()`` is the text.

    Attributes
    ----------
    text : str
        What was generated, without the seed it was generated from.
    state : float32 array, (L, 1, H)
        The hidden state before the last symbol: what continues the sample, together with that symbol.
        ``generatestring(init_state=sample)`` goes on as if it had not stopped.
    seed : str
        What it was generated from.
    interrupted : bool
        Whether Ctrl-C cut it short.
    ids : int32 array, (n,)
        The symbols of the text.
    last : int or None
        The id of its last symbol, or of the seed's if the text is empty.
    vocabulary : str
        The digest of the vocabulary that the ids belong to.
    level : str
        What a symbol is: ``'char'``, ``'word'`` or ``'byte'``.

    Example
    -------
    >>> Sample("to be", state=np.zeros((1, 1, 4), np.float32))
    to be
    """

    text: str
    state: np.ndarray = field(compare=False)
    seed: str = ""
    interrupted: bool = False
    ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    last: int | None = None
    vocabulary: str = ""
    level: str = "char"

    @property
    def bytes(self) -> bytes:
        """The text as bytes: at byte level just those that were drawn, else in UTF-8."""
        if self.level == "byte":
            return self.ids.astype(np.uint8).tobytes()
        return self.text.encode("utf-8", "surrogatepass")

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return printable(self.text)

    def __len__(self) -> int:
        return len(self.text)


@dataclass(frozen=True, repr=False, eq=False)
class Samples(Sequence):
    """Several texts that were generated side by side; at the prompt a table of how they begin.

    Example
    -------
    >>> fresh = np.zeros((1, 1, 4), np.float32)
    >>> samples = Samples((Sample("to be", fresh), Sample("or\\nnot", fresh)))
    >>> samples
    sample
         0  to be
         1  or⏎not
    >>> len(samples), samples[0]
    (2, to be)
    """

    samples: tuple[Sample, ...]

    def __getitem__(self, index: Any) -> Any:
        return self.samples[index]

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        width = max(shutil.get_terminal_size().columns - 8, 20)
        rows = []
        for number, sample in enumerate(self.samples):
            line = oneline(sample.text)
            rows.append([str(number), line if len(line) <= width else line[: width - 1] + "…"])
        return repr(Table(["sample", ""], rows))


@dataclass(frozen=True, repr=False, eq=False)
class Filled:
    """A text whose gaps were filled; at the prompt it shows the text, ``str()`` is the text.

    Attributes
    ----------
    text : str
        The likeliest text.
    gaps : tuple of (int, tuple of (str, float))
        For each gap, which symbol of the text it is, counted from 0, and the likeliest symbols for
        it with their probabilities, given all the others.

    Example
    -------
    >>> filled = Filled("quick", ((2, (("i", 0.9), ("a", 0.1))),))
    >>> filled
    quick
    >>> filled.gaps[0][1][0]
    ('i', 0.9)
    """

    text: str
    gaps: tuple[tuple[int, tuple[tuple[str, float], ...]], ...]

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return printable(self.text)
