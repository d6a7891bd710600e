"""A working directory: where a model is kept on the disk.

``checkpoints/<step>/`` (see :mod:`rngru.checkpoint`), ``data/`` (see :mod:`rngru.corpus`),
``history.jsonl`` (one line a round), ``restored.json`` (which checkpoint was restored, if not the
newest), and a lock, held while something is written. None of them is ever a symbolic link.

Nothing is written for a model that has gone on in another prompt: whoever saves must have saved,
loaded or restored here since the newest checkpoint came.

While a new model takes the place of an old one, the old one is loaded until the first checkpoint of
the new one is on the disk. Whoever takes the lock next finishes, or undoes, what was cut short.

>>> import tempfile
>>> workdir = Workdir(tempfile.mkdtemp())
>>> workdir.holdsmodel, workdir.history(0, "characters")
(False, 0 rounds: all that led to this model.)
"""

import os
import platform
import secrets
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from rngru import checkpoint, corpus
from rngru.checkpoint import Checkpoint, Checkpoints, readrecord
from rngru.corpus import Corpus
from rngru.disk import (
    dangling,
    reachable,
    refusals,
    remove,
    rename,
    sync,
    topath,
    unescaped,
    unmade,
)
from rngru.errors import (
    FOREIGN,
    CheckpointError,
    InputError,
    NoModelError,
    RngruError,
    WorkdirBusy,
    WorkdirError,
    warn,
)
from rngru.events import Round
from rngru.forks import Lock
from rngru.report import History
from rngru.snapshot import Snapshot
from rngru.text import Vocabulary
from rngru.workdir import lock
from rngru.workdir.bookmark import Bookmark
from rngru.workdir.journal import POINTS, Journal
from rngru.workdir.names import FILES, FOLDERS, find, refuseforeign, refuselinks

CHECKED = 1 << 26
"""Bytes of encoded text up to which it is verified on loading, whatever its date; more take too long."""


def _decoded(found: Checkpoint, *contents: Any) -> tuple[Checkpoint, Snapshot]:
    return found, Snapshot.decode(found, *contents)


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
            given = topath(path).expanduser()
            path = given.absolute()
            os.fsencode(path)
            if (meant := unescaped(str(given))) and not path.exists():
                raise InputError(f"{str(given)!r}: was {meant} meant? Then type the r before it.")
            # Else "missing/../work" would make the directory "missing", too.
            self.path = path.resolve() if ".." in path.parts else path
        except RngruError:
            raise
        except (OSError, RuntimeError, ValueError) as problem:
            raise InputError(
                f"{str(path)!r} is no path on this system: {str(problem).rstrip('.')}."
            ) from problem
        self._journal = Journal(self.path / "history.jsonl")
        self._bookmark = Bookmark(self.path / "restored.json")
        self._place: tuple[int, int] | None = None  # which directory it is, wherever it is moved
        self._timed: int | None = None  # the step of a checkpoint that the next one replaces
        self._own: tuple[int, int] | None = None  # step and batches last saved or loaded
        self._token: str | None = None  # which model it is: another may take its place
        self._seen: int | None = None  # the newest checkpoint there when we last saved or loaded
        self._lock = Lock()

    @property
    def data(self) -> Path:
        """Where the encoded text is."""
        replaced = os.path.isdir(self._old) and self._checkpoints != self._old
        return self._fresh if replaced and os.path.isdir(self._fresh) else self.path / "data"

    @property
    def holdsmodel(self) -> bool:
        """Whether there is a checkpoint, usable or not."""
        return reachable(self._checkpoints) and bool(checkpoint.steps(self._checkpoints))

    @contextmanager
    def locked(self, *, new: bool = False, text: bool = False) -> Iterator[None]:
        """Hold the directory against other processes; a dead one's lock is nobody's.

        With ``new`` it is for a new model, which would overwrite or remove what others have put
        under our names: that is refused. With ``text`` the directory must still be there, with its
        text; otherwise one that is gone is made anew. If a new
        model comes to nothing, the directory is left as it was.

        Raises
        ------
        WorkdirBusy
            At once, with the process and the host that hold it.
        WorkdirError
            If it cannot be written, is gone, or another model has taken this one's place, or
            another prompt has gone on with it.
        """
        with self.alone(), unmade(self.path) if new else nullcontext():
            if new:
                refuseforeign(self.path)
            before = set(os.listdir(self.path)) if os.path.isdir(self.path) else set()
            with self._writable():
                if not os.path.lexists(self.path):
                    if text:
                        self._refusegone(self.path)
                    self.path.mkdir(parents=True, exist_ok=True)
                    self._place = self._seen = None
                self._check(copied=True)
                if text and not os.path.lexists(self.data / corpus.DESCRIPTION):
                    self._refusegone(self.data)
            with lock.locked(self.path):
                self._is(self._tokenhere())
                if not new:
                    self._refusestale()
                with self._writable():
                    self._settle()
                try:
                    yield
                except BaseException:
                    if new:
                        self._undo(before)
                    raise

    def _undo(self, before: set[str]) -> None:
        """Remove what a new model that came to nothing has left beside what was there ``before``."""
        made = {"lock", "lock.json"}
        if not before & {"checkpoints", ".tmp-checkpoints"}:
            made |= {*FOLDERS, *FILES}
        elif not os.path.isdir(self._old):  # else the old model is half replaced: see _settle
            made.add(".tmp-data")
        for name in made - before:
            remove(self.path / name)

    @contextmanager
    def alone(self, *, changed: bool = False) -> Iterator[None]:
        """Hold what is done here against other threads with the same model, or raise WorkdirBusy.

        If the model is then ``changed``, so that it is not what was saved, no save writes over that.
        """
        with self._lock.held(blocking=False) as got:
            if not got:
                raise WorkdirBusy(
                    f"Another thread of process {os.getpid()} on {platform.node()} trains, saves or "
                    "restores this model. Wait for it; run.stop() ends a training in the background."
                )
            yield
            if changed:
                self._own = self._timed = None

    def _refusegone(self, folder: Path) -> NoReturn:
        """Refuse to train what could be saved, but not go on tomorrow."""
        what = "" if folder == self.path else ", the encoded text of this model,"
        raise WorkdirError(
            f"{folder}{what} is gone: it was renamed, moved or removed. Nothing was trained. Put it "
            "back, or load the model from its new place; newcheckpoint() saves the model alone, "
            f"without the text, in {self.path}."
        )

    def _refusestale(self) -> None:
        """Raise WorkdirError if another prompt has saved this model since we last looked."""
        newest = -1
        with suppress(CheckpointError):  # of what is in the way a save will speak
            newest = max(checkpoint.steps(self._checkpoints), default=-1)
        if self._seen is None or newest <= self._seen:
            return
        where = f"checkpoint {newest}"
        with suppress(CheckpointError):
            position = readrecord(self._checkpoints / str(newest), newest).position
            where = f"position {position:,} ({where})" if position is not None else where
        raise WorkdirError(
            f"Another prompt has trained this model further, to {where} in {self.path}, and this one "
            "does not know of it. Nothing was written. ms.restore() goes there; ms.restore(step) goes "
            "to an older checkpoint, to train another way from there."
        )

    def _check(self, *, copied: bool = False) -> None:
        """Raise WorkdirError if another directory is here by now, or links that would lead elsewhere.

        It may be a ``copied`` one of the same model.
        """
        here = os.stat(self.path)
        place = here.st_dev, here.st_ino
        # Some network file systems number their directories anew, too.
        if self._place is None or (
            copied and self._place != place and self._token and self._tokenhere() == self._token
        ):
            self._place = place
        if self._place != place:
            raise WorkdirError(
                f"{self.path} is not the directory that this model was in: it was replaced. Nothing "
                "was written. Put the old one back, or move this one away and save again."
            )
        refuselinks(self.path)

    def _is(self, token: str | None) -> None:
        """Raise WorkdirError if it is another model that is here by now, where that is known."""
        if None not in (self._token, token) and self._token != token:
            raise WorkdirError(
                f"{self.path} holds another model by now: this one was overwritten, perhaps by another "
                "process. Nothing was written. ModelState.load gives the other one; parameters() of "
                "this one has its weights."
            )
        self._token = self._token or token

    def _tokenhere(self) -> str | None:
        """Return which model the newest checkpoint that can be read is of, if that is known."""
        with suppress(CheckpointError):
            for step, path in reversed(checkpoint.steps(self._checkpoints).items()):
                with suppress(CheckpointError):
                    return readrecord(path, step).summary.get("model")
        return None

    # ------------------------------------------------------- a new model in place of an old one

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

    def refusemodel(self, *, overwrite: bool) -> None:
        """Raise WorkdirError if there is a model that may not be thrown away."""
        if self.holdsmodel and not overwrite:
            raise WorkdirError(
                f"{self.path} holds a model already. ModelState.load({str(self.path)!r}) goes on with "
                "it; overwrite=True throws it away; or name another directory."
            )

    @property
    def fresh(self) -> Path:
        """Where to encode the text of a new model: beside that of an old one."""
        return self._fresh if self.holdsmodel else self.data

    def install(self, model: Snapshot, corpus: Corpus, *, save: bool = True) -> Corpus:
        """Put a new model in place of an old one, if there is one; return its text at its new place.

        ``corpus`` is in :attr:`fresh`. Until the new model's first checkpoint is saved, the old one
        counts.
        """
        self._token, self._seen = secrets.token_hex(8), -1
        if self.holdsmodel:
            with self._writable():
                rename(self.path / "checkpoints", self._old)
                sync(self.path)
        if save:
            self.save(model)
        if corpus.folder != self._fresh:
            return corpus
        with self._writable():
            self._discardold()
        return Corpus.open(self.data, corpus.vocab)

    def _discardold(self) -> None:
        """Its checkpoints go last: as long as they are there, all of this can be done again."""
        if os.path.isdir(self._fresh):
            remove(self.path / "data")
            rename(self._fresh, self.path / "data")
        (self.path / "history.jsonl").unlink(missing_ok=True)
        sync(self.path)
        shutil.rmtree(self._old)

    def _settle(self) -> None:
        """Finish what was cut short, or undo it."""
        if os.path.isdir(self._old) and self._checkpoints != self._old:
            self._discardold()
        elif os.path.isdir(self._old):
            remove(self.path / "checkpoints")
            rename(self._old, self.path / "checkpoints")
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

    def save(self, model: Snapshot, *, keep: int | None = None, timed: bool = False) -> Checkpoint:
        """Save a model; a ``timed`` checkpoint lasts until the next one."""
        folder = self.path / "checkpoints"
        with self._writable():
            self._check()
        step = self.nextstep(model.progress.batches)
        self._token = self._token or secrets.token_hex(8)
        model = replace(model, timed=timed, token=self._token)
        arrays, meta = model.encode()
        try:  # never one that would not be loaded: it may take the place of a good one
            Snapshot.decode(Checkpoint(step, folder / str(step)), arrays, meta)
        except RngruError as problem:
            raise CheckpointError(
                f"Nothing was saved, for it could not be loaded: {problem}"
            ) from problem
        try:
            saved = checkpoint.save(folder, step, arrays, meta, keep=keep, needs=model.made.needs)
        finally:  # it may be there in spite of an error
            self._look()
        old, self._timed = self._timed, step if timed else None
        self._own = step, model.progress.batches
        if old is not None and old != step:
            checkpoint.discard(folder, old)
        with suppress(OSError):  # it is for the checkpoints that were there before
            self._bookmark.forget()
        return saved

    def _look(self) -> None:
        """Take note of what is here: others may add to it."""
        with suppress(CheckpointError):
            self._seen = max(checkpoint.steps(self._checkpoints), default=-1)

    def load(
        self,
        which: "int | str | Path | Checkpoint | None" = None,
        *,
        like: Snapshot | None = None,
    ) -> Snapshot:
        """Return the model of a checkpoint: a step, ``'best'``, a path, or by default the newest.

        With ``like`` it must be of that kind, with the same symbols.

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
        if self.path.is_file():
            raise NoModelError(f"{self.path} is a file, and none that ms.pack() has written.")
        if not reachable(self.path):
            raise NoModelError(f"There is no folder {str(self.path)!r}.{dangling(self.path)}")
        if not self.holdsmodel:
            mark = "checkpoints/[0-9]*/MANIFEST.json"
            above = next((each for each in self.path.parents if any(each.glob(mark))), None)
            raise NoModelError(
                f"{self.path} holds no model: expected a directory with 'checkpoints' in it, as "
                "ModelState.initfromsrcfile makes it."
                + (f" The model is in {str(above)!r}." if above else "")
            )
        here = os.stat(self.path)
        self._place = here.st_dev, here.st_ino
        there = max(checkpoint.steps(self._checkpoints), default=-1)
        found: Checkpoint | Path
        if which is None:
            found, model = checkpoint.newest(self._checkpoints, _decoded)
        else:
            found = find(self._checkpoints, which)
            step = found.step if isinstance(found, Checkpoint) else None
            _, model = _decoded(*checkpoint.read(found, step))
        if like is not None and (model.modeltype, model.chars) != (like.modeltype, like.chars):
            raise CheckpointError(
                f"That checkpoint is of another model, {model.modeltype}, or another text."
            )
        if not isinstance(found, Checkpoint):
            # Of another directory: nothing here is replaced by it, and its history is not here.
            self._own = self._timed = None
            return replace(model, historyline=0, timed=False)
        self._is(model.token)
        self._seen = there
        self._own = found.step, model.progress.batches
        self._timed = found.step if model.timed else None
        return model

    def resume(self) -> Snapshot:
        """Return the model as it was left: of the checkpoint restored last, or else of the newest."""
        known = checkpoint.steps(self._checkpoints) if self.holdsmodel else {}
        step = self._bookmark.step(max(known, default=-1), self._tokenhere()) if known else None
        if step in known:
            try:
                return self.load(step)
            except FOREIGN:
                raise
            except CheckpointError as problem:
                warn(f"{problem} The newest checkpoint is used instead of it.")
        return self.load()

    def restore(
        self, which: "int | str | Path | Checkpoint | None" = None, *, like: Snapshot
    ) -> Snapshot:
        """Do what :meth:`load` does, and :meth:`resume` gives it from then on.

        If that cannot be written, a warning says so.
        """
        model = self.load(which, like=like)
        if self._own is not None:
            step, newest = self._own[0], -1 if self._seen is None else self._seen
            try:
                if step == newest:
                    self._bookmark.forget()
                else:
                    self._bookmark.write(step, newest=newest, model=self._token)
            except (OSError, WorkdirError) as problem:
                warn(f"{problem} So the next load gives another checkpoint, the newest.")
        return model

    def best(self, like: Snapshot) -> Snapshot:
        """Restore the checkpoint with the lowest validation loss, if it is not the newest."""
        best = self.checkpoints().best
        return like if best is None or best.step == self._seen else self.restore(best, like=like)

    # ---------------------------------------------------------------------- text and history

    def corpus(self, chars: Vocabulary, digest: str | None) -> Corpus | None:
        """Open the encoded text, with a warning if it is not the one that a model was trained on."""
        try:
            corpus = Corpus.open(self.data, chars)
            if corpus.touched or corpus.ids.nbytes <= CHECKED:
                corpus.verify()
        except (RngruError, OSError) as problem:
            warn(
                f"{problem} The model can generate and score, but not train. To train, put {self.data} "
                "back: from a copy, or from a model of the same text made with the same options."
            )
            return None
        if corpus.digest != digest:
            warn(f"{self.data} holds another text than the one this model was trained on.")
        changed, perhaps = corpus.changedsources()
        if names := changed or perhaps:
            more = f" and {len(names) - 1:,} more" if names[1:] else ""
            warn(
                f"{names[0]}{more} {'changed' if changed else 'may have changed'} after it was encoded. "
                "Training goes on with the text as it was; ModelState.initfromsrcfile makes a new model "
                "of it as it is."
            )
        return corpus

    def history(self, line: int, units: str) -> History:
        """Return the rounds of training that led to the one on ``line``; see :class:`Journal`."""
        return self._journal.read(line, units)

    def remember(self, done: Round, curve: list[tuple[int, float]], follows: int) -> int:
        """Append a round to the history, and return the line it is on; see :class:`Journal`."""
        with self._writable(100 * POINTS):
            self._check()
            return self._journal.write(done, curve, follows)

    def own(self, name: str) -> Path:
        """Return where a file of this ``name`` is written, behind no symbolic link."""
        path = self.path / name
        if path.is_symlink():
            path.unlink()
        return path

    def _writable(self, needed: int | None = None) -> AbstractContextManager[None]:
        """Say which directory it is that cannot be written, and where space is short."""
        return refusals("Nothing can be written", self.path, needed, WorkdirError)
