"""Writing files so that a crash leaves the old or the new contents; clear errors if a disk refuses.

The contract: what :func:`write` wrote is on the disk for good once :func:`sync` of its directory has
returned. Where a file system cannot do that, it is said once (:func:`weaker`). An OSError inside
:func:`refusals` becomes an error that names the place, the size needed, the space that is free, and
what to do.
"""

import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from rngru.errors import CheckpointError, InputError, RngruError, WorkdirError, fits, warn

_ADVICE = {
    errno.ENOSPC: "Free some space and save again; what was saved before is intact.",
    errno.EDQUOT: "Free some of your quota and save again; what was saved before is intact.",
    errno.EFBIG: "Raise the limit on file sizes (ulimit -f) and save again.",
    errno.EMFILE: "Too many models or files are open: drop some, or raise the limit (ulimit -n).",
    errno.EACCES: "Make the directory writable for you, or use another one.",
    errno.EPERM: "Make the directory writable for you, or use another one.",
    errno.EBUSY: "Another program uses it, a virus scanner perhaps: try again.",
    errno.EXDEV: "Nothing can be renamed there: use a directory on another file system.",
    errno.EROFS: "The file system is read-only: use another directory.",
    errno.ENOENT: "Was the directory removed or renamed? Make it again, then save again.",
    errno.EEXIST: "A file is where a directory should be: name another one.",
    errno.ENOTDIR: "A file is where a directory should be: name another one.",
    errno.EIO: "The disk fails: save to another one, and look into the system's log.",
}


_LITTER = re.compile(r"\.DS_Store|Thumbs\.db|desktop\.ini|\.directory|\._.*|\.nfs.*")


def writeatomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that a crash leaves its old contents or the new; on return it is on the disk.

    A symbolic link at ``path`` is replaced, not followed.

    Raises
    ------
    WorkdirError
        If the disk refuses; the message names the directory, the size needed and the free space.

    Example
    -------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "note.txt")
    >>> writeatomic(path, b"loss 1.9")
    >>> path.read_text()
    'loss 1.9'
    """
    path = topath(path)
    unfinished = path.with_name(f".tmp-{path.name}")
    with refusals(f"{path.name} could not be written", path.parent, len(data), WorkdirError):
        unfinished.unlink(missing_ok=True)
        with orremoved(unfinished):
            write(unfinished, data)
            rename(unfinished, path)
        sync(path.parent)


@contextmanager
def orremoved(unfinished: Path) -> Iterator[None]:
    """Remove an unfinished file if anything goes wrong while it is written."""
    try:
        yield
    except BaseException:
        remove(unfinished)
        raise


@contextmanager
def unmade(folder: Path) -> Iterator[None]:
    """If anything goes wrong, remove a folder that was made meanwhile, with its parents, where empty.

    One that was there before keeps the time of its last change.
    """
    new = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    there = new[-1].parent if new else folder
    before = os.stat(there) if os.path.isdir(there) else None
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for each in new:
                each.rmdir()
            if before:
                os.utime(there, ns=(before.st_atime_ns, before.st_mtime_ns))
        raise


def topath(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` as a Path; InputError for what is none, or a name that no system allows."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"Expected a path, got {path!r}.")
    if "\0" in os.fspath(path):
        raise InputError(f"{os.fspath(path)!r} is no path: it contains a NUL character.")
    return Path(path)


def unescaped(text: str) -> str:
    """Return how a path was meant in which Python took backslashes for escapes, '' if it is no such path.

    >>> unescaped("data\\notes.txt")
    "r'data\\\\notes.txt'"
    >>> unescaped("two\\nlines, and no path")
    ''
    """
    control = "[\x01-\x1f]"
    if len(text) > 300 or not re.search(control, text.strip()):
        return ""
    meant = re.sub(control, lambda found: _escape(found[0]), text.strip())
    last = meant.rpartition("\\")[2]
    path = " " not in meant or re.search(r"\.\w{1,5}$", last) or re.match(r"[A-Za-z]:", meant)
    quote = '"' if "'" in meant else "'"
    return f"r{quote}{meant}{quote}" if path else ""


def _escape(char: str) -> str:
    letters = dict(zip("\a\b\t\n\v\f\r", "abtnvfr", strict=True))
    return "\\" + letters.get(char, f"{ord(char):o}")


def write(path: Path, data: bytes) -> None:
    """Write a new file, and its contents to the disk."""
    with open(path, "xb") as file:  # 'x' follows no symbolic link
        file.write(data)
        settle(file, path.parent)


def settle(file: IO[Any], folder: Path) -> None:
    """Write what is in an open file of a folder to the disk, as far as the file system can."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as problem:
        if problem.errno not in _CANNOT:
            raise
        weaker(folder, "fsync", _UNSAFE.format(folder=folder, problem=problem.strerror))


_CANNOT = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""What a file system answers that does not know a call."""

_UNSAFE = (
    "{folder}: this file system cannot say when something is on the disk for good ({problem}). What was "
    "saved survives a kill; after a loss of power the newest checkpoint may be missing."
)

_told: set[tuple[str, object]] = set()


def weaker(folder: Path, what: str, message: str) -> None:
    """Warn once, for a process and a file system, of something that works less well there."""
    try:
        place: object = os.stat(folder).st_dev
    except OSError:
        place = folder
    if (what, place) not in _told:
        _told.add((what, place))
        warn(message)


def rename(old: Path, new: Path) -> None:
    """Rename a file over another, or a directory; try again while another program is in the way."""
    for wait in (0.05, 0.2):
        try:
            os.replace(old, new)
            return
        except OSError as problem:
            if problem.errno not in (errno.EBUSY, errno.EACCES):  # virus scanners, Windows mounts
                raise
        time.sleep(wait)
    os.replace(old, new)


def plainly(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file for ``open(..., opener=plainly)``: follow no symbolic link, wait for no pipe."""
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.open(path, flags, 0o666)


def reachable(folder: Path) -> bool:
    """Whether there is such a directory; WorkdirError where the system does not let us see that."""
    try:
        return stat.S_ISDIR(os.stat(folder).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as problem:
        words = getattr(problem, "strerror", None) or str(problem)
        more = " Its owner can let you in." if isinstance(problem, PermissionError) else ""
        raise WorkdirError(f"{folder} cannot be read: {words}.{more}") from problem


def dangling(path: Path) -> str:
    """Return why there is no directory of this name, where it is more than that there is none.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".txt") as file:
    ...     dangling(Path(file.name, "work"))  # doctest: +ELLIPSIS
    ' ....txt is a file.'
    """
    for each in (path, *path.parents):
        if os.path.islink(each) and not os.path.exists(each):
            return f" {each} is a link to {os.readlink(each)}, which is not there."
        if os.path.lexists(each):
            return "" if os.path.isdir(each) else f" {each} is a file."
    return ""


def sync(folder: Path) -> None:
    """Write the names in ``folder`` to the disk, if the platform can."""
    if os.name != "posix":
        return
    descriptor = -1
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
    except OSError as problem:  # network file systems, and others that are mounted from elsewhere
        if problem.errno not in _CANNOT | {errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR}:
            raise
        weaker(folder, "fsync", _UNSAFE.format(folder=folder, problem=problem.strerror))
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or directory if the system lets us; never follow a link, never raise OSError."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            os.unlink(path)


def unmatched(folder: Path, ours: str) -> Iterator[Path]:
    """Yield whatever in a folder, or below it, has a name that none of our files has.

    ``ours`` is a regular expression for the paths of our own files, relative to the folder; those of
    directories end with a slash. What file managers and network file systems leave does not count.
    """
    for parent, folders, files in os.walk(folder):
        for name in sorted([*(f"{each}/" for each in folders), *files]):
            path = Path(parent, name).relative_to(folder).as_posix() + "/" * name.endswith("/")
            if not re.fullmatch(ours, path) and not _LITTER.fullmatch(name):
                yield folder / path


def isforeign(path: Path, mark: bytes) -> bool:
    """Whether a file is not ours: nothing in its first 4 kB matches ``mark``, a regular expression.

    A file that is missing or empty is not foreign, nor one of zeros, which a loss of power may leave.
    """
    try:
        with open(path, "rb", opener=plainly) as stream:
            begins = stream.read(4096)
    except OSError:
        return False
    return bool(begins.strip(b"\0")) and re.search(mark, begins) is None


@contextmanager
def refusals(
    failure: str,
    folder: Path,
    needed: int | None = None,
    kind: type[RngruError] = CheckpointError,
) -> Iterator[None]:
    """Turn an OSError into ``kind``, in words that a person can act on; ``needed`` is in bytes."""
    try:
        yield
    except RngruError:
        raise
    except OSError as problem:
        words = [f"{failure} in {folder}: {problem.strerror or problem}."]
        if needed is not None:
            words.append(f"It needs {needed / 1e6:,.3f} MB; {_freespace(folder)}.")
        if advice := _ADVICE.get(problem.errno or 0):
            words.append(advice)
        raise kind(" ".join(words)) from problem


def _freespace(folder: Path) -> str:
    for place in (folder, *folder.parents):  # the folder itself may be gone again
        with suppress(OSError):
            return f"{shutil.disk_usage(place).free / 1e6:,.3f} MB are free"
    return "the free space is unknown"


def mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    """Return the numbers in a file, mapped into memory, or read where that cannot be; read-only.

    Raises
    ------
    WorkdirError
        If the file cannot be read, either.
    InputError
        If it does not fit into memory.
    """
    try:
        return np.memmap(path, dtype, mode="r")
    except (OSError, MemoryError) as problem:  # a network file system, or a limit on memory
        refused = getattr(problem, "strerror", None) or str(problem)
    try:
        with fits(f"{path}, which cannot be mapped ({refused}),", "Use a local disk."):
            numbers = np.fromfile(path, dtype)
    except OSError as problem:
        raise WorkdirError(f"{path} cannot be read: {problem.strerror or problem}.") from problem
    numbers.setflags(write=False)
    weaker(
        path.parent,
        "mmap",
        f"{path.parent}: no file can be mapped into memory on this file system ({refused}). "
        f"{path.name} was read instead and takes {numbers.nbytes / 1e6:,.1f} MB of it.",
    )
    return numbers
