"""What was drawn: records of texts, which show themselves, go on, and are kept in files.

>>> sample = Sample("to be", state=np.zeros((1, 1, 4), np.float32), seed="Or not ")
>>> sample.whole
'Or not to be'
"""

import io
import os
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rngru.checkpoint import decodejson, encodejson, packarrays, unpackarrays
from rngru.disk import isforeign, topath, writeatomic
from rngru.errors import CheckpointTooNew, InputError
from rngru.sampling.drawing import Sampling
from rngru.tables import Table, oneline, printable


@dataclass(frozen=True, repr=False, eq=False)
class Sample:
    """Generated text; at the prompt it shows the text itself, and ``str()`` is the text.

    Attributes
    ----------
    text : str
        What was generated, without the seed it was generated from.
    state : float32 array, (L, 1, H)
        The hidden state before the last symbol: what continues the sample,
        together with that symbol. ``generatestring(init_state=sample)`` goes on
        as if it had not stopped.
    seed : str
        What it was generated from.
    interrupted : bool
        Whether Ctrl-C cut it short.
    ids : int32 array, (n,)
        The symbols of the text.
    last : int or None
        The id of its last symbol, or of the seed's if the text is empty.
    vocabulary : str
        The digest of the vocabulary that the ids belong to.
    level : str
        What a symbol is: ``'char'``, ``'word'`` or ``'byte'``.
    before : int32 array, (m,)
        The symbols that were read before the text: those of the seed.
    logprobs : float32 array, (n,)
        Logarithm of the probability of each symbol (nats) as the model has it:
        at temperature 1, before any symbol is left out or made less likely. nan
        for a first symbol that was not drawn from the model, with ``seed=''``.
    sampling : Sampling or None
        How it was drawn; None for a text of ``beam``. Functions given as
        ``allow`` or ``forbid`` are not kept.

    Example
    -------
    >>> Sample("to be", state=np.zeros((1, 1, 4), np.float32))
    to be
    """

    text: str
    state: np.ndarray = field(compare=False)
    seed: str = ""
    interrupted: bool = False
    ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    last: int | None = None
    vocabulary: str = ""
    level: str = "char"
    before: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    logprobs: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    sampling: Sampling | None = None

    @property
    def bytes(self) -> bytes:
        """The text as bytes: at byte level just those that were drawn, else in UTF-8."""
        if self.level == "byte":
            return self.ids.astype(np.uint8).tobytes()
        return self.text.encode("utf-8", "surrogatepass")

    @property
    def whole(self) -> str:
        """The seed and the text."""
        return self.seed + self.text

    @property
    def temp(self) -> float | None:
        """The temperature it was drawn at; None for a text of ``beam``."""
        return None if self.sampling is None else self.sampling.temp

    @property
    def logprob(self) -> float:
        """The sum of :attr:`logprobs`, those that are nan left out (nats)."""
        return float(np.nansum(self.logprobs, dtype=np.float64))

    def save(self, path: "str | os.PathLike[str]") -> Path:
        """Save it, and return the path: ``init_state=path`` goes on with it another day.

        The file is an ``.npz`` of plain arrays, written so that a crash leaves
        the old one or the new.

        Raises
        ------
        InputError
            If there is a file of another kind.
        WorkdirError
            If the disk refuses.
        """
        path = topath(path).expanduser()
        if isforeign(path, rb"(?s)^PK\x03\x04.{26}about\.npy"):
            raise InputError(f"{path} is there and is no saved sample. Name another file.")
        rules = None if self.sampling is None else self.sampling.to_json()
        about = {
            "sample": FORMAT, "level": self.level, "vocabulary": self.vocabulary, "last": self.last,
            "interrupted": self.interrupted, "sampling": rules,
        }  # fmt: skip
        texts = {"about": encodejson(about)}
        texts |= {name: getattr(self, name).encode("utf-8", "surrogatepass") for name in _TEXTS}
        arrays = {name: np.frombuffer(data, np.uint8) for name, data in texts.items()}
        arrays |= {name: np.asarray(getattr(self, name), dtype) for name, dtype in _ARRAYS.items()}
        writeatomic(path, packarrays(arrays))
        return path

    @classmethod
    def load(cls, path: "str | os.PathLike[str]") -> "Sample":
        """Return the sample that :meth:`save` wrote to a file.

        Raises
        ------
        InputError
            If there is no such file, or it holds no sample.
        CheckpointTooNew
            If a newer rngru has written it.
        """
        path = topath(path).expanduser()
        try:
            return cls(**_unpacked(path, path.read_bytes()))
        except CheckpointTooNew:
            raise
        except OSError as problem:
            raise InputError(
                f"{str(path)!r} cannot be read: {problem.strerror or problem}. Expected a file that "
                "sample.save() wrote."
            ) from None
        except Exception as problem:  # bytes of any kind make parsers raise almost anything
            raise InputError(
                f"{str(path)!r} holds no sample, or a damaged one ({problem}). Expected a file that "
                "sample.save() wrote."
            ) from None

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return printable(self.text)

    def __len__(self) -> int:
        return len(self.text)


FORMAT = 1
_TEXTS = ("text", "seed")
_ARRAYS = {"state": np.float32, "ids": np.int32, "before": np.int32, "logprobs": np.float32}


def _unpacked(path: Path, data: bytes) -> dict[str, Any]:
    """Return the fields of a saved sample; nothing in ``data`` is trusted."""
    arrays = unpackarrays(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} is not what was saved")
    if missing := {*_TEXTS, *_ARRAYS, "about"} - arrays.keys():
        raise ValueError(f"lacks {min(missing)!r}")
    about = decodejson(arrays["about"].tobytes())
    if type(form := about.pop("sample", None)) is not int or form < 1:
        raise ValueError(f"has format {form!r}")
    if form > FORMAT:
        raise CheckpointTooNew.told(path, form, FORMAT, None)
    kinds = {"level": str, "vocabulary": str, "last": int | None, "interrupted": bool}
    for name, kind in kinds.items():
        if not isinstance(about.get(name, ...), kind):
            raise ValueError(f"has {name}={about.get(name)!r}")
    for name, dtype in _ARRAYS.items():
        if arrays[name].dtype != dtype or arrays[name].ndim != (3 if name == "state" else 1):
            raise ValueError(f"has an array {name!r} of another kind")
    if (
        len(arrays["logprobs"]) not in (0, len(arrays["ids"]))
        or not np.isfinite(arrays["state"]).all()
    ):
        raise ValueError("has arrays that do not fit each other")
    rules = about.get("sampling")
    about["sampling"] = None if rules is None else Sampling.from_json(rules, where=str(path))
    texts = {name: arrays[name].tobytes().decode("utf-8", "surrogatepass") for name in _TEXTS}
    fields = {*kinds, "sampling"}
    return texts | {name: arrays[name] for name in _ARRAYS} | {name: about[name] for name in fields}


def resumed(
    start: "np.ndarray | Sample | str | os.PathLike[str] | None",
) -> "np.ndarray | Sample | None":
    """Return what to start from: of a path, the sample that was saved there."""
    if isinstance(start, Samples):
        raise InputError("init_state: expected one sample, got several. Give one: samples[0].")
    if not isinstance(start, str | os.PathLike):
        return start
    try:
        return Sample.load(start)
    except InputError as problem:
        raise InputError(f"init_state: {problem}") from None


@dataclass(frozen=True, repr=False, eq=False)
class Samples(Sequence):
    """Several texts; at the prompt a table of how they begin.

    Attributes
    ----------
    samples : tuple of Sample
    shows : tuple of str
        What else the table has of each: ``'temp'``, ``'logprob'``.

    Example
    -------
    >>> fresh = np.zeros((1, 1, 4), np.float32)
    >>> samples = Samples((Sample("to be", fresh), Sample("or\\nnot", fresh)))
    >>> samples
    sample
         0  to be
         1  or⏎not
    >>> len(samples), samples[0]
    (2, to be)
    """

    samples: tuple[Sample, ...]
    shows: tuple[str, ...] = ()

    @property
    def state(self) -> np.ndarray:
        """The states of all, float32, (L, number of samples, H)."""
        return np.concatenate([each.state for each in self.samples], axis=1)

    def columns(self) -> dict[str, np.ndarray]:
        """Return temperatures, log-probabilities (nats) and texts, for a data frame."""
        found = {
            "temp": np.array([np.nan if s.temp is None else s.temp for s in self.samples]),
            "logprob": np.array([sample.logprob for sample in self.samples]),
            "text": np.empty(len(self.samples), object),
        }
        found["text"][:] = [sample.text for sample in self.samples]
        return found

    def __getitem__(self, index: Any) -> Any:
        found = self.samples[index]
        return Samples(found, self.shows) if isinstance(index, slice) else found

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        return repr(self._table(shutil.get_terminal_size().columns))

    def _repr_html_(self) -> str:
        return self._table(120)._repr_html_()

    def _table(self, width: int) -> Table:
        heads = [
            [str(number), *(f"{getattr(sample, name):.{_DIGITS[name]}}" for name in self.shows)]
            for number, sample in enumerate(self.samples)
        ]
        names = ["sample", *self.shows]
        taken = sum(2 + max(map(len, column)) for column in zip(names, *heads, strict=True))
        room, rows = max(width - taken, 20), []
        for head, sample in zip(heads, self.samples, strict=True):
            line = oneline(sample.text)
            rows.append([*head, line if len(line) <= room else line[: room - 1] + "…"])
        return Table([*names, ""], rows)


_DIGITS = {"temp": "3g", "logprob": "2f"}


@dataclass(frozen=True, repr=False, eq=False)
class Filled:
    """A text whose gaps were filled; at the prompt it shows the text, ``str()`` is the text.

    Attributes
    ----------
    text : str
        The likeliest text.
    gaps : tuple of (int, tuple of (str, float))
        For each gap, which symbol of the text it is, counted from 0, and the
        likeliest symbols for it with their probabilities, given all the others.

    Example
    -------
    >>> filled = Filled("quick", ((2, (("i", 0.9), ("a", 0.1))),))
    >>> filled
    quick
    >>> filled.gaps[0][1][0]
    ('i', 0.9)
    """

    text: str
    gaps: tuple[tuple[int, tuple[tuple[str, float], ...]], ...]

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return printable(self.text)
