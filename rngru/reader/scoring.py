"""How well a model predicts a text."""

import codecs
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeVar

import numpy as np

from rngru.errors import InputError
from rngru.interrupts import never
from rngru.reader.generating import startstate
from rngru.reader.reader import PIECE, Reader, Text
from rngru.sampling import Sample
from rngru.text import Vocabulary

_CONTINUES = bytes(range(0x80, 0xC0))

COUNTED = 10_000_000
"""Symbols that are counted at a time."""

T = TypeVar("T")
R = TypeVar("R")


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
    written : int or None
        How many characters these symbols are, if that is known.

    Example
    -------
    >>> Evaluation(nats=1.5, characters=1000, seconds=0.5)
    1.5000 nats per character, 2.164 bits, perplexity 4.48, over 1,000 characters
    >>> Evaluation(nats=6, characters=1000, seconds=0.5, units="words", written=4000)
    6.0000 nats per word, 2.164 bits per character, perplexity 403, over 1,000 words
    """

    nats: float
    characters: int
    seconds: float
    units: str = "characters"
    interrupted: bool = False
    cloze: bool = False
    written: int | None = None

    @property
    def bits(self) -> float:
        """Bits per symbol."""
        return self.nats / math.log(2)

    @property
    def perplexity(self) -> float:
        """How many equally likely symbols would be as hard to predict."""
        return math.exp(self.nats)

    @property
    def bitspercharacter(self) -> float | None:
        """Bits per character, whatever a symbol is: what levels are compared by; None if not known."""
        if self.units == "characters":
            return self.bits
        return self.bits * self.characters / self.written if self.written else None

    def __repr__(self) -> str:
        kind, bits, per = "cloze loss: " if self.cloze else "", self.bits, ""
        if self.units != "characters" and self.bitspercharacter is not None:
            bits, per = self.bitspercharacter, " per character"
        perplexity = f"{self.perplexity:,.{2 if self.perplexity < 100 else 0}f}"
        return (
            f"{kind}{self.nats:.4f} nats per {self.units[:-1]}, {bits:.3f} bits{per}, "
            f"perplexity {perplexity}, over {self.characters:,} {self.units}"
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
    found = finished(evaluating(reader, ids, start, stop, asked=asked))
    if found.interrupted:
        return found
    return replace(found, written=charactersof(reader.vocab, ids[max(start, 1) : stop]))


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
    stop = len(ids) if stop is None else stop
    found = yield from _mean(reader, reader.losses(ids, start, stop), stop - max(start, 1), asked)
    if found is None:
        raise _nothing(reader, stop - start)
    return found


def evaluatetexts(
    reader: Reader,
    texts: Iterable[Text],
    start: "np.ndarray | Sample | None" = None,
    *,
    asked: Callable[[], bool] = never,
) -> Evaluation:
    """Predict each symbol of several texts once, each text read by itself.

    ``start`` is where each begins: a state, or a sample, which it goes on; ``asked`` says, between
    chunks, whether to stop early.

    Raises
    ------
    InputError
        If there is nothing to predict.
    KeyboardInterrupt
        If it was stopped before anything was.
    """
    state, read, lengths = beginning(reader, start), [], []
    for ids, symbols in used(texts, lambda text: _read(reader, text)):
        ids = after(start, ids)
        read.append(ids)
        lengths.append(charactersof(reader.vocab, ids[1:], symbols[len(symbols) + 1 - len(ids) :]))
    pieces = chain.from_iterable(_losses(reader, ids, state) for ids in read)
    found = finished(_mean(reader, pieces, sum(len(ids) - 1 for ids in read), asked))
    if found is None:
        raise _nothing(reader, len(read))
    known = [length for length in lengths if length is not None]
    if found.interrupted or len(known) < len(lengths):
        return found
    return replace(found, written=sum(known))


def _read(reader: Reader, text: Text) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return ids and, at word level, symbols of a text."""
    return reader.encode(text), reader.symbols(text) if reader.vocab.level == "word" else ()


def _losses(reader: Reader, ids: np.ndarray, state: np.ndarray | None) -> Iterator[np.ndarray]:
    """Yield nats of all symbols but the first of one text, piece by piece."""
    if state is None:
        yield from reader.losses(ids, 0, len(ids))
        return
    for begin in range(0, len(ids) - 1, PIECE):
        piece = ids[begin : begin + PIECE + 1, np.newaxis]
        nats, state = reader.backend.losses(reader.weights, piece[:-1], piece[1:], state)
        yield nats[:, 0]


def _mean(
    reader: Reader, pieces: Iterable[np.ndarray], whole: int, asked: Callable[[], bool]
) -> Generator[int, None, Evaluation | None]:
    units, cloze = reader.vocab.units, reader.model.both
    return averaging(pieces, whole, units=units, cloze=cloze, asked=asked)


def _nothing(reader: Reader, count: int) -> InputError:
    """Say that a text of ``count`` symbols, or so many of one symbol each, has none to predict."""
    return InputError(
        f"Give at least 2 {reader.vocab.units}: the first has nothing before it and is not scored. "
        f"There {'is' if count == 1 else 'are'} {count} here."
    )


def beginning(reader: Reader, start: "np.ndarray | Sample | None") -> np.ndarray | None:
    """Return the state that ``start`` stands for, (L, 1, H); None if that is an empty one.

    Raises
    ------
    InputError
        For a model that reads a text in both directions: it starts at both ends.
    """
    if start is not None and reader.model.both:
        raise InputError(
            f"{reader.model.name} reads a text in both directions, from empty states at its two ends. "
            "Leave out init_state=."
        )
    return None if start is None else startstate(reader, start)


def after(start: "np.ndarray | Sample | None", ids: np.ndarray) -> np.ndarray:
    """Return ids with the last one of a sample before them, so that the first of them is predicted."""
    if isinstance(start, Sample) and start.last is not None:
        return np.concatenate([np.array([start.last], np.int32), ids])
    return ids


def used(texts: Iterable[T], use: Callable[[T], R]) -> Iterator[R]:
    """Yield ``use(text)`` of several texts; InputError says which is wrong, or that there are none."""
    several = list(texts)
    if not several:
        raise InputError("Expected a text, or several, got none: an empty list.")
    for number, text in enumerate(several, 1):
        try:
            yield use(text)
        except InputError as error:
            raise InputError(f"Text {number}: {error}" if several[1:] else str(error)) from error


def charactersof(vocab: Vocabulary, ids: np.ndarray, symbols: Sequence[str] = ()) -> int | None:
    """Return how many characters a text has, for bits per character; None if that is not known.

    That is so of bytes that are no UTF-8, and of unknown words, unless the ``symbols`` themselves, one
    for each of ``ids`` (n,), are given.
    """
    if vocab.level == "char":
        return len(ids)
    if symbols:
        return sum(map(len, symbols))
    pieces = (ids[first : first + COUNTED] for first in range(0, len(ids), COUNTED))
    if vocab.level == "byte":
        return decodedlength(piece.astype(np.uint8).tobytes() for piece in pieces)
    counts = np.zeros(vocab.vocab_size, np.int64)
    for piece in pieces:
        counts += np.bincount(piece, minlength=len(counts))
    if counts[vocab.unknown_idx]:
        return None
    return sum(int(counts[i]) * len(vocab.charatidx(int(i))) for i in np.flatnonzero(counts))


def decodedlength(pieces: Iterable[bytes]) -> int | None:
    """Return how many characters bytes in UTF-8 are; the first and last one may be cut."""
    decode, count = codecs.getincrementaldecoder("utf-8")().decode, 0
    try:
        for number, piece in enumerate(pieces):
            count += len(decode(piece if number else piece.lstrip(_CONTINUES)))
    except UnicodeDecodeError:
        return None
    return count
