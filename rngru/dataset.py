"""Encoded text read as B endless streams, and in lanes that predict each symbol once.

The contract of a :class:`DataSet` of N symbols: the text is a circle. With batch size B, lane b
starts at symbol ⌊b·N/B⌋ and each batch moves every lane on by ``seq_len``, for ever. What a lane
reads next always follows what it read last, so the state carried along is always the one computed
on the text just before. Nothing is dropped, padded or shuffled, and a batch at any position can be
read without those before it.

>>> data = DataSet.fromtext("abcdefgh")
>>> x, y = data.batch(0, batchsize=2, seq_len=3)
>>> [data.vocab.decode(lane) for lane in x.T], [data.vocab.decode(lane) for lane in y.T]
(['abc', 'efg'], ['bcd', 'fgh'])
>>> x, y = data.batch(6, batchsize=2, seq_len=3)
>>> [data.vocab.decode(lane) for lane in x.T]
['def', 'hab']
"""

from collections.abc import Iterator
from typing import Self, final

import numpy as np

from rngru.errors import CheckpointDamaged, InputError, TextError
from rngru.text import CharSet, Vocabulary

WARMUP = 500
"""Symbols that are read before those that count: after them it no longer matters where one began."""

ONE_LANE_BELOW = 10_000
"""A text of fewer symbols is evaluated in one lane, exactly."""


@final
class DataSet:
    """A piece of text as B endless streams; see the module.

    Parameters
    ----------
    ids : integer array, (N,)
        The encoded text; a memory-mapped one is never read whole.
    vocab : Vocabulary
        What the ids mean.

    Example
    -------
    >>> data = DataSet.fromtext("It was a dark and stormy night")
    >>> data
    DataSet(30 characters)
    >>> x, y = data.batch(position=0, batchsize=4, seq_len=5)
    >>> x.shape, x.dtype, data.batchepoch(batchsize=4, seq_len=5)
    ((5, 4), dtype('int32'), 2)
    """

    def __init__(self, ids: np.ndarray, vocab: Vocabulary):
        self.ids = np.asarray(ids)
        self.vocab = vocab
        if self.ids.ndim != 1 or self.ids.dtype.kind not in "iu":
            raise InputError(
                "Expected ids: integers in one dimension, got "
                f"{self.ids.dtype}, shape {self.ids.shape}. DataSet.fromtext takes a string."
            )

    @classmethod
    def fromtext(cls, text: str, vocab: Vocabulary | None = None) -> Self:
        """Encode a text in memory; without ``vocab``, its own characters are the vocabulary.

        Raises
        ------
        TextError
            If it is shorter than two symbols: then there is nothing to predict.
        """
        vocab = CharSet(text) if vocab is None else vocab
        ids = vocab.encode(text)
        if len(ids) < 2:
            raise TextError(f"Expected a text of 2 {vocab.units} or more, got {len(ids)}.")
        return cls(ids, vocab)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"DataSet({len(self):,} {self.vocab.units})"

    def batch(
        self,
        position: int,
        batchsize: int = 16,
        seq_len: int = 100,
        *,
        lanes: slice = slice(None),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the batch at a position: inputs and the symbols that follow them.

        Lane b reads symbols (⌊b·N/B⌋ + ⌊position/B⌋ + t) mod N for t = 0 … T−1. Texts shorter than
        a batch work: lanes then overlap and wrap. The cost does not depend on N or position.

        Parameters
        ----------
        position : int
            Symbols consumed so far by all lanes together. The next batch is at
            ``position + batchsize * seq_len``.
        batchsize : int
            B, lanes that run side by side.
        seq_len : int
            T, symbols each lane reads.
        lanes : slice
            Which of the lanes to read; by default all.

        Returns
        -------
        x, y : int32 arrays, (time, batch), C-contiguous
            ``y`` is ``x`` one symbol later in each lane.

        Raises
        ------
        InputError
            If a size makes no sense or the text is empty.
        """
        _positive(batchsize=batchsize, seq_len=seq_len)
        if position < 0:
            raise InputError(f"position={position}: expected 0 or more.")
        if not len(self):
            raise InputError("This DataSet is empty: there is no text to read a batch from.")
        n = len(self)
        moved = position // batchsize % n
        # Python's own numbers where those of NumPy could overflow.
        numbers = np.arange(
            *lanes.indices(batchsize), dtype=object if n * batchsize >> 62 else np.int64
        )
        starts = (numbers * n // batchsize + moved).astype(np.int64)
        indices = starts + np.arange(seq_len + 1)[:, np.newaxis]
        read = self.ids.take(indices, mode="wrap").astype(np.int32)
        _known(read, self.vocab.vocab_size)
        return read[:-1], read[1:]

    def batchepoch(self, batchsize: int = 16, seq_len: int = 100) -> int:
        """Return how many batches make an epoch: ⌈N/(B·T)⌉."""
        _positive(batchsize=batchsize, seq_len=seq_len)
        return -(-len(self) // (batchsize * seq_len))

    def counts(self, sample: int = 4_000_000) -> np.ndarray:
        """Return how often each symbol occurs, (V,), int64.

        In a text longer than ``sample`` symbols, 64 pieces at equal distances are counted, about
        ``sample`` symbols in all.

        Example
        -------
        >>> data = DataSet.fromtext("banana")
        >>> data.vocab.decode([data.counts().argmax()]), data.counts().max()
        ('a', np.int64(3))
        """
        counts, pieces = np.zeros(self.vocab.vocab_size, np.int64), 64
        for piece in range(pieces):
            start, stop = (edge * len(self) // pieces for edge in (piece, piece + 1))
            ids = self.ids[start : min(stop, start + -(-sample // pieces))]
            counts += np.bincount(ids, minlength=counts.size)
        return counts


def evallanes(
    ids: np.ndarray,
    start: int = 0,
    stop: int | None = None,
    *,
    seq_len: int = 100,
    lanes: int = 32,
    warmup: int = WARMUP,
    symbols: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Read a range of a text in lanes, so that each of its symbols is predicted exactly once.

    The symbols ``ids[start:stop]`` are dealt out to lanes that run side by side. Each lane first reads
    the ``warmup`` symbols before its own, even those before ``start``, or as many as there are: after
    them it no longer matters that the state was zero at first. Fewer than 10,000 symbols run in one
    lane. The first symbol of the whole text follows nothing and is not counted.

    Parameters
    ----------
    ids : integer array, (N,)
        The whole text.
    start, stop : int
        The range to predict; all of the text if not given.
    seq_len : int
        T, symbols per chunk.
    lanes : int
        B at most; every lane has at least ``warmup`` symbols of its own to predict.
    warmup : int
        Symbols each lane reads before those it predicts.
    symbols : int, optional
        V; every id must be below it.

    Returns
    -------
    iterator of (x, y, mask)
        Chunks, all of shape (time, batch): ``x`` and ``y`` int32 as in :meth:`DataSet.batch`,
        ``mask`` bool, True where the prediction of ``y`` counts. The state starts at zero and is
        carried from chunk to chunk by the caller. Lanes that are done read on, but nothing counts.

    Raises
    ------
    InputError
        If the range is not inside the text or a size makes no sense.

    Example
    -------
    >>> data = DataSet.fromtext("It was a dark and stormy night")
    >>> for x, y, mask in evallanes(data.ids, 18, 30, seq_len=15):
    ...     data.vocab.decode(x[:, 0]), data.vocab.decode(y[mask])
    ('It was a dark a', '')
    ('nd stormy night', 'stormy night')
    """
    n = len(ids)
    stop = n if stop is None else stop
    _positive(seq_len=seq_len, lanes=lanes)
    if warmup < 1:
        raise InputError(f"warmup={warmup}: expected 1 symbol or more.")
    if not 0 <= start <= stop <= n:
        raise InputError(f"Symbols {start} to {stop} are not a range of a text of {n:,}.")
    first = max(start, 1)
    wanted = max(stop - first, 0)
    count = 1 if wanted < ONE_LANE_BELOW else min(lanes, max(wanted // warmup, 1))
    borders = np.array([first + lane * wanted // count for lane in range(count + 1)])
    begins, ends = borders[:-1], borders[1:]
    reads = np.maximum(begins - warmup, 0)
    steps = int((ends - 1 - reads).max()) if wanted else 0
    text = np.asarray(ids)

    def chunks() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for step in range(0, steps, seq_len):
            indices = reads + step + np.arange(seq_len + 1)[:, np.newaxis]
            read = text.take(indices, mode="clip").astype(np.int32)
            if symbols is not None:
                _known(read, symbols)
            targets = indices[1:]
            yield read[:-1], read[1:], (targets >= begins) & (targets < ends)

    return chunks()


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name}={size}: expected 1 or more.")


def _known(read: np.ndarray, symbols: int) -> None:
    """Refuse ids that mean nothing: the kernels would read beyond the end of their tables."""
    # As unsigned numbers, negative ones are the largest.
    if read.size and (most := int(read.view(np.uint32).max())) >= symbols:
        raise CheckpointDamaged(
            f"The encoded text holds the id {most}, but there are only {symbols} symbols: it is not "
            "what was written. Encode the text again."
        )
