r"""From logits to the next character: temperature and greedy.

A draw is made from uniform numbers that come from outside, one per character, so that the same
generator gives the same text wherever the logits come from.

.. math:: p_j = \frac{e^{o_j / \tau}}{\sum_k e^{o_k / \tau}}, \qquad
          \text{the first } j \text{ with } p_1 + \dots + p_j > u

Temperature :math:`\tau = 0` is greedy: the likeliest character. Low temperatures repeat what is
common, 1 is the model's own distribution, higher ones are wilder.

>>> logits = np.array([[0.0, 2.0, 1.0]])
>>> choose(logits, 0.0, np.array([0.5]))
array([1], dtype=int32)
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from rngru.errors import InputError


@dataclass(frozen=True, repr=False, eq=False)
class Sample:
    """Generated text; at the prompt it shows the text itself, and ``str()`` is the text.

    Attributes
    ----------
    text : str
        What was generated, without the seed it was generated from.
    state : float32 array, (L, 1, H)
        The state that continues it: ``generatestring(seed=sample.text[-1], init_state=sample.state)``
        goes on as if it had not stopped.
    seed : str
        What it was generated from.
    interrupted : bool
        Whether Ctrl-C cut it short.

    Example
    -------
    >>> Sample("to be", state=np.zeros((1, 1, 4), np.float32))
    to be
    """

    text: str
    state: np.ndarray = field(compare=False)
    seed: str = ""
    interrupted: bool = False

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text

    def __len__(self) -> int:
        return len(self.text)


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
        return self.text


def fill(
    ids: np.ndarray,
    gaps: np.ndarray,
    logits: Callable[[np.ndarray], np.ndarray],
    forbidden: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Fill gaps together: the surest first, then each again, given all the others, until none changes.

    This climbs to a maximum of the product of the conditional probabilities (iterated conditional
    modes: Besag, J. R. Statist. Soc. B 48, 1986).

    Parameters
    ----------
    ids: (n,), int32, anything at the gaps.
    gaps: (m,), where they are.
    logits: gives the logits (n, V) of each symbol, from all the others.
    forbidden: the id that nothing is filled with.

    Returns
    -------
    (ids (n,) filled, probabilities (m, V) of each gap given the others).
    """

    def distribution(ids: np.ndarray) -> np.ndarray:
        scores = np.array(logits(ids)[gaps], np.float64)
        if forbidden is not None:
            scores[:, forbidden] = -np.inf
        return probabilities(scores, 1.0)

    ids, empty = ids.copy(), np.ones(len(gaps), bool)
    while empty.any():
        found = distribution(ids)
        surest = int(np.argmax(np.where(empty, found.max(-1), -1.0)))
        ids[gaps[surest]], empty[surest] = found[surest].argmax(), False
    for _ in range(10):
        before = ids.copy()
        for i in range(len(gaps)):
            ids[gaps[i]] = distribution(ids)[i].argmax()
        if np.array_equal(ids, before):
            break
    return ids, distribution(ids)


def checkedtemperature(temp: float) -> float:
    """Return a temperature that makes sense as a float.

    Raises
    ------
    InputError
        If it is not a finite number of at least 0.
    """
    try:
        value = float(temp)
    except (TypeError, ValueError):
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise InputError(f"temp={temp!r}: expected a finite number of at least 0 (0: greedy).")
    return value


def probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return the distribution over the last axis of ``logits`` (…, V), float64."""
    logits = np.asarray(logits, np.float64)
    if temperature == 0:
        return np.eye(logits.shape[-1])[logits.argmax(-1)]
    scaled = (logits - logits.max(-1, keepdims=True)) / temperature
    weights = np.exp(scaled)
    return weights / weights.sum(-1, keepdims=True)


def choose(logits: np.ndarray, temperature: float, uniforms: np.ndarray) -> np.ndarray:
    """Draw one character for each row of ``logits`` (B, V), with ``uniforms`` (B,) in [0, 1).

    Returns
    -------
    ids (B,), int32.
    """
    if temperature == 0:
        return np.asarray(logits).argmax(-1).astype(np.int32)
    reached = probabilities(logits, temperature).cumsum(-1)
    above = reached > np.asarray(uniforms)[:, np.newaxis] * reached[:, -1:]
    return above.argmax(-1).astype(np.int32)
