"""The two verbs: a text to a compressed file, and back."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, final

import numpy as np

from rngru.backends import rounding
from rngru.compression.coding import END, Decoder, Encoder, follow, longest, tobytes
from rngru.compression.files import ENDING, File
from rngru.disk import topath, writeatomic
from rngru.errors import InputError, TextError, WorkdirError
from rngru.reader import PIECE, SOMETIMES, Learner, Reader

Learning = Callable[[bool | float], Callable[[], Learner] | None]
"""What gives a learner at a rate, see :meth:`rngru.instrument.Instrument._learning`."""

PROBED: Final = 4 * PIECE
"""Symbols that are predicted to see what the arithmetic of this computer gives."""

LEARNED: Final = (SOMETIMES + 1) * PIECE
"""Those where it learns: each part of learning has been done once before the last of them."""


def still(rate: bool | float) -> None:
    """Learn nothing, whatever the rate."""


@final
@dataclass(frozen=True, slots=True)
class Compressed:
    """What :func:`compress` did.

    Attributes
    ----------
    path : Path
        The compressed file.
    characters : int or None
        How many characters the text has; None if it is not text.
    before, after : int
        Size of the text in UTF-8, and of the compressed file, in bytes.
    seconds : float
        How long it took.

    Example
    -------
    >>> Compressed(Path("book.txt.rngz"), 111_540, 111_540, 26_000, 40.0)
    111,540 bytes to 26,000 (23.3 %), 1.865 bits per character, in 40.0 s: book.txt.rngz
    """

    path: Path
    characters: int | None
    before: int
    after: int
    seconds: float

    @property
    def bits(self) -> float:
        """Bits per character, or per byte of what is not text."""
        return 8 * self.after / max(self._length, 1)

    @property
    def _length(self) -> int:
        return self.before if self.characters is None else self.characters

    def __repr__(self) -> str:
        unit = "byte" if self.characters is None else "character"
        share = f" ({self.after / self.before:.1%})".replace("%", " %") if self.before else ""
        return (
            f"{self.before:,} bytes to {self.after:,}{share}, {self.bits:.3f} bits per {unit}, "
            f"in {self.seconds:.1f} s: {self.path}"
        )


def compress(
    reader: Reader,
    source: str | bytes | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    *,
    adapt: bool | float = False,
    learning: Learning = still,
    overwrite: bool = False,
    check: Callable[[], object] = bool,
) -> Compressed:
    """Compress a file or a text; see :meth:`rngru.instrument.Instrument.compress`.

    ``check`` is called after each piece, and may raise. Nothing is written before the end.
    """
    began, rate = time.monotonic(), _rate(adapt)
    _refuseboth(reader)
    given = _given(source)
    if path is None and not isinstance(given, Path):
        raise InputError(
            f"There is no file {source!r:.60}. To compress a text, say with path= which file to write."
        )
    target = _free(f"{given!s}{ENDING}" if path is None else path, overwrite)
    data = _content(reader, given)
    count, numbers = _numbered(reader, data)
    try:
        learn = learning(rate)
    except (InputError, WorkdirError) as error:
        raise type(error)(f"{error} With adapt=False nothing is learned.") from error
    arithmetic, encoder = _arithmetic(reader, learn), Encoder(numbers)
    for _ in follow(reader, learn and learn(), count, encoder):
        check()
    found = File(
        rounding(reader.backend.name), rate, _model(reader), arithmetic, _digest(data),
        count, encoder.data,
    ).pack()  # fmt: skip
    check()
    writeatomic(target, found)
    return Compressed(target, _characters(data), len(data), len(found), time.monotonic() - began)


def decompress(
    reader: Reader,
    path: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    *,
    learning: Learning = still,
    overwrite: bool = False,
    check: Callable[[], object] = bool,
) -> str | bytes | Path:
    """Return what was compressed, or write it; see :meth:`rngru.instrument.Instrument.decompress`."""
    path = topath(path).expanduser()
    _refuseboth(reader)
    if target is not None:
        target = _free(target, overwrite)
    found = File.unpack(path, _bytes(path))
    if found.count > longest(len(found.data)):
        raise TextError(
            f"{path} is damaged: {len(found.data):,} bytes hold no {found.count:,} symbols."
        )
    if found.model != _model(reader):
        raise InputError(
            f"{path} was compressed with another model, or with this one at another time of its "
            "training. Load the one that it was compressed with; ms.restore(...) goes to a checkpoint."
        )
    learn, here = learning(found.rate), rounding(reader.backend.name)
    if found.rounding != here or found.arithmetic != _arithmetic(reader, learn):
        told = f" (multiply-adds are {found.rounding or 'any'} there, {here or 'any'} here)"
        raise InputError(
            f"{path} was compressed where this model gives other probabilities, in their last digits"
            f"{told if found.rounding != here else ''}: on another kind of processor, backend, or with "
            "other versions of rngru, NumPy, Numba, PyTensor or the C library. Decompress it there."
        )
    try:
        data = _read(follow(reader, learn and learn(), found.count, Decoder(found.data)), check)
    except TextError as error:
        raise TextError(f"{path} is damaged: {error}.") from error
    if _digest(data) != found.text:
        raise TextError(
            f"{path} gave another text than was compressed, so nothing is returned: it is damaged, or this "
            "computer rounds otherwise than the one that wrote it. Decompress it there."
        )
    if target is not None:
        writeatomic(target, data)
        return target
    return data if reader.vocab.level == "byte" else data.decode("utf-8", "surrogatepass")


def _rate(adapt: bool | float) -> bool | float:
    """Return a rate as the file holds it: in float32."""
    number = isinstance(adapt, int | float) and not isinstance(adapt, bool)
    return float(np.float32(adapt)) if number else adapt  # what is wrong, the learner says


def _refuseboth(reader: Reader) -> None:
    if reader.model.both:
        raise InputError(
            f"{reader.model.name} predicts each symbol from the text on both sides of it, and who "
            "decompresses knows one side only. Use a model that reads forwards."
        )


def _given(source: object) -> str | bytes | Path:
    """Return the path of a file that is to be compressed, or a text."""
    if isinstance(source, os.PathLike):
        return topath(source).expanduser()
    if isinstance(source, str | bytes):
        return Path(source) if isinstance(source, str) and os.path.isfile(source) else source
    raise InputError(f"Expected a text or the path of a file, got {type(source).__name__}.")


def _free(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """Return the path of a file that may be written."""
    path = topath(path).expanduser()
    if path.is_dir():
        raise InputError(f"{path} is a directory. Name a file.")
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"{path} is there already. Name another file, or give overwrite=True.")
    if not path.parent.is_dir():
        raise WorkdirError(f"{path} cannot be written: there is no directory {path.parent}.")
    return path


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TextError(f"{path}: cannot be read: {error.strerror or error}.") from error


def _content(reader: Reader, source: str | bytes | Path) -> bytes:
    """Return what is to be compressed, exactly; at the levels of text, UTF-8."""
    if isinstance(source, str):
        return tobytes(source)
    data = _bytes(source) if isinstance(source, Path) else source
    if reader.vocab.level != "byte":
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise TextError(
                f"{source if isinstance(source, Path) else 'The text'} is not UTF-8: byte "
                f"0x{data[error.start]:02x} at offset {error.start:,}. A model of level='byte' "
                "compresses any file."
            ) from error
    return data


def _numbered(reader: Reader, data: bytes) -> tuple[int, Iterator[int]]:
    """Return how many symbols there are, and what stands for them in the file."""
    vocab = reader.vocab
    if vocab.level == "byte":
        return len(data), iter(data)
    text = data.decode("utf-8", "surrogatepass")
    ids, symbols = vocab.encode(text).tolist(), vocab.split(text)
    unknown, each = vocab.unknown_idx, zip(ids, symbols, strict=True)
    spelt = ((idx,) if idx != unknown else (idx, *tobytes(symbol), END) for idx, symbol in each)
    return len(ids), chain.from_iterable(spelt)


def _read(pieces: Iterator[list[bytes]], check: Callable[[], object]) -> bytes:
    found = bytearray()
    for piece in pieces:
        found += b"".join(piece)
        check()
    return bytes(found)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:4]


def _model(reader: Reader) -> bytes:
    """Return what tells a model from others: its kind, symbols and parameters."""
    found = hashlib.sha256(f"{reader.model.name} {reader.vocab.digest}".encode())
    for name, array in sorted(reader.backend.fetch(reader.weights).items()):
        found.update(f"{name} {array.shape}".encode())
        found.update(array.tobytes())
    return found.digest()[:2]


def _arithmetic(reader: Reader, learn: Callable[[], Learner] | None) -> bytes:
    """Return what tells computers apart that give other probabilities: those of a text of many symbols."""
    found, symbols = hashlib.sha256(), reader.vocab.vocab_size - 1
    probed = LEARNED if learn else PROBED
    if learn:
        symbols = min(symbols, PIECE)  # so that they come again
    encoder = Encoder(1 + at % symbols for at in range(probed))  # 0 is mostly "unknown"

    def code(weights: np.ndarray) -> int:
        found.update(weights.tobytes())
        return encoder(weights)

    for _ in follow(reader, learn and learn(), probed, code):
        pass
    found.update(encoder.data)
    return found.digest()[:2]


def _characters(data: bytes) -> int | None:
    """Return how many characters bytes are."""
    try:
        return len(data.decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError:
        return None
