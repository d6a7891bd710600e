"""What a working directory holds, and what is wrong with it; nothing is changed.

>>> import tempfile
>>> examine(tempfile.mkdtemp())[0][:2]
('model', 'none')
"""

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

from rngru import checkpoint, corpus
from rngru.corpus import Corpus
from rngru.errors import CellUnknown, CheckpointTooNew, NoModelError, RngruError
from rngru.snapshot import Snapshot
from rngru.workdir.directory import Workdir
from rngru.workdir.lock import holder
from rngru.workdir.names import FILES, FOLDERS

Line = tuple[str, str, str]
"""A name, what was found, and what to do about it: '' if all is well."""


def examine(path: str | Path) -> list[Line]:
    """Return what there is to say of a working directory; every checkpoint and the text are verified.

    Raises
    ------
    NoModelError
        If there is no such folder.
    """
    disk = Workdir(path)
    if not os.path.isdir(disk.path):
        raise NoModelError(f"There is no folder {str(disk.path)!r}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [*_checkpoints(disk), *_text(disk), *_rest(disk)]


def _checkpoints(disk: Workdir) -> Iterator[Line]:
    folder = disk.path / "checkpoints"
    good, bad, newest = [], [], None
    for step, path in checkpoint.steps(folder).items():
        try:
            newest = Snapshot.decode(*checkpoint.read(path, step))
            good.append(step)
        except CheckpointTooNew as problem:
            bad.append((step, str(problem), "A newer rngru reads it."))
        except CellUnknown as problem:
            bad.append((step, str(problem), ""))
        except RngruError as problem:
            bad.append((step, str(problem), f"Loading skips it. Remove {path}, or copy it back."))
    if newest is None:
        what = "none that can be used" if bad else "none"
        yield "model", what, "" if bad else "rngru train TEXT --workdir makes one."
    else:
        yield (
            "model",
            f"{newest.modeltype} of {newest.chars.srcinfo or 'a text'}, {newest.hyper!r}",
            "",
        )
        yield "checkpoints", f"{len(good):,} intact, from {good[0]:,} to {good[-1]:,}", ""
    for step, wrong, advice in bad:
        yield f"checkpoint {step}", wrong, advice
    restored = disk._bookmark.step(max(good, default=-1), newest.token if newest else None)
    if restored is not None:
        yield "restored", f"checkpoint {restored:,}: load() gives it instead of the newest", ""
    if os.path.isdir(disk._old):
        yield (
            "unfinished", "a new model was to take the place of an old one",
            "The next call that trains or saves finishes it, or undoes it.",
        )  # fmt: skip


def _text(disk: Workdir) -> Iterator[Line]:
    try:
        text = Corpus.open(disk.data)
        text.verify()
    except RngruError as problem:
        if disk.holdsmodel:
            advice = (
                "The model can sample and score, but not train. Put the folder back from a copy."
            )
            yield "text", str(problem), advice
        return
    yield "text", f"{text!r}, intact", ""
    for path in text.changedsources()[0]:
        yield "source", f"{path} has changed since it was encoded", "Training uses it as it was."


def _rest(disk: Workdir) -> Iterator[Line]:
    if found := holder(disk.path):
        yield "lock", f"held by {found}", ""
    else:
        yield "lock", "free", ""
    for name in (*FOLDERS, *FILES):
        if (disk.path / name).is_symlink():
            advice = "Nothing is written through links. Put what it points at in its place."
            yield "link", name, advice
    for name in ("data", "checkpoints"):
        foreign = {"data": corpus.foreign, "checkpoints": checkpoint.foreign}[name]
        if os.path.isdir(disk.path / name):
            for path in foreign(disk.path / name):
                yield "not of rngru's", str(path), "Move it elsewhere: a new model would remove it."
    writable = os.access(disk.path, os.W_OK)
    free = shutil.disk_usage(disk.path).free / 1e9
    advice = "" if writable else "It can be read only: training and saving are refused."
    yield "disk", f"{free:,.1f} GB free" + ("" if writable else ", not writable"), advice
