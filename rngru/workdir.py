"""What is on the disk: a model as a checkpoint holds it, and the directory that it lives in.

``checkpoints/<step>/`` (see :mod:`rngru.checkpoint`), ``data/`` (the encoded text, see
:mod:`rngru.dataset`), ``history.jsonl`` (one line for each round of training), and a lock, held while
something is written. None of them is ever a symbolic link.

While a new model takes the place of an old one, the old one is loaded until the first checkpoint of
the new one is on the disk. Whoever takes the lock next finishes, or undoes, what was cut short.

>>> import tempfile
>>> workdir = Workdir(tempfile.mkdtemp())
>>> workdir.holdsmodel, workdir.rounds(0)
(False, [])
"""

import json
import math
import os
import platform
import reprlib
import secrets
import shutil
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from filelock import FileLock, Timeout

from rngru import __version__, checkpoint, dataset
from rngru.checkpoint import Checkpoint, Checkpoints
from rngru.checkpoint.content import MANIFEST, readrecord
from rngru.checkpoint.disk import isforeign, refusals, remove, sync
from rngru.dataset import Corpus
from rngru.errors import (
    CheckpointDamaged,
    CheckpointError,
    CheckpointTooNew,
    InputError,
    NoModelError,
    RngruError,
    WorkdirBusy,
    WorkdirError,
)
from rngru.hyper import CACHES, HyperParams
from rngru.models import find
from rngru.text import Vocabulary, vocabularyfromjson
from rngru.training import Progress, Round, Scores

FORMAT = 1
"""Of the lines of the history and of the lock; other files have one of their own."""
_VERSION = {"format": FORMAT, "needs": "0.1"}

_FOLDERS = {
    "checkpoints": checkpoint.foreign,
    ".tmp-checkpoints": checkpoint.foreign,
    "data": dataset.foreign,
    ".tmp-data": dataset.foreign,
}
"""Folders of a working directory, and what finds in each of them what is not rngru's."""

_FILES = {"history.jsonl": rb'"round"', "lock": rb"(?!)", "lock.json": rb'"(pid|format)"'}
"""Its files, and what one finds near the beginning of each unless it is empty or was spoilt."""

CHECKED = 1 << 26
"""Bytes of encoded text up to which it is verified on loading, whatever its date; more take too long."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """All of a model that a checkpoint holds.

    Parameters
    ----------
    modeltype, hyper, chars, seq_len, backend: what it is and how it is computed.
    progress: parameters, caches, hidden state and position.
    rng: where chance comes from.
    seed: what dropout masks are drawn from.
    corpus: the digest of the encoded text, if there is one.
    line: the line of the history that its latest round is on; 0 before the first.
    timed: whether it was saved in the middle of a round, until the next one.
    summary: what tables show: epoch, position, losses.
    versions: what it was computed with.
    model: which model it is, not which kind; kept in the summary, which is soon read.
    """

    modeltype: str
    hyper: HyperParams
    chars: Vocabulary
    seq_len: int
    backend: str
    progress: Progress
    rng: np.random.Generator
    seed: int
    corpus: str | None = None
    line: int = 0
    timed: bool = False
    summary: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: versions())
    model: str | None = None

    def encode(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return arrays and metadata for :func:`rngru.checkpoint.save`."""
        now = self.progress
        arrays = dict(now.arrays)
        for cache, values in now.caches.items():
            arrays |= {f"{cache}.{name}": array for name, array in values.items()}
        if now.state is not None:
            arrays["state"] = now.state
        meta = {
            "summary": {**self.summary, "model": self.model},
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
            "history": self.line,
            "timed": self.timed,
            "versions": dict(self.versions),
        }
        return arrays, meta

    @classmethod
    def decode(cls, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any], origin: Any) -> Self:
        """Return what :meth:`encode` described, after checking all of it.

        Raises
        ------
        CheckpointDamaged
            If anything is missing or does not fit, naming ``origin`` and all that is wrong.
        """
        try:
            for name in ("position", "batches", "history", "seed", "seq_len"):
                least = 1 if name == "seq_len" else 0
                if type(meta[name]) is not int or not least <= meta[name] < 1 << 62:
                    raise ValueError(f"{name} is {reprlib.repr(meta[name])}")
            hyper = HyperParams.from_json(meta["hyper"])
            find(meta["modeltype"]).check(hyper)
            chars = vocabularyfromjson(meta["vocabulary"])
            if chars.vocab_size != hyper.vocab_size:
                raise ValueError(
                    f"it has {chars.vocab_size} symbols, and numbers for {hyper.vocab_size}"
                )
            rng = np.random.default_rng()
            rng.bit_generator.state = meta["rng"]
            return cls(
                modeltype=meta["modeltype"],
                hyper=hyper,
                chars=chars,
                seq_len=meta["seq_len"],
                backend=meta["backend"],
                progress=_progress(meta["modeltype"], hyper, arrays, meta),
                rng=rng,
                seed=meta["seed"],
                corpus=meta["corpus"],
                line=meta["history"],
                timed=bool(meta.get("timed")),
                summary=dict(meta["summary"]),
                versions=dict(meta["versions"]),
                model=meta["summary"].get("model"),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as problem:
            told = f"{problem!s} is missing" if isinstance(problem, KeyError) else str(problem)
            raise CheckpointDamaged(f"{origin} does not describe a model: {told}") from problem


def _progress(
    modeltype: str, hyper: HyperParams, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]
) -> Progress:
    """Sort the arrays of a checkpoint, or raise InputError with all that is wrong with them."""
    model, caches = find(modeltype), CACHES[hyper.optimizer]
    shapes, width = model.shapes(hyper), model.layer(hyper).state(hyper.state_size)
    state = arrays.get("state")
    lanes = state.shape[1] if state is not None and state.ndim == 3 else 1
    wanted = dict(shapes)
    wanted |= {f"{cache}.{name}": shape for cache in caches for name, shape in shapes.items()}
    if state is not None:
        wanted["state"] = (hyper.layers, lanes, width)
    problems = [f"{name}: not expected" for name in arrays if name not in wanted]
    for name, shape in wanted.items():
        got = arrays.get(name)
        if got is None or got.shape != shape or got.dtype != np.float32:
            told = "nothing" if got is None else f"{got.dtype} {got.shape}"
            problems.append(f"{name}: expected float32 {shape}, got {told}")
    if problems:
        more = [f"and {len(problems) - 20:,} more"] if problems[20:] else []
        raise InputError("\n".join(problems[:20] + more))
    own = {name: np.array(array, order="C") for name, array in arrays.items()}
    return Progress(
        {name: own[name] for name in shapes},
        {cache: {name: own[f"{cache}.{name}"] for name in shapes} for cache in caches},
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
    return Scores(latest, best, int(worse))


def _entry(line: str, where: str) -> dict[str, Any] | None:
    """Return what a line of the history says, or None for one that was cut short or spoilt."""

    def number(value: object) -> bool:
        return isinstance(value, int | float) and math.isfinite(value)

    try:
        entry = json.loads(line)
        form, needs = entry.get("format", FORMAT), entry.get("needs")
        if type(form) is int and form > FORMAT and isinstance(needs, str):
            raise CheckpointTooNew.told(where, form, FORMAT, needs)
        points = [*entry["curve"], (entry["position"], entry["trainloss"])]
        good = all(number(x) and number(y) for x, y in points) and type(entry["follows"]) is int
        good = good and (entry["validloss"] is None or number(entry["validloss"]))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return None
    return entry if good else None


def _same(one: Path, other: Path) -> bool:
    """Whether both are one directory, however it is called."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


def versions() -> dict[str, str]:
    """Return what this process computes with: names and versions."""
    own = {"rngru": __version__, "python": platform.python_version()}
    return own | {name: version(name) for name in ("numpy", "numba", "pytensor")}


class Workdir:
    """A working directory.

    Parameters
    ----------
    path: where it is; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        if not isinstance(path, str | Path) or path == "":
            raise InputError(f"Expected the path of a working directory, got {path!r}.")
        try:
            path = checkpoint.topath(path).expanduser().absolute()
            os.fsencode(path)
            # Else "missing/../work" would make the directory "missing", too.
            self.path = path.resolve() if ".." in path.parts else path
        except RngruError:
            raise
        except (OSError, RuntimeError, ValueError) as problem:
            raise InputError(f"{str(path)!r} is no path on this system: {problem}.") from problem
        self._place: tuple[int, int] | None = None  # which directory it is, wherever it is moved
        self._timed: int | None = None  # the step of a checkpoint that the next one replaces
        self._own: tuple[int, int] | None = None  # step and batches last saved or loaded
        self._model: str | None = None  # which model it is: another may take its place
        self._alone = os.getpid(), threading.Lock()

    @property
    def data(self) -> Path:
        """Where the encoded text is."""
        replaced = os.path.isdir(self._old) and self._checkpoints != self._old
        return self._fresh if replaced and os.path.isdir(self._fresh) else self.path / "data"

    @property
    def holdsmodel(self) -> bool:
        """Whether there is a checkpoint, usable or not."""
        return os.path.isdir(self._checkpoints) and bool(checkpoint.steps(self._checkpoints))

    @contextmanager
    def locked(self, *, new: bool = False) -> Iterator[None]:
        """Hold the directory against other processes; a dead one's lock is nobody's.

        With ``new`` it is for a new model, which would overwrite or remove what others have put
        under our names: that is refused.

        Raises
        ------
        WorkdirBusy
            At once, with the process and the host that hold it.
        WorkdirError
            If it cannot be written, or another model has taken this one's place.
        """
        lock, holder = FileLock(self.path / "lock", is_singleton=True), self.path / "lock.json"
        with self.alone():
            if new:
                self._refuseforeign()
            with self._writable():
                if not self.path.exists():
                    self.path.mkdir(parents=True, exist_ok=True)
                    self._place = None
                self._check()
                try:
                    lock.acquire(blocking=False)
                except Timeout:
                    raise WorkdirBusy(
                        f"{self.path} is in use by {self._holder()}. Wait for it, stop it, or name "
                        "another directory."
                    ) from None
            try:
                self._is(self._modelhere())
                who = json.dumps(_VERSION | {"pid": os.getpid(), "host": platform.node()})
                with self._writable(len(who)):
                    with open(holder, "w", opener=checkpoint.plainly) as stream:
                        stream.write(who)
                    self._settle()
                yield
            finally:
                lock.release()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold what is done here against other threads with the same model.

        Raises
        ------
        WorkdirBusy
            At once.
        """
        if self._alone[0] != os.getpid():  # forked: who holds it is in the other process
            self._alone = os.getpid(), threading.Lock()
        _, lock = self._alone
        if not lock.acquire(blocking=False):
            raise WorkdirBusy(
                f"Another thread of process {os.getpid()} on {platform.node()} trains, saves or "
                "restores this model. Wait for it."
            )
        try:
            yield
        finally:
            lock.release()

    def _holder(self) -> str:
        """Who holds the lock; it takes a moment until that is written."""
        for _ in range(20):
            try:
                with open(self.path / "lock.json", opener=checkpoint.plainly) as stream:
                    who = json.load(stream)
                return f"process {who['pid']} on {who['host']}"
            except (OSError, ValueError, KeyError, TypeError):
                time.sleep(0.01)
        return "another process"

    def _check(self) -> None:
        """Raise WorkdirError if another directory is here by now, or links that would lead elsewhere."""
        here = os.stat(self.path)
        self._place = self._place or (here.st_dev, here.st_ino)
        if self._place != (here.st_dev, here.st_ino):
            raise WorkdirError(
                f"{self.path} is not the directory that this model was in: it was replaced. Nothing "
                "was written. Put the old one back, or move this one away and save again."
            )
        for path in map(self.path.joinpath, (*_FOLDERS, *_FILES)):
            if path.is_symlink():
                raise WorkdirError(
                    f"{path} is a symbolic link, and nothing is written elsewhere through one. Put "
                    f"what it points at in its place: {os.path.realpath(path)}"
                )

    def _is(self, model: str | None) -> None:
        """Raise WorkdirError if it is another model that is here by now, where that is known."""
        if None not in (self._model, model) and self._model != model:
            raise WorkdirError(
                f"{self.path} holds another model by now: this one was overwritten, perhaps by another "
                "process. Nothing was written. ModelState.load gives the other one; parameters() of "
                "this one has its weights."
            )
        self._model = self._model or model

    def _modelhere(self) -> str | None:
        """Return which model the newest checkpoint that can be read is of, if that is known."""
        with suppress(CheckpointError):
            for step, path in reversed(checkpoint.steps(self._checkpoints).items()):
                with suppress(CheckpointError):
                    return readrecord(path, step).summary.get("model")
        return None

    # ------------------------------------------------------- a new model in place of an old one

    def _refuseforeign(self) -> None:
        for path in self._foreign():
            raise WorkdirError(
                f"{path} was not made by rngru, and a model in {self.path} would overwrite or remove "
                f"it. Name a directory of its own for the model, such as {str(self.path / 'model')!r}."
            )

    def _foreign(self) -> Iterator[Path]:
        for name, foreign in _FOLDERS.items():
            folder = self.path / name
            if os.path.islink(folder):
                continue  # refused as such
            if os.path.isdir(folder):
                yield from foreign(folder)
            elif os.path.isfile(folder):
                yield folder
        for name, mark in _FILES.items():
            if isforeign(self.path / name, mark):
                yield self.path / name

    @property
    def _checkpoints(self) -> Path:
        """Where the checkpoints are: those of the old model, until the new one has its first."""
        folder = self.path / "checkpoints"
        return self._old if os.path.isdir(self._old) and not checkpoint.steps(folder) else folder

    @property
    def _old(self) -> Path:
        return self.path / ".tmp-checkpoints"

    @property
    def _fresh(self) -> Path:
        return self.path / ".tmp-data"

    @property
    def fresh(self) -> Path:
        """Where to encode the text of a new model: beside that of an old one."""
        return self._fresh if self.holdsmodel else self.data

    def setaside(self) -> None:
        """Make room for the first checkpoint of a new model; until it is saved, the old one counts."""
        self._model = secrets.token_hex(8)
        if self.holdsmodel:
            with self._writable():
                os.rename(self.path / "checkpoints", self._old)
                sync(self.path)

    def takeover(self, corpus: Corpus) -> Corpus:
        """Throw an old model away, and return the new one's text at its place."""
        if corpus.folder != self._fresh:
            return corpus
        with self._writable():
            self._discardold()
        return Corpus.open(self.data, corpus.vocab)

    def _discardold(self) -> None:
        """Its checkpoints go last: as long as they are there, all of this can be done again."""
        if os.path.isdir(self._fresh):
            remove(self.path / "data")
            os.rename(self._fresh, self.path / "data")
        (self.path / "history.jsonl").unlink(missing_ok=True)
        sync(self.path)
        shutil.rmtree(self._old)

    def _settle(self) -> None:
        """Finish what was cut short, or undo it."""
        if os.path.isdir(self._old) and self._checkpoints != self._old:
            self._discardold()
        elif os.path.isdir(self._old):
            remove(self.path / "checkpoints")
            os.rename(self._old, self.path / "checkpoints")
        remove(self._fresh)

    # ------------------------------------------------------------------------- checkpoints

    def checkpoints(self) -> Checkpoints:
        """Return all checkpoints, oldest first."""
        return checkpoint.listing(self._checkpoints)

    def nextstep(self, batches: int) -> int:
        """Return the number of the next checkpoint.

        That is the number of batches, but always more than that of the newest, unless the newest is
        the one last saved or loaded here, after as many batches: no other is ever written over.
        """
        last = max(checkpoint.steps(self.path / "checkpoints"), default=-1)
        return last if self._own == (last, batches) else max(batches, last + 1)

    def save(self, model: Saved, *, keep: int | None = None, timed: bool = False) -> Checkpoint:
        """Save a model; a ``timed`` checkpoint lasts until the next one."""
        folder = self.path / "checkpoints"
        with self._writable():
            self._check()
        step = self.nextstep(model.progress.batches)
        self._model = self._model or secrets.token_hex(8)
        model = replace(model, timed=timed, model=self._model)
        saved = checkpoint.save(folder, step, *model.encode(), keep=keep)
        if self._timed is not None and self._timed != step:
            checkpoint.discard(folder, self._timed)
        self._timed, self._own = step if timed else None, (step, model.progress.batches)
        return saved

    def load(self, which: "int | str | Path | Checkpoint | None" = None) -> Saved:
        """Return the model of a checkpoint: a step, ``'best'``, a path, or by default the newest.

        Raises
        ------
        NoModelError
            If there is no checkpoint at all.
        InputError
            If there is no such checkpoint.
        CheckpointError
            If it cannot be used.
        WorkdirError
            If another model has taken this one's place.
        """
        if not self.holdsmodel:
            raise NoModelError(
                f"{self.path} holds no model: expected a directory with 'checkpoints' in it, as "
                "ModelState.initfromsrcfile makes it."
            )
        here = os.stat(self.path)
        self._place = here.st_dev, here.st_ino
        if which is None:
            models: list[Saved] = []
            found: Checkpoint | Path
            found, *_ = checkpoint.newest(
                self._checkpoints,
                lambda found, arrays, meta: models.append(Saved.decode(arrays, meta, found)),
            )
            model = models[-1]
        else:
            found = self._find(which)
            step = found.step if isinstance(found, Checkpoint) else None
            model = Saved.decode(*checkpoint.load(found, step), found)
        if not isinstance(found, Checkpoint):
            # Of another directory: nothing here is replaced by it, and its history is not here.
            self._own = self._timed = None
            return replace(model, line=0, timed=False)
        self._is(model.model)
        self._own = found.step, model.progress.batches
        self._timed = found.step if model.timed else None
        return model

    def _find(self, which: "int | str | Path | Checkpoint") -> Checkpoint | Path:
        """Return the checkpoint that a user means; of another directory, its path."""
        if which == "best":
            best = self.checkpoints().best
            if best is None:
                raise InputError("No checkpoint has a validation loss, so none is the best.")
            return best
        path = Path(which) if isinstance(which, str | Path | Checkpoint) else None
        known = checkpoint.steps(self._checkpoints)
        for step, place in known.items():
            if str(which) == str(step) or (path and _same(path, place)):
                return readrecord(place, step)
        if path and (not isinstance(which, str) or (path / MANIFEST).is_file()):
            return path
        steps = ", ".join(map(str, known)) or "none"
        raise InputError(f"There is no checkpoint {which!r}. There are: {steps}; or 'best'.")

    # ---------------------------------------------------------------------- text and history

    def corpus(self, chars: Vocabulary, digest: str | None) -> Corpus | None:
        """Open the encoded text, with a warning if it is not the one that a model was trained on."""
        try:
            corpus = Corpus.open(self.data, chars)
            if corpus.touched or corpus.ids.nbytes <= CHECKED:
                corpus.verify()
        except (RngruError, OSError) as problem:
            warnings.warn(
                f"{problem} The model can generate but not train until {self.data} is as it was: from "
                "a copy, or from a new model of the same text, made with the same options elsewhere.",
                stacklevel=3,
            )
            return None
        if corpus.digest != digest:
            warnings.warn(
                f"{self.data} holds another text than the one this model was trained on.",
                stacklevel=3,
            )
        if changed := corpus.changedsources():
            more = f" and {len(changed) - 1:,} more" if changed[1:] else ""
            warnings.warn(
                f"{changed[0]}{more} changed after it was encoded. Training goes on with the text as "
                "it was; ModelState.initfromsrcfile makes a new model of it as it is.",
                stacklevel=3,
            )
        return corpus

    def rounds(self, line: int) -> list[dict[str, Any]]:
        """Return the rounds of training that led to the one on ``line``.

        Every line of the file names the line it follows, for after an older checkpoint has been
        restored the rounds of the run that was left are still there.

        Raises
        ------
        CheckpointTooNew
            If a newer rngru wrote one of them in a format of its own.
        """
        try:
            with self._history("r") as stream:
                lines = stream.readlines()
        except OSError:
            return []
        found, number = [], min(line, len(lines))
        while number > 0:
            where = f"{self.path / 'history.jsonl'}, line {number}"
            entry = _entry(lines[number - 1], where)
            if entry is not None:
                found.append(entry)
            # Never forwards: in a history begun anew a line may follow one that is gone.
            number = number - 1 if entry is None else min(entry["follows"], number - 1)
        return found[::-1]

    def remember(self, event: Round, curve: list[tuple[int, float]], follows: int) -> int:
        """Append a round to the history, with at most fifty points of its loss curve.

        ``curve`` has position and loss of each batch; ``follows`` is the line of the round before.
        Returns the line it is on.
        """
        width = -(-len(curve) // 50) or 1
        chunks = [curve[i : i + width] for i in range(0, len(curve), width)]
        points = [(c[-1][0], math.fsum(loss for _, loss in c) / len(c)) for c in chunks]
        entry = _VERSION | asdict(event) | {"curve": points, "follows": follows}
        line = json.dumps(entry, allow_nan=False)
        with self._writable(len(line)):
            self._check()
            with self._history("a+") as stream:
                stream.seek(0)
                # Not all at once: after a year there are many.
                count, last = (deque(enumerate(stream, 1), maxlen=1) or [(0, "\n")])[0]
                if not last.endswith("\n"):
                    stream.write("\n")
                stream.write(line + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            if not count:
                sync(self.path)
        return count + 1

    def _history(self, mode: str) -> IO[str]:
        path, plainly = self.path / "history.jsonl", checkpoint.plainly
        return open(path, mode, encoding="utf-8", errors="replace", opener=plainly)

    def _writable(self, needed: int | None = None) -> AbstractContextManager[None]:
        """Say which directory it is that cannot be written, and where space is short."""
        return refusals("Nothing can be written", self.path, needed, WorkdirError)
