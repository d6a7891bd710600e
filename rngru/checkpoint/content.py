"""The three files of one checkpoint: what goes into them, and how they are verified when read.

The contract: what :func:`readall` returns is what was given to :func:`contents`. Each file is read
once, after its size was checked, and interpreted only after its SHA-256 was. Whatever is wrong
with one of them becomes a CheckpointDamaged that names the file and what is wrong.

>>> record, files = contents(Path("7"), 7, {"b": np.arange(3)}, {"layers": 2})
>>> record.step, sorted(files)
(7, ['MANIFEST.json', 'arrays.npz', 'meta.json'])
"""

import hashlib
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from rngru.checkpoint.encoding import (
    FORMAT,
    MAX_JSON,
    checkplain,
    decodejson,
    encodejson,
    members,
    packarrays,
    unpackarrays,
)
from rngru.checkpoint.record import Checkpoint
from rngru.errors import (
    CheckpointDamaged,
    CheckpointError,
    CheckpointTooNew,
    InputError,
    RngruError,
)
from rngru.version import __version__, isolder

READABLE_SINCE = "0.1"  # the first rngru that reads FORMAT
ARRAYS, META, MANIFEST = "arrays.npz", "meta.json", "MANIFEST.json"


def contents(
    path: Path,
    step: int,
    arrays: Mapping[str, np.ndarray],
    meta: Mapping[str, Any],
    needs: str = READABLE_SINCE,
) -> tuple[Checkpoint, dict[str, bytes]]:
    """Return the record of a checkpoint to be saved at ``path``, and its files, the manifest last.

    ``needs`` is the oldest rngru that knows everything in it.

    Raises
    ------
    InputError
        If a step, name, dtype or value cannot be kept.
    """
    try:
        checkplain(dict(meta))
    except ValueError as problem:
        raise InputError(f"meta{problem}.") from None
    try:
        described = {
            "format": FORMAT,
            "step": _whole(step),
            "saved": datetime.now(UTC).isoformat(timespec="seconds"),
            "meta": dict(meta),
        }
        record = _record(path, described, needs)
        files = {ARRAYS: packarrays(arrays), META: encodejson(described)}
    except (ValueError, OverflowError) as problem:
        raise InputError(f"{problem}.") from None
    entries = {n: {"size": len(data), "sha256": _digest(data)} for n, data in files.items()}
    manifest = {"format": FORMAT, "needs": needs, "files": entries}
    files[MANIFEST] = encodejson({**manifest, "check": _digest(encodejson(manifest))})
    return record, files


def readall(
    path: Path, step: int | None = None
) -> tuple[Checkpoint, dict[str, np.ndarray], dict[str, Any]]:
    """Return record, arrays and metadata of the checkpoint at ``path``, all verified.

    With a ``step``, it must be the checkpoint of that step, and not behind a symbolic link.
    """
    return _readall(_Folder(path, step), step)


def readpacked(path: Path) -> tuple[Checkpoint, dict[str, np.ndarray], dict[str, Any]]:
    """Return record, arrays and metadata of a checkpoint that is packed into one file, all verified."""
    return _readall(_Archive(path))


def readrecord(path: Path, step: int) -> Checkpoint:
    """Return the record alone: all is verified but the arrays, of which only the size is."""
    return _inspect(_Folder(path, step), step)[0]


class _Folder:
    """The files of a checkpoint in its directory; with a ``step``, not behind a symbolic link."""

    def __init__(self, path: Path, step: int | None = None) -> None:
        if not os.path.isdir(path):
            raise CheckpointError(f"The checkpoint {path} is not there, or is no directory.")
        with _suspicion(path, MANIFEST):
            if step is not None and os.path.islink(path):
                raise ValueError("is behind a symbolic link")
        self.path = path

    def size(self, name: str) -> int:
        return (self.path / name).lstat().st_size

    def read(self, name: str, limit: int) -> bytes:
        return readplain(self.path / name, limit)


class _Archive:
    """The files of a checkpoint that is packed into one file."""

    def __init__(self, path: Path) -> None:
        if not os.path.isfile(path):
            raise CheckpointError(f"The packed model {path} is not there, or is no file.")
        self.path = path
        with _suspicion(path, "it"):
            self._members = members(path.read_bytes())

    def size(self, name: str) -> int:
        if name not in self._members:
            raise FileNotFoundError(name)
        return len(self._members[name])

    def read(self, name: str, limit: int) -> bytes:
        self.size(name)
        return bytes(self._members[name][:limit])


def _readall(
    parts: _Folder | _Archive, step: int | None = None
) -> tuple[Checkpoint, dict[str, np.ndarray], dict[str, Any]]:
    record, meta, size, digest = _inspect(parts, step)
    with _suspicion(parts.path, ARRAYS):
        return record, unpackarrays(_verified(parts, ARRAYS, size, digest)), meta


def _inspect(
    parts: _Folder | _Archive, step: int | None = None
) -> tuple[Checkpoint, dict[str, Any], int, str]:
    """Verify all but the arrays: the record, the metadata, and the arrays' size and SHA-256."""
    path = parts.path
    with _suspicion(path, MANIFEST):
        manifest = decodejson(parts.read(MANIFEST, MAX_JSON))
        if manifest.pop("check", None) != _digest(encodejson(manifest)):
            raise ValueError("is not what was saved (its own SHA-256 differs)")
        _checkformat(path, manifest)
        files = {name: (part["size"], part["sha256"]) for name, part in manifest["files"].items()}
    with _suspicion(path, META):
        size, digest = files[META]
        if size > MAX_JSON:
            raise ValueError(f"has more than {MAX_JSON:,} bytes")
        described = decodejson(_verified(parts, META, size, digest))
        record = _record(path, described, manifest.get("needs"))
        if step is not None and record.step != step:
            raise ValueError(f"belongs to step {record.step}")
    with _suspicion(path, ARRAYS):
        size, digest = files[ARRAYS]
        _checksize(parts, ARRAYS, size)
    return record, described["meta"], size, digest


@contextmanager
def _suspicion(path: Path, file: str) -> Iterator[None]:
    """Turn whatever goes wrong with ``file`` into CheckpointDamaged, unless it may not be read."""
    try:
        yield
    except RngruError:
        raise
    except PermissionError as problem:
        raise CheckpointError(
            f"The checkpoint {path} cannot be read: {file}: {problem.strerror}."
        ) from problem
    except Exception as problem:  # hostile bytes make parsers raise almost anything
        if type(problem) is ValueError:
            reason = str(problem)
        elif isinstance(problem, FileNotFoundError):
            reason = "is missing"
        else:
            reason = f"cannot be read ({type(problem).__name__}: {problem})"
        raise CheckpointDamaged(
            f"The checkpoint {path} is damaged: {file} {reason[:300]}."
        ) from problem


def _checkformat(path: Path, manifest: dict[str, Any]) -> None:
    form = manifest["format"]
    if type(form) is not int or form < 1:
        raise ValueError(f"has format {form!r}")
    if form > FORMAT:
        raise CheckpointTooNew.told(f"The checkpoint {path}", form, FORMAT, manifest["needs"])
    if isolder(__version__, needs := manifest["needs"]):
        raise CheckpointTooNew(
            f"The checkpoint {path} needs rngru {needs} or later, and this is {__version__}. "
            "Install a newer rngru."
        )


def _record(path: Path, described: dict[str, Any], needs: object) -> Checkpoint:
    """Return what a person sees of a checkpoint, from the contents of its meta.json."""
    summary = described["meta"].get("summary", {})
    if not isinstance(summary, dict) or any(isinstance(v, dict | list) for v in summary.values()):
        raise ValueError("meta['summary'] must be a flat dict of text, numbers and None")
    known: dict[str, Any] = {}
    for name, kind in (
        ("epoch", float),
        ("position", int),
        ("trainloss", float),
        ("validloss", float),
    ):
        value = summary.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | kind)):
            raise ValueError(f"meta['summary'][{name!r}] must be a number or None, not {value!r}")
        known[name] = None if value is None else kind(value)
    saved = datetime.fromisoformat(described["saved"]).astimezone()
    return Checkpoint(
        _whole(described["step"]), path, saved, summary=summary, needs=str(needs or ""), **known
    )


def _whole(step: object) -> int:
    if isinstance(step, int | np.integer) and not isinstance(step, bool) and 0 <= step < 10**18:
        return int(step)
    raise ValueError(f"step={step!r} is not a whole number from 0 to 10**18 - 1")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def readplain(path: Path, limit: int = sys.maxsize) -> bytes:
    """Return the first ``limit`` bytes of a plain file: no symbolic link, pipe or device."""
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("is no plain file")
    with open(path, "rb") as file:
        return file.read(
            min(limit, about.st_size)
        )  # read() allocates all that it is asked for first


def _checksize(parts: _Folder | _Archive, name: str, size: int) -> None:
    if (actual := parts.size(name)) != size:
        raise ValueError(f"has {actual:,} bytes instead of {size:,}")


def _verified(parts: _Folder | _Archive, name: str, size: int, digest: str) -> bytes:
    _checksize(parts, name, size)
    data = parts.read(name, size)
    if _digest(data) != digest:
        raise ValueError("is not what was saved (its SHA-256 differs)")
    return data
