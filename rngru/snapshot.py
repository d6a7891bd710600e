"""What a model is, in one piece: :class:`Snapshot`, with its form on the disk.

A snapshot is replaced whole, as the progress inside it is. :meth:`Snapshot.encode` gives the arrays and
the metadata of a checkpoint, :meth:`Snapshot.decode` checks all of them and gives the snapshot back.

>>> from pathlib import Path
>>> from rngru.backends import freshcaches
>>> from rngru.text import CharSet
>>> vocab, rng = CharSet("the ship"), np.random.default_rng(1)
>>> hyper = HyperParams(vocab.vocab_size, state_size=4, layers=1)
>>> arrays = MODELS["RNNEncode"].initial(hyper, rng)
>>> progress = Progress(arrays, freshcaches(arrays, hyper), hyper.learnrate)
>>> model = Snapshot(
...     modeltype="RNNEncode", made=hyper, chars=vocab, seq_len=10, backend="cpu",
...     progress=progress, rng=rng, seed=0,
... )
>>> arrays, meta = model.encode()
>>> meta["hyper"], Snapshot.decode(Checkpoint(0, Path("0")), arrays, meta).hyper == hyper
({'vocab_size': 8, 'state_size': 4, 'layers': 1}, True)
"""

import functools
import math
import platform
import re
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, cast, final, overload

import numpy as np
from numpy.typing import ArrayLike

from rngru import backends, checkpoint, models
from rngru.backends import Backend, freshcaches
from rngru.checkpoint import Checkpoint
from rngru.dataset import DataSet
from rngru.errors import CellUnknown, CheckpointDamaged, CheckpointTooNew, InputError, choose
from rngru.hyper import CACHES, MEAN, HyperParams
from rngru.kernels.spec import CELLS, CellSpec
from rngru.models import MODELS
from rngru.reader import Reader
from rngru.text import LEVELS, Vocabulary, vocabularyfromjson
from rngru.training import Plan, Progress, Run, Scores
from rngru.version import __version__

T = TypeVar("T")


@functools.cache
def _version(package: str) -> str:
    from importlib.metadata import version  # which imports half of email

    return version(package)


def versions() -> dict[str, str]:
    """Return what this process computes with: names and versions."""
    own = {"rngru": __version__, "python": platform.python_version()}
    return own | {name: _version(name) for name in ("numpy", "numba", "pytensor")}


_MEMORY = "|".join(sorted({MEAN, *(cache for caches in CACHES.values() for cache in caches)}))
_NAME = re.compile(rf"(({_MEMORY})\.)?([EaVc]|(layers|back)\.\d+\.[UWbdgh])")
"""Every array that this version gives to some model; another one is a later version's."""


@final
@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that a model is at one moment.

    Parameters
    ----------
    modeltype, chars, seq_len, backend: what it is and how it is computed.
    made: the hyperparameters that it was made with; see :attr:`hyper`.
    progress: parameters, caches, hidden state, position and learning rate.
    rng: for the user's own draws.
    seed: what noise is drawn from.
    corpus: the digest of the encoded text, if there is one.
    historyline: the line of the history that its latest round is on; 0 before the first.
    timed: whether it was saved in the middle of a round, until the next save.
    summary: what tables show: epoch, position, losses.
    versions: what it was computed with.
    rounding: and how the processor rounds, see :func:`rngru.backends.rounding`; '' if that is
        not known.
    plan: what the next call to train does unless it is told otherwise: what the last one was told
        that holds for it, too; or, before the first, what a recipe says.
    token: a random word that tells this model from others in the same directory. It stands in the
        summary of a checkpoint, so that it can be read without the arrays.
    """

    modeltype: str
    made: HyperParams
    chars: Vocabulary
    seq_len: int
    backend: str
    progress: Progress
    rng: np.random.Generator
    seed: int
    corpus: str | None = None
    historyline: int = 0
    timed: bool = False
    summary: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=versions)
    rounding: str = ""
    plan: Mapping[str, Any] = field(default_factory=dict)
    token: str | None = None

    @property
    def hyper(self) -> HyperParams:
        """The hyperparameters, with the learning rate in force."""
        if self.made.learnrate == self.progress.learnrate:
            return self.made
        return self.made.replace(learnrate=self.progress.learnrate)

    def reader(self, computes: Backend) -> Reader:
        """Return the model as one that reads and writes text, with the averaged weights if it has them."""
        kind = models.named(self.modeltype)
        return Reader(kind, self.made, self.chars, self.progress.weights, computes)

    def run(self, computes: Backend, data: DataSet) -> Run:
        """Return the model as one that is trained on a text."""
        return Run(computes, data, self.progress, hyper=self.made, seed=self.seed)

    def having(self, given: Mapping[str, ArrayLike], computes: Backend) -> Self:
        """Return the model with other numbers in place of some parameters.

        They are their own average, what the optimizer remembers of them is empty, and no loss is
        known.

        Raises
        ------
        InputError
            If a name is not known, a shape is another, or a number is not finite: all that is wrong.
        """
        if not isinstance(given, Mapping):
            raise InputError(
                f"Expected parameters by name, as parameters() returns them, got {type(given).__name__}."
            )
        shapes = models.named(self.modeltype).shapes(self.made)
        new, problems = {}, []
        for name, values in given.items():
            try:
                shape = shapes[choose("parameter", name, shapes)]
                new[name] = _replacing(name, values, shape)
            except InputError as problem:
                problems.append(str(problem))
        if problems:
            raise InputError("\n".join(problems))
        fetch, place, now = computes.fetch, computes.place, self.progress
        empty = freshcaches(new, self.made)
        progress = replace(
            now,
            arrays=place({**fetch(now.arrays), **new}),
            caches={
                cache: place({**fetch(old), **empty[cache]}) for cache, old in now.caches.items()
            },
            scores=Scores(),
        )
        summary = {**self.summary, "trainloss": None, "validloss": None}
        return replace(self, progress=progress, summary=summary)

    def squares(self) -> Mapping[str, np.ndarray] | None:
        """The mean square of each gradient, as far as the optimizer knows it; None if it does not."""
        made, now = self.made, self.progress
        name = {"adam": "second", "adamw": "second", "rmsprop": "mean", "adagrad": "total"}.get(
            made.optimizer
        )
        if name is None or not now.batches:
            return None
        shares = {"second": 1 - made.beta2**now.batches, "mean": 1.0, "total": now.batches}
        share = np.float32(shares[name])
        return {parameter: each / share for parameter, each in now.caches[name].items()}

    def passes(self, trainlen: int | None) -> float:
        """Passes over a training text of so many symbols; without the text, as it was last saved."""
        if trainlen is None:
            return float(self.summary.get("epoch") or 0.0)
        return self.progress.position / trainlen

    def summarised(
        self, trainlen: int | None, trainloss: float | None, validloss: float | None
    ) -> Self:
        """Return the snapshot with a summary of where it stands now.

        Where no loss is given and none was trained since, the last ones hold still.
        """
        position = self.progress.position
        if trainloss is None and validloss is None and self.summary.get("position") == position:
            trainloss, validloss = map(self.summary.get, ("trainloss", "validloss"))
        summary = {
            "epoch": self.passes(trainlen),
            "position": position,
            "trainloss": trainloss,
            "validloss": validloss,
        }
        return replace(self, summary=summary)

    def differences(self, backend: str) -> str:
        """Return what it was computed with that is another here, on ``backend``; '' if nothing is."""
        then = {**self.versions, "backend": self.backend}
        here = versions() | {"backend": backend}
        if self.rounding and self.backend == backend:
            then["multiply-adds"] = self.rounding
            here["multiply-adds"] = backends.rounding(backend)
        return ", ".join(
            f"{name} {then[name]} (here {here.get(name)})"
            for name in then
            if here.get(name) != then[name]
        )

    def described(self, lengths: tuple[int, int] | None) -> str:
        """Return what a person sees of a model; ``lengths`` are those of its text, whole and training."""
        hyper, summary = self.made, self.summary
        count = sum(array.size for array in self.progress.arrays.values())
        source = self.chars.srcinfo or "a text"
        about = f"{lengths[0]:,} {self.chars.units} of {source}" if lengths else source
        layers = f"{hyper.layers} layer{'s' if hyper.layers > 1 else ''} of {hyper.state_size}"
        losses = "".join(
            f", {name} loss {summary[key]:.3f}"
            for name, key in (("train", "trainloss"), ("valid", "validloss"))
            if summary.get(key) is not None
        )
        passes = self.passes(lengths[1] if lengths else None)
        return (
            f"<ModelState {self.modeltype}, {layers}, {count:,} parameters, on {about}: epoch "
            f"{passes:.2f} (position {self.progress.position:,}){losses}; backend {self.backend}>"
        )

    def encode(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return arrays and metadata for :func:`rngru.checkpoint.save`."""
        now = self.progress
        arrays = dict(now.arrays)
        for cache, values in now.caches.items():
            arrays |= {f"{cache}.{name}": array for name, array in values.items()}
        if now.state is not None:
            arrays["state"] = now.state
        meta = {
            "summary": {**self.summary, "model": self.token},
            "modeltype": self.modeltype,
            "hyper": self.hyper.to_json(),
            "vocabulary": self.chars.to_json(),
            "seq_len": self.seq_len,
            "backend": self.backend,
            "position": now.position,
            "batches": now.batches,
            "scores": asdict(now.scores),
            "rng": self.rng.bit_generator.state,
            "seed": self.seed,
            "corpus": self.corpus,
            "history": self.historyline,
            "timed": self.timed,
            "versions": dict(self.versions),
            "rounding": self.rounding,
            "plan": dict(self.plan),
        }
        spec = models.named(self.modeltype).spec(self.made)
        if spec.row.own:
            meta["cell"] = {"name": spec.cell, **_layout(spec.row)}
        return arrays, meta

    @classmethod
    def decode(
        cls, found: Checkpoint, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]
    ) -> Self:
        """Return what :meth:`encode` described, after checking all of it.

        Raises
        ------
        CheckpointTooNew
            If it has settings, words or arrays that this version does not know.
        CellUnknown
            If its model has a cell of somebody's own that is not registered.
        CheckpointDamaged
            If anything is missing or does not fit, naming ``found`` and all that is wrong.
        """
        try:
            for name in ("position", "batches", "history", "seed", "seq_len"):
                least = 1 if name == "seq_len" else 0
                if type(meta[name]) is not int or not least <= meta[name] < 1 << 62:
                    raise ValueError(f"{name} is {reprlib.repr(meta[name])}")
            meta = {"timed": False, "rounding": "", "plan": {}, "training": True, **meta}
            kinds = {
                "backend": str, "corpus": str | None, "timed": bool, "rounding": str, "training": bool,
            }  # fmt: skip
            for name, kind in kinds.items():
                if not isinstance(meta[name], kind):
                    raise ValueError(f"{name} is {reprlib.repr(meta[name])}")
            _registered(meta.get("cell"))
            _known("modeltype", meta["modeltype"], MODELS, found)
            _known("level", meta["vocabulary"]["level"], LEVELS, found)
            hyper = HyperParams.from_json(meta["hyper"], where=str(found))
            models.named(meta["modeltype"]).check(hyper)
            chars = vocabularyfromjson(meta["vocabulary"])
            if chars.vocab_size != hyper.vocab_size:
                raise ValueError(
                    f"it has {chars.vocab_size} symbols, and numbers for {hyper.vocab_size}"
                )
            rng = np.random.default_rng()
            rng.bit_generator.state = meta["rng"]
            return cls(
                modeltype=meta["modeltype"],
                made=hyper,
                chars=chars,
                seq_len=meta["seq_len"],
                backend=meta["backend"],
                progress=_progress(hyper, arrays, meta, found),
                rng=rng,
                seed=meta["seed"],
                corpus=meta["corpus"],
                historyline=meta["history"],
                timed=meta["timed"],
                summary=dict(meta["summary"]),
                versions=dict(meta["versions"]),
                rounding=meta["rounding"],
                plan=Plan.from_json(meta["plan"], where=str(found)).to_json(),
                token=meta["summary"].get("model"),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as problem:
            told = f"{problem!s} is missing" if isinstance(problem, KeyError) else str(problem)
            raise CheckpointDamaged(f"{found} does not describe a model: {told}") from problem

    def pack(self, path: str | Path, *, training: bool, half: bool) -> Path:
        """Write it into one file, without its text; see :func:`rngru.checkpoint.pack`.

        Parameters
        ----------
        training: with what only training needs: the caches of the optimizer. Without it, the model is
            the averaged one, if there is an average.
        half: the parameters in float16.
        """
        now = self.progress if training else replace(self.progress, arrays=self.progress.weights)
        alone = replace(self, progress=now, corpus=None, historyline=0, timed=False, token=None)
        arrays, meta = alone.encode()
        names = models.named(self.modeltype).shapes(self.made).keys()
        kept = {name: array for name, array in arrays.items() if training or name in names}
        kept.pop("state", None)  # it belongs to a place in the text
        if half:
            means = {f"{MEAN}.{name}" for name in names}
            kept |= {n: kept[n].astype(np.float16) for n in kept if n in names or n in means}
        if not all(np.isfinite(array).all() for array in kept.values()):
            raise InputError(
                f"half=True: a parameter is too large for float16; {path} was not written."
            )
        step = self.progress.batches
        meta["training"] = training
        return checkpoint.pack(path, step, kept, meta, needs=self.made.needs)

    @classmethod
    def unpack(cls, path: Path) -> Self:
        """Return what :meth:`pack` wrote, verified; caches that are not there are fresh."""
        found, arrays, meta = checkpoint.readpacked(path)
        wide = {
            name: array.astype(np.float32)
            for name, array in arrays.items()
            if array.dtype == np.float16
        }
        return cls.decode(found, arrays | wide, meta)


@final
class Part(Generic[T]):
    """An attribute that is read from a model and cannot be assigned.

    Parameters
    ----------
    path: where it is, from the object: names with dots between them.
    meaning: its docstring.
    instead: what to do instead of assigning it.
    """

    def __init__(self, path: str, meaning: str, instead: str) -> None:
        self.__doc__, self._read, self._instead = meaning, attrgetter(path), instead

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: Any, owner: type) -> Self | T:
        return self if instance is None else cast(T, self._read(instance))

    def __set__(self, instance: object, value: object) -> None:
        raise InputError(f"{self.name} cannot be assigned. {self._instead}")


def _replacing(name: str, values: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """Return what is to be a parameter, as float32, or say what is wrong with it."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):  # rows of several lengths
        array = np.array(None)
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name}: expected numbers in {shape}, got {type(values).__name__}.")
    if array.shape != shape:
        raise InputError(f"{name}: expected shape {shape}, got {array.shape}.")
    with np.errstate(over="ignore"):
        array = np.array(array, np.float32, order="C")
    if not np.isfinite(array).all():
        raise InputError(f"{name}: expected finite numbers within the range of float32.")
    return array


def _known(what: str, word: object, known: Mapping[str, object], found: Checkpoint) -> None:
    """Raise CheckpointTooNew for a word that only a later version can have written."""
    if isinstance(word, str) and word not in known:
        raise CheckpointTooNew.unknown(found, [f"{what}={reprlib.repr(word)}"])


def _layout(row: CellSpec) -> dict[str, Any]:
    """Return what the arrays of a model follow from, of a cell of one's own."""
    return {"gates": [*row.gates], "state": 1 + row.memory, "recurrent": row.recurrent}


def _registered(cell: Any) -> None:
    """Raise CellUnknown unless the cell that a checkpoint names, if any, is registered as it was."""
    if cell is None:
        return
    name, layout = cell["name"], {key: cell[key] for key in ("gates", "state", "recurrent")}
    if not isinstance(name, str):
        raise ValueError(f"its cell is {reprlib.repr(name)}")
    shown = reprlib.repr(name)
    if name not in CELLS:
        call = f'rngru.cells.register("{shown[1:-1]}", …)'
        raise CellUnknown(
            f"This model has the cell {shown}, which is not registered. Call {call} as when it was "
            "made, then load."
        )
    if _layout(CELLS[name]) != layout:
        wanted = ", ".join(f"{key}={reprlib.repr(value)}" for key, value in layout.items())
        raise CellUnknown(
            f"This model has the cell {shown}, which was registered with {wanted} when it was made. Start "
            "Python anew, register it so, then load."
        )


def _progress(
    hyper: HyperParams,
    arrays: Mapping[str, np.ndarray],
    meta: Mapping[str, Any],
    found: Checkpoint,
) -> Progress:
    """Sort the arrays of a checkpoint, or raise an error with all that is wrong with them."""
    model = models.named(meta["modeltype"])
    caches = hyper.caches if meta["training"] else ()
    shapes, width = model.shapes(hyper), model.spec(hyper).state(hyper.state_size)
    state = arrays.get("state")
    lanes = state.shape[1] if state is not None and state.ndim == 3 else 1
    wanted = dict(shapes)
    wanted |= {f"{cache}.{name}": shape for cache in caches for name, shape in shapes.items()}
    if state is not None:
        wanted["state"] = (hyper.layers, lanes, width)
    problems = []
    for name, shape in wanted.items():
        got = arrays.get(name)
        if got is None or got.shape != shape or got.dtype != np.float32:
            told = "nothing" if got is None else f"{got.dtype} {got.shape}"
            problems.append(f"{name}: expected float32 {shape}, got {told}")
    unknown = [name for name in arrays if name not in wanted]
    if unknown and not problems and not any(map(_NAME.fullmatch, unknown)):
        # All that we need is there, so a later version added to it.
        raise CheckpointTooNew.unknown(found, unknown)
    problems += [f"{name}: not expected" for name in unknown]
    if problems:
        more = [f"and {len(problems) - 20:,} more"] if problems[20:] else []
        raise InputError("\n".join(problems[:20] + more))
    own = {name: np.array(array, order="C") for name, array in arrays.items()}
    weights = {name: own[name] for name in shapes}
    if not meta["training"]:  # what the optimizer remembered was left out: it begins anew
        memory = freshcaches(weights, hyper)
        return Progress(weights, memory, hyper.learnrate, position=meta["position"])
    return Progress(
        weights,
        {cache: {name: own[f"{cache}.{name}"] for name in shapes} for cache in caches},
        hyper.learnrate,
        own.get("state"),
        meta["position"],
        meta["batches"],
        _scores(**meta.get("scores", {})),
    )


def _scores(latest: Any = None, best: Any = None, worse: Any = 0) -> Scores:
    """Check what a checkpoint says of validation."""
    for loss in (latest, best):
        if loss is not None and not (isinstance(loss, float) and math.isfinite(loss)):
            raise ValueError(f"a validation loss is {reprlib.repr(loss)}")
    if type(worse) is not int or worse < 0:
        raise ValueError(f"rounds without a lower validation loss are {reprlib.repr(worse)}")
    return Scores(latest, best, worse)
