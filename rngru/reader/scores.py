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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from rngru.dataset import ONE_LANE_BELOW, evallanes
from rngru.errors import InputError
from rngru.interrupts import never
from rngru.reader.generating import startstate
from rngru.reader.reader import Reader, Text
from rngru.reader.scoring import Evaluation
from rngru.sampling import Sample, probabilities
from rngru.tables import Table, oneline, printable

MOST = 10
"""Rows of a table that shows the most surprising places."""

SHADED = 5000
"""Symbols that a notebook shows."""


@final
@dataclass(frozen=True, repr=False, eq=False)
class Scores:
    """How well each symbol of a text was predicted from those before it.

    At the prompt it shows the mean and the most surprising places; in a notebook the text itself,
    the darker the more surprising. ``a - b`` compares what two models say of the same text.

    Attributes
    ----------
    before : str
        What was read first and not predicted: the first symbol of a text has nothing before it.
    symbols : tuple of str, (n,)
        What was predicted.
    ids : int array, (n,)
        Their numbers.
    nats : float64 array, (n,)
        How surprising each was: minus the logarithm of its probability. ``bits`` is the same in bits.
    ranks : int array, (n,)
        1 if it was the likeliest symbol, 2 if one was likelier, …
    entropy : float64 array, (n,)
        Nats that the model expected to be surprised by, before it saw the symbol.
    units : str
        What a symbol is: ``'characters'``, ``'words'`` or ``'bytes'``.
    interrupted : bool
        Whether Ctrl-C cut it short.
    cloze : bool
        Whether symbols were predicted from the text after them, too.
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
        return Evaluation(nats, len(self), 0.0, *kind)

    @property
    def bitspercharacter(self) -> float:
        """Bits per character of what was predicted, whatever a symbol is: what levels are compared by."""
        return float(self.bits.sum()) / max(len("".join(self.symbols)), 1)

    def columns(self) -> dict[str, np.ndarray]:
        """Return everything by column, (n,) each, as ``pandas.DataFrame`` takes it."""
        return {
            "position": self._first + np.arange(len(self)),
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

    def __sub__(self, other: "Scores") -> "Comparison":
        if not isinstance(other, Scores):
            return NotImplemented
        if not np.array_equal(self.ids, other.ids) or self.symbols != other.symbols:
            raise InputError(
                "These scores are of different texts, or of models whose symbols are others. Score the "
                "same text with both; models of two levels are compared by bitspercharacter."
            )
        return Comparison(self.nats - other.nats)

    def __repr__(self) -> str:
        order = np.argsort(-self.nats, kind="stable")[:MOST]
        rows = [
            [
                f"{self._first + i:,}", f"{self.nats[i]:.2f}", str(self.ranks[i]),
                f"{self.entropy[i]:.2f}", oneline(self._place(i)),
            ]
            for i in order
        ]  # fmt: skip
        table = Table(["position", "nats", "rank", "entropy", ""], rows)
        return f"{self.evaluation!r}\n{table!r}"

    def _repr_html_(self) -> str:
        shades, rest = np.clip(self.nats / 6, 0, 1), max(len(self) - SHADED, 0)
        spans = (
            f'<span title="{nats:.2f} nats, rank {rank}" '
            f'style="background:rgba(220,60,20,{shade:.2f})">{html.escape(printable(symbol))}</span>'
            for symbol, nats, rank, shade in zip(
                self.symbols[:SHADED], self.nats, self.ranks, shades, strict=False
            )
        )
        text = html.escape(printable(self.before)) + "".join(spans)
        more = f"<p>and {rest:,} more {self.units}</p>" if rest else ""
        head = html.escape(repr(self.evaluation))
        return f'<p>{head}</p><pre style="white-space:pre-wrap">{text}</pre>{more}'

    @property
    def _first(self) -> int:
        """Where in the text the first symbol is that was predicted, counted in symbols from 0."""
        return 1 if self.before else 0

    def _place(self, i: int) -> str:
        """Symbol ``i`` with what stands around it."""
        before = "".join([self.before, *self.symbols[max(i - 16, 0) : i]])[-16:]
        after = "".join(self.symbols[i + 1 : i + 13])[:12]
        return f"{before}[{self.symbols[i]}]{after}"

    def _sums(self, apart: Callable[[str, str], bool]) -> "Sums":
        written, nats = self.symbols, self.nats
        cuts = [0] + [i for i in range(1, len(written)) if apart(written[i - 1], written[i])]
        texts = [
            "".join(written[a:b]) for a, b in zip(cuts, [*cuts[1:], len(written)], strict=True)
        ]
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

    def __repr__(self) -> str:
        order = np.argsort(-self.nats, kind="stable")[:MOST]
        rows = [[f"{self.nats[i]:.2f}", oneline(self.texts[i].strip())[:60]] for i in order]
        return repr(Table(["nats", ""], rows, note=f"The most surprising of {len(self):,}."))


@final
@dataclass(frozen=True, repr=False, eq=False)
class Comparison:
    """How much more surprising a text was to one model than to another.

    Attributes
    ----------
    nats : float64 array, (n,)
        The difference at each symbol; below 0 where the first model predicted better.
    """

    nats: np.ndarray

    @property
    def mean(self) -> float:
        """The mean difference, nats per symbol."""
        return float(self.nats.mean())

    def interval(self, level: float = 0.95, draws: int = 2000) -> tuple[float, float]:
        """Return where the mean lies with a probability of ``level``, by a paired bootstrap.

        The text is cut into at most 1,000 pieces of equal length, for neighbours are not independent,
        and the pieces are drawn anew ``draws`` times (Efron and Tibshirani, An Introduction to the
        Bootstrap, 1993). The same call gives the same interval.
        """
        pieces = np.array_split(self.nats, min(len(self.nats), 1000))
        sums, counts = np.array([each.sum() for each in pieces]), np.array([*map(len, pieces)])
        chosen = np.random.default_rng(0).integers(0, len(pieces), (draws, len(pieces)))
        means = sums[chosen].sum(1) / counts[chosen].sum(1)
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def __repr__(self) -> str:
        low, high = self.interval()
        better = "the first" if self.mean < 0 else "the second"
        told = f"{better} predicts better" if low > 0 or high < 0 else "no difference can be told"
        return (
            f"{self.mean:+.4f} nats per symbol, 95 % within {low:+.4f} to {high:+.4f}, over "
            f"{len(self.nats):,}: {told}"
        )


@final
@dataclass(frozen=True, repr=False, eq=False)
class Prediction(Sequence):
    """What comes next: symbols and their probabilities, the likeliest first.

    Example
    -------
    >>> Prediction((("e", 0.75), (" ", 0.25)))
    probability  symbol
          0.750     'e'
          0.250     ' '
    """

    choices: tuple[tuple[str, float], ...]

    def __getitem__(self, index: Any) -> Any:
        return self.choices[index]

    def __len__(self) -> int:
        return len(self.choices)

    def __repr__(self) -> str:
        rows = [[f"{chance:.3f}", repr(symbol)] for symbol, chance in self.choices[:MOST]]
        more = len(self) - MOST
        note = f"and {more:,} more" if more > 0 else ""
        return repr(Table(["probability", "symbol"], rows, note=note))


def score(
    reader: Reader,
    text: Text,
    start: "np.ndarray | Sample | None" = None,
    *,
    asked: Callable[[], bool] = never,
) -> Scores:
    """Read a text and say how well each symbol was predicted.

    A text of 10,000 symbols or more is read in lanes, as :func:`~rngru.reader.scoring.evaluate` does;
    with a ``start`` in one. ``asked`` says, between pieces, whether to stop early.
    """
    ids, symbols = reader.encode(text), reader.symbols(text)
    if isinstance(start, Sample) and start.last is not None:
        ids = np.concatenate([np.array([start.last], np.int32), ids])
        symbols = ("", *symbols)
    first, units = (0 if reader.model.both else 1), reader.vocab.units
    if len(ids) <= first:
        raise InputError(
            f"Give at least 2 {units}: the first has nothing before it and is not scored."
        )
    nats, ranks = np.full(len(ids), np.nan), np.zeros(len(ids), np.int64)
    entropy = np.full(len(ids), np.nan)
    for where, targets, logits in _predicted(
        reader, ids, startstate(reader, start), start is not None
    ):
        nats[where], ranks[where], entropy[where] = _judged(logits, targets)
        if asked():
            break
    done = np.flatnonzero(np.isfinite(nats[first:]))
    if not len(done):
        raise KeyboardInterrupt
    kept = slice(first, None) if len(done) == len(ids) - first else first + done
    return Scores(
        "".join(symbols[:first]),
        tuple(np.array(symbols, object)[kept]),
        ids[kept],
        nats[kept],
        ranks[kept],
        entropy[kept],
        units,
        len(done) < len(ids) - first,
        reader.model.both,
    )


def _predicted(
    reader: Reader, ids: np.ndarray, state: np.ndarray, given: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (positions (n,), symbols (n,), the logits (n, V) that they were predicted from)."""
    if reader.model.both:
        (trace,) = reader.read(ids)
        yield np.arange(len(ids)), ids, trace.logits[:, 0]
        return
    if given or len(ids) < ONE_LANE_BELOW:
        at = 1
        for trace in reader.read(ids[:-1], state):
            where = np.arange(at, at + len(trace.logits))
            yield where, ids[where], trace.logits[:, 0]
            at += len(trace.logits)
        return
    chunks = evallanes(ids, seq_len=200, symbols=reader.hyper.vocab_size)
    numbers, lanes = evallanes(np.arange(len(ids)), seq_len=200), None
    for (x, y, counted), (_, where, _) in zip(chunks, numbers, strict=True):
        lanes = reader.freshstate(x.shape[1]) if lanes is None else lanes
        trace = reader.backend.trace(reader.weights, x, lanes)
        lanes = trace.ending
        if counted.any():
            yield where[counted], y[counted], trace.logits[counted]


def _judged(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (nats, ranks, entropy), (n,) each, of ``targets`` (n,) predicted from ``logits`` (n, V)."""
    rows = np.arange(len(targets))
    shifted = logits - logits.max(-1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(-1, dtype=np.float64)
    chosen = shifted[rows, targets]
    nats = np.log(total) - chosen
    entropy = np.log(total) - np.einsum("ij,ij->i", weights, shifted, dtype=np.float64) / total
    likelier = (shifted > chosen[:, np.newaxis]).sum(-1)
    return nats, 1 + likelier, entropy


def predict(reader: Reader, text: Text, start: "np.ndarray | Sample | None" = None) -> Prediction:
    """Return what comes after a text: every symbol with its probability."""
    if reader.model.both:
        raise InputError(
            f"{reader.model.name} predicts each symbol from the text on both sides of it. "
            "ms.fillin('the qu_ck') says what is likely in a gap."
        )
    *_, last = reader.read(reader.encode(text), startstate(reader, start))
    chances = probabilities(last.logits[-1, 0], 1.0)
    order = np.argsort(-chances, kind="stable")
    return Prediction(tuple((reader.vocab.charatidx(int(i)), float(chances[i])) for i in order))
