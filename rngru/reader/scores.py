"""How well each symbol of a text was predicted: the records that scoring gives.

>>> scores = Scores("a", ("b", "c", "a"), np.array([1, 2, 0]), np.array([0.1, 2.5, 0.4]),
...                 np.array([1, 3, 1]), np.array([0.3, 1.0, 0.9]))
>>> scores.evaluation
1.0000 nats per character, 1.443 bits, perplexity 2.72, over 3 characters
>>> scores
1.0000 nats per character, 1.443 bits, perplexity 2.72, over 3 characters
position  nats  rank  entropy
       2  2.50     3     1.00  ab[c]a
       3  0.40     1     0.90  abc[a]
       1  0.10     1     0.30  a[b]ca
"""

import html
import math
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from rngru.errors import InputError
from rngru.reader.scoring import Evaluation, decodedlength
from rngru.settings import checked, real, whole
from rngru.shading import Shaded
from rngru.tables import Table, oneline, printable

if TYPE_CHECKING:
    from rngru.plots import Figure

MOST = 10
"""Rows of a table that shows the most surprising places."""

SHADED = 5000
"""Symbols that a notebook shows."""

DARKEST = {"characters": 6.0, "words": 12.0, "bytes": 6.0}
"""Nats of a symbol on the darkest colour."""

DIFFERENT = 4.0
"""Nats by which two models differ at a symbol on the darkest colour."""


@final
@dataclass(frozen=True, repr=False, eq=False)
class Scores:
    """How well each symbol of a text was predicted from those before it.

    At the prompt it shows the mean and the most surprising places; a terminal
    with colours, and a notebook, show the text itself, too, the darker the more
    surprising. ``a - b`` compares what two models say of the same text.

    Attributes
    ----------
    before : str
        What was read first and not predicted: the first symbol of a text has
        nothing before it.
    symbols : tuple of str, (n,)
        What was predicted.
    ids : int array, (n,)
        Their numbers.
    nats : float64 array, (n,)
        How surprising each was: minus the logarithm of its probability.
        ``bits`` is the same in bits.
    ranks : int array, (n,)
        1 if it was the likeliest symbol, 2 if one was likelier, …
    entropy : float64 array, (n,)
        Nats that the model expected to be surprised by, before it saw the
        symbol.
    units : str
        What a symbol is: ``'characters'``, ``'words'`` or ``'bytes'``.
    interrupted : bool
        Whether Ctrl-C cut it short.
    cloze : bool
        Whether symbols were predicted from the text after them, too.
    positions : int array, (n,), or None
        Where in the text each symbol is, counted in symbols from 0. Of a long
        text that was cut short there are pieces from all over it. None: they
        follow one another.
    """

    before: str
    symbols: tuple[str, ...]
    ids: np.ndarray
    nats: np.ndarray
    ranks: np.ndarray
    entropy: np.ndarray
    units: str = "characters"
    interrupted: bool = False
    cloze: bool = False
    positions: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def text(self) -> str:
        """All that was read."""
        return self.before + "".join(self.symbols)

    @property
    def bits(self) -> np.ndarray:
        """How surprising each symbol was, in bits."""
        return self.nats / math.log(2)

    @property
    def cumulated(self) -> np.ndarray:
        """The nats of all symbols up to each one, itself included."""
        return self.nats.cumsum()

    @property
    def evaluation(self) -> Evaluation:
        """The mean over all symbols."""
        nats, kind = float(self.nats.mean()), (self.units, self.interrupted, self.cloze)
        return Evaluation(nats, len(self), 0.0, *kind, self._characters)

    @property
    def bitspercharacter(self) -> float | None:
        """Bits per character, whatever a symbol is: what levels are compared by.

        None for bytes that are no UTF-8.
        """
        return self.evaluation.bitspercharacter

    @property
    def _characters(self) -> int | None:
        if self.units == "bytes":
            return decodedlength([self.ids.astype(np.uint8).tobytes()])
        return len("".join(self.symbols))

    def columns(self) -> dict[str, np.ndarray]:
        """Return everything by column, (n,) each, as ``pandas.DataFrame`` takes it."""
        return {
            "position": self._where,
            "symbol": np.array(self.symbols, object),
            "nats": self.nats,
            "bits": self.bits,
            "rank": self.ranks,
            "entropy": self.entropy,
            "cumulated": self.cumulated,
        }

    def words(self) -> "Sums":
        """Add up what stands between spaces; the space after a word belongs to it."""
        return self._sums(lambda before, after: before[-1:].isspace() > after[:1].isspace())

    def lines(self) -> "Sums":
        """Add up each line, its newline included."""
        return self._sums(lambda before, after: "\n" in before)

    def plot(self) -> "Figure":
        """Draw bits per symbol along the text; a notebook shows the matplotlib figure.

        A text of at most 120 symbols is written below its bars. Of a longer one
        it is a smoothed curve, with the beginnings of some lines.

        Raises
        ------
        MissingExtra
            Without matplotlib: ``pip install 'rngru[plot]'``.
        """
        from rngru.plots import scoresfigure

        symbols = [self._written(i, i + 1) for i in range(len(self))]
        return scoresfigure(symbols, self.bits, first=int(self._where[0]), units=self.units)

    def __sub__(self, other: "Scores") -> "Comparison":
        if not isinstance(other, Scores):
            return NotImplemented
        same = self.units == other.units and self.symbols == other.symbols
        # Of bytes that are no character by themselves, the symbols are all alike.
        if not same or (self.units == "bytes" and not np.array_equal(self.ids, other.ids)):
            raise InputError(
                "These scores are of different texts, or of models whose symbols are others. Score the "
                "same text with both; models of two levels are compared by bitspercharacter."
            )
        return Comparison(self.nats - other.nats, self, other)

    def __repr__(self) -> str:
        order = np.argsort(-self.nats, kind="stable")[:MOST]
        rows = [
            [
                f"{self._where[i]:,}", f"{self.nats[i]:.2f}", str(self.ranks[i]),
                f"{self.entropy[i]:.2f}", oneline(self._place(i)),
            ]
            for i in order
        ]  # fmt: skip
        table = Table(["position", "nats", "rank", "entropy", ""], rows)
        text = _screenful(self, self.nats / DARKEST[self.units])
        return "\n".join(filter(None, [repr(self.evaluation), text, repr(table)]))

    def _repr_html_(self) -> str:
        told = [
            f"{nats:.2f} nats, rank {rank}"
            for nats, rank in zip(self.nats[:SHADED], self.ranks, strict=False)
        ]
        head, shades = html.escape(repr(self.evaluation)), self.nats / DARKEST[self.units]
        return f"<p>{head}</p>{_page(self, shades, told)}"

    def _shaded(self, values: np.ndarray, most: int, titles: Sequence[str] = ()) -> Shaded:
        """At most so many symbols on colours; bytes of one character share one, that of their sum."""
        count = min(most, len(self))
        starts = np.arange(count)
        if self.units == "bytes":
            starts = starts[(starts == 0) | (self.ids[:count] & 0xC0 != 0x80)]
        stops = [*starts[1:].tolist(), count]
        pieces = [self._written(a, b) for a, b in zip(starts.tolist(), stops, strict=True)]
        return Shaded(
            [self.before, *pieces],
            np.append(0.0, np.add.reduceat(values[:count], starts)),
            titles=["", *(titles[start] for start in starts.tolist())] if titles else (),
            signed=True,
        )

    @property
    def _where(self) -> np.ndarray:
        if self.positions is not None:
            return self.positions
        return np.arange(len(self)) + (1 if self.before else 0)

    def _written(self, start: int, stop: int) -> str:
        """The text of some symbols; a single byte that is no character as ``\\xff``."""
        if self.units == "bytes":
            data = self.ids[max(start, 0) : stop].astype(np.uint8).tobytes()
            return data.decode("utf-8", "backslashreplace" if len(data) == 1 else "replace")
        return "".join(self.symbols[max(start, 0) : stop])

    def _place(self, i: int) -> str:
        """Symbol ``i`` with what stands around it."""
        near = np.arange(max(i - 16, 0), min(i + 13, len(self)))
        near = near[self._where[near] - near == self._where[i] - i]  # pieces of a text have ends
        first, last = int(near[0]), int(near[-1]) + 1
        before = ((self.before if first == 0 else "") + self._written(first, i))[-16:]
        return f"{before}[{self._written(i, i + 1)}]{self._written(i + 1, last)[:12]}"

    def _sums(self, apart: Callable[[str, str], bool]) -> "Sums":
        written, nats = self.symbols, self.nats
        cuts = [0] + [i for i in range(1, len(written)) if apart(written[i - 1], written[i])]
        texts = [self._written(a, b) for a, b in zip(cuts, [*cuts[1:], len(written)], strict=True)]
        return Sums(tuple(texts), np.add.reduceat(nats, cuts) if len(nats) else nats)


@final
@dataclass(frozen=True, repr=False, eq=False)
class Sums:
    """What the words or lines of a text add up to, in their order; shows the most surprising.

    Attributes
    ----------
    texts : tuple of str
        The words, or lines.
    nats : float64 array
        The sum of each.
    """

    texts: tuple[str, ...]
    nats: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return iter(zip(self.texts, self.nats.tolist(), strict=True))

    def columns(self) -> dict[str, np.ndarray]:
        """Return everything by column, as ``pandas.DataFrame`` takes it."""
        return {"text": np.array(self.texts, object), "nats": self.nats}

    @property
    def _table(self) -> Table:
        order = np.argsort(-self.nats, kind="stable")[:MOST]
        rows = [
            [f"{self.nats[i]:.2f}", oneline(self.texts[i].strip() or repr(self.texts[i]))[:60]]
            for i in order
        ]
        return Table(["nats", ""], rows, note=f"The most surprising of {len(self):,}.")

    def __repr__(self) -> str:
        return repr(self._table)

    def _repr_html_(self) -> str:
        fits = int(np.searchsorted(np.cumsum([len(text) for text in self.texts]), SHADED, "right"))
        told = [f"{nats:.2f} nats" for nats in self.nats[:fits]]
        shades = self.nats[:fits] / max(float(self.nats.max(initial=0)), 1.0)
        text = Shaded(self.texts[:fits], shades, titles=told)
        return f"{text._repr_html_()}{_more(len(self) - fits, '')}{self._table._repr_html_()}"


@final
@dataclass(frozen=True, repr=False, eq=False)
class Comparison:
    """How much more surprising a text was to one model than to another.

    At the prompt it shows the mean difference and the places where the two
    models differ most; in a notebook the text: red where the first model was
    more surprised, blue where the second was.

    Attributes
    ----------
    nats : float64 array, (n,)
        The difference at each symbol; below 0 where the first model predicted
        better.
    one, other : Scores or None
        What was compared.

    Example
    -------
    >>> Comparison(np.array([-0.5, 0.25, -0.25, -0.5]))
    -0.2500 nats per symbol, over 4: no difference can be told
    95 % sure: from -0.5000 to +0.0625.
    """

    nats: np.ndarray
    one: Scores | None = None
    other: Scores | None = None

    def __len__(self) -> int:
        return len(self.nats)

    @property
    def mean(self) -> float:
        """The mean difference, nats per symbol."""
        return float(self.nats.mean())

    def interval(self, level: float = 0.95, draws: int = 2000) -> tuple[float, float]:
        """Return where the mean lies with a probability of ``level``, by a paired bootstrap.

        The text is cut into at most 1,000 pieces of equal length, for
        neighbours are not independent, and the pieces are drawn anew ``draws``
        times (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).
        The same call gives the same interval. A single symbol tells nothing: it
        could be anywhere, from minus to plus infinity.
        """
        level = checked("level", level, real(0, 1, above=True, below=True))
        draws = checked("draws", draws, whole(1))
        if len(self.nats) < 2:
            return -math.inf, math.inf
        pieces = np.array_split(self.nats, min(len(self.nats), 1000))
        sums, counts = np.array([each.sum() for each in pieces]), np.array([*map(len, pieces)])
        chosen = np.random.default_rng(0).integers(0, len(pieces), (draws, len(pieces)))
        means = sums[chosen].sum(1) / counts[chosen].sum(1)
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def columns(self) -> dict[str, np.ndarray]:
        """Return everything by column, (n,) each, as ``pandas.DataFrame`` takes it."""
        if self.one is None or self.other is None:
            return {"difference": self.nats}
        one = self.one.columns()
        return {
            "position": one["position"],
            "symbol": one["symbol"],
            "first": self.one.nats,
            "second": self.other.nats,
            "difference": self.nats,
        }

    @property
    def _told(self) -> str:
        low, high = self.interval()
        better = "the first" if self.mean < 0 else "the second"
        told = f"{better} predicts better" if low > 0 or high < 0 else "no difference can be told"
        unit, units = (self.one.units[:-1], f" {self.one.units}") if self.one else ("symbol", "")
        return (
            f"{self.mean:+.4f} nats per {unit}, over {len(self):,}{units}: {told}\n"
            f"95 % sure: from {low:+.4f} to {high:+.4f}."
        )

    def _places(self, one: Scores, other: Scores) -> Table:
        """Where they differ most."""
        order = np.argsort(-np.abs(self.nats), kind="stable")[:MOST]
        rows = [
            [
                f"{one._where[i]:,}", f"{self.nats[i]:+.2f}", f"{one.nats[i]:.2f}",
                f"{other.nats[i]:.2f}", oneline(one._place(i)),
            ]
            for i in order
        ]  # fmt: skip
        return Table(["position", "difference", "first", "second", ""], rows)

    def __repr__(self) -> str:
        if self.one is None or self.other is None:
            return self._told
        text = _screenful(self.one, self.nats / DIFFERENT)
        return "\n".join(filter(None, [self._told, text, repr(self._places(self.one, self.other))]))

    def _repr_html_(self) -> str:
        head = "<p>" + html.escape(self._told).replace("\n", "<br>") + "</p>"
        if self.one is None or self.other is None:
            return head
        told = [
            f"{nats:+.2f} nats: {one:.2f} and {other:.2f}"
            for nats, one, other in zip(
                self.nats[:SHADED], self.one.nats, self.other.nats, strict=False
            )
        ]
        page = _page(self.one, self.nats / DIFFERENT, told)
        return f"{head}{page}{self._places(self.one, self.other)._repr_html_()}"


def _page(scores: Scores, values: np.ndarray, titles: Sequence[str]) -> str:
    """Return the text of some scores on colours, as HTML."""
    text = scores._shaded(values, SHADED, titles)
    return text._repr_html_() + _more(len(scores) - SHADED, scores.units)


def _more(rest: int, units: str) -> str:
    return f"<p>and {rest:,} more {units}</p>" if rest > 0 else ""


def _screenful(scores: Scores, values: np.ndarray) -> str:
    """Return as much of a text on colours as fits above a table; '' where nothing shows colours."""
    width, height = shutil.get_terminal_size()
    lines = max(height - MOST - 6, 3)
    most = 2 * width * lines
    text = scores._shaded(values, most)
    count = _fitting(text.pieces, width, lines)
    shown = repr(Shaded(text.pieces[:count], text.values[:count], signed=True))
    if "\x1b" not in shown:
        return ""
    shown = re.sub(r"\n((\x1b\[[\d;]*m)*)$", r"\1", shown)  # the table begins on the next line
    return f"{shown}\n…" if count < len(text.pieces) or most < len(scores) else shown


def _fitting(pieces: Sequence[str], width: int, lines: int) -> int:
    """Return how many pieces of a text fit on so many lines of a terminal."""
    line, column = 1, 0
    for number, piece in enumerate(pieces):
        for char in printable(piece):
            wide = 2 if unicodedata.east_asian_width(char) in "FW" else 1
            column += 8 - column % 8 if char == "\t" else wide
            if char == "\n" or column > width:
                line, column = line + 1, 0 if char == "\n" else wide
            if line > lines:
                return number
    return len(pieces)
