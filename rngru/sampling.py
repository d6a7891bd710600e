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
