"""Text as words: :class:`WordSet`.

Tokens are words (with inner apostrophes and hyphens), single punctuation marks and runs of white
space, so that joining them gives the text back to the letter:

>>> tokens("It's a so-called\\n  “test”.")
["It's", ' ', 'a', ' ', 'so-called', '\\n  ', '“', 'test', '”', '.']
"""

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, cached_property
from typing import Any, Self, final

import numpy as np

from rngru.errors import TextError
from rngru.text.sources import Document, Tick
from rngru.text.vocabulary import Tally, Vocabulary, keepfrequent

TOKEN = re.compile(r"\w+(?:[’'\-]\w+)*|[^\w\s]|\s+")

# Up to the last place where a token ends whatever comes next.
COMPLETE = re.compile(r"(?s:.*)(?:(?<=\s)(?=\S)|(?<=\S)(?=\s)|(?<=[^\w\s’'\-]))")

# Characters worked on at once. In a longer piece there are fewer different words for each of them,
# and it is those that take the time.
PIECE = 1 << 22
CANDIDATES = 1_000_000


def tokens(text: str) -> list[str]:
    """Split a text into tokens; joining them gives the text back."""
    return TOKEN.findall(text)


def distinct(text: str) -> tuple[list[str], np.ndarray]:
    """Split a text into tokens, each different one given once.

    Several times as fast as :func:`tokens`, for texts of millions of characters.

    Returns
    -------
    words : list of str
        The different tokens.
    which : int32 array, (tokens,)
        ``[words[n] for n in which] == tokens(text)``.

    Example
    -------
    >>> words, which = distinct("so it goes, so it went")
    >>> "|".join(words[n] for n in which)
    'so| |it| |goes|,| |so| |it| |went'
    """
    from rngru.kernels import tokens as kernel

    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    which, starts, ends = kernel.distinct(codes, _kinds())
    words = [text[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    return words, which


@final
class WordSet(Vocabulary):
    """The words of a text and their ids; upper and lower case are kept apart.

    Id 0 is "unknown", shown as U+FFFD; the others follow in the order of their code points.

    Parameters
    ----------
    datastr : str
        A text; each of its tokens gets an id.
    srcinfo : str, optional
        Where it came from.
    min_count : int
        Words that occur less often become "unknown"; :attr:`rare` says which.
    max_vocab : int, optional
        V at most; the rarest words beyond it become "unknown".

    Attributes
    ----------
    words : tuple of str
        All words in the order of their ids, U+FFFD first.

    Raises
    ------
    TextError
        If the text is empty.

    Example
    -------
    >>> words = WordSet("so it goes, so it went", max_vocab=5)
    >>> words
    WordSet(5 ids: unknown, ' ', ',', 'it', 'so')
    >>> words.encode("so it went")
    array([4, 1, 3, 1, 0], dtype=uint8)
    >>> words.decode([4, 1, 3])
    'so it'
    """

    level = "word"
    units = "words"
    words: tuple[str, ...]

    def __init__(
        self,
        datastr: str,
        srcinfo: str | None = None,
        *,
        min_count: int = 1,
        max_vocab: int | None = None,
    ):
        tally = self.tally([datastr])
        self._fill(tally.counts, tally.linestarts, srcinfo, min_count, max_vocab)

    @classmethod
    def fromcounts(
        cls,
        counts: Mapping[str, int],
        linestarts: Mapping[str, int] | None = None,
        *,
        srcinfo: str | None = None,
        min_count: int = 1,
        max_vocab: int | None = None,
    ) -> Self:
        """Make a vocabulary of counted words; see :meth:`Vocabulary.fromcounts`.

        Example
        -------
        >>> WordSet.fromcounts({"the": 5, "thy": 1}, min_count=2).words
        ('\\ufffd', 'the')
        """
        vocab = cls.__new__(cls)
        vocab._fill(counts, linestarts or {}, srcinfo, min_count, max_vocab)
        return vocab

    def _fill(
        self,
        counts: Mapping[str, int],
        linestarts: Mapping[str, int],
        srcinfo: str | None,
        min_count: int,
        max_vocab: int | None,
    ) -> None:
        kept, self.rare = keepfrequent(counts, min_count, max_vocab)
        self.words = (self.unknown_char, *kept)
        self.vocab_size = len(self.words)
        self.srcinfo = srcinfo
        self.linestarts = self._countsbyid(linestarts)

    @classmethod
    def pieces(cls, document: Document, tick: Tick | None = None) -> Iterator[str]:
        """Yield the text of a document in pieces that end where a token does.

        Raises
        ------
        TextError
            If a single token has four million characters or more.
        """
        return _complete(document.characters(tick), document.name)

    @classmethod
    def tally(cls, pieces: Iterable[str]) -> Tally:
        """Count the words of a text given in pieces that end where a token does.

        Memory is bounded: whenever there are more than a million different words, the rarest so
        far are forgotten.
        """
        counts: Counter[str] = Counter()
        starts: Counter[str] = Counter()
        total, after_newline, rare = 0, False, 0
        for piece in _bounded(pieces):
            words, which = distinct(piece)
            if not words:
                continue
            newline = np.array(["\n" in word for word in words])
            _add(counts, words, which)
            _add(starts, words, which[1:][newline[which[:-1]]])
            if after_newline:
                starts[words[which[0]]] += 1
            total, after_newline = total + len(which), bool(newline[which[-1]])
            if len(counts) > CANDIDATES:
                rare += 1
                counts = Counter({word: n for word, n in counts.items() if n > rare})
        return Tally(counts, starts, total)

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of the words of a text: 1-d array of :attr:`dtype`; unknown ones are 0."""
        encoded = [np.zeros(0, self.dtype)]
        for piece in _bounded([text]):
            words, which = distinct(piece)
            encoded.append(
                np.array([self.idxofchar(word) for word in words], self.dtype).take(which)
            )
        return np.concatenate(encoded)

    def split(self, text: str) -> list[str]:
        """Return the tokens of a text."""
        return tokens(text)

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """Return the text of ids, any integers in one dimension.

        Raises
        ------
        InputError
            If there is no such id.
        """
        return "".join(self.words[idx] for idx in self._valid(ids))

    def unknown_in(self, text: str) -> str:
        """Return the distinct words of ``text`` that are not in the set, sorted, with spaces."""
        return " ".join(sorted(set(tokens(text)) - set(self.words)))

    def idxofchar(self, char: str) -> int:
        """Return the id of a word, 0 if it is not in the set."""
        return self._ids.get(char, 0)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: idx for idx, word in enumerate(self.words)}

    def _symbols(self) -> list[str]:
        return list(self.words)

    @classmethod
    def _fromsymbols(cls, symbols: Any) -> Self:
        if not isinstance(symbols, list) or symbols[:1] != [cls.unknown_char] or len(symbols) < 2:
            raise ValueError("its words do not start with U+FFFD")
        if not all(isinstance(word, str) and word for word in symbols):
            raise ValueError("its words are not all strings")
        if symbols[1:] != sorted(set(symbols[1:]) - {cls.unknown_char}):
            raise ValueError("its words are not sorted, or repeat")
        vocab = cls.__new__(cls)
        vocab.words, vocab.vocab_size = tuple(symbols), len(symbols)
        return vocab

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.words[1:9])) + (", …" if self.vocab_size > 9 else "")
        source = f"; from {self.srcinfo}" if self.srcinfo else ""
        return f"WordSet({self.vocab_size:,} ids: unknown, {shown}{source})"


def _complete(texts: Iterable[str], name: str) -> Iterator[str]:
    """Cut a text given in any pieces into pieces that end where a token does."""
    rest = ""
    for text in texts:
        rest += text
        if len(rest) < PIECE:
            continue
        if complete := COMPLETE.match(rest):
            yield rest[: complete.end()]
            rest = rest[complete.end() :]
        if len(rest) >= PIECE:
            raise TextError(
                f"{name}: a single word of {PIECE:,} characters or more, "
                f"{rest[:20]!r}… Use level='char'."
            )
    yield rest


def _bounded(pieces: Iterable[str]) -> Iterator[str]:
    """Cut pieces that are too long to be worked on at once; all end where a token does."""
    for piece in pieces:
        if len(piece) <= 2 * PIECE:
            yield piece
        else:
            slices = (piece[n : n + PIECE] for n in range(0, len(piece), PIECE))
            yield from _complete(slices, "The text")


def _add(counts: Counter[str], words: list[str], which: np.ndarray) -> None:
    found = np.bincount(which)
    present = np.flatnonzero(found)
    for n, count in zip(present.tolist(), found[present].tolist(), strict=True):
        counts[words[n]] += count


@cache
def _kinds() -> np.ndarray:
    """Return what each code point is to a token: uint8, (code points,)."""
    from rngru.kernels.tokens import JOINER, MARK, SPACE, WORD

    everything = np.arange(sys.maxunicode + 1, dtype="<u4").tobytes()
    text = everything.decode("utf-32-le", "surrogatepass")
    kinds = np.full(len(text), MARK, np.uint8)
    for kind, expression in [(WORD, r"\w+"), (SPACE, r"\s+"), (JOINER, r"[’'\-]")]:
        for match in re.finditer(expression, text):
            kinds[match.start() : match.end()] = kind
    return kinds
