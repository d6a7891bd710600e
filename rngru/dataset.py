"""Encoded text: ids in one memory-mapped file, read as B endless streams.

:func:`encodecorpus` reads a text of any size twice, in constant memory, and writes its ids to a
folder; the :class:`Corpus` it returns holds a training and a validation :class:`DataSet`.

The contract of a :class:`DataSet` of N symbols: the text is a circle. With batch size B, lane b
starts at symbol ⌊b·N/B⌋ and each batch moves every lane on by ``seq_len``, for ever. What a lane
reads next always follows what it read last, so the state carried along is always the one computed
on the text just before; nothing is dropped, padded or shuffled, and no two positions depend on
each other.

>>> data = DataSet.fromtext("abcdefgh")
>>> x, y = data.batch(0, batchsize=2, seq_len=3)
>>> [data.vocab.decode(lane) for lane in x.T], [data.vocab.decode(lane) for lane in y.T]
(['abc', 'efg'], ['bcd', 'fgh'])
>>> x, y = data.batch(6, batchsize=2, seq_len=3)
>>> [data.vocab.decode(lane) for lane in x.T]
['def', 'hab']
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Self, final

import numpy as np

from rngru.checkpoint.disk import isforeign, refusals, unmatched
from rngru.errors import (
    CheckpointDamaged,
    CheckpointTooNew,
    InputError,
    TextError,
    WorkdirError,
    choose,
)
from rngru.text import LEVELS, CharSet, Document, Source, Vocabulary, opentexts, vocabularyfromjson

FORMAT = 1
READABLE_SINCE = "0.1"
"""The rngru that a corpus of this format needs."""
DESCRIPTION = "corpus.json"
ONE_LANE_BELOW = 10_000


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
        """Encode a text in memory; with its own characters as vocabulary if none is given.

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
        self, position: int, batchsize: int = 16, seq_len: int = 100
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
        starts = np.array([lane * n // batchsize + moved for lane in range(batchsize)])
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

        Of a text longer than ``sample`` symbols, 64 pieces all over it are counted, about so many in
        all.

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
    warmup: int = 500,
    symbols: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Read a range of a text in lanes, so that each of its symbols is predicted exactly once.

    The symbols ``ids[start:stop]`` are dealt out to lanes that run side by side. Each lane reads
    the ``warmup`` symbols before its first one too, across ``start`` if need be, or all there are:
    a model that begins with a zero state has then forgotten that it did. Fewer than 10,000 symbols
    run in one lane. The first symbol of the whole text follows nothing and is not counted.

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
        V, which all ids must be below.

    Returns
    -------
    iterator of (x, y, mask)
        Chunks, all of shape (time, batch): ``x`` and ``y`` int32 as in :meth:`DataSet.batch`,
        ``mask`` bool, True where the prediction of ``y`` counts. The state starts at zero and is
        carried from chunk to chunk by the caller. Lanes that are done read on, uncounted.

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
        The whole text, read-only.
    split : int
        How many of the ids are for training; the others are for validation.
    documents : tuple of (str, int)
        Name and first id of each document, in order.
    digest : str
        SHA-256 of the ids, in hexadecimal.
    sources : tuple of (str, int, int)
        The files that were encoded: path, size and time of the last change in nanoseconds.
    """

    folder: Path
    vocab: Vocabulary
    ids: np.memmap
    split: int
    documents: tuple[tuple[str, int], ...] = field(repr=False)
    digest: str
    sources: tuple[tuple[str, int, int], ...] = field(default=(), repr=False)

    @property
    def train(self) -> DataSet:
        """The training text."""
        return DataSet(self.ids[: self.split], self.vocab)

    @property
    def valid(self) -> DataSet:
        """The validation text; empty if all is for training."""
        return DataSet(self.ids[self.split :], self.vocab)

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
        return cls(
            folder=folder,
            vocab=found,
            ids=np.memmap(path, dtype, mode="r"),
            split=about["split"],
            documents=tuple((name, start) for name, start in about["documents"]),
            digest=about["sha256"],
            sources=tuple((path, size, time) for path, size, time in about.get("sources", ())),
        )

    @property
    def touched(self) -> bool:
        """Whether the ids have been written to after their description, which is written last."""
        ids, description = Path(self.ids.filename or ""), self.folder / DESCRIPTION
        return ids.stat().st_mtime_ns >= description.stat().st_mtime_ns

    def changedsources(self) -> list[str]:
        """Return the files that have changed since they were encoded; one that is gone has not."""
        changed = []
        for path, size, time in self.sources:
            with suppress(OSError, ValueError):
                now = os.stat(path)
                if (now.st_size, now.st_mtime_ns) != (size, time):
                    changed.append(path)
        return changed

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
    progress: Callable[[int, int], object] | None = None,
) -> Corpus:
    """Encode a text of any size into a folder, in constant memory, and return it opened.

    The text is read twice: to count its symbols, then to write their ids. Nothing in the folder
    changes before all is written; when interrupted, what was there before is still there.

    Parameters
    ----------
    source
        Files or strings; see the table in :mod:`rngru.text.sources`. Several documents are joined
        as they are.
    folder
        Where the ids go; made if it does not exist. A corpus already in it is replaced.
    level : str
        What a symbol is: ``'char'``, ``'word'`` or ``'byte'``.
    trainfrac : float
        Share of the symbols that is trained on: exactly the first ⌊N·trainfrac⌋. At 1.0 the
        validation text is empty. Means nothing with ``validfiles``.
    encoding : str
        How the bytes of files become characters.
    min_count : int
        Symbols that occur less often become "unknown"; ``corpus.vocab.rare`` says which.
    max_vocab : int, optional
        Ids at most; the rarest symbols beyond become "unknown".
    validfiles : optional
        Whole documents to validate on, given like ``source``; those that are in ``source`` too
        are not trained on.
    progress : callable, optional
        Called with bytes done and bytes in all, both passes counted, every 128 KiB.

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
    vocabclass = LEVELS[choose("level", level, LEVELS)]
    share = _share(trainfrac)
    training, validation = _separate(source, validfiles, encoding)
    documents = training + validation
    sources = _sources(documents)
    tick = _ticker(2 * sum(document.nbytes for document in documents), progress)

    tally = vocabclass.tally(
        piece for document in documents for piece in vocabclass.pieces(document, tick)
    )
    if tally.total < 2:
        raise TextError(
            f"{_origin(documents)}: {'empty' if not tally.total else 'only one symbol'}. "
            "Predicting the next one takes at least two."
        )
    vocab = vocabclass.fromcounts(
        tally.counts,
        tally.linestarts,
        srcinfo=_origin(documents),
        min_count=min_count,
        max_vocab=max_vocab,
    )
    folder = Path(folder)
    needed = tally.total * vocab.dtype.itemsize
    with refusals("The encoded text cannot be written", folder, needed, WorkdirError):
        if folder.is_symlink():
            raise WorkdirError(f"{folder} is a symbolic link. Name the folder itself.")
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / "ids.tmp"
        with _removed(temporary):
            digest, starts = _writeids(temporary, documents, vocab, tick)
            if starts[-1] != tally.total:
                raise TextError(f"{_origin(documents)}: changed while it was read. Try again.")
            split = starts[len(training)] if validation else int(tally.total * share)
            if split < 2:
                raise TextError(
                    f"{_origin(documents)}: {split} of {tally.total:,} {vocab.units} would be for "
                    "training; expected 2 or more. Use a longer text or a larger trainfrac."
                )
            ids = _idsfile(folder, digest)
            os.replace(temporary, ids)
        _describe(
            folder,
            {
                "format": FORMAT,
                "needs": READABLE_SINCE,
                "sha256": digest,
                "dtype": vocab.dtype.newbyteorder("<").str,
                "total": tally.total,
                "split": split,
                "documents": [
                    [document.name, start]
                    for document, start in zip(documents, starts, strict=False)
                ],
                "sources": sources,
                "vocabulary": vocab.to_json(),
            },
        )
        for old in folder.glob("ids-*.bin"):
            if old != ids:
                old.unlink()
    return Corpus.open(folder, vocab)


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name}={size}: expected 1 or more.")


def _share(trainfrac: Any) -> Fraction:
    """Return trainfrac as the decimal it was written as, so that the split is exact."""
    if not isinstance(trainfrac, int | float | np.floating) or not 0 < trainfrac <= 1:
        raise InputError(
            f"trainfrac={trainfrac!r}: expected more than 0 and at most 1, the share of the text "
            "that is trained on."
        )
    return Fraction(str(float(trainfrac)))


def _separate(
    source: Source, validfiles: Source | None, encoding: str
) -> tuple[list[Document], list[Document]]:
    training = opentexts(source, encoding)
    if validfiles is None:
        return training, []
    try:
        validation = opentexts(validfiles, encoding)
    except TextError as error:
        raise TextError(f"validfiles: {error}") from error
    held = {document.path.resolve() for document in validation if document.path}
    training = [
        document
        for document in training
        if document.path is None or document.path.resolve() not in held
    ]
    if not training:
        raise TextError("validfiles holds out all of the source: nothing is left to train on.")
    return training, validation


def _sources(documents: list[Document]) -> list[tuple[str, int, int]]:
    """Return path, size and time of the last change of each file."""
    paths = [document.path.absolute() for document in documents if document.path]
    stats = [path.stat() for path in paths]
    return [(str(p), s.st_size, s.st_mtime_ns) for p, s in zip(paths, stats, strict=True)]


def _origin(documents: list[Document]) -> str:
    if len(documents) == 1:
        return documents[0].name
    return f"{documents[0].name} and {len(documents) - 1:,} more"


def _ticker(total: int, progress: Callable[[int, int], object] | None) -> Callable[[int], object]:
    done = 0

    def tick(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress:
            progress(done, total)

    return tick


def foreign(folder: Path) -> Iterator[Path]:
    """Yield what in a folder of an encoded text is no part of one."""
    described = re.escape(DESCRIPTION)
    yield from unmatched(folder, rf"{described}(\.tmp)?|ids(-[0-9a-f]{{16}}\.bin|\.tmp)")
    if isforeign(folder / DESCRIPTION, rb'^{"digest"|"sha256"'):
        yield folder / DESCRIPTION


def _idsfile(folder: Path, digest: str) -> Path:
    """Name the ids by what they are: a corpus never overwrites the one that it replaces."""
    return folder / f"ids-{digest[:16]}.bin"


def _writeids(
    path: Path, documents: list[Document], vocab: Vocabulary, tick: Callable[[int], object]
) -> tuple[str, list[int]]:
    """Write the ids of all documents; return their SHA-256, and where each starts and all end."""
    digest = hashlib.sha256()
    starts = [0]
    dtype, encode = vocab.dtype.newbyteorder("<"), vocab.encoder()
    path.unlink(missing_ok=True)
    with open(path, "xb") as stream:  # 'x' follows no symbolic link
        for document in documents:
            start = starts[-1]
            for piece in vocab.pieces(document, tick):
                ids = encode(piece).astype(dtype, copy=False)
                digest.update(ids.data)
                stream.write(ids.data)
                start += len(ids)
            starts.append(start)
        stream.flush()
        os.fsync(stream.fileno())
    return digest.hexdigest(), starts


def _describe(folder: Path, about: dict[str, Any]) -> None:
    """Write the description: from here on the folder holds the new corpus."""
    temporary = folder / f"{DESCRIPTION}.tmp"
    temporary.unlink(missing_ok=True)
    with _removed(temporary):
        with open(temporary, "x", encoding="utf-8") as stream:
            json.dump({"digest": _jsondigest(about), "corpus": about}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, folder / DESCRIPTION)
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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
    )


def _known(read: np.ndarray, symbols: int) -> None:
    """Refuse ids that mean nothing: the kernels would read beyond the end of their tables."""
    # As unsigned numbers, negative ones are the largest.
    if read.size and (most := int(read.view(np.uint32).max())) >= symbols:
        raise CheckpointDamaged(
            f"The encoded text holds the id {most}, but there are only {symbols} symbols: it is not "
            "what was written. Encode the text again."
        )


def _jsondigest(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


@contextmanager
def _removed(temporary: Path) -> Iterator[None]:
    """Leave no temporary file behind when something goes wrong."""
    try:
        yield
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
