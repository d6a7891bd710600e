r"""What followed the same symbols earlier in a text is likely to follow them again.

A cache model (Kuhn and De Mori, A Cache-Based Natural Language Model for Speech Recognition, 1990) of the
last 1 to 12 symbols of a text, mixed with a language model. Let :math:`p(v)` be what the model says of a
symbol, and :math:`c_k(v)` how often that symbol followed when the last k symbols stood in the text before:
of the last four times only, the latest of which counts 1, the one before it 1/2, and so on. Then

.. math:: q(v) \propto p(v) \, \exp \sum_k w_k \ln \left( 1 + \frac{c_k(v)}{2\,p(v)} \right)

is what is predicted. When the symbol is known, each weight takes a step up the gradient of the logarithm of
its :math:`q` (as in Mahoney, Adaptive Weighing of Context Models for Lossless Data Compression, 2005). Of
each :math:`w_k` there are several: for how many of the four were the same as the latest, and for whether
there were others.

All constants were chosen on the last tenth of the training text of Tiny Shakespeare, with a GRU of 2 layers
of 256 that learns while it reads: in some 60 runs, which differed by less than 0.002 nats per symbol around
these values.

>>> recall, text = Recall(), np.array([1, 2, 3] * 40)
>>> chances = np.full((len(text), 4), 0.25)
>>> recall.read(chances, text)
>>> chances[0, 1], chances[-1, 3] > 0.5
(np.float64(0.25), np.True_)
"""

import math
from typing import Final, final

import numpy as np

from rngru.kernels.compiling import kernel

LENGTHS: Final = (1, 2, 3, 4, 5, 6, 8, 12)
"""How many of the last symbols are looked up."""

KEPT: Final = 4
"""How many of those that followed are known, the latest first."""

RATE: Final = 0.004
"""How far one symbol moves a weight."""

FIRST: Final = 0.1
"""What each weight is at first."""

LEAST: Final = 1e-12
"""A model is never surer than this that a symbol does not come."""

MOST: Final = 600.0
"""The exponent of the equation above is cut off here, so that no number overflows."""

PLACES: Final = 1 << 20
"""Runs of symbols that are kept, of all lengths; then a new one takes the place of an older one."""

NEAR: Final = 4
"""Neighbouring places of which a run may have any."""

_MIX = np.uint64(0x9E3779B97F4A7C15)

PLACE, MARK, KIND = range(3)
"""What is known of each run of the last symbols: its row of the table, what tells it from others that fall
there, and which of its weights counts; -1 where there is none."""


@kernel()
def foresee(chances, runs, table, weights, seen, gains):
    """Change the probabilities ``chances`` (V,), float64, of what comes next. There are K lengths of runs.

    Parameters
    ----------
    runs: the columns above, (K, 3), int64.
    table: for each place a mark, and then 1 + what followed, the latest first, or 0; (places, 5), int32.
    weights: those of each length, (K, 8), float64.
    seen: filled with the number of symbols that followed, and these, (1 + 4 K,), int64.
    gains: filled with the logarithm of the equation above for each of them, (4 K, K), float64.
    """
    count = 0
    for k in range(len(runs)):
        place, runs[k, KIND] = runs[k, PLACE], -1
        if place < 0 or table[place, 0] != runs[k, MARK]:
            continue
        same = 1
        while same < KEPT and table[place, 1 + same] == table[place, 1]:
            same += 1
        others = same < KEPT and table[place, 1 + same] > 0
        runs[k, KIND] = same - 1 + (KEPT if others else 0)
        for i in range(KEPT):
            symbol = table[place, 1 + i] - 1
            if symbol < 0:
                break
            j = 0
            while j < count and seen[1 + j] != symbol:
                j += 1
            if j == count:
                seen[1 + j] = symbol
                gains[j] = 0
                count += 1
            gains[j, k] += 0.5**i
    seen[0], total = count, 1.0
    for j in range(count):
        symbol, exponent = seen[1 + j], 0.0
        p = max(chances[symbol], LEAST)
        for k in range(len(runs)):
            if gains[j, k] > 0:
                gains[j, k] = math.log1p(gains[j, k] / (2 * p))
                exponent += weights[k, runs[k, KIND]] * gains[j, k]
        p *= math.exp(min(exponent, MOST))
        total += p - chances[symbol]
        chances[symbol] = p
    if not math.isfinite(total):  # nor is what the model says: there is nothing to learn from it
        runs[:, KIND] = -1
        return
    for v in range(chances.size):
        chances[v] /= total


@kernel(keep=False)
def _place(value, mark, table):
    """Return the row of ``table`` for a run with this hash and mark: its own, or one to be its own."""
    first = np.int64(value & np.uint64(len(table) - 1)) // NEAR * NEAR
    for i in range(first, first + NEAR):
        if table[i, 0] == mark or table[i, 0] == 0:
            return i
    return first + mark % NEAR


@kernel()
def learn(symbol, chances, recent, runs, table, weights, seen, gains):
    """Take note of the ``symbol`` that came where :func:`foresee` gave ``chances``.

    ``recent`` holds the last symbols, the latest first, -1 before the text, (12,), int64.
    """
    for k in range(len(runs)):
        place = runs[k, PLACE]
        if place < 0:
            continue
        if runs[k, KIND] >= 0:
            slope = 0.0
            for j in range(seen[0]):
                slope += ((seen[1 + j] == symbol) - chances[seen[1 + j]]) * gains[j, k]
            weights[k, runs[k, KIND]] += RATE * slope
            runs[k, KIND] = -1
        if table[place, 0] != runs[k, MARK]:
            table[place] = 0
            table[place, 0] = runs[k, MARK]
        for i in range(KEPT, 1, -1):
            table[place, i] = table[place, i - 1]
        table[place, 1] = symbol + 1
    for i in range(recent.size - 1, 0, -1):
        recent[i] = recent[i - 1]
    recent[0] = symbol
    value, k = np.uint64(0), 0
    for i in range(recent.size):
        value = (value ^ np.uint64(recent[i] + 1)) * _MIX
        value ^= value >> np.uint64(29)
        if i + 1 == LENGTHS[k]:
            mark = np.int64(value >> np.uint64(34)) + 1
            runs[k, MARK] = mark
            runs[k, PLACE] = _place(value, mark, table) if recent[i] >= 0 else -1
            k += 1


@kernel()
def read(symbols, chances, recent, runs, table, weights, seen, gains):
    """Do both for each of the ``symbols`` (n,), of which ``chances`` (n, V) are given."""
    for i in range(symbols.size):
        foresee(chances[i], runs, table, weights, seen, gains)
        learn(symbols[i], chances[i], recent, runs, table, weights, seen, gains)


@final
class Recall:
    """Remembers a text, or several read one after the other, and says what is likely to come again.

    See the module. ``places`` is how many runs of symbols it keeps, a power of two.
    """

    def __init__(self, places: int = PLACES) -> None:
        lengths, most = len(LENGTHS), len(LENGTHS) * KEPT
        self._recent = np.full(max(LENGTHS), -1, np.int64)
        self._chances = np.empty(0)
        self._state = (
            np.full((lengths, 3), -1, np.int64), np.zeros((places, 1 + KEPT), np.int32),
            np.full((lengths, 2 * KEPT), FIRST), np.zeros(1 + most, np.int64), np.empty((most, lengths)),
        )  # fmt: skip

    def foresee(self, chances: np.ndarray) -> None:
        """Change the probabilities ``chances`` (V,), float64, that a model gives of the next symbol.

        :meth:`learn` reads this array again: until then it must not be changed.
        """
        foresee(chances, *self._state)
        self._chances = chances

    def learn(self, symbol: int) -> None:
        """Take note of the symbol that came, whether it was foreseen or not."""
        learn(symbol, self._chances, self._recent, *self._state)

    def read(self, chances: np.ndarray, symbols: np.ndarray) -> None:
        """Foresee and learn each of ``symbols`` (n,), integers; ``chances`` (n, V), float64, is changed."""
        read(symbols.astype(np.int64), chances, self._recent, *self._state)
