"""Predicting a text symbol by symbol, while somebody writes the symbols down or reads them.

Both sides run :func:`follow`. It asks ``code`` for each symbol with its probabilities: an
:class:`Encoder` knows the symbol and adds it to the file, a :class:`Decoder` finds it there. As all calls
are the same on both sides, so are all bits of the probabilities, which is what decoding depends on.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, final

import numpy as np

from rngru.errors import MissingExtra, TextError
from rngru.reader import PIECE, Learner, Reader
from rngru.text import Vocabulary

FLOOR: Final = 2.0**-14
"""Share of the probability that is given to all symbols alike, so that each takes some bits."""

LEAST: Final = 2.0**-15
"""Bits that every symbol takes at least, with the floor: so a file of some bytes has a longest text."""

END: Final = 256
"""What ends the bytes of a symbol that the model does not know."""

SEEN: Final = 8
"""How much likelier a byte becomes by occurring; at first each counts 1."""

LENGTH: Final = 64
"""Bytes of a symbol after which its end is no surprise."""

Code = Callable[[np.ndarray], int]


def follow(
    reader: Reader, learner: Learner | None, count: int, code: Code
) -> Iterator[list[bytes]]:
    """Predict ``count`` symbols, and yield them, as bytes, in pieces; a learner learns each piece then.

    ``code`` is given what the next symbol is drawn from, weights (n,), and returns its number. A
    symbol that the model does not know is spelt in bytes after the id of "unknown".
    """
    vocab, spelling, state = reader.vocab, Spelling(), reader.freshstate()
    written, ids = _written(vocab), np.empty(PIECE + 1, np.int32)
    ids[0] = vocab.idxofchar("\n")
    if learner is not None:
        learner.recall.learn(int(ids[0]))
    for start in range(0, count, PIECE):
        size, begun, found = min(PIECE, count - start), state, []
        now = reader if learner is None else learner.reader
        for at in range(size):
            weights, state = now.backend.advance(now.weights, ids[at : at + 1], state)
            if learner is None:
                idx = code(weights[0])
            else:
                chances = weights[0].astype(np.float64)
                learner.recall.foresee(chances)
                idx = code(chances)
                learner.recall.learn(idx)
            ids[at + 1] = idx
            found.append(spelling.read(code) if idx == vocab.unknown_idx else written[idx])
        if learner is not None and start + size < count:
            learned = ids[: size + 1, np.newaxis].copy()
            learner.learn(learned[:-1], learned[1:], begun)
        yield found
        ids[0] = ids[size]


def _written(vocab: Vocabulary) -> list[bytes]:
    """Return the bytes of each symbol, by id."""
    if vocab.level == "byte":
        return [bytes([idx]) for idx in range(vocab.vocab_size)]
    return [tobytes(vocab.charatidx(idx)) for idx in range(vocab.vocab_size)]


def tobytes(text: str) -> bytes:
    """Return a text in UTF-8; half a surrogate pair is written as if it were a character."""
    return text.encode("utf-8", "surrogatepass")


@final
class Spelling:
    """Spells what the model does not know, byte by byte, and learns which byte follows which."""

    def __init__(self) -> None:
        self._counts = np.ones((END + 1, END + 1), np.float32)

    def read(self, code: Code) -> bytes:
        """Return the bytes of one symbol."""
        found, last = bytearray(), END
        while True:
            counts = self._counts[last]
            counts[END] = max(counts[END], counts.sum() / LENGTH)
            byte = code(counts)
            counts[byte] += SEEN
            if byte == END:
                return bytes(found)
            found.append(byte)
            last = byte


@final
class Encoder:
    """Writes numbers down.

    Parameters
    ----------
    numbers: all that will be asked for, in order.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._encoder, self._numbers = _coder().queue.RangeEncoder(), iter(numbers)

    def __call__(self, weights: np.ndarray) -> int:
        """Write the next number, of those below n, by ``weights`` (n,); return it."""
        number = next(self._numbers)
        self._encoder.encode(number, _distribution(_shares(weights)))
        return number

    @property
    def data(self) -> bytes:
        """What has been written, with as few bytes at its end as lead into the last interval."""
        words, (done, (low, width)) = self._encoder.get_compressed(), self._encoder.pos()
        found = words.astype(">u4").tobytes()
        if low + width > 1 << 64:  # a carry is still to come, and is in the words only
            return found
        for size in range(5):  # the width is 2**32 at least
            unit = 1 << 64 - 8 * size
            point = -(-low // unit) * unit
            if point < low + width:
                break
        return found[: 4 * done] + point.to_bytes(8, "big")[:size]


@final
class Decoder:
    """Reads the numbers that an :class:`Encoder` wrote, if it is given the same weights.

    Raises
    ------
    TextError
        If the data cannot come from an encoder.
    """

    def __init__(self, data: bytes) -> None:
        whole = data + bytes(-len(data) % 4)  # what is left out at the end are zeros
        words = np.frombuffer(whole, ">u4").astype(np.uint32)
        self._decoder, self._left = _coder().queue.RangeDecoder(words), 1.01 * _held(len(data))

    def __call__(self, weights: np.ndarray) -> int:
        """Return the next number, of those below n, by ``weights`` (n,)."""
        shares = _shares(weights)
        try:
            number = int(self._decoder.decode(_distribution(shares)))
        except (AssertionError, ValueError) as error:
            raise TextError(f"no symbol has these bits ({error})") from error
        # Behind its end, the decoder would find symbols for ever.
        self._left += math.log2(shares[number])
        if self._left < 0:
            raise TextError("its symbols have more bits than there are")
        return number


def longest(size: int) -> int:
    """Return how many symbols so many bytes can hold: what says more was not written by us."""
    return int(_held(size) / LEAST)


def _held(size: int) -> int:
    """Return how many bits so many bytes can hold: the coder leaves out zeros at their end."""
    return 8 * size + 64


def _shares(weights: np.ndarray) -> np.ndarray:
    weights = weights.astype(np.float32, copy=False)
    return weights / weights.sum() + np.float32(FLOOR / len(weights))


def _distribution(shares: np.ndarray) -> Any:
    return _coder().model.Categorical(shares, lazy=True, perfect=False)


def _coder() -> Any:
    try:
        from constriction import stream
    except ImportError as error:
        raise MissingExtra(
            "Compressing needs constriction: pip install 'rngru[compress]'."
        ) from error
    return stream
