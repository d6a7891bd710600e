"""Which neurons follow a property of a text.

The neurons are put in order on the first half of a text, and the figures are those of the second: among
hundreds of neurons some follow any property by chance, and then only in the half they were chosen on.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from rngru.errors import InputError
from rngru.interrupts import never
from rngru.reader.inspecting import existing, tracked
from rngru.reader.properties import Wanted, measured
from rngru.reader.reader import Reader, Text
from rngru.tables import Table

MOST = 10
"""Rows that are shown."""

SHIFTS = 19
"""How often chance is tried: what none of 19 reaches, chance reaches once in 20 times."""

LEAST = 40
"""Symbols of the shortest text."""


@final
@dataclass(frozen=True, repr=False, eq=False)
class Neurons(Sequence):
    """Neurons in the order in which they follow a property of a text, the best first.

    A sequence of (layer, neuron). They are put in order on the first half of
    the text; all figures but ``first`` are of the second half, which had no say
    in the order.

    Attributes
    ----------
    layer, neuron : int arrays, (n,)
        Which neurons; the layers of a second stack follow those of the first.
    correlation : float64 array, (n,)
        Pearson's correlation of the state of each with the property; 0 where a
        neuron never changes.
    auc : float64 array, (n,)
        For a property that is 0 or 1: how often the neuron tells a symbol that
        has it from one that has not (the area under the ROC curve; 0.5 is
        chance), higher states meaning 1 where ``sign`` is 1, lower ones where
        it is -1. Else NaN. States are counted in 256 bins from -1 to 1, those
        in one bin as equal: it is off by no more than half the share of such
        pairs.
    sign : int array, (n,)
        1 where the state rises with the property on the first half, -1 where it
        falls.
    first : float64 array, (n,)
        The correlation on the first half.
    chance : float
        The largest correlation of any neuron, up or down, with the same
        property moved along the text, over 19 distances: by chance, the best of
        all neurons exceeds it once in 20 texts.
    what : str
        The property.
    symbols : int
        Symbols of the second half.
    units : str
        What they are.
    interrupted : bool
        Whether Ctrl-C cut it short; then the figures are of what was read of
        both halves.

    Example
    -------
    >>> one = np.array([1])
    >>> found = Neurons(one, one * 37, one * 0.9, one * 0.98, one, one * 0.91, 0.1, "quoted", 500)
    >>> found
    layer  neuron  correlation   AUC
        1      37       +0.900  0.98
    Property quoted: in the order of the first half of the text, measured on the
    second (500 characters). By chance the best of 1 would reach 0.100.
    >>> found[0]
    (1, 37)
    """

    layer: np.ndarray
    neuron: np.ndarray
    correlation: np.ndarray
    auc: np.ndarray
    sign: np.ndarray
    first: np.ndarray
    chance: float
    what: str
    symbols: int
    units: str = "characters"
    interrupted: bool = False

    def __len__(self) -> int:
        return len(self.neuron)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return int(self.layer[index]), int(self.neuron[index])

    def columns(self) -> dict[str, np.ndarray]:
        """Return everything by column, (n,) each, as ``pandas.DataFrame`` takes it."""
        return {
            "layer": self.layer,
            "neuron": self.neuron,
            "correlation": self.correlation,
            "auc": self.auc,
            "sign": self.sign,
            "first": self.first,
        }

    def _table(self) -> Table:
        told = bool(np.isfinite(self.auc).any())
        rows = [
            [str(layer), str(neuron), f"{r:+.3f}", *([f"{auc:.2f}"] if told else [])]
            for layer, neuron, r, auc in zip(
                self.layer[:MOST], self.neuron[:MOST], self.correlation, self.auc, strict=False
            )
        ]
        more = f"and {len(self) - MOST:,} more.\n" if len(self) > MOST else ""
        cut = ", interrupted" if self.interrupted else ""
        note = (
            f"{more}Property {self.what}: in the order of the first half of the text, measured on the "
            f"second ({self.symbols:,} {self.units}{cut}). By chance the best of {len(self):,} would "
            f"reach {self.chance:.3f}."
        )
        names = ["layer", "neuron", "correlation", *(["AUC"] if told else [])]
        return Table(names, rows, note=note)

    def __repr__(self) -> str:
        return repr(self._table())

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()


def propertyof(reader: Reader, text: Text, wanted: Wanted) -> tuple[str, np.ndarray]:
    """Return the name of a property of a text, and its value at each symbol, float64 (n,).

    ``wanted`` is as in :func:`rngru.reader.properties.measured`, which may call
    what a user wrote.

    Raises
    ------
    InputError
        If there is no such property, it never changes, or the text is short.
    """
    level, symbols = reader.vocab.level, reader.symbols(text)
    if level == "byte":
        symbols = tuple(reader.encode(text).astype(np.uint8).tobytes().decode("latin-1"))
    if len(symbols) < LEAST:
        raise InputError(
            f"Give a text of at least {LEAST} {reader.vocab.units}, got {len(symbols)}: one half says "
            "which neurons follow the property, the other how well. Thousands say more."
        )
    return measured(symbols, wanted, level)


def chosen(reader: Reader, which: object) -> list[tuple[int, int]]:
    """Return the neurons that a user gave: one, several, or a record of which the best is meant.

    Raises
    ------
    InputError
        If that is none, or one does not exist.
    """
    if isinstance(which, Neurons):
        return [existing(reader, which[0])]
    if not isinstance(which, Iterable) or isinstance(which, str):
        return [existing(reader, which)]
    several = list(which)
    if len(several) == 2 and not any(isinstance(each, Iterable) for each in several):
        return [existing(reader, several)]
    if not several:
        raise InputError("Expected (layer, neuron), or several of them, got none.")
    return [existing(reader, each) for each in several]


def follow(
    reader: Reader,
    text: Text,
    what: str,
    values: np.ndarray,
    *,
    asked: Callable[[], bool] = never,
) -> Neurons:
    """Find the neurons that follow a property of a text.

    Parameters
    ----------
    what, values: the property, as :func:`propertyof` gives it.
    asked: whether to stop with what was read, asked between pieces.

    Raises
    ------
    InputError
        If the property is the same throughout one half of the text, or the text
        is short.
    KeyboardInterrupt
        If it was stopped before there was anything to tell.
    """
    ids = reader.encode(text)
    half = len(ids) // 2
    for name, part in (("first", values[:half]), ("second", values[half:])):
        if part.min() == part.max():
            raise InputError(
                f"The property {what} is {part[0]:g} throughout the {name} half of the text. Give a text "
                "in which it changes in both."
            )
    sums = _Sums(values, half)
    for where, states in tracked(reader, ids):
        sums.add(where, states)
        if asked():
            break
    if not sums.enough:
        raise KeyboardInterrupt
    return sums.found(what, reader.vocab.units, sums.read < len(ids))


class _Sums:
    """Sums over a text from which correlations follow, of all neurons at once.

    The columns of its weights: one for each half, the property on each, and the
    property moved along the text on the second half.
    """

    def __init__(self, values: np.ndarray, half: int) -> None:
        from rngru.kernels import moments
        from rngru.kernels.tiles import padded

        self._kernels = moments
        self._property = ((values - values.mean()) / values.std()).astype(np.float32)
        self._ones = values.astype(np.uint8) if np.isin(values, (0, 1)).all() else None
        self._half = half
        self._shifts = [len(values) * k // (SHIFTS + 1) for k in range(1, SHIFTS + 1)]
        self._columns = padded(4 + SHIFTS)
        self._weights = np.zeros((2, self._columns))  # the sums of the columns and of their squares
        self._states: Any = None  # the sums of the states, (layer, neuron, column)
        self.read = 0

    def add(self, where: np.ndarray, states: np.ndarray) -> None:
        """Add the ``states`` (layer, m, neuron) at positions ``where`` (m,); they are overwritten."""
        weights = np.zeros((len(where), self._columns), np.float32)
        second = where >= self._half
        weights[:, 0], weights[:, 1] = ~second, second
        weights[:, 2:4] = weights[:, :2] * self._property[where, np.newaxis]
        for column, shift in enumerate(self._shifts, 4):
            weights[:, column] = second * self._property[where - shift]
        if self._states is None:
            depth, _, size = states.shape
            self._states = np.zeros((2, depth, size, self._columns))
            self._counts = np.zeros((depth, size, 3, self._kernels.BINS), np.int64)
        total = weights.sum(0, dtype=np.float64)
        groups = second.astype(np.uint8)
        if self._ones is not None:
            groups += groups * self._ones[where]
        for layer, each in enumerate(states):
            if self._ones is not None:
                self._kernels.count(each, groups, self._counts[layer])
            # float32 holds sums of what is near 0; the rest is added in float64.
            mean = each.mean(0)
            each -= mean
            moved = mean.astype(np.float64)[:, np.newaxis]
            sums = self._kernels.products(each, weights).astype(np.float64)
            squares = self._kernels.products(np.square(each, out=each), weights)
            self._states[0, layer] += sums + moved * total
            self._states[1, layer] += squares + 2 * moved * sums + moved**2 * total
        self._weights += total, (weights**2).sum(0, dtype=np.float64)
        self.read += len(where)

    @property
    def enough(self) -> bool:
        """Whether the property has changed in what was read of both halves."""
        return all(self._spread(2 + half, half) > 0 for half in (0, 1))

    def _spread(self, column: int, half: int) -> float:
        count = self._weights[0, half]
        return float(count * self._weights[1, column] - self._weights[0, column] ** 2)

    def _correlation(self, column: int, half: int) -> np.ndarray:
        """Return that of each neuron with a column on one half, (layer, neuron)."""
        count, (sums, squares) = self._weights[0, half], self._states
        spread = count * squares[..., half] - sums[..., half] ** 2
        product = count * sums[..., column] - sums[..., half] * self._weights[0, column]
        below = np.sqrt(np.maximum(spread, 0) * max(self._spread(column, half), 0))
        # What is left of a neuron that never changes is rounding.
        steady = spread <= 1e-10 * count**2
        return np.where(steady, 0.0, product / np.where(steady | (below == 0), np.inf, below))

    def found(self, what: str, units: str, interrupted: bool) -> Neurons:
        """Return the neurons in order."""
        first, second = self._correlation(2, 0).ravel(), self._correlation(3, 1).ravel()
        order = np.argsort(-np.abs(first), kind="stable")
        sign = np.where(first < 0, -1, 1)
        auc = np.full(first.shape, np.nan)
        if self._ones is not None:
            without, having = np.moveaxis(self._counts[:, :, 1:], 2, 0).astype(np.float64)
            below = without.cumsum(-1) - without / 2
            pairs = without.sum(-1) * having.sum(-1)
            auc = ((having * below).sum(-1) / pairs).ravel()
            auc = np.where(sign > 0, auc, 1 - auc)
        chance = max(np.abs(self._correlation(4 + k, 1)).max() for k in range(SHIFTS))
        layer, neuron = np.divmod(order, self._states.shape[2])
        return Neurons(
            layer, neuron, second[order], auc[order], sign[order], first[order], float(chance),
            what, int(self._weights[0, 1]), units, interrupted,
        )  # fmt: skip
