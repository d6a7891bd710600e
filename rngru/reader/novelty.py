"""Which stretches of a text stand in another, word for word: what a model has learned by heart.

>>> corpus = np.frombuffer(b"the ship sails at dawn", np.uint8)
>>> lengths, places = longest(corpus, np.frombuffer(b"a ship sails at sea", np.uint8), least=6)
>>> lengths.max(), places.max()
(np.int32(15), np.int64(17))
"""

import html
import reprlib
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final

import numpy as np

from rngru.reader.reader import Reader, Text
from rngru.settings import checked, whole
from rngru.shading import Shaded
from rngru.tables import Table, oneline
from rngru.text import Vocabulary

LEAST = 20
"""Symbols that a stretch has at least, if not told otherwise."""

BLOCK = 1 << 22
"""Symbols of the corpus that each thread reads between two looks at Ctrl-C."""

SHOWN = 10
"""Stretches that a table shows."""

SHADED = 5000
"""Symbols that a notebook shows."""

FILE = 24
"""Characters of the name of a file that a table shows."""


@final
@dataclass(frozen=True, repr=False)
class Copy:
    """A stretch of a text that stands in the training text.

    Attributes
    ----------
    position : int
        Where it begins in the text, counted in symbols from 0.
    length : int
        How many symbols it has.
    file : str
        The file of the training text that it begins in. It may go on in the
        next one: all files are one text.
    offset : int
        Where it begins in that file, counted in symbols from 0. If it stands
        there several times, or in several files, it is the first of all these
        places.
    line : int or None
        The line of the file that it begins in, counted from 1; None at word
        level.
    symbols : sequence of str
        The text that it is a stretch of.
    """

    position: int
    length: int
    file: str
    offset: int
    line: int | None
    symbols: Sequence[str] = field(compare=False)

    @property
    def text(self) -> str:
        """The stretch itself."""
        return "".join(self.symbols[self.position : self.position + self.length])

    def __repr__(self) -> str:
        place = f"{self.file!r}, offset {self.offset:,}"
        return f"<Copy of {self.length:,}: {reprlib.repr(self.text)} at {self.position:,}, from {place}>"


@final
@dataclass(frozen=True, repr=False, eq=False)
class Copies(Sequence[Copy]):
    """The stretches of a text that stand in the training text, the longest first.

    None of them lies inside another one; they may overlap. At the prompt it
    shows a table, in a notebook the text with the copied stretches in colour.

    Attributes
    ----------
    symbols : sequence of str, (n,)
        The text. At byte level a character stands at the first of its bytes,
        and '' at the others.
    found : tuple of Copy
        The stretches.
    least : int
        How many symbols a stretch has at least.
    units : str
        What a symbol is: ``'characters'``, ``'words'`` or ``'bytes'``.

    Example
    -------
    >>> found = Copies("the sea!", (Copy(0, 7, "log.txt", 28, 1, "the sea!"),), least=6)
    >>> found.share, len(found), found[0].text
    (0.875, 1, 'the sea')
    """

    symbols: Sequence[str]
    found: tuple[Copy, ...]
    least: int = LEAST
    units: str = "characters"

    def __getitem__(self, index: Any) -> Any:
        return self.found[index]

    def __len__(self) -> int:
        return len(self.found)

    @cached_property
    def covered(self) -> np.ndarray:
        """Whether each symbol of the text is in one of the stretches; bool, (n,)."""
        edges = np.zeros(len(self.symbols) + 1, np.int64)
        for each in self.found:
            edges[each.position] += 1
            edges[each.position + each.length] -= 1
        return edges.cumsum()[:-1] > 0

    @property
    def share(self) -> float:
        """The share of the text's symbols that are in one of the stretches."""
        return float(self.covered.mean()) if len(self.symbols) else 0.0

    def columns(self) -> dict[str, np.ndarray]:
        """Return everything by column, as ``pandas.DataFrame`` takes it; ``line`` is 0 where not known."""
        found = self.found
        return {
            "position": np.array([each.position for each in found], np.int64),
            "length": np.array([each.length for each in found], np.int64),
            "file": np.array([each.file for each in found], object),
            "line": np.array([each.line or 0 for each in found], np.int64),
            "offset": np.array([each.offset for each in found], np.int64),
            "text": np.array([each.text for each in found], object),
        }

    @property
    def _told(self) -> str:
        count, text = len(self), f"{len(self.symbols):,} {self.units}"
        if not count:
            return f"Nothing is copied: no {self.least} {self.units} in a row are in the training text."
        stretches = f"{count:,} stretch{'es' if count > 1 else ''}"
        return (
            f"{100 * self.share:.0f} % of {text} are in the training text: {stretches} of "
            f"{self.least} or more."
        )

    def _chosen(self) -> list[Copy]:
        """The stretches that a table shows: each has most of its place to itself, and another text.

        Of a row of 80 dashes, of which 60 stand in the training text, there are
        21 such stretches.
        """
        chosen: list[Copy] = []
        for each in self.found:
            shared = (
                min(each.position + each.length, other.position + other.length)
                - max(each.position, other.position)
                for other in chosen
            )
            place = each.file, each.offset, each.length
            again = any(place == (other.file, other.offset, other.length) for other in chosen)
            if not again and 2 * max(shared, default=0) <= each.length:
                chosen.append(each)
            if len(chosen) == SHOWN:
                break
        return chosen

    def _table(self, width: int) -> Table:
        """The longest stretches, each cut so that a line has ``width`` characters."""
        chosen = self._chosen()
        rows = [
            [
                f"{each.position:,}", f"{each.length:,}", _ending(oneline(each.file)),
                "-" if each.line is None else f"{each.line:,}", f"{each.offset:,}",
            ]
            for each in chosen
        ]  # fmt: skip
        names = ["position", "length", "file", "line", "offset"]
        widths = [max(map(len, column)) + 2 for column in zip(names, *rows, strict=True)]
        left = max(width - sum(widths), 10)
        more = len(self) - len(chosen)
        return Table(
            [*names, ""],
            [[*row, _cut(each.text, left)] for row, each in zip(rows, chosen, strict=True)],
            note=f"and {more:,} more, most of which overlap these" if more > 0 else "",
        )

    def __repr__(self) -> str:
        if not self.found:
            return self._told
        return f"{self._told}\n{self._table(shutil.get_terminal_size().columns)!r}"

    def _repr_html_(self) -> str:
        head = f"<p>{html.escape(self._told)}</p>"
        if not self.found:
            return head
        whose = np.full(min(len(self.symbols), SHADED), -1)
        for number in reversed(range(len(self))):  # the longest last: it is what one asks for
            each = self.found[number]
            whose[each.position : each.position + each.length] = number
        told = [
            f"{each.file}{f', line {each.line:,}' if each.line else ''}, {self.units[:-1]} {each.offset:,}"
            for each in self.found
        ]
        titles = [told[number] if number >= 0 else "" for number in whose]
        text = Shaded(self.symbols[:SHADED], 0.5 * (whose >= 0), titles=titles)
        rest = len(self.symbols) - SHADED
        more = f"<p>and {rest:,} more {self.units}</p>" if rest > 0 else ""
        return f"{head}{text._repr_html_()}{more}{self._table(120)._repr_html_()}"


def _ending(name: str) -> str:
    return name if len(name) <= FILE else f"…{name[1 - FILE :]}"


def _cut(text: str, width: int) -> str:
    """Return a stretch between marks, which show the blanks at its ends, its middle left out if long."""
    text = oneline(text)
    if len(text) > width - 2:
        half = (width - 3) // 2
        text = f"{text[:half]}…{text[-half:]}"
    return f"⟪{text}⟫"


def copied(
    reader: Reader,
    text: Text,
    corpus: np.ndarray,
    documents: Sequence[tuple[str, int]],
    least: int = LEAST,
    *,
    check: Callable[[], object] = lambda: None,
) -> Copies:
    """Find the stretches of a text that stand in a corpus.

    The corpus is read once, in parts, by all threads; memory grows with the
    text, not with the corpus.

    Parameters
    ----------
    text: what to look for; what is unknown in it matches nothing.
    corpus: the encoded text to look in, (N,).
    documents: name and first symbol of each of its files, in order.
    least: how many symbols a stretch has at least.
    check: raises KeyboardInterrupt to stop; called between parts.
    """
    least, vocab = checked("least", least, whole(1)), reader.vocab
    ids = reader.encode(text)
    symbols = _characters(ids) if vocab.level == "byte" else reader.symbols(text)
    if vocab.unknown_idx is not None:
        ids = np.where(ids == vocab.unknown_idx, -1, ids)
    lengths, places = longest(corpus, ids, least, check=check)
    begins = np.arange(len(ids)) - lengths + 1
    last = np.append(begins[1:] > begins[:-1], True)  # else a longer one goes on after it
    ends = np.flatnonzero((lengths >= least) & last)
    ends = ends[np.argsort(-lengths[ends], kind="stable")]
    offsets = places[ends] - lengths[ends] + 1
    files = [bisect_right(documents, offset, key=lambda each: each[1]) - 1 for offset in offsets]
    starts = np.array([documents[file][1] for file in files], np.int64)
    lines = _lines(corpus, vocab, starts, offsets, check)
    found = []
    for end, file, offset, line in zip(ends, files, offsets, lines, strict=True):
        name, start = documents[file]
        place = int(begins[end]), int(lengths[end])
        found.append(Copy(*place, name, int(offset) - start, line, symbols))
    return Copies(symbols, tuple(found), least, vocab.units)


def _characters(data: np.ndarray) -> tuple[str, ...]:
    """Return the characters of bytes (n,), each at its first byte, and '' at the others."""
    found, at = [""] * len(data), 0
    for char in data.astype(np.uint8).tobytes().decode("utf-8", "surrogateescape"):
        size = len(char.encode("utf-8", "surrogateescape"))
        found[at] = "\ufffd" if 0xDC80 <= ord(char) <= 0xDCFF else char
        at += size
    return tuple(found)


def longest(
    corpus: np.ndarray,
    ids: np.ndarray,
    least: int,
    *,
    threads: int | None = None,
    block: int = BLOCK,
    check: Callable[[], object] = lambda: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the longest stretch that ends at each symbol of a text and stands in a corpus.

    Parameters
    ----------
    corpus, ids: symbols, (N,) and (n,); one below 0 in ``ids`` matches nothing.
    least: shorter stretches are not looked for.
    threads, block: how many threads, by default all, and symbols that each reads between two calls of
        ``check``. What is found does not depend on them.

    Returns
    -------
    lengths : int32 array, (n,)
        0 where there is none.
    places : int64 array, (n,)
        Where in the corpus its last symbol is, the first time it stands there;
        -1 where there is none.
    """
    none = np.zeros(len(ids), np.int32), np.full(len(ids), -1, np.int64)
    if len(ids) < least or len(corpus) < least:
        return none
    from rngru.kernels import copies
    from rngru.kernels.threads import available, run

    query, most = ids.astype(np.int64), 2 * len(ids) + 1
    lengths, links, heads = (np.empty(most, np.int32) for _ in range(3))
    edges = np.empty((copies.ENTRIES * len(ids) + 1, 4), np.int32)
    table = np.full(1 << (2 * len(edges)).bit_length(), -1, np.int32)
    ends = np.empty(len(ids), np.int32)
    states = copies.build(query, lengths, links, heads, edges, table, ends)
    # Some 64 bits for each window: of the windows of the corpus, one in a thousand is asked for in vain.
    size = max(16, (64 * len(ids)).bit_length())
    bits, shift = np.zeros(1 << (size - 6), np.uint64), 64 - size
    copies.mark(query, least, bits, shift)
    count = available() if threads is None else threads
    lengthiest = np.zeros((count, states), np.int32)
    where, earliest = (np.full((count, states), -1, np.int64) for _ in range(2))
    text = np.asarray(corpus).view()
    text.setflags(write=False)  # one type, and so one kernel, for files and arrays
    for first in range(0, len(text), count * block):

        def share(begin: int, end: int, first: int = first) -> None:
            for part in range(begin, end):
                start = min(first + part * block, len(text))
                copies.find(
                    text, start, min(start + block, len(text)), least, bits, shift,
                    lengths, links, edges, table,
                    lengthiest[part], where[part], earliest[part],
                )  # fmt: skip

        run(share, count, count)
        check()
    order = np.argsort(-lengths[:states], kind="stable")
    copies.settle(order, links, lengths, *_joined(lengthiest, where, earliest), ends, *none)
    short = none[0] < least
    none[0][short], none[1][short] = 0, -1
    return none


def _joined(
    longest: np.ndarray, where: np.ndarray, earliest: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what all threads (threads, states) found together: the longest, and of these the first."""
    never = np.iinfo(np.int64).max
    most = longest.max(0)
    first = np.where((longest == most) & (where >= 0), where, never).min(0)
    early = np.where(earliest >= 0, earliest, never).min(0)
    return most, np.where(most > 0, first, -1), np.where(most > 0, early, -1)


def _lines(
    corpus: np.ndarray,
    vocab: Vocabulary,
    starts: np.ndarray,
    offsets: np.ndarray,
    check: Callable[[], object],
) -> Iterator[int | None]:
    """Yield the line of each offset, counted from 1 at its start; None where newlines are not symbols."""
    newline = None if vocab.level == "word" else vocab.idxofchar("\n")
    if newline is None or newline == vocab.unknown_idx:
        yield from [None] * len(offsets)
        return
    places = np.unique(np.concatenate([starts, offsets]))
    counted = np.zeros(len(places), np.int64)
    for i in range(1, len(places)):
        for begin in range(int(places[i - 1]), int(places[i]), BLOCK):
            piece = corpus[begin : min(begin + BLOCK, int(places[i]))]
            counted[i] += np.count_nonzero(piece == newline)
            check()
    lines = dict(zip(places.tolist(), counted.cumsum().tolist(), strict=True))
    for start, offset in zip(starts.tolist(), offsets.tolist(), strict=True):
        yield 1 + lines[offset] - lines[start]
