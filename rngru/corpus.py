"""The encoded text as a file: ids in one memory-mapped file, and a description beside it.

:func:`encodecorpus` reads a text of any size twice, in constant memory, and writes its ids to a
folder; the :class:`Corpus` it returns holds a training and a validation
:class:`~rngru.dataset.DataSet`.

>>> import tempfile
>>> from rngru.text import Texts
>>> corpus = encodecorpus(Texts(["It was a dark and stormy night"]), tempfile.mkdtemp())
>>> corpus
Corpus(30 characters from text 1: 27 for training, 3 for validation, 17 ids)
>>> Corpus.open(corpus.folder).digest == corpus.digest
True
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Self, final

import numpy as np

from rngru.dataset import DataSet
from rngru.disk import (
    isforeign,
    mapped,
    orremoved,
    refusals,
    rename,
    settle,
    sync,
    unmade,
    unmatched,
    writeatomic,
)
from rngru.errors import (
    CheckpointDamaged,
    CheckpointTooNew,
    InputError,
    TextError,
    WorkdirError,
    choose,
)
from rngru.text import (
    LEVELS,
    Document,
    Source,
    Tally,
    Vocabulary,
    changedfiles,
    opentexts,
    vocabularyfromjson,
    warnofpages,
)

FORMAT = 1
READABLE_SINCE = "0.1"
"""The oldest rngru that reads a corpus of this format."""
DESCRIPTION = "corpus.json"


@final
@dataclass(frozen=True, eq=False, repr=False)
class Corpus:
    """A text encoded into a folder: training followed by validation, in one file of ids.

    Made by :func:`encodecorpus`, opened again by :meth:`open`.

    Attributes
    ----------
    folder : Path
        Where it lies: a file of ids and ``corpus.json``, which describes it.
    vocab : Vocabulary
        What the ids mean.
    ids : numpy.memmap, (N,), :attr:`Vocabulary.dtype`
        The whole text, read-only; in memory where the file system can map no file.
    split : int
        How many of the ids are for training; the others are for validation.
    documents : tuple of (str, int)
        Name and first id of each document, in order.
    digest : str
        SHA-256 of the ids, in hexadecimal.
    sources : tuple of (str, int, int)
        The files that were encoded: path, size and time of the last change in nanoseconds.
    digests : tuple of (str or None)
        SHA-256 of the bytes of each of these files; None where an earlier rngru did not say.
    """

    folder: Path
    vocab: Vocabulary
    ids: np.ndarray
    split: int
    documents: tuple[tuple[str, int], ...] = field(repr=False)
    digest: str
    sources: tuple[tuple[str, int, int], ...] = field(default=(), repr=False)
    digests: tuple[str | None, ...] = field(default=(), repr=False)

    @property
    def train(self) -> DataSet:
        """The training text."""
        return DataSet(self.ids[: self.split], self.vocab)

    @property
    def valid(self) -> DataSet:
        """The validation text; empty if all is for training."""
        return DataSet(self.ids[self.split :], self.vocab)

    @property
    def validation(self) -> tuple[np.ndarray, int]:
        """All ids, and the first of them that is for validation.

        Raises
        ------
        InputError
            If there is none.
        """
        if self.split == len(self):
            raise InputError(
                "All of the text is for training (trainfrac=1.0), so there is no validation text. "
                "Give evaluate() a text."
            )
        return self.ids, self.split

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        source = f" from {self.vocab.srcinfo}" if self.vocab.srcinfo else ""
        return (
            f"Corpus({len(self):,} {self.vocab.units}{source}: {self.split:,} for training, "
            f"{len(self) - self.split:,} for validation, {self.vocab.vocab_size:,} ids)"
        )

    @classmethod
    def open(cls, folder: str | os.PathLike[str], vocab: Vocabulary | None = None) -> Self:
        """Open the corpus in a folder. Cheap at any size; :meth:`verify` reads all of it.

        Parameters
        ----------
        folder
            Where :func:`encodecorpus` put it.
        vocab : Vocabulary, optional
            What the ids must mean, such as the vocabulary of the model to train.

        Raises
        ------
        WorkdirError
            If there is no corpus in the folder.
        CheckpointDamaged
            If its description or size is not what was written.
        CheckpointTooNew
            If a newer rngru wrote it.
        InputError
            If it was encoded with another vocabulary.
        """
        folder = Path(folder)
        about = _described(folder)
        found = vocabularyfromjson(about["vocabulary"])
        if vocab is not None and vocab != found:
            raise InputError(f"{folder}: encoded with {found}, expected {vocab}. Encode it again.")
        dtype = found.dtype.newbyteorder("<")
        if about["dtype"] != dtype.str:
            raise CheckpointDamaged(f"{folder}: expected ids of {dtype}. Encode the text again.")
        path = _idsfile(folder, about["sha256"])
        expected = about["total"] * dtype.itemsize
        plain = path.is_file() and not path.is_symlink()
        size = path.stat().st_size if plain else None
        if size != expected:
            got = "no such file" if size is None else f"{size:,} bytes"
            raise CheckpointDamaged(
                f"{path}: expected {expected:,} bytes, got {got}. Encode the text again."
            )
        sources = tuple((path, size, time) for path, size, time in about.get("sources", ()))
        return cls(
            folder=folder,
            vocab=found,
            ids=mapped(path, dtype),
            split=about["split"],
            documents=tuple((name, start) for name, start in about["documents"]),
            digest=about["sha256"],
            sources=sources,
            digests=tuple(about.get("digests", [None] * len(sources))),
        )

    @property
    def touched(self) -> bool:
        """Whether the ids were changed after their description, which is written last."""
        ids, description = _idsfile(self.folder, self.digest), self.folder / DESCRIPTION
        return ids.stat().st_mtime_ns >= description.stat().st_mtime_ns

    def changedsources(self) -> tuple[list[str], list[str]]:
        """Return the files that have changed since they were encoded, and those that may have."""
        return changedfiles(self.sources, self.digests)

    def verify(self) -> None:
        """Read all ids and compare them with what was written.

        Raises
        ------
        CheckpointDamaged
            If a single bit differs.
        """
        with _idsfile(self.folder, self.digest).open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != self.digest:
            raise CheckpointDamaged(
                f"{self.folder}: the encoded text has changed: expected SHA-256 {self.digest}, "
                f"got {found}. Encode the text again."
            )


def encodecorpus(
    source: Source,
    folder: str | os.PathLike[str],
    *,
    level: str = "char",
    trainfrac: float = 0.9,
    encoding: str = "utf-8",
    min_count: int = 1,
    max_vocab: int | None = None,
    validfiles: Source | None = None,
    errors: str = "strict",
    skip: bool = False,
    known: Vocabulary | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Corpus:
    """Encode a text of any size into a folder, in constant memory, and return it opened.

    The text is read twice: to count its symbols, then to write their ids. Nothing in the folder
    changes before all is written; when interrupted, what was there before is still there.

    Parameters
    ----------
    source
        Files or strings, joined as they are; see the table in :mod:`rngru.text.sources`.
    folder
        Where the ids go; made if it does not exist. A corpus already in it is replaced.
    level : str
        What a symbol is: ``'char'``, ``'word'`` or ``'byte'``.
    trainfrac : float
        Share of the symbols to train on: exactly the first ⌊N·trainfrac⌋; ignored with ``validfiles``.
    encoding : str
        Encoding of all the files: ``'utf-8'`` (default), ``'cp1252'``, ``'utf-16'``, …; or
        ``'guess'``, of each file by itself.
    min_count : int
        Symbols that occur less often become "unknown"; ``corpus.vocab.rare`` says which.
    max_vocab : int, optional
        Largest number of ids; the rarest symbols beyond it become "unknown".
    validfiles : optional
        Whole documents to validate on, given like ``source``; they are not trained on.
    errors : str
        ``'replace'``: bytes that are not in the encoding are read as unknown, U+FFFD. By default
        they are an error.
    skip : bool
        Leave out files that cannot be read as text, with a warning. By default they are an error.
    known : Vocabulary, optional
        Its symbols get an id, too; of the same level.
    progress : callable, optional
        Called every 128 KiB with the bytes read and the bytes to read, both passes counted.

    Raises
    ------
    TextError
        If the text cannot be read, or is too short to be split.
    InputError
        If an argument makes no sense.
    WorkdirError
        If the folder cannot be written.

    Example
    -------
    >>> import tempfile
    >>> from rngru.text import Texts
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     corpus = encodecorpus(Texts(["It was a dark and stormy night"]), folder)
    ...     corpus
    ...     corpus.vocab.decode(corpus.valid.ids)
    Corpus(30 characters from text 1: 27 for training, 3 for validation, 17 ids)
    'ght'
    """
    kind = LEVELS[choose("level", level, LEVELS)]
    share = exactly(trainfrac)
    if level == "byte":  # any file at all, as it is
        encoding, skip = "utf-8", False
    training, validation = _separate(source, validfiles, encoding, errors, skip)
    sources = _sources(documents := training + validation)
    tick = _ticker(2 * sum(document.nbytes for document in documents), progress)
    tally = _tallied(kind, documents, tick)
    if level != "byte":
        warnofpages(documents)
    vocab = kind.fromcounts(
        tally.counts,
        tally.linestarts,
        srcinfo=_origin(documents),
        min_count=min_count,
        max_vocab=max_vocab,
        known=known,
    )
    folder = Path(folder)
    needed = tally.total * vocab.dtype.itemsize
    with refusals("The encoded text cannot be written", folder, needed, WorkdirError):
        if folder.is_symlink():
            raise WorkdirError(f"{folder} is a symbolic link. Name the folder itself.")
        temporary = folder / "ids.tmp"
        with unmade(folder), orremoved(temporary):
            folder.mkdir(parents=True, exist_ok=True)
            digest, starts, digests = _writeids(temporary, documents, vocab, tick)
            if starts[-1] != tally.total:
                raise TextError(f"{_origin(documents)}: changed while it was read. Try again.")
            split = starts[len(training)] if validation else int(tally.total * share)
            if split < 2:
                raise TextError(
                    f"{_origin(documents)}: {split} of {tally.total:,} {vocab.units} would be for "
                    "training; expected 2 or more. Use a longer text or a larger trainfrac."
                )
            ids = _idsfile(folder, digest)
            rename(temporary, ids)
        about = {
            "format": FORMAT,
            "needs": READABLE_SINCE,
            "sha256": digest,
            "dtype": vocab.dtype.newbyteorder("<").str,
            "total": tally.total,
            "split": split,
            "documents": [
                [document.name, start] for document, start in zip(documents, starts, strict=False)
            ],
            "sources": sources,
            "digests": digests,
            "vocabulary": vocab.to_json(),
        }
        sync(folder)
        # From here on the folder holds the new corpus.
        described = json.dumps({"digest": _jsondigest(about), "corpus": about})
        writeatomic(folder / DESCRIPTION, described.encode())
        for old in folder.glob("ids-*.bin"):
            if old != ids:
                old.unlink()
    return Corpus.open(folder, vocab)


def _tallied(
    kind: type[Vocabulary], documents: list[Document], tick: Callable[[int], object]
) -> Tally:
    """Count the symbols of all documents: the first pass."""
    try:
        tally = kind.tally(piece for document in documents for piece in kind.pieces(document, tick))
    except TextError as error:
        hint = " skip=True leaves such files out." if len(documents) > 1 else ""
        raise TextError(f"{error}{hint}") from error.__cause__
    if tally.total < 2:
        raise TextError(
            f"{_origin(documents)}: {'empty' if not tally.total else 'only one symbol'}. A model "
            "learns which symbol comes next, so it needs a text of two or more."
        )
    return tally


def exactly(trainfrac: Any) -> Fraction:
    """Return trainfrac as the decimal it was written as, so that the split is exact."""
    if not isinstance(trainfrac, int | float | np.floating) or not 0 < trainfrac <= 1:
        raise InputError(
            f"trainfrac={trainfrac!r}: expected more than 0 and at most 1, the share of the text "
            "that is trained on."
        )
    return Fraction(str(float(trainfrac)))


def _separate(
    source: Source, validfiles: Source | None, encoding: str, errors: str, skip: bool
) -> tuple[list[Document], list[Document]]:
    training = opentexts(source, encoding, errors=errors, skip=skip)
    if validfiles is None:
        return training, []
    try:
        validation = opentexts(validfiles, encoding, errors=errors, skip=skip)
    except TextError as error:
        raise TextError(f"validfiles: {error}") from error
    held = {document.path.resolve() for document in validation if document.path}
    training = [
        document
        for document in training
        if document.path is None or document.path.resolve() not in held
    ]
    if not training:
        raise TextError("validfiles holds all files of the source: nothing is left to train on.")
    return training, validation


def _sources(documents: list[Document]) -> list[tuple[str, int, int]]:
    """Return path, size and time of the last change of each file."""
    paths = [document.path.absolute() for document in documents if document.path]
    return [(str(path), (s := path.stat()).st_size, s.st_mtime_ns) for path in paths]


def _origin(documents: list[Document]) -> str:
    more = f" and {len(documents) - 1:,} more" if documents[1:] else ""
    return documents[0].name + more


def _ticker(total: int, progress: Callable[[int, int], object] | None) -> Callable[[int], object]:
    done = 0

    def tick(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress:
            progress(done, total)

    return tick


def foreign(folder: Path) -> Iterator[Path]:
    """Yield what lies in a folder of an encoded text but is not part of it."""
    described = re.escape(DESCRIPTION)
    ours = rf"(\.tmp-)?{described}(\.tmp)?|ids(-[0-9a-f]{{16}}\.bin|\.tmp)"
    yield from unmatched(folder, ours)
    if isforeign(folder / DESCRIPTION, rb'^{"digest"|"sha256"'):
        yield folder / DESCRIPTION


def _idsfile(folder: Path, digest: str) -> Path:
    """Return the file of ids, named by its digest: a new corpus never overwrites the old one."""
    return folder / f"ids-{digest[:16]}.bin"


def _writeids(
    path: Path, documents: list[Document], vocab: Vocabulary, tick: Callable[[int], object]
) -> tuple[str, list[int], list[str]]:
    """Write the ids of all documents.

    Returns their SHA-256, where each document starts and all end, and the SHA-256 of each file.
    """
    digest = hashlib.sha256()
    starts, digests = [0], []
    dtype, encode = vocab.dtype.newbyteorder("<"), vocab.encoder()
    path.unlink(missing_ok=True)
    with open(path, "xb") as stream:  # 'x' follows no symbolic link
        for document in documents:
            start, contents = starts[-1], hashlib.sha256()
            watched = replace(document, watch=contents.update) if document.path else document
            for piece in vocab.pieces(watched, tick):
                ids = encode(piece).astype(dtype, copy=False)
                digest.update(ids.data)
                stream.write(ids.data)
                start += len(ids)
            starts.append(start)
            digests += [contents.hexdigest()] if document.path else []
        settle(stream, path.parent)
    return digest.hexdigest(), starts, digests


def _described(folder: Path) -> dict[str, Any]:
    """Read the description back, checked."""
    path = folder / DESCRIPTION
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ValueError("no plain file")
        written = json.loads(path.read_text(encoding="utf-8"))
        about = written["corpus"]
        intact = written["digest"] == _jsondigest(about) and _sensible(about)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise WorkdirError(
            f"{folder}: holds no encoded text ({DESCRIPTION} is missing)."
        ) from error
    except OSError as error:
        raise WorkdirError(f"{path}: cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointDamaged(f"{path}: not readable. Encode the text again.") from error
    if not intact:
        raise CheckpointDamaged(f"{path}: not what was written. Encode the text again.")
    if about["format"] > FORMAT:
        raise CheckpointTooNew.told(path, about["format"], FORMAT, about.get("needs"))
    return about


def _sensible(about: dict[str, Any]) -> bool:
    """Whether a description is one of this format, or of a newer one; nothing in it is trusted."""
    if type(about["format"]) is not int or about["format"] > FORMAT:
        return type(about["format"]) is int
    counts = [about["total"], about["split"], *(start for _, start in about["documents"])]
    return (
        all(type(count) is int for count in counts)
        and 2 <= about["split"] <= about["total"] < 1 << 62
        and all(isinstance(name, str) for name, _ in about["documents"])
        and re.fullmatch("[0-9a-f]{64}", about["sha256"]) is not None
        and {"vocabulary", "dtype"} <= about.keys()
        and all(isinstance(path, str) for path, _, _ in about.get("sources", ()))
        and len(about.get("digests", about.get("sources", ()))) == len(about.get("sources", ()))
    )


def _jsondigest(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
