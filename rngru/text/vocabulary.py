"""What every level of text has in common: symbols ↔ ids.

A :class:`Vocabulary` numbers the symbols of a text: characters, words or bytes. Its contract:
``decode(encode(text)) == text`` for every text made of symbols it knows, ids fit the smallest
unsigned type, and two vocabularies with the same symbols are equal and have the same
:attr:`~Vocabulary.digest` in any process on any machine.

A vocabulary of a corpus too large for memory is made in one pass: :meth:`~Vocabulary.pieces` of
each document, :meth:`~Vocabulary.tally` of the pieces, :meth:`~Vocabulary.fromcounts`.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from rngru.errors import CheckpointDamaged, InputError, TextError
from rngru.text.sources import Document, Tick

RARE_SHOWN = 1000


@dataclass(frozen=True)
class Tally:
    """How often each symbol occurs in a text.

    Attributes
    ----------
    counts : dict of symbol to int
        Occurrences.
    linestarts : dict of symbol to int
        Occurrences at the start of a line, blank lines left out.
    total : int
        Symbols in the text.
    """

    counts: Mapping[Any, int]
    linestarts: Mapping[Any, int]
    total: int


@dataclass(frozen=True)
class Rare:
    """The symbols that are left out of a vocabulary because they are too rare.

    Attributes
    ----------
    distinct : int
        How many different symbols.
    occurrences : int
        How often they occur, all together.
    symbols : tuple of str
        The most frequent of them, at most 1,000.
    units : str
        What they are: ``'characters'``, ``'words'``.

    Example
    -------
    >>> Rare(2, 3, ("né", "où"), "words")
    2 rare words (3 occurrences) are left out of the vocabulary and read as 'unknown': 'né' 'où'
    """

    distinct: int = 0
    occurrences: int = 0
    symbols: tuple[str, ...] = field(default=())
    units: str = "symbols"

    def __repr__(self) -> str:
        if not self.distinct:
            return f"no {self.units} are left out of the vocabulary"
        shown = " ".join(map(repr, self.symbols[:20]))
        more = " …" if self.distinct > 20 else ""
        one = self.distinct == 1
        return (
            f"{self.distinct:,} rare {self.units[:-1] if one else self.units} "
            f"({self.occurrences:,} occurrence{'s' if self.occurrences > 1 else ''}) "
            f"{'is' if one else 'are'} left out of the vocabulary and read as 'unknown': {shown}{more}"
        )

    def __bool__(self) -> bool:
        return self.distinct > 0


class Vocabulary(ABC):
    """Symbols ↔ ids; see the module. The levels are ``CharSet``, ``WordSet`` and ``ByteSet``.

    Attributes
    ----------
    vocab_size : int
        V, the number of ids, "unknown" included.
    unknown_idx : int or None
        The id of symbols outside the vocabulary, None if there are none.
    linestarts : int64 array, (V,)
        How often each id starts a line in the source.
    srcinfo : str or None
        Where the text came from, for messages.
    rare : Rare
        The symbols left out by ``min_count`` and ``max_vocab``.
    """

    level: ClassVar[str]
    units: ClassVar[str]
    unknown_char: ClassVar[str] = "\ufffd"
    unknown_idx: int | None = 0

    vocab_size: int
    linestarts: np.ndarray
    srcinfo: str | None
    rare: Rare

    @classmethod
    @abstractmethod
    def pieces(cls, document: Document, tick: Tick | None = None) -> Iterator[Any]:
        """Yield a document in pieces that :meth:`encode` maps independently of each other."""

    @classmethod
    @abstractmethod
    def tally(cls, pieces: Iterable[Any]) -> Tally:
        """Count the symbols of a text given in pieces."""

    @classmethod
    def fromcounts(
        cls,
        counts: Mapping[Any, int],
        linestarts: Mapping[Any, int] | None = None,
        *,
        srcinfo: str | None = None,
        min_count: int = 1,
        max_vocab: int | None = None,
        known: "Vocabulary | None" = None,
    ) -> Self:
        """Make a vocabulary of counted symbols.

        Parameters
        ----------
        counts, linestarts
            As in a :class:`Tally`.
        min_count : int
            Symbols that occur less often become "unknown".
        max_vocab : int, optional
            Largest V; the rarest symbols beyond it become "unknown".
        known : Vocabulary, optional
            Its symbols are kept, too, however rare; of the same level.

        Raises
        ------
        InputError
            If a limit makes no sense; bytes, always 256 ids, have none.
        TextError
            If nothing is left.

        Example
        -------
        >>> from rngru import CharSet
        >>> CharSet.fromcounts({"a": 5, "b": 1}, min_count=2).chars
        '\\ufffda'
        """
        vocab = cls.__new__(cls)
        vocab._fill(counts, linestarts or {}, srcinfo, min_count, max_vocab, known)
        return vocab

    @abstractmethod
    def encode(self, text: Any) -> np.ndarray:
        """Return the ids of a text: 1-d array of :attr:`dtype`."""

    def encoder(self) -> Callable[[Any], np.ndarray]:
        """Return a function that encodes the pieces of one text; call it from one thread only."""
        return self.encode

    @abstractmethod
    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """Return the text of ids: any integers, 1-d."""

    @abstractmethod
    def unknown_in(self, text: str) -> str:
        """Return the distinct symbols of ``text`` that are not in the vocabulary, sorted."""

    @abstractmethod
    def idxofchar(self, char: str) -> int:
        """Return the id of one symbol."""

    def _choose(
        self,
        counts: Mapping[Any, int],
        min_count: int,
        max_vocab: int | None,
        known: "Vocabulary | None" = None,
    ) -> Rare:
        """Choose the symbols that get an id, keep them, and return those left out."""
        kept, rare = keepfrequent(counts, min_count, max_vocab, self.units, known)
        self._hold([self.unknown_char, *kept])
        return rare

    def _hold(self, symbols: Sequence[str]) -> None:
        """Keep all symbols, in the order of their ids; bytes, which are given, choose none."""
        raise NotImplementedError

    @abstractmethod
    def _symbols(self) -> str | list[str]:
        """Return all symbols in the order of their ids, as JSON holds them."""

    @classmethod
    @abstractmethod
    def _fromsymbols(cls, symbols: Any) -> Self:
        """Make a vocabulary of what :meth:`_symbols` returned; ValueError if it is not that."""

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned type that holds every id."""
        return np.min_scalar_type(self.vocab_size - 1)

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the level and the symbols."""
        return hashlib.sha256(json.dumps([self.level, self._symbols()]).encode()).hexdigest()

    def __len__(self) -> int:
        return self.vocab_size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def split(self, text: str) -> list[str]:
        """Return the symbols of a text, one for each id that :meth:`encode` gives."""
        return list(text)

    def charatidx(self, idx: int) -> str:
        """Return the symbol of one id.

        Raises
        ------
        InputError
            If there is no such id.
        """
        return self.decode([idx])

    def findlinestarts(self, datastr: str) -> np.ndarray:
        """Count how often each id starts a line in a text: int64 array, (V,).

        A line starts after a newline; blank lines do not count.
        """
        return self._countsbyid(self.tally([datastr]).linestarts)

    def randomidx(
        self,
        allow_newline: bool = False,
        rng: np.random.Generator | None = None,
        barred: np.ndarray | None = None,
    ) -> int:
        """Draw any id but "unknown", all equally likely.

        Parameters
        ----------
        allow_newline : bool
            Whether a newline may come up even where something else may.
        rng : numpy.random.Generator, optional
            Generator to draw from; a fresh one if not given.
        barred : bool array, (V,), optional
            Ids that do not come up; at least one is left.
        """
        open_ = np.ones(self.vocab_size, bool) if barred is None else ~barred
        excluded = {self.unknown_idx} if allow_newline else {self.unknown_idx, self._newline()}
        allowed = [idx for idx in np.flatnonzero(open_).tolist() if idx not in excluded]
        if not allowed:
            return self._newline()
        return int(np.random.default_rng(rng).choice(allowed))

    def semirandomidx(
        self, rng: np.random.Generator | None = None, barred: np.ndarray | None = None
    ) -> int:
        """Draw an id that starts a line in the source, as often as it does there.

        In a text without lines any id may come up, and where all that start one are ``barred``, bool
        (V,), any other.
        """
        rng = np.random.default_rng(rng)
        starts = self.linestarts.copy()
        if self.unknown_idx is not None:
            starts[self.unknown_idx] = 0
        if barred is not None:
            starts[barred] = 0
        if not starts.any():
            return self.randomidx(rng=rng, barred=barred)
        drawn = rng.integers(starts.sum())
        return int(np.searchsorted(np.cumsum(starts), drawn, side="right"))

    def semirandomch(self, rng: np.random.Generator | None = None) -> str:
        """Draw a symbol that starts a line in the source; see :meth:`semirandomidx`."""
        return self.charatidx(self.semirandomidx(rng))

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON data; :meth:`from_json` reads it back."""
        return {
            "level": self.level,
            "symbols": self._symbols(),
            "linestarts": self.linestarts.tolist(),
            "srcinfo": self.srcinfo,
            "rare": [self.rare.distinct, self.rare.occurrences, list(self.rare.symbols)],
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Return the vocabulary that :meth:`to_json` described.

        Raises
        ------
        CheckpointDamaged
            If ``data`` is anything else.
        """
        try:
            if data["level"] != cls.level:
                raise ValueError(f"level {data['level']!r}, expected {cls.level!r}")
            vocab = cls._fromsymbols(data["symbols"])
            vocab.linestarts = _whole(data["linestarts"], vocab.vocab_size)
            vocab.srcinfo = data["srcinfo"]
            distinct, occurrences, symbols = data["rare"]
            vocab.rare = Rare(distinct, occurrences, tuple(symbols), cls.units)
        except KeyError as error:
            raise CheckpointDamaged(f"The saved {cls.__name__} lacks {error}.") from error
        except (TypeError, ValueError) as error:
            raise CheckpointDamaged(
                f"The saved {cls.__name__} is not readable: {error}."
            ) from error
        return vocab

    def _fill(
        self,
        counts: Mapping[Any, int],
        linestarts: Mapping[Any, int],
        srcinfo: str | None,
        min_count: int,
        max_vocab: int | None,
        known: "Vocabulary | None" = None,
    ) -> None:
        self.rare = self._choose(counts, min_count, max_vocab, known)
        self.srcinfo = srcinfo
        self.linestarts = self._countsbyid(linestarts)

    def _newline(self) -> int:
        return self.idxofchar("\n")

    def _countsbyid(self, counts: Mapping[Any, int]) -> np.ndarray:
        byid = np.zeros(self.vocab_size, np.int64)
        for symbol, count in counts.items():
            byid[self.idxofchar(symbol)] += count
        return byid

    def _valid(self, ids: Iterable[int] | np.ndarray) -> np.ndarray:
        """Return ids as an array; InputError if one of them is none of this vocabulary."""
        array = ids if isinstance(ids, np.ndarray) else np.array(list(ids), np.int64)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise InputError(
                f"Expected ids: integers in one dimension, got {array.dtype}, shape {array.shape}."
            )
        if array.size and (array.min() < 0 or array.max() >= self.vocab_size):
            wrong = array.min() if array.min() < 0 else array.max()
            raise InputError(
                f"No id {wrong}: this {type(self).__name__} has ids 0 to {self.vocab_size - 1}."
            )
        return array


def keepfrequent(
    counts: Mapping[str, int],
    min_count: int,
    max_vocab: int | None,
    units: str,
    known: Vocabulary | None = None,
) -> tuple[list[str], Rare]:
    """Choose the symbols of a vocabulary; return them sorted, without "unknown", and the rare rest.

    Of symbols that are equally frequent, those that sort first are chosen first. Those of a vocabulary
    that is ``known`` already are chosen in any case.
    """
    if not isinstance(min_count, int | np.integer) or min_count < 1:
        raise InputError(
            f"min_count={min_count!r}: expected a whole number from 1 (keep everything)."
        )
    if max_vocab is not None and (not isinstance(max_vocab, int | np.integer) or max_vocab < 2):
        raise InputError(
            f"max_vocab={max_vocab!r}: expected a whole number from 2; 'unknown' is one of them."
        )
    there = {symbol: n for symbol, n in counts.items() if symbol != Vocabulary.unknown_char}
    ranked = sorted(there, key=lambda symbol: (-there[symbol], symbol))
    kept = [symbol for symbol in ranked if there[symbol] >= min_count]
    if max_vocab is not None:
        kept = kept[: max_vocab - 1]
    if not kept:
        raise TextError(
            f"No symbol occurs {min_count} times or more; lower min_count."
            if there
            else "The text has no characters to make a vocabulary of."
        )
    rare = ranked[len(kept) :]
    if known is not None:
        kept = [*{*kept, *known._symbols()} - {Vocabulary.unknown_char}]
        rare = [symbol for symbol in rare if not known.idxofchar(symbol)]
    occurrences = sum(there[symbol] for symbol in rare)
    return sorted(kept), Rare(len(rare), occurrences, tuple(rare[:RARE_SHOWN]), units)


def _whole(values: Any, size: int) -> np.ndarray:
    array = np.array(values)
    if array.shape != (size,) or array.dtype.kind != "i" or array.min() < 0:
        raise ValueError(f"linestarts are not {size} counts")
    return array.astype(np.int64)
