"""Predicting each symbol of a text, and what comes after it.

>>> chances = Prediction((("e", 0.75), (" ", 0.25)))
>>> chances[0]
('e', 0.75)
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np

from rngru.dataset import ONE_LANE_BELOW, WARMUP
from rngru.errors import InputError
from rngru.interrupts import never
from rngru.reader.adapting import Learner
from rngru.reader.generating import behind
from rngru.reader.reader import Reader, Text
from rngru.reader.scores import MOST, Scores
from rngru.reader.scoring import Evaluation, after, averaging, beginning, finished, used
from rngru.sampling import Sample, probabilities
from rngru.tables import Table


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


def scoretexts(
    reader: Reader,
    texts: Iterable[Text],
    start: "np.ndarray | Sample | None" = None,
    *,
    learn: Callable[[], Learner] | None = None,
    asked: Callable[[], bool] = never,
) -> list[Scores]:
    """Score several texts, each read by itself; those that were done when ``asked`` said to stop.

    ``learn`` gives who reads each of them, where that learns while it reads.
    """

    def one(text: Text) -> Scores:
        return score(reader, text, start, learner=learn() if learn else None, asked=asked)

    found: list[Scores] = []
    for scores in used(texts, one):
        found.append(scores)
        if asked():
            break
    return found


def score(
    reader: Reader,
    text: Text,
    start: "np.ndarray | Sample | None" = None,
    *,
    learner: Learner | None = None,
    asked: Callable[[], bool] = never,
) -> Scores:
    """Read a text and say how well each symbol was predicted.

    A text of 10,000 symbols or more is read in lanes, as :func:`~rngru.reader.scoring.evaluate` does;
    with a ``start`` in one, and by a ``learner``, which learns each piece after it was predicted.
    ``asked`` says, between pieces, whether to stop early.
    """
    state = beginning(reader, start)
    ids, symbols = after(start, reader.encode(text)), reader.symbols(text)
    if len(ids) > len(symbols):
        symbols = ("", *symbols)
    first, units = (0 if reader.model.both else 1), reader.vocab.units
    if len(ids) <= first:
        raise InputError(
            f"Give at least 2 {units}: the first has nothing before it and is not scored."
        )
    nats, ranks = np.full(len(ids), np.nan), np.zeros(len(ids), np.int64)
    entropy = np.full(len(ids), np.nan)
    predicted = partial(_predicted, reader) if learner is None else learner.predicted
    for where, targets, logits in predicted(ids, state):
        nats[where], ranks[where], entropy[where] = _judged(logits, targets)
        if asked():
            break
    done = np.flatnonzero(np.isfinite(nats[first:]))
    if not len(done):
        raise KeyboardInterrupt
    kept, before = first + done, "".join(symbols[:first])
    return Scores(
        before,
        tuple(np.array(symbols, object)[kept]),
        ids[kept],
        nats[kept],
        ranks[kept],
        entropy[kept],
        units,
        len(done) < len(ids) - first,
        reader.model.both,
        done + (1 if before else 0),
    )


def _predicted(
    reader: Reader, ids: np.ndarray, state: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (positions (n,), symbols (n,), the logits (n, V) that they were predicted from)."""
    if reader.model.both:
        (trace,) = reader.read(ids)
        yield np.arange(len(ids)), ids, trace.logits[:, 0]
        return
    if state is not None or len(ids) < ONE_LANE_BELOW:
        at = 1
        for trace in reader.read(ids[:-1], state):
            where = np.arange(at, at + len(trace.logits))
            yield where, ids[where], trace.logits[:, 0]
            at += len(trace.logits)
        return
    for before, y, counted, trace in reader.lanes(ids):
        if counted.any():
            yield before[counted] + 1, y[counted], trace.logits[counted]


def together(found: Sequence[Scores]) -> Evaluation:
    """Return the mean over all symbols of several texts."""
    nats, first = np.concatenate([each.nats for each in found]), found[0]
    cut = any(each.interrupted for each in found)
    return Evaluation(float(nats.mean()), len(nats), 0.0, first.units, cut, first.cloze)


def learned(
    learner: Learner,
    ids: np.ndarray,
    start: int = 0,
    *,
    asked: Callable[[], bool] = never,
) -> Evaluation:
    """Predict each of the symbols ``ids[start:]`` once, and learn each piece after it was predicted.

    Before them the model reads, and does not learn, the 500 symbols before ``start``.
    """
    reader, state, first = learner.reader, None, max(start - 1, 0)
    for trace in reader.read(ids[max(first - WARMUP, 0) : first].astype(np.int32)):
        state = trace.ending
    text = ids[first:]
    if len(text) < 2:
        raise InputError(f"Give at least 2 {reader.vocab.units}: the first is not scored.")
    pieces = learner.losses(text, state)
    units = reader.vocab.units
    found = finished(averaging(pieces, len(text) - 1, units=units, cloze=False, asked=asked))
    assert found is not None, "there is at least one piece"
    return found


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
    *_, last = reader.read(reader.encode(text), behind(reader, start))
    chances = probabilities(last.logits[-1, 0], 1.0)
    order = np.argsort(-chances, kind="stable")
    return Prediction(tuple((reader.vocab.charatidx(int(i)), float(chances[i])) for i in order))
