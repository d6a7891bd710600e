r"""From logits to the next symbol: what a draw is, and the records of what was drawn.

A draw is made from uniform numbers that come from outside, one per symbol, so that the same generator
gives the same text wherever the logits come from.

.. math:: p_j = \frac{e^{o_j / \tau}}{\sum_k e^{o_k / \tau}}, \qquad
          \text{the first } j \text{ with } p_1 + \dots + p_j > u

Temperature :math:`\tau = 0` is greedy: the likeliest symbol. Low temperatures repeat what is common, 1
is the model's own distribution, higher ones are wilder.

Before that symbols may be left out: those that are forbidden, or not allowed. Of the others those that
occur among the last ``repeat_last`` have their probability divided by ``repeat`` (:func:`lowered`; CTRL,
Keskar et al. 2019, divides the logit, so that what it does depends on where zero is). Then, after the
temperature, unlikely ones are left out, in this order (:func:`kept`): all but the ``top_k`` likeliest;
those whose probability is below ``min_p`` times that of the likeliest; and of the others the least
likely ones, as long as what is left has at least ``top_p`` of the probability (Holtzman et al., The
Curious Case of Neural Text Degeneration, 2020). Of equal ones the lower id counts as likelier.

>>> logits = np.array([[0.0, 2.0, 1.0]])
>>> draw(logits, Sampling(temp=0), np.array([0.5]))
array([1], dtype=int32)
"""

import io
import math
import os
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rngru.checkpoint import decodejson, encodejson, packarrays, unpackarrays
from rngru.disk import isforeign, topath, writeatomic
from rngru.errors import CheckpointTooNew, InputError
from rngru.settings import Setting, Settings, or_function, or_none, real, string, strings, whole
from rngru.tables import Table, oneline, printable


class Sampling(Settings):
    """How text is drawn.

    {table}

    Example
    -------
    >>> Sampling(0.8)
    Sampling(temp=0.8)
    >>> Sampling(temp=-1)
    Traceback (most recent call last):
    rngru.errors.InputError: temp=-1: expected a finite number of at least 0.
    """

    __slots__ = ()

    temp = Setting(
        "temperature: 0 takes the likeliest symbol, 1 the model's own distribution",
        "ratio",
        real(0, math.inf, below=True),
        0.5,
    )
    top_k = Setting(
        "draw from so many of the likeliest symbols only; None: from all",
        "symbols",
        or_none(whole(1)),
        None,
    )
    top_p = Setting(
        "draw from the likeliest symbols that together have this share of the probability",
        "share",
        real(0, 1, above=True),
        1.0,
    )
    min_p = Setting(
        "leave out what is less likely than this share of the likeliest symbol's probability",
        "share",
        real(0, 1),
        0.0,
    )
    repeat = Setting(
        "what occurs among the last symbols is less likely by this factor; 1: as likely as it is",
        "ratio",
        real(1),
        1.0,
    )
    repeat_last = Setting(
        "how many symbols back repeat looks, those of the seed included",
        "symbols",
        whole(1, 10_000),
        64,
    )
    forbid = Setting(
        "symbols that are never drawn: the characters of a text, or a list of words; or a function "
        "that returns them for the text so far",
        "symbols",
        or_none(or_function(strings())),
        None,
    )
    allow = Setting(
        "the only symbols that are drawn, or a function as for forbid",
        "symbols",
        or_none(or_function(strings())),
        None,
    )
    regex = Setting(
        "a regular expression that the text matches, or can still come to match",
        "pattern",
        or_none(string()),
        None,
    )
    stop = Setting(
        "the text ends with the first of these that it comes to",
        "texts",
        or_none(strings()),
        None,
    )

    @property
    def cuts(self) -> bool:
        """Whether any symbol is left out for its probability."""
        return self.top_k is not None or self.top_p < 1 or self.min_p > 0

    @property
    def plain(self) -> "Sampling":
        """The same without functions, which cannot be written to a file: what a sample remembers."""
        functions = {name: None for name in ("forbid", "allow") if callable(getattr(self, name))}
        return self.replace(**functions)

    @classmethod
    def several(cls, temp: "float | Iterable[float]", **rules: Any) -> "Sampling | list[Sampling]":
        """Return the rules for one temperature, or for each of several.

        >>> Sampling.several([0.5, 1.0], top_k=9)
        [Sampling(top_k=9), Sampling(temp=1.0, top_k=9)]
        """
        if not isinstance(temp, Iterable) or isinstance(temp, str | bytes):
            return cls(temp, **rules)
        found = [cls(each, **rules) for each in temp]
        if not found:
            raise InputError("temp: expected a number, or several; got none.")
        return found


def probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return the distribution over the last axis of ``logits`` (…, V), float64."""
    logits = np.asarray(logits, np.float64)
    if temperature == 0:
        return np.eye(logits.shape[-1])[logits.argmax(-1)]
    # A temperature near 0 makes minus infinity of most logits, and zero of their weights.
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp((logits - logits.max(-1, keepdims=True)) / temperature)
        return weights / weights.sum(-1, keepdims=True)


def lowered(logits: np.ndarray, recent: np.ndarray, repeat: float) -> np.ndarray:
    """Return ``logits`` (B, V), those of ``recent`` symbols (r, B) less by the logarithm of ``repeat``.

    >>> lowered(np.zeros((1, 3)), np.array([[2], [0], [2]]), repeat=np.e)
    array([[-1.,  0., -1.]])
    """
    there = np.zeros(logits.shape, bool)
    there[np.arange(len(logits)), recent] = True
    return np.where(there, logits - logits.dtype.type(math.log(repeat)), logits)


def kept(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Return which symbols may be drawn, for each row of ``logits`` (B, V); bool (B, V).

    >>> kept(np.array([[0.0, 2.0, 1.0]]), Sampling(1.0, top_k=2)).tolist()
    [[False, True, True]]
    """
    logits = np.asarray(logits, np.float64)
    order = np.argsort(-logits, axis=-1, kind="stable")
    keep = np.argsort(order, axis=-1) < (sampling.top_k or logits.shape[-1])
    if sampling.min_p > 0:
        limit = sampling.temp * math.log(sampling.min_p)
        keep &= logits >= logits.max(-1, keepdims=True) + limit
    weights = probabilities(logits, sampling.temp).astype(np.float32).astype(np.float64) * keep
    ranked = np.take_along_axis(weights, order, -1)
    before = ranked.cumsum(-1) - ranked
    within = before < sampling.top_p * ranked.sum(-1, keepdims=True)
    np.put_along_axis(keep, order, within & np.take_along_axis(keep, order, -1), -1)
    return keep


def draw(
    logits: np.ndarray,
    sampling: Sampling,
    uniforms: np.ndarray,
    recent: np.ndarray | None = None,
) -> np.ndarray:
    """Draw one symbol for each row of ``logits`` (B, V), with ``uniforms`` (B,) in [0, 1).

    ``recent`` (r, B) are the last symbols of each text, as many as ``repeat_last`` says or there are.

    Returns
    -------
    ids (B,), int32.
    """
    if recent is not None:
        logits = lowered(np.asarray(logits), recent, sampling.repeat)
    if sampling.temp == 0:
        return np.asarray(logits).argmax(-1).astype(np.int32)
    weights = probabilities(logits, sampling.temp)
    if sampling.cuts:
        weights = weights * kept(logits, sampling)
    reached = weights.cumsum(-1)
    above = reached > np.asarray(uniforms)[:, np.newaxis] * reached[:, -1:]
    return above.argmax(-1).astype(np.int32)


@dataclass(frozen=True, repr=False, eq=False)
class Sample:
    """Generated text; at the prompt it shows the text itself, and ``str()`` is the text.

    Attributes
    ----------
    text : str
        What was generated, without the seed it was generated from.
    state : float32 array, (L, 1, H)
        The hidden state before the last symbol: what continues the sample, together with that symbol.
        ``generatestring(init_state=sample)`` goes on as if it had not stopped.
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
        Logarithm of the probability of each symbol (nats) as the model has it: at temperature 1,
        before any symbol is left out or made less likely. nan for a first symbol that was not drawn
        from the model, with ``seed=''``.
    sampling : Sampling or None
        How it was drawn; None for a text of ``beam``. Functions given as ``allow`` or ``forbid`` are
        not kept.

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

        The file is an ``.npz`` of plain arrays, written so that a crash leaves the old one or the new.

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
        For each gap, which symbol of the text it is, counted from 0, and the likeliest symbols for
        it with their probabilities, given all the others.

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
