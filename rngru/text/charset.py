"""Text as characters: :class:`CharSet`.

>>> chars = CharSet("hello\\nhumans")
>>> chars
CharSet(11 ids: unknown and '\\naehlmnosu')
>>> ids = chars.encode("hello")
>>> ids
array([4, 3, 5, 5, 8], dtype=uint8)
>>> chars.decode(ids)
'hello'
>>> chars.unknown_in("hello, world")
' ,drw'
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Self, final

import numpy as np

from rngru.errors import InputError
from rngru.text.sources import Document, Tick
from rngru.text.vocabulary import Tally, Vocabulary

CODEPOINTS = 0x110000


@final
class CharSet(Vocabulary):
    """The characters of a text and their ids.

    Id 0 is U+FFFD, "unknown"; the others follow in the order of their code points.

    Parameters
    ----------
    datastr : str
        A text; each of its characters gets an id.
    srcinfo : str, optional
        Where the text came from, for messages.
    min_count : int
        Characters that occur less often become "unknown"; :attr:`rare` says which.

    Attributes
    ----------
    chars : str
        All characters in the order of their ids, U+FFFD first.

    Raises
    ------
    TextError
        If the text is empty.

    Example
    -------
    >>> chars = CharSet("so it goes\\nso it went\\n")
    >>> chars.vocab_size, chars.idxofchar("s"), chars.charatidx(8), chars.idxofchar("é")
    (11, 8, 's', 0)
    >>> chars.semirandomch(np.random.default_rng(0))
    's'
    >>> CharSet("so it goes\\nso it went\\n", min_count=2).rare.symbols
    ('g', 'n', 'w')
    """

    level = "char"
    units = "characters"
    chars: str

    def __init__(self, datastr: str, srcinfo: str | None = None, *, min_count: int = 1):
        tally = self.tally([datastr])
        self._fill(tally.counts, tally.linestarts, srcinfo, min_count, None)

    @classmethod
    def pieces(cls, document: Document, tick: Tick | None = None) -> Iterator[str]:
        """Yield the text of a document, a piece at a time."""
        return document.characters(tick)

    @classmethod
    def tally(cls, pieces: Iterable[str]) -> Tally:
        """Count the characters of a text given in pieces, in constant memory.

        Example
        -------
        >>> CharSet.tally(["a\\n", "b\\n\\na"]).linestarts
        {'a': 1, 'b': 1}
        """
        counts = np.zeros(CODEPOINTS, np.int64)
        starts = np.zeros(CODEPOINTS, np.int64)
        total, after_newline = 0, False
        for piece in pieces:
            codes = _codes(piece)
            if not len(codes):
                continue
            _add(counts, codes)
            _add(starts, codes[1:][codes[:-1] == ord("\n")])
            if after_newline:
                starts[codes[0]] += 1
            total, after_newline = total + len(codes), bool(codes[-1] == ord("\n"))
        starts[[ord("\n"), ord("\r")]] = 0
        return Tally(_bychar(counts), _bychar(starts), total)

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a text: 1-d array of :attr:`dtype`; unknown characters are 0."""
        return np.take(self._table, _codes(text))

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """Return the text of ids, any integers in one dimension.

        Raises
        ------
        InputError
            If there is no such id.
        """
        codes = _codes(self.chars)[self._valid(ids)]
        return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    def unknown_in(self, text: str) -> str:
        """Return the distinct characters of ``text`` that are not in the set, sorted."""
        return "".join(sorted(set(text) - set(self.chars)))

    def idxofchar(self, char: str) -> int:
        """Return the id of a character, 0 if it is not in the set."""
        if len(char) != 1:
            raise InputError(f"Expected one character, got {char!r}.")
        return int(self._table[ord(char)])

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.zeros(CODEPOINTS, self.dtype)
        table[_codes(self.chars)] = np.arange(self.vocab_size)
        return table

    def _hold(self, symbols: Sequence[str]) -> None:
        self.chars, self.vocab_size = "".join(symbols), len(symbols)

    def _symbols(self) -> str:
        return self.chars

    @classmethod
    def _fromsymbols(cls, symbols: Any) -> Self:
        if not isinstance(symbols, str) or symbols[:1] != cls.unknown_char or len(symbols) < 2:
            raise ValueError("its characters do not start with U+FFFD")
        if list(symbols[1:]) != sorted(set(symbols[1:]) - {cls.unknown_char}):
            raise ValueError("its characters are not sorted, or repeat")
        vocab = cls.__new__(cls)
        vocab._hold(symbols)
        return vocab

    def __repr__(self) -> str:
        shown = self.chars[1:41] + ("…" if self.vocab_size > 41 else "")
        source = f", from {self.srcinfo}" if self.srcinfo else ""
        return f"CharSet({self.vocab_size} ids: unknown and {shown!r}{source})"


def _codes(text: str) -> np.ndarray:
    """Return the code points of a text: uint32, 1-d, read-only."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _add(counts: np.ndarray, codes: np.ndarray) -> None:
    found = np.bincount(codes)
    counts[: len(found)] += found


def _bychar(counts: np.ndarray) -> dict[str, int]:
    return {chr(code): int(counts[code]) for code in np.flatnonzero(counts)}
