"""What a working directory has under which name, and what must not stand there.

>>> sorted(FOLDERS)
['.tmp-checkpoints', '.tmp-data', 'checkpoints', 'data']
"""

import os
from collections.abc import Iterator
from pathlib import Path

from rngru import checkpoint, corpus
from rngru.checkpoint import MANIFEST, Checkpoint, readrecord
from rngru.disk import isforeign
from rngru.errors import InputError, WorkdirError
from rngru.workdir import lock

FOLDERS = {
    "checkpoints": checkpoint.foreign,
    ".tmp-checkpoints": checkpoint.foreign,
    "data": corpus.foreign,
    ".tmp-data": corpus.foreign,
}
"""Folders of a working directory, and what finds in each of them what is not rngru's."""

FILES = {
    "history.jsonl": rb'"round"',
    "restored.json": rb'"restored"',
    "lock": lock.SOFT,
    "lock.json": rb'"(pid|format)"',
}
"""Its files, and a pattern that the first 4 kB of each of ours contain."""


def refuselinks(folder: Path) -> None:
    """Raise WorkdirError for links in a working directory that would lead elsewhere."""
    for path in map(folder.joinpath, (*FOLDERS, *FILES)):
        if path.is_symlink():
            raise WorkdirError(
                f"{path} is a symbolic link, and nothing is written elsewhere through one. Put "
                f"what it points at in its place: {os.path.realpath(path)}"
            )


def refuseforeign(folder: Path) -> None:
    """Raise WorkdirError for what a new model would overwrite or remove, and rngru has not made."""
    for path in _foreign(folder):
        raise WorkdirError(
            f"{path} was not made by rngru, and a model in {folder} would overwrite or remove "
            f"it. Name a directory of its own for the model, such as {str(folder / 'model')!r}."
        )


def _foreign(folder: Path) -> Iterator[Path]:
    for name, foreign in FOLDERS.items():
        inside = folder / name
        if os.path.islink(inside):
            continue  # refused as such
        if os.path.isdir(inside):
            yield from foreign(inside)
        elif os.path.isfile(inside):
            yield inside
    for name, mark in FILES.items():
        if isforeign(folder / name, mark):
            yield folder / name


def find(folder: Path, which: int | str | Path | Checkpoint) -> Checkpoint | Path:
    """Return the checkpoint of a folder that a user means; of another folder, its path.

    Raises
    ------
    InputError
        If there is none.
    """
    if which == "best":
        best = checkpoint.listing(folder).best
        if best is None:
            raise InputError("No checkpoint has a validation loss, so none is the best.")
        return best
    path = Path(which) if isinstance(which, str | Path | Checkpoint) else None
    known = checkpoint.steps(folder)
    for step, place in known.items():
        if str(which) == str(step) or (path and _same(path, place)):
            return readrecord(place, step)
    if path and (not isinstance(which, str) or os.path.isfile(path / MANIFEST)):
        return path
    steps = ", ".join(map(str, known)) or "none"
    raise InputError(f"There is no checkpoint {which!r}. There are: {steps}; or 'best'.")


def _same(one: Path, other: Path) -> bool:
    """Whether both are one directory, however it is called."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False
