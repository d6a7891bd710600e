"""Text as bytes: :class:`ByteSet`, for any file at all.

>>> ByteSet().encode("né")
array([110, 195, 169], dtype=uint8)
>>> ByteSet().decode([110, 195, 169])
'né'
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, final

import numpy as np

from rngru.errors import InputError, TextError
from rngru.text.sources import Document, Tick
from rngru.text.vocabulary import Rare, Tally, Vocabulary


@final
class ByteSet(Vocabulary):
    """The 256 bytes; the id of a byte is its value, and none is unknown.

    Parameters
    ----------
    data : bytes or str, optional
        A text whose line starts are counted; a string is read as UTF-8.
    srcinfo : str, optional
        Where the text came from, for messages.

    Example
    -------
    >>> ByteSet(b"\\x00\\xff\\n\\x07")
    ByteSet(256 ids)
    >>> ByteSet().decode([0xFF])
    '\\ufffd'
    """

    level = "byte"
    units = "bytes"
    unknown_idx = None
    vocab_size = 256

    def __init__(self, data: bytes | str = b"", srcinfo: str | None = None):
        tally = self.tally([data])
        self._fill(tally.counts, tally.linestarts, srcinfo, 1, None)

    @classmethod
    def pieces(cls, document: Document, tick: Tick | None = None) -> Iterator[bytes]:
        """Yield the bytes of a document, a piece at a time."""
        return document.blocks(tick)

    @classmethod
    def tally(cls, pieces: Iterable[bytes | str]) -> Tally:
        """Count the bytes of a text given in pieces."""
        counts = np.zeros(256, np.int64)
        starts = np.zeros(256, np.int64)
        after_newline = False
        for piece in pieces:
            data = _bytes(piece)
            if not len(data):
                continue
            counts += np.bincount(data, minlength=256)
            starts += np.bincount(data[1:][data[:-1] == ord("\n")], minlength=256)
            if after_newline:
                starts[data[0]] += 1
            after_newline = bool(data[-1] == ord("\n"))
        starts[[ord("\n"), ord("\r")]] = 0
        return Tally(_bybyte(counts), _bybyte(starts), int(counts.sum()))

    def encode(self, text: bytes | str) -> np.ndarray:
        """Return the bytes: uint8, 1-d; a string becomes UTF-8."""
        return _bytes(text)

    def split(self, text: str) -> list[str]:
        """Return the bytes of a text in UTF-8, each as the character with that code point."""
        return list(_bytes(text).tobytes().decode("latin-1"))

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """Return bytes as text, for display: what is not UTF-8 shows as U+FFFD."""
        return self._valid(ids).astype(np.uint8).tobytes().decode("utf-8", "replace")

    def unknown_in(self, text: str) -> str:
        """Return the empty string: every byte is known."""
        return ""

    def idxofchar(self, char: bytes | str) -> int:
        """Return the id of a byte, given as itself or as a character that UTF-8 writes in one byte.

        Raises
        ------
        InputError
            If it is not one byte.
        """
        data = _bytes(char)
        if len(data) != 1:
            raise InputError(f"Expected a character of one byte, got {char!r}: {len(data)} bytes.")
        return int(data[0])

    def _choose(
        self,
        counts: Mapping[bytes, int],
        min_count: int,
        max_vocab: int | None,
        known: Vocabulary | None = None,
    ) -> Rare:
        if min_count != 1 or max_vocab is not None:
            raise InputError("level='byte' always has 256 ids: leave out min_count and max_vocab.")
        return Rare(units=self.units)

    def _symbols(self) -> str:
        return ""

    @classmethod
    def _fromsymbols(cls, symbols: Any) -> Self:
        if symbols != "":
            raise ValueError("a byte set has no symbols of its own")
        return cls()

    def __repr__(self) -> str:
        return f"ByteSet(256 ids{f', from {self.srcinfo}' if self.srcinfo else ''})"


def _bytes(text: bytes | str) -> np.ndarray:
    if isinstance(text, str):
        try:
            text = text.encode()
        except UnicodeEncodeError as error:
            raise TextError(
                f"The text has half a surrogate pair, {text[error.start]!a}, at character "
                f"{error.start:,}: that is not a character."
            ) from error
    return np.frombuffer(text, np.uint8)


def _bybyte(counts: np.ndarray) -> dict[bytes, int]:
    return {bytes([byte]): int(counts[byte]) for byte in np.flatnonzero(counts)}
