"""How well a model predicts a text."""

import math
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from rngru.errors import InputError
from rngru.interrupts import never
from rngru.reader.reader import Reader

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well a model predicts a text.

    Attributes
    ----------
    nats : float
        Mean cross-entropy, nats per symbol.
    characters : int
        How many symbols were predicted.
    seconds : float
        How long that took.
    units : str
        What a symbol is: ``'characters'``, ``'words'`` or ``'bytes'``.
    interrupted : bool
        Whether Ctrl-C cut it short.
    cloze : bool
        Whether symbols were predicted from the text after them, too, and not only from that before.

    Example
    -------
    >>> Evaluation(nats=1.5, characters=1000, seconds=0.5)
    1.5000 nats per character, 2.164 bits, perplexity 4.48, over 1,000 characters
    """

    nats: float
    characters: int
    seconds: float
    units: str = "characters"
    interrupted: bool = False
    cloze: bool = False

    @property
    def bits(self) -> float:
        """Bits per symbol."""
        return self.nats / math.log(2)

    @property
    def perplexity(self) -> float:
        """How many equally likely symbols would be as hard to predict."""
        return math.exp(self.nats)

    def __repr__(self) -> str:
        kind = "cloze loss: " if self.cloze else ""
        return (
            f"{kind}{self.nats:.4f} nats per {self.units[:-1]}, {self.bits:.3f} bits, "
            f"perplexity {self.perplexity:.2f}, over {self.characters:,} {self.units}"
            + (" (interrupted)" if self.interrupted else "")
        )


def averaging(
    pieces: Iterable[np.ndarray],
    whole: int,
    *,
    units: str,
    cloze: bool,
    asked: Callable[[], bool] = never,
) -> Generator[int, None, Evaluation | None]:
    """Return the mean of losses that come in pieces; None if there are none.

    Yields how many symbols were predicted, after each piece.

    Parameters
    ----------
    pieces: nats of symbols, any shape.
    whole: how many symbols there are in all.
    units, cloze: as in :class:`Evaluation`.
    asked: whether to stop, asked after each piece that is not empty.

    Raises
    ------
    KeyboardInterrupt
        If it was stopped before anything was predicted.
    """
    began, total, count = time.monotonic(), 0.0, 0
    try:
        for nats in pieces:
            total += float(nats.sum(dtype=np.float64))
            count += nats.size
            yield count
            if count and asked():
                break
    except KeyboardInterrupt:
        if not count:
            raise
    if not count:
        return None
    seconds = time.monotonic() - began
    return Evaluation(total / count, count, seconds, units, count < whole, cloze)


def finished(work: Generator[int, None, T]) -> T:
    """Return what a generator returns at its end, whatever it yields before."""
    try:
        while True:
            next(work)
    except StopIteration as end:
        return end.value


def evaluate(
    reader: Reader,
    ids: np.ndarray,
    start: int = 0,
    stop: int | None = None,
    *,
    asked: Callable[[], bool] = never,
) -> Evaluation:
    """Predict each of the symbols ``ids[start:stop]`` once; all of ``ids`` (N,) if not given.

    ``asked`` says, between chunks, whether to stop early. Raises what :func:`evaluating` does.
    """
    return finished(evaluating(reader, ids, start, stop, asked=asked))


def evaluating(
    reader: Reader,
    ids: np.ndarray,
    start: int = 0,
    stop: int | None = None,
    *,
    asked: Callable[[], bool] = never,
) -> Generator[int, None, Evaluation]:
    """Do what :func:`evaluate` does; yields how many symbols were predicted, after each chunk.

    Raises
    ------
    InputError
        If there is nothing to predict.
    KeyboardInterrupt
        If it was stopped before anything was.
    """
    stop, units = len(ids) if stop is None else stop, reader.vocab.units
    found = yield from averaging(
        reader.losses(ids, start, stop),
        stop - max(start, 1),
        units=units,
        cloze=reader.model.both,
        asked=asked,
    )
    if found is None:
        raise InputError(
            f"Give at least 2 {units}: the first has nothing before it and is not scored. "
            f"There {'is' if stop - start == 1 else 'are'} {stop - start} here."
        )
    return found
