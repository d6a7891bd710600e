"""Where a text comes from: files of any size, read a piece at a time.

A **source** is whatever the user hands over, turned by :func:`opentexts` into a list of
:class:`Document`, each of which can be read again and again in constant memory:

=========================================  =========================================================
``"book.txt"`` or a ``Path``               that file
``"novels"``, a directory                  every file below it, sorted; names starting with a dot
                                           are skipped, and the files of a model
``"novels/*.txt"``, a pattern              every file that matches, sorted (``**`` descends)
``["a.txt", Path("b.txt")]``               an iterable of any of the above, in its order; a set,
                                           which has none that lasts, is sorted
``Texts(["It was", " a dark night"])``     the strings themselves
=========================================  =========================================================

A ``str`` always names files. Text that is already in memory is wrapped in :class:`Texts`, so that
a mistyped file name is never trained on.

Text is UTF-8 unless ``encoding`` says otherwise; with ``encoding='guess'`` each file that is not UTF-8
is read in the encoding that it looks like. A byte order mark at the start is dropped; nothing else is
changed, line ends (LF or CRLF) included. Bytes that are not in the encoding are an error, or U+FFFD,
"unknown", with ``errors='replace'``.

>>> [document.name for document in opentexts(Texts(["It was", " a dark night"]))]
['text 1', 'text 2']
>>> readtext(Texts(["It was", " a dark night"]))
'It was a dark night'
"""

import codecs
import difflib
import encodings.aliases
import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

from rngru.errors import InputError, MissingExtra, TextError, choose, warn
from rngru.text import advice
from rngru.text.finding import files

# Small enough for a block, and all that is made from it, to stay in the processor's cache.
BLOCK = 1 << 17

WINDOW = 1 << 20
"""Bytes around a place that cannot be decoded which are looked at to say why."""

LARGE = 1 << 26
"""Bytes up to which all of a file is tried in an encoding before that is advised."""

ERRORS = ("strict", "replace")

GUESS = "guess"
"""The ``encoding`` that stands for whatever each file looks like."""

Tick = Callable[[int], object]
T = TypeVar("T")


class Texts:
    """Strings that are text themselves, not names of files: one document each.

    Parameters
    ----------
    texts : iterable of str
        Kept in memory. A corpus larger than memory belongs in files.
    names : iterable of str, optional
        What each is called in messages and in the corpus; ``text 1``, ``text 2`` … if not given.

    Raises
    ------
    TextError
        If one of them is not a string, or there are not as many names as texts.

    Example
    -------
    >>> Texts(["To be, or not to be"], names=["hamlet"])
    Texts(1 text, 19 characters)
    """

    def __init__(self, texts: Iterable[str], names: Iterable[str] | None = None):
        self.texts = (texts,) if isinstance(texts, str) else tuple(_inorder(texts))
        for number, text in enumerate(self.texts, 1):
            if not isinstance(text, str):
                raise TextError(
                    f"Texts holds strings, but item {number} is of type {type(text).__name__}. "
                    "Files are given directly, without Texts."
                )
        if names is None:
            self.names = tuple(f"text {number}" for number in range(1, len(self.texts) + 1))
        else:
            self.names = tuple(names)
        if len(self.names) != len(self.texts):
            raise TextError(f"Texts got {len(self.texts)} texts but {len(self.names)} names.")

    def __repr__(self) -> str:
        plural = "" if len(self.texts) == 1 else "s"
        characters = sum(map(len, self.texts))
        return f"Texts({len(self.texts):,} text{plural}, {characters:,} characters)"


Source = str | os.PathLike[str] | Texts | Iterable[str | os.PathLike[str]]


@dataclass(frozen=True)
class Document:
    """One file, or one string, that can be read from its start any number of times.

    What is appended to the file later is not read, so that every reading gives the same text.

    Attributes
    ----------
    name : str
        The file as the user gave it, or the name of the string.
    path : Path or None
        The file; None for a string.
    data : bytes
        The string as UTF-8; empty for a file.
    nbytes : int
        Size in bytes when it was opened.
    encoding : str
        Encoding of the bytes, as ``codecs.lookup(...).name`` spells it.
    errors : str
        What becomes of bytes that are not in it: ``'strict'``, an error, or ``'replace'``, U+FFFD.
    watch : callable, optional
        Called with each block of bytes that is read.
    """

    name: str
    path: Path | None
    data: bytes = field(repr=False)
    nbytes: int
    encoding: str = "utf-8"
    errors: str = "strict"
    watch: Callable[[bytes], object] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def ofpath(cls, path: Path, encoding: str, errors: str = "strict") -> Self:
        """Return a file as a document."""
        # Bytes of a name that are not UTF-8 are shown as U+FFFD.
        name = os.fsencode(path).decode("utf-8", "replace")
        return cls(name, path, b"", path.stat().st_size, encoding, errors)

    @classmethod
    def oftext(cls, text: str, name: str) -> Self:
        """Return a string as a document."""
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise TextError(
                f"{name}: half a surrogate pair, {text[error.start]!a}, at character "
                f"{error.start:,}: that is not a character."
            ) from error
        return cls(name, None, data, len(data))

    @property
    def ispage(self) -> bool:
        """Whether it is a file that begins as a page of the web does, and is not called one."""
        if self.path is None or "htm" in self.path.suffix:
            return False
        with self._opened() as stream:
            return advice.MARKUP.match(stream.read(1000)) is not None

    def guessed(self) -> Self:
        """Return it in the encoding that it looks like.

        Raises
        ------
        TextError
            If it looks like none.
        MissingExtra
            Without charset-normalizer, if it is not UTF-8.
        """
        if self._reads("utf-8"):
            return replace(self, encoding="utf-8")
        if not advice.DETECTS:
            raise MissingExtra(
                f"{self.name} is not UTF-8, and encoding='guess' needs charset-normalizer to say what "
                "it is: pip install 'rngru[guess]'"
            )
        with self._opened() as stream:
            begins = stream.read(BLOCK)
        self._refusekind(begins)
        sample, _ = self._around(self._odd())
        for encoding in [*advice.likely(sample), *advice.likely(begins)]:
            if self._reads(encoding):
                return replace(self, encoding=_checked(encoding))
        raise TextError(
            f"{self.name}: encoding='guess': all of it is in no encoding that it looks like. Give its "
            "encoding=; level='byte' reads any file."
        )

    def _odd(self) -> int:
        """Return about where the first byte is that is not ASCII."""
        blocks = itertools.takewhile(bytes.isascii, self.blocks())
        return sum(map(len, blocks))

    def blocks(self, tick: Tick | None = None) -> Iterator[bytes]:
        """Yield the bytes, at most 128 KiB at a time.

        ``tick`` is called with the number of bytes in each block, after the block was used.

        Raises
        ------
        TextError
            If the file cannot be read.
        """
        with self._opened() as stream:
            left = self.nbytes
            while block := stream.read(min(BLOCK, left)):
                left -= len(block)
                if self.watch:
                    self.watch(block)
                yield block
                if tick:
                    tick(len(block))

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        try:
            with io.BytesIO(self.data) if self.path is None else open(self.path, "rb") as stream:
                yield stream
        except OSError as error:
            raise TextError(f"{self.name}: cannot be read: {error.strerror}.") from error

    def characters(self, tick: Tick | None = None) -> Iterator[str]:
        """Yield the text, decoded, in pieces of at most 128 KiB of its bytes.

        Raises
        ------
        TextError
            If the file cannot be read, is not in ``encoding`` or is binary.
        """
        decoder = codecs.getincrementaldecoder(self.encoding)(self.errors)
        seen, started = 0, False
        for block in self.blocks(tick):
            if not seen:
                self._refuse(block)
            seen += len(block)
            piece = self._decode(decoder, block, seen)
            yield piece if started else piece.removeprefix("\ufeff")
            started = started or piece != ""
        yield self._decode(decoder, b"", seen, final=True)

    def _decode(
        self, decoder: codecs.IncrementalDecoder, block: bytes, seen: int, final: bool = False
    ) -> str:
        try:
            return decoder.decode(block, final)
        except UnicodeDecodeError as error:
            # The decoder may have kept the first bytes of a character from the block before.
            offset = seen - len(error.object) + error.start
            raise TextError(self._undecodable(error, offset)) from error
        except UnicodeError as error:
            sample, _ = self._around(0)
            raise TextError(
                f"{self.name}: not {self.encoding}: it does not begin with a byte order mark. "
                f"{self._advice(sample, 0)}"
            ) from error

    def _undecodable(self, error: UnicodeDecodeError, offset: int) -> str:
        sample, at = self._around(offset)
        lines = 1 + sum(block.count(b"\n") for block in self._until(offset))
        wrong = error.object[error.end : error.end + 1] if "continuation" in error.reason else b""
        reason = error.reason + (f" 0x{wrong.hex()}" if wrong else "")
        message = (
            f"{self.name}: not {self.encoding}: byte 0x{error.object[error.start]:02x} at offset "
            f"{offset:,}, line {lines:,} ({reason})."
        )
        if not (bad := advice.broken(sample, self.encoding)):
            return f"{message} {self._advice(sample, at)}"
        rest = "The rest of it" if len(sample) == self.nbytes else "The text around it"
        but = "" if bad == 1 else f", but for {bad - 1:,} more such places"
        return (
            f"{message} {rest} is {self.encoding.upper()}{but}. Mend the file there, or give "
            "errors='replace': such bytes are then read as unknown (U+FFFD)."
        )

    def _advice(self, sample: bytes, at: int) -> str:
        """Say which encodings read all of it, and what they make of the place."""
        told = []
        for encoding in filter(self._reads, advice.likely(sample, self.encoding)):
            word = advice.excerpt(sample, at, encoding)
            told.append(f"encoding={encoding!r}" + (f" ({word!r} there)" if word else ""))
        if told:
            sure = len(told) == 1 and "'utf-" in told[0]
            what = "It looks like another encoding" if sure else "If it is an older text"
            return f"{what}, try {' or '.join(told)}."
        if b"\0" in sample and not self.encoding.startswith(("utf-16", "utf-32")):
            return "It looks binary: level='byte' reads any file."
        return (
            "Give the right encoding=; errors='replace' reads such bytes as unknown, and level='byte' "
            "reads any file."
        )

    def _around(self, offset: int) -> tuple[bytes, int]:
        """Return at most a megabyte around an offset, and where in that it is."""
        start = max(0, offset - WINDOW // 2) // 4 * 4
        with self._opened() as stream:
            stream.seek(start)
            sample = stream.read(min(self.nbytes, offset + WINDOW // 2) - start)
        # Begin with a line, so that no character is cut.
        cut = sample.find(b"\n", 0, offset - start) + 1 if start and b"\0" not in sample else 0
        return sample[cut:], offset - start - cut

    def _until(self, offset: int) -> Iterator[bytes]:
        """Yield the bytes before an offset."""
        return replace(self, nbytes=min(self.nbytes, offset), watch=None).blocks()

    def _reads(self, encoding: str) -> bool:
        """Whether an encoding reads all of it, or the first part of a very large one."""
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            for block in self._until(LARGE):
                decoder.decode(block)
            decoder.decode(b"", self.nbytes <= LARGE)
        except UnicodeError:
            return False
        return True

    def _refuse(self, block: bytes) -> None:
        """Raise TextError for what is no text, or in another encoding beyond doubt."""
        self._refusekind(block)
        if self.encoding.startswith(("utf-16", "utf-32")):
            if advice.narrow(block):
                raise TextError(
                    f"{self.name}: not {self.encoding}: it is UTF-8. Leave out encoding=."
                )
            return
        if self.path and (encoding := advice.marked(block)):
            raise TextError(
                f"{self.name}: not {self.encoding}: it starts with the byte order mark of "
                f"{encoding.upper()}. Try encoding={encoding!r}."
            )
        if block.count(0) * 100 > len(block):
            self._refuse_zeros(block)

    def _refusekind(self, block: bytes) -> None:
        """Raise TextError for a picture, a PDF, and so on."""
        if self.path and (kind := advice.kindof(block)):
            raise TextError(f"{self.name}: {kind}, not a text. {advice.remedy(block)}")

    def _refuse_zeros(self, block: bytes) -> None:
        if self.path and (encoding := advice.wide(block[: advice.SAMPLE])):
            raise TextError(
                f"{self.name}: not {self.encoding}: it looks like {encoding.upper()} without a byte "
                f"order mark. Try encoding={encoding!r}."
            )
        raise TextError(
            f"{self.name}: looks binary: {block.count(0):,} of its first {len(block):,} bytes "
            "are zero. level='byte' reads any file."
        )


def opentexts(
    source: Source, encoding: str = "utf-8", *, errors: str = "strict", skip: bool = False
) -> list[Document]:
    """Return the documents of a source, in order. Nothing is read yet, unless to ``guess`` or ``skip``.

    Parameters
    ----------
    source
        See the table at the top of this module.
    encoding : str
        Encoding of all the files: ``'utf-8'`` (default), ``'cp1252'``, ``'utf-16'``, …; or
        ``'guess'``, of each file by itself. :class:`Texts` needs none.
    errors : str
        ``'replace'``: bytes that are not in the encoding become U+FFFD, which is "unknown". By
        default they are an error.
    skip : bool
        Leave out files that cannot be read as text, with a warning. By default they are an error.

    Raises
    ------
    TextError
        If a file does not exist, is not a file, or nothing is found at all.
    InputError
        If Python knows no such encoding, or ``errors`` is something else.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "poem.txt")
    ...     size = path.write_text("Tyger Tyger, burning bright")
    ...     opentexts(path)[0].nbytes, opentexts(f"{folder}/*.txt") == opentexts(str(path))
    (27, True)
    """
    encoding, errors = _checked(encoding), choose("errors", errors, ERRORS)
    if isinstance(source, Texts):
        documents = [
            Document.oftext(text, name)
            for name, text in zip(source.names, source.texts, strict=True)
        ]
    elif isinstance(source, str | os.PathLike):
        documents = [Document.ofpath(path, encoding, errors) for path in files(source)]
    elif isinstance(source, Iterable):
        _refuseopen(source)
        documents = []
        for item in _inorder(source):
            if not isinstance(item, str | os.PathLike):
                raise TextError(
                    f"Expected a list of file names, but an item is of type {type(item).__name__}."
                )
            documents += [Document.ofpath(path, encoding, errors) for path in files(item)]
    else:
        raise TextError(
            "Expected a file, a directory, a pattern, a list of files or Texts([...]), "
            f"got an object of type {type(source).__name__}."
        )
    if not documents:
        raise TextError("The source holds no files and no texts.")
    return _readable(documents, guess=encoding == GUESS, skip=skip)


def _readable(documents: list[Document], *, guess: bool, skip: bool) -> list[Document]:
    """Return the documents in the encodings that they are in, and without those to ``skip``."""
    kept, odd = [], []
    for document in documents:
        try:
            found = document.guessed() if guess and document.path else document
            if skip:
                for _ in found.characters():
                    pass
            kept.append(found)
        except TextError as error:
            if not skip:
                raise
            odd.append(str(error))
    if odd and not kept:
        raise TextError(f"None of the files can be read as text. The first: {odd[0]}")
    if odd:
        more = f", and {len(odd) - 3:,} more" if odd[3:] else ""
        warn(f"{len(odd):,} left out of the text{more}:\n" + "\n".join(odd[:3]))
    others = [document for document in kept if guess and document.encoding != "utf-8"]
    if others:
        named = ", ".join(f"{document.name} ({document.encoding})" for document in others[:3])
        more = f" and {len(others) - 3:,} more" if others[3:] else ""
        warn(f"Not UTF-8, and read in the encoding that it looks like: {named}{more}.")
    return kept


def _refuseopen(source: object) -> None:
    """Raise TextError for an open file, which would be read as a list of names."""
    if isinstance(source, io.IOBase):
        name = getattr(source, "name", None)
        hint = f" Give its name, {name!r}." if isinstance(name, str) else ""
        raise TextError(
            f"Expected the name of a file, got an open one.{hint} To read the strings themselves, use "
            "Texts([...])."
        )


def _inorder(items: Iterable[T]) -> Iterable[T]:
    """Return what is iterated over; a set, whose order is another one in each process, sorted."""
    return sorted(items, key=str) if isinstance(items, set | frozenset) else items


def readtext(source: Source, encoding: str = "utf-8", *, errors: str = "strict") -> str:
    """Return the whole text of a source as one string, its documents joined as they are.

    Example
    -------
    >>> readtext(Texts(["\\ufeffIt was"]))
    'It was'
    """
    documents = opentexts(source, encoding, errors=errors)
    return "".join(piece for document in documents for piece in document.characters())


def warnofpages(documents: Iterable[Document]) -> None:
    """Warn of web pages among texts: a download that went wrong, say."""
    pages = [document.name for document in documents if document.ispage]
    if pages:
        more = f" and {len(pages) - 1:,} more" if pages[1:] else ""
        warn(
            f"{pages[0]}{more}: a web page (HTML), whose markup is learned, too. Is it the right file?"
        )


def _checked(encoding: str) -> str:
    """Return Python's name of an encoding, without '-sig': a byte order mark is dropped anyway."""
    if encoding == GUESS:
        return encoding
    try:
        "a".encode(encoding)
        return codecs.lookup(encoding).name.removesuffix("-sig")
    except (LookupError, TypeError):
        known = sorted(set(encodings.aliases.aliases.values()))
        near = difflib.get_close_matches(str(encoding).lower(), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"encoding={encoding!r} is not a text encoding that Python knows.{hint}"
        ) from None
