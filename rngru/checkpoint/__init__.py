"""Checkpoints: named arrays and metadata in a folder, saved so that no crash can lose them.

A folder holds one directory per checkpoint, named by its step::

    checkpoints/
        500/   arrays.npz      the arrays, uncompressed; numpy.load reads it, too
               meta.json       what the caller wants to remember, and when it was saved
               MANIFEST.json   size and SHA-256 of both, written last
        1000/  ...

The contract: once :func:`save` returns, the checkpoint survives a kill and a loss of power. If it
is stopped before, what was there is still there. What :func:`load` returns is, bit for bit, what
was saved; anything else raises :class:`~rngru.errors.CheckpointDamaged`. No file can make this
package run code, read outside its directory, or take more memory than twice the file's size.

One process at a time may write to a folder, any number may read. Names that begin with ``.tmp-``
are unfinished or abandoned, and the next save removes them; ``.old-500`` is checkpoint 500 while
another takes its place.

Example
-------
>>> import tempfile
>>> folder = tempfile.mkdtemp() + "/checkpoints"
>>> weights = {"layers.0.W": np.eye(2, dtype="float32")}
>>> for step, loss in (0, 4.6), (500, 2.1):
...     saved = save(folder, step, weights, {"summary": {"epoch": step / 1000, "validloss": loss}})
>>> saved  # doctest: +ELLIPSIS
<checkpoint 500: epoch 0.50, valid loss 2.100, saved ...>
>>> latest, arrays, meta = newest(folder)
>>> latest.step, arrays["layers.0.W"].tolist(), meta["summary"]["validloss"]
(500, [[1.0, 0.0], [0.0, 1.0]], 2.1)
"""

import errno
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rngru.checkpoint.content import (
    ARRAYS,
    FORMAT,
    MANIFEST,
    META,
    READABLE_SINCE,
    contents,
    readall,
    readpacked,
    readplain,
    readrecord,
)
from rngru.checkpoint.encoding import decodejson, encodejson, packarrays, unpackarrays
from rngru.checkpoint.packed import ispacked, pack
from rngru.checkpoint.record import Checkpoint, Checkpoints
from rngru.disk import refusals, remove, rename, sync, topath, unmatched, write
from rngru.errors import (
    FOREIGN,
    CheckpointDamaged,
    CheckpointError,
    InputError,
    NoModelError,
    warn,
)

__all__ = [
    "FORMAT",
    "MANIFEST",
    "Checkpoint",
    "Checkpoints",
    "decodejson",
    "discard",
    "encodejson",
    "foreign",
    "ispacked",
    "listing",
    "load",
    "newest",
    "pack",
    "packarrays",
    "prune",
    "read",
    "readpacked",
    "readrecord",
    "save",
    "steps",
    "unpackarrays",
]

T = TypeVar("T")

PATIENCE = 100
"""How often reading starts again because a writer has changed the folder meanwhile."""

REREAD = 16 << 20
"""Bytes up to which a file is read again before its checkpoint counts: 1 ms for 4 MB, 20 % of a save
for 100 MB, which is too much."""

_STEP = re.compile(r"(\.old-)?(0|[1-9][0-9]{0,17})")


def save(
    folder: str | os.PathLike[str],
    step: int,
    arrays: Mapping[str, np.ndarray],
    meta: Mapping[str, Any],
    *,
    keep: int | None = None,
    needs: str = READABLE_SINCE,
) -> Checkpoint:
    """Save a checkpoint; when this returns, it is on the disk.

    A checkpoint of the same step is replaced. A missing ``folder`` is made, but not its parent.

    Parameters
    ----------
    folder : path
        Where the checkpoints are; not a symbolic link.
    step : int
        From 0; the largest step counts as the newest.
    arrays : mapping of str to array
        Of any shape and memory order; booleans, integers, floats and complex numbers. While it is
        saved, a second copy is in memory.
    meta : mapping
        Plain JSON: text, finite numbers, True, False, None, lists, and dicts with text keys.
        ``meta['summary']``, a flat dict, fills the attributes of :class:`Checkpoint`.
    keep : int, optional
        Afterwards, remove old checkpoints as :func:`prune` does, but not this one; a warning if
        that fails.
    needs : str
        The oldest rngru that knows everything in it: older ones refuse it as too new.

    Returns
    -------
    Checkpoint

    Raises
    ------
    InputError
        If a name, dtype or value cannot be kept; then nothing is written.
    CheckpointError
        If the disk refuses; the message names the folder, the size needed and the free space.
        What was saved before is intact, and a later save may succeed.

    Example
    -------
    >>> import tempfile
    >>> save(tempfile.mkdtemp(), 7, {"b": np.zeros(3)}, {"loss": float("nan")})
    Traceback (most recent call last):
    rngru.errors.InputError: meta['loss'] is nan, but only finite numbers can be kept.
    """
    folder = topath(folder)
    if keep is not None:
        _checkkeep(keep)
    record, files = contents(folder / str(step), step, arrays, meta, needs)
    needed = sum(map(len, files.values()))
    with refusals(f"Checkpoint {step} could not be saved", folder, needed):
        _prepare(folder)
        try:
            _place(folder, record.step, files)
        except BaseException:
            with suppress(OSError):
                _tidy(folder)
            raise
    if keep is not None:
        try:
            _prune(folder, keep, spared=record.step)
        except CheckpointError as problem:
            warn(f"Checkpoint {step} is saved, but: {problem}")
    return record


def load(
    path: str | os.PathLike[str], step: int | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the metadata of the checkpoint at ``path``, verified before use.

    The arrays have the names, order, shapes, dtypes, memory order and bits that were saved. With a
    ``step`` it has to be the checkpoint of that step, and not behind a symbolic link.

    Raises
    ------
    CheckpointDamaged
        If anything is not as it was saved; the message says which file, and what is wrong.
    CheckpointTooNew
        If a newer rngru saved it; the message says which one reads it.
    CheckpointError
        If there is no such directory.

    Example
    -------
    >>> import tempfile
    >>> load(save(tempfile.mkdtemp(), 1, {"b": np.arange(3)}, {"layers": 2}))
    ({'b': array([0, 1, 2])}, {'layers': 2})
    """
    _, arrays, meta = read(path, step)
    return arrays, meta


def read(
    path: str | os.PathLike[str], step: int | None = None
) -> tuple[Checkpoint, dict[str, np.ndarray], dict[str, Any]]:
    """Return the record of the checkpoint, then what :func:`load` returns."""
    return readall(topath(path), step)


def _whole(*found: Any) -> Any:
    return found


def newest(folder: str | os.PathLike[str], decode: Callable[..., T] = _whole) -> T:
    """Load the newest checkpoint that verifies, with a warning for each newer one that does not.

    Parameters
    ----------
    folder : path
        Where the checkpoints are.
    decode : callable
        Called with record, arrays and metadata; a CheckpointError from it counts as damage.

    Returns
    -------
    What ``decode`` returns; by default the record, the arrays and the metadata.

    Raises
    ------
    NoModelError
        If there is no checkpoint.
    CheckpointDamaged
        If there are some, but all are damaged.
    CheckpointTooNew
        If a newer rngru saved the newest.

    Example
    -------
    >>> import tempfile
    >>> newest(tempfile.gettempdir() + "/nothing")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    rngru.errors.NoModelError: .../nothing holds no checkpoint. Save one, or name another directory.
    """
    for _ in range(PATIENCE):
        problems: list[CheckpointError] = []
        for step, path in reversed(steps(folder).items()):
            before = _identity(path)
            try:
                found = decode(*readall(path, step))
            except FOREIGN:
                raise
            except CheckpointError as problem:
                if (steps(folder).get(step), _identity(path)) != (path, before):
                    break  # a writer has replaced or removed it meanwhile
                problems.append(problem)
                continue
            for wrong in problems:
                warn(f"{wrong} Checkpoint {step} is used instead.")
            return found
        else:
            if problems:
                damaged = any(isinstance(each, CheckpointDamaged) for each in problems)
                told = "\n".join(["No checkpoint can be used.", *map(str, problems)])
                raise CheckpointDamaged(told) if damaged else CheckpointError(told)
            raise NoModelError(
                f"{folder} holds no checkpoint. Save one, or name another directory."
            )
    raise CheckpointError(f"{folder} changes faster than it can be read. Try again.")


def listing(folder: str | os.PathLike[str]) -> Checkpoints:
    """Return what is known of each checkpoint, by step; nothing if there is no such folder.

    Only the metadata is read and verified; of the arrays, their size.

    Example
    -------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> for step in 900, 1000:
    ...     saved = save(folder, step, {}, {})
    >>> [checkpoint.step for checkpoint in listing(folder)]
    [900, 1000]
    """
    return Checkpoints(filter(None, map(_listed, itertools.repeat(folder), steps(folder))))


def _listed(folder: str | os.PathLike[str], step: int) -> Checkpoint | None:
    """Return what is known of one checkpoint; None if it is gone."""
    path = steps(folder).get(step)
    for _ in range(PATIENCE):
        if path is None:
            break
        try:
            return readrecord(path, step)
        except CheckpointError as error:
            before, path = path, steps(folder).get(step)
            if path == before:  # else a writer has replaced or removed it meanwhile
                words = str(error).removeprefix(f"The checkpoint {path} ")
                return Checkpoint(step, path, problem=words)
    return None


def prune(folder: str | os.PathLike[str], keep: int) -> list[int]:
    """Remove all but the newest ``keep`` checkpoints, and return the steps removed.

    The one with the lowest validation loss stays in any case. So do damaged ones, for a person to
    look at; they do not count.

    Example
    -------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> for step in range(5):
    ...     saved = save(folder, step, {}, {})
    >>> prune(folder, 2)
    [0, 1, 2]
    """
    _checkkeep(keep)
    return _prune(topath(folder), keep)


def _prune(folder: Path, keep: int, spared: int | None = None) -> list[int]:
    known = listing(folder)
    kept = {one.step for one in (*known.intact[-keep:], known.best) if one} | {spared}
    doomed = [one.step for one in known.intact if one.step not in kept]
    discard(folder, *doomed)
    return doomed


def discard(folder: str | os.PathLike[str], *doomed: int) -> None:
    """Remove the checkpoints of these steps; ignore steps that have none.

    Example
    -------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> saved = save(folder, 5, {}, {})
    >>> discard(folder, 5, 6)
    >>> listing(folder)
    no checkpoints
    """
    folder = topath(folder)
    known = steps(folder)
    paths = [known[step] for step in doomed if step in known]
    with refusals("Old checkpoints could not be removed", folder):
        # A directory must not look like a checkpoint while its files are removed.
        for path in paths:
            _move(path, folder / f".tmp-{path.name}")
        if paths:
            _tidy(folder)


def foreign(folder: Path) -> Iterator[Path]:
    """Yield what lies in a folder of checkpoints but is not part of one."""
    files = "|".join(map(re.escape, (ARRAYS, META, MANIFEST)))
    return unmatched(folder, rf"(\.tmp-)?(\.old-)?\d+/({files})?")


# ---- The folder: what is in it, and how something new gets there ----


def _checkkeep(keep: int) -> None:
    if keep < 1:
        raise InputError(f"keep={keep!r}: the newest checkpoint is always kept. Give 1 or more.")


def steps(folder: str | os.PathLike[str]) -> dict[int, Path]:
    """Return the directory of each checkpoint, damaged or not, by step.

    That is ``500``, or ``.old-500`` while there is no ``500``. No file is read, so large checkpoints
    take no longer than small ones.

    Example
    -------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> for step in 1000, 900:
    ...     saved = save(folder, step, {}, {})
    >>> [*steps(folder)]
    [900, 1000]
    """
    folder = topath(folder)
    _refuselink(folder)
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return {}
    except OSError as problem:
        raise CheckpointError(f"{folder} cannot be read: {problem.strerror}.") from problem
    matches = filter(None, map(_STEP.fullmatch, names))
    # '.old-5' comes before '5', which takes its place.
    return dict(sorted((int(match[2]), folder / match[0]) for match in matches))


def _identity(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None


def _refuselink(folder: Path) -> None:
    if os.path.islink(folder):
        raise CheckpointError(
            f"{folder} is a symbolic link, and checkpoints are kept in real folders only, so that "
            f"nothing is written elsewhere. Name the folder itself: {os.path.realpath(folder)}"
        )


def _prepare(folder: Path) -> None:
    _refuselink(folder)
    if not os.path.isdir(folder):
        os.mkdir(folder)
        sync(folder.parent)
    _tidy(folder)


def _tidy(folder: Path) -> None:
    """Put back what was set aside and never replaced; remove what is unfinished or abandoned."""
    waste = []
    for name in os.listdir(folder):
        match = _STEP.fullmatch(name)
        if match and match[1] and not os.path.lexists(folder / match[2]):
            _move(folder / name, folder / match[2])
        elif name.startswith(".tmp-") or (match and match[1]):
            waste.append(folder / name)
    if waste:
        sync(folder)  # else a loss of power might undo a renaming after its files have gone
    for path in waste:
        remove(path)


def _place(folder: Path, step: int, files: Mapping[str, bytes]) -> None:
    """Write the files into a directory of another name, then rename it to its own."""
    unfinished, final, aside = (folder / f"{prefix}{step}" for prefix in (".tmp-", "", ".old-"))
    os.mkdir(unfinished)
    for name, data in files.items():
        write(unfinished / name, data)
    sync(unfinished)
    _readback(unfinished, files)
    if os.path.lexists(final):  # no portable call replaces one directory by another
        _move(final, aside)
    _move(unfinished, final)
    sync(folder)
    remove(aside)


def _readback(unfinished: Path, files: Mapping[str, bytes]) -> None:
    """Raise CheckpointError if the file system gives back something else than was written."""
    for name, data in files.items():
        size = os.stat(unfinished / name).st_size
        kept = size == len(data)
        if kept and size <= REREAD:
            kept = readplain(unfinished / name) == data
        if not kept:
            raise CheckpointError(
                f"{unfinished / name} is not what was written a moment ago: this disk or file system "
                "loses data. What was saved before is as it was. Use another one."
            )


_FIXED = {errno.EXDEV, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}
"""What file systems answer that can rename files, but not this directory."""


def _move(old: Path, new: Path) -> None:
    """Rename the directory of a checkpoint; where that cannot be, copy it, the manifest last.

    Until that is there the copy counts as damaged, and so does the old one once that has gone.
    """
    try:
        rename(old, new)
    except OSError as problem:
        if problem.errno not in _FIXED:
            raise
        os.mkdir(new)
        for name in (ARRAYS, META, MANIFEST):
            if os.path.lexists(old / name):
                write(new / name, readplain(old / name))
        sync(new)
        sync(new.parent)
        remove(old / MANIFEST)
        remove(old)
