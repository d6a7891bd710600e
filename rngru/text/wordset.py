"""Text as words: :class:`WordSet`.

:mod:`rngru.text.splitting` says what a word is.

>>> WordSet("It's a so-called “test”.").words[1:]
(' ', '.', "It's", 'a', 'so-called', 'test', '“', '”')
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Self, final

import numpy as np

from rngru.errors import CheckpointDamaged, CheckpointTooNew, TextError
from rngru.text.sources import Document, Tick
from rngru.text.splitting import RULE, complete, kinds, tokens
from rngru.text.vocabulary import Tally, Vocabulary

# Characters processed at a time.
PIECE = 1 << 22
CANDIDATES = 1_000_000


class Tokens:
    """The distinct tokens of a text that is given in pieces, numbered in order of appearance.

    Several times as fast as :func:`tokens`: no Python code runs for a word that was seen before.

    Parameters
    ----------
    rule : int
        By which rule; see :mod:`rngru.text.splitting`.

    Example
    -------
    >>> seen = Tokens()
    >>> seen.number("so it goes, "), seen.number("so it went")
    (array([0, 1, 2, 1, 3, 4, 1], dtype=int32), array([0, 1, 2, 1, 5], dtype=int32))
    >>> seen.words()
    ['so', ' ', 'it', 'goes', ',', 'went']
    """

    def __init__(self, rule: int = RULE) -> None:
        self.size, self._kinds = 0, kinds(rule)
        self._pool, self._bounds = np.empty(1 << 14, np.uint32), np.zeros(1, np.int64)
        self._hashes, self._table = np.empty(0, np.uint64), np.full(1, -1, np.int32)
        self._ascii = np.full(128, -1, np.int32)

    def number(self, text: str) -> np.ndarray:
        """Return the number of each token of a piece, which must end where a token ends: int32, 1-d."""
        from rngru.kernels import tokens as kernel

        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        which = np.empty(codes.size, np.int32)
        at = done = 0
        while True:
            at, done, self.size = kernel.number(
                codes, self._kinds, at, which, done,
                self._pool, self._bounds, self._hashes, self._table, self._ascii, self.size,
            )  # fmt: skip
            if at == codes.size:
                return which[:done].copy()
            self._makeroom(codes.size - at)

    def words(self, first: int = 0) -> list[str]:
        """Return the tokens from a number on."""
        bounds = self._bounds[first : self.size + 1]
        text = self._pool[bounds[0] : bounds[-1]].tobytes().decode("utf-32-le", "surrogatepass")
        ends = (bounds - bounds[0]).tolist()
        return [text[a:b] for a, b in pairwise(ends)]

    def keep(self, kept: np.ndarray) -> None:
        """Forget the tokens where ``kept`` (size,), bool, is False; renumber the others in order."""
        lengths = np.diff(self._bounds[: self.size + 1])
        self._pool = self._pool[: lengths.sum()][np.repeat(kept, lengths)]
        self._bounds = np.append(0, np.cumsum(lengths[kept]))
        self._hashes = self._hashes[: self.size][kept]
        self.size = len(self._hashes)
        self._ascii.fill(-1)
        self._makeroom(0)

    def _makeroom(self, characters: int) -> None:
        """Make room for twice as many tokens, and for a token of so many characters."""
        from rngru.kernels import tokens as kernel

        used, room = int(self._bounds[self.size]), max(2 * self.size, 1 << 11)
        self._pool = _longer(self._pool[:used], max(used, characters))
        self._bounds = _longer(self._bounds[: self.size + 1], room)
        self._hashes = _longer(self._hashes[: self.size], room)
        self._table = np.full(1 << (2 * self._hashes.size).bit_length(), -1, np.int32)
        kernel.place(self._hashes[: self.size], self._table)


@final
class WordSet(Vocabulary):
    """The words of a text and their ids; upper and lower case are kept apart.

    Id 0 is "unknown", shown as U+FFFD; the others follow in the order of their code points.

    Parameters
    ----------
    datastr : str
        A text; each of its tokens gets an id.
    srcinfo : str, optional
        Where the text came from, for messages.
    min_count : int
        Words that occur less often become "unknown"; :attr:`rare` says which.
    max_vocab : int, optional
        Largest V; the rarest words beyond it become "unknown".

    Attributes
    ----------
    words : tuple of str
        All words in the order of their ids, U+FFFD first.
    rule : int
        By which rule a text is split; see :mod:`rngru.text.splitting`.

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
    rule = RULE

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
    def pieces(cls, document: Document, tick: Tick | None = None) -> Iterator[str]:
        """Yield the text of a document in pieces that end where a token ends.

        Raises
        ------
        TextError
            If a single token has four million characters or more.
        """
        return _complete(document.characters(tick), document.name)

    @classmethod
    def tally(cls, pieces: Iterable[str]) -> Tally:
        """Count the words of a text given in pieces that end where a token ends.

        Memory is bounded: above a million distinct words, the rarest so far are forgotten.
        """
        seen, newline = Tokens(), np.zeros(0, bool)
        counts = starts = np.zeros(0, np.int64)
        total, after_newline, rare = 0, False, 0
        for which in _joined(map(seen.number, _bounded(pieces))):
            new = ["\n" in word for word in seen.words(newline.size)]
            newline = np.append(newline, np.array(new, bool))
            after = which[1:][newline[which[:-1]]]
            counts, starts = (
                np.append(sums, np.zeros(seen.size - sums.size, np.int64))
                + np.bincount(found, minlength=seen.size)
                for sums, found in ((counts, which), (starts, after))
            )
            starts[which[0]] += after_newline
            total, after_newline = total + which.size, bool(newline[which[-1]])
            if seen.size > CANDIDATES:
                rare += 1
                kept = counts > rare
                seen.keep(kept)
                counts, starts, newline = counts[kept], starts[kept], newline[kept]
        words = seen.words()
        occur, start = (
            {word: n for word, n in zip(words, sums.tolist(), strict=True) if n}
            for sums in (counts, starts)
        )
        return Tally(occur, start, total)

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of the words of a text: 1-d array of :attr:`dtype`; unknown ones are 0."""
        nothing = np.zeros(0, self.dtype)
        return np.concatenate([nothing, *map(self.encoder(), _bounded([text]))])

    def encoder(self) -> Callable[[str], np.ndarray]:
        """Return a function that encodes the pieces of one text and looks up each word once."""
        seen, ids = Tokens(self.rule), np.zeros(0, self.dtype)

        def encode(piece: str) -> np.ndarray:
            nonlocal seen, ids
            if seen.size > CANDIDATES:
                seen, ids = Tokens(self.rule), ids[:0]
            which = seen.number(piece)
            if new := [self.idxofchar(word) for word in seen.words(ids.size)]:
                ids = np.append(ids, np.array(new, self.dtype))
            return ids[which]

        return encode

    def split(self, text: str) -> list[str]:
        """Return the tokens of a text."""
        return tokens(text, self.rule)

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
        return " ".join(sorted(set(tokens(text, self.rule)) - set(self.words)))

    def idxofchar(self, char: str) -> int:
        """Return the id of a word, 0 if it is not in the set."""
        return self._ids.get(char, 0)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: idx for idx, word in enumerate(self.words)}

    def _hold(self, symbols: Sequence[str]) -> None:
        self.words, self.vocab_size = tuple(symbols), len(symbols)

    def _symbols(self) -> list[str]:
        return list(self.words)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON data; :meth:`from_json` reads it back."""
        return super().to_json() | ({"rule": self.rule} if self.rule > 1 else {})

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Return the vocabulary that :meth:`to_json` described, which splits texts as it did then."""
        vocab = super().from_json(data)
        vocab.rule = data.get("rule", 1)
        if type(vocab.rule) is not int or vocab.rule < 1:
            raise CheckpointDamaged(f"The saved WordSet is not readable: rule {vocab.rule!r}.")
        if vocab.rule > RULE:
            raise CheckpointTooNew.unknown("The saved WordSet", [f"rule {vocab.rule}"])
        return vocab

    @classmethod
    def _fromsymbols(cls, symbols: Any) -> Self:
        if not isinstance(symbols, list) or symbols[:1] != [cls.unknown_char] or len(symbols) < 2:
            raise ValueError("its words do not start with U+FFFD")
        if not all(isinstance(word, str) and word for word in symbols):
            raise ValueError("its words are not all strings")
        if symbols[1:] != sorted(set(symbols[1:]) - {cls.unknown_char}):
            raise ValueError("its words are not sorted, or repeat")
        vocab = cls.__new__(cls)
        vocab._hold(symbols)
        return vocab

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.words[1:9])) + (", …" if self.vocab_size > 9 else "")
        source = f"; from {self.srcinfo}" if self.srcinfo else ""
        return f"WordSet({self.vocab_size:,} ids: unknown, {shown}{source})"


def _complete(texts: Iterable[str], name: str) -> Iterator[str]:
    """Cut a text given in any pieces into pieces that end where a token ends."""
    rest = ""
    for text in texts:
        rest += text
        if len(rest) < PIECE:
            continue
        if found := complete().match(rest):
            yield rest[: found.end()]
            rest = rest[found.end() :]
        if len(rest) >= PIECE:
            raise TextError(
                f"{name}: a single word of {PIECE:,} characters or more, "
                f"{rest[:20]!r}… Use level='char'."
            )
    yield rest


def _bounded(pieces: Iterable[str]) -> Iterator[str]:
    """Cut pieces that are too long to process at once; each part ends where a token ends."""
    for piece in pieces:
        if len(piece) <= 2 * PIECE:
            yield piece
        else:
            slices = (piece[n : n + PIECE] for n in range(0, len(piece), PIECE))
            yield from _complete(slices, "The text")


def _joined(arrays: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Join arrays up to a million numbers at a time: each batch costs a pass over all distinct words."""
    batch: list[np.ndarray] = []
    size = 0
    for array in arrays:
        batch.append(array)
        size += array.size
        if size >= CANDIDATES:
            yield np.concatenate(batch)
            batch, size = [], 0
    if size:
        yield np.concatenate(batch)


def _longer(array: np.ndarray, room: int) -> np.ndarray:
    """Return a copy with unused room at the end."""
    longer = np.empty(array.size + room, array.dtype)
    longer[: array.size] = array
    return longer
