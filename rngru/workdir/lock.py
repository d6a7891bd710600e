"""The lock of a working directory: one process at a time writes there, on whatever file system it is.

Two things are held. ``lock`` is locked by the system, which lets go of it when the process ends;
where the file system cannot do that, it is left out. ``lock.json`` is made by whoever takes the lock
and removed when it is given back: it says who that is. So a process that cannot use the one still
sees the other, and one that died holds nothing: who is alive is asked of the system, where the
holder is on this host, and in doubt it is believed to be.

>>> import tempfile
>>> folder = Path(tempfile.mkdtemp())
>>> with locked(folder):
...     with locked(folder):
...         pass
Traceback (most recent call last):
...
rngru.errors.WorkdirBusy: ... is in use by process ... Wait for it, stop it, or name another directory.
"""

import errno
import json
import os
import platform
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rngru.disk import plainly, refusals, remove, weaker
from rngru.errors import WorkdirBusy, WorkdirError
from rngru.workdir.journal import VERSION

LOCK, HOLDER = "lock", "lock.json"

SOFT = rb"\A[0-9]{1,10}\r?\n[^\s\0]{1,255}\r?\n"
"""What ``lock`` holds where an older rngru could not have it locked: process and host."""

_MISSING = ("ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "EINVAL", "EPERM", "ENODEV", "ENOTTY")
_UNKNOWN = {getattr(errno, name) for name in _MISSING if hasattr(errno, name)}
"""What file systems answer that know no locks."""
_TAKEN = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_mine: dict[int, set[str]] = {}
"""The words by which this process knows its own claims, by process id: a fork holds none."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, which exists, against all other processes, and other threads of this one.

    Raises
    ------
    WorkdirBusy
        At once, with the process and the host that hold it.
    WorkdirError
        If nothing can be written there.
    """
    with _writable(folder):
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | _plain(), 0o666)
    try:
        with _writable(folder):
            hard = _systemlock(folder, descriptor)
            _refuseolder(folder, descriptor, hard)
            word = _claim(folder, hard)
        pid = os.getpid()
        try:
            yield
        finally:
            if os.getpid() == pid:  # else a child leaves what the parent holds
                _mine[pid].discard(word)
                if _claimed(folder).get("word") == word:
                    remove(folder / HOLDER)
                _unlock(descriptor)
    finally:
        os.close(descriptor)


def whoami() -> dict[str, Any]:
    """Return what tells this process from all others, as plain JSON; :func:`lives` asks for it.

    >>> lives(whoami())
    True
    """
    return {"pid": os.getpid(), "host": platform.node()} | _identity(os.getpid())


def holder(folder: Path) -> str:
    """Return who holds a folder, in words; '' if nobody does. Nothing is changed.

    >>> holder(Path("/no/such/folder"))
    ''
    """
    found = _claimed(folder)
    return f"process {found['pid']} on {found['host']}" if "word" in found and lives(found) else ""


def _plain() -> int:
    return sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"))


def _writable(folder: Path) -> Any:
    return refusals("Nothing can be written", folder, 1000, WorkdirError)


# ---- What the system locks ----


def _systemlock(folder: Path, descriptor: int) -> bool:
    """Have the system lock a file; return False where it cannot, which is said."""
    try:
        for _ in range(20):
            try:
                _lock(descriptor)
                break
            except OSError as problem:
                if problem.errno not in _TAKEN:
                    raise
                if found := _claimed(folder):
                    raise _busy(folder, found) from None
            time.sleep(0.01)  # it takes a moment until that is written, or the lock given back
        else:
            raise _busy(folder, {})
    except WorkdirBusy:
        raise
    except OSError as problem:
        if problem.errno not in _UNKNOWN:
            raise
        weaker(
            folder,
            "locks",
            f"{folder}: no file can be locked on this file system ({problem.strerror}). Other "
            f"processes are kept out by the file {HOLDER} instead. Use the directory from one "
            "computer at a time.",
        )
        return False
    # Somebody may have removed the file in between, and others lock the one that is there now.
    with suppress(OSError):
        if not os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK)):
            raise _busy(folder, _claimed(folder))
    return True


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlock(descriptor: int) -> None:
    """Let go, even if a child that was forked meanwhile has the file open, too."""
    with suppress(OSError):
        try:
            import fcntl
        except ImportError:
            import msvcrt

            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            fcntl.flock(descriptor, fcntl.LOCK_UN)


# ---- Who says that it holds the folder ----


def _claim(folder: Path, hard: bool) -> str:
    """Make the file that says who holds the folder, in place of one of the dead; return our word."""
    word = secrets.token_hex(8)
    text = json.dumps(VERSION | whoami() | {"word": word, "system": hard}).encode()
    for _ in range(10):
        try:
            descriptor = os.open(
                folder / HOLDER, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _plain(), 0o666
            )
        except FileExistsError:
            _bury(folder, hard)
            continue
        try:
            with open(descriptor, "wb") as stream:
                stream.write(text)
        except BaseException as problem:
            remove(folder / HOLDER)
            if hard and isinstance(problem, OSError) and problem.errno in _FULL:
                return word  # the system's lock is enough to train; what can be saved will be seen
            raise
        # Two may have found the same one dead, and one of them buried the other alive.
        if _claimed(folder).get("word") == word:
            _mine.setdefault(os.getpid(), set()).add(word)
            return word
    raise _busy(folder, _claimed(folder))


def _bury(folder: Path, hard: bool) -> None:
    """Remove the claim of one that is dead; WorkdirBusy if it lives."""
    path = folder / HOLDER
    if not os.path.isfile(path) or path.is_symlink():
        remove(path)  # nobody's claim
        return
    found = _claimed(folder, patient=not hard)
    # Where the system locks for both of us, whoever held it has let go. An older rngru has no word,
    # and leaves the file behind.
    if "word" in found and not (hard and found.get("system")) and lives(found):
        raise _busy(folder, found)
    if _claimed(folder) == found:
        remove(path)
        if path.exists():
            os.unlink(path)  # it says why


def _claimed(folder: Path, *, patient: bool = False) -> dict[str, Any]:
    """Return who holds a folder by its own account; it takes a moment until that is written."""
    for _ in range(20 if patient else 1):
        with suppress(OSError, ValueError, RecursionError):
            with open(folder / HOLDER, opener=plainly) as stream:
                found = json.loads(stream.read(10_000))
            if isinstance(found, dict):
                return found
        if patient:
            time.sleep(0.01)
    return {}


def lives(who: dict[str, Any]) -> bool:
    """Whether the holder may still be there: on this host that is known, of others it is not."""
    pid, host = who.get("pid"), who.get("host")
    if type(pid) is not int or not 0 < pid < 1 << 31 or not isinstance(host, str):
        return False
    here = _identity(pid)
    boot = here.get("boot")
    if host != platform.node() and (boot is None or who.get("boot") != boot):
        return True
    if who.get("boot", boot) != boot:
        return False
    if who.get("space", here.get("space")) != here.get("space"):
        return True  # a container on this host, with process ids of its own
    if pid == os.getpid() and "word" in who:
        return who["word"] in _mine.get(pid, ())
    started = here.get("started")
    return _exists(pid) and who.get("started", started) == started


def _exists(pid: int) -> bool:
    if os.name != "posix":
        return True  # there, signal 0 would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _identity(pid: int) -> dict[str, Any]:
    """Return what tells a process from others that had, or will have, its id; on Linux only."""
    found: dict[str, Any] = {}
    with suppress(OSError, ValueError, IndexError):
        found["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        found["space"] = os.readlink("/proc/self/ns/pid")
        # After the name, which is in brackets and may hold anything.
        found["started"] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return found


def _refuseolder(folder: Path, descriptor: int, hard: bool) -> None:
    """Heed what an older rngru has written into ``lock`` where it could not have it locked."""
    written = re.match(SOFT, os.read(descriptor, 400))
    if not written:
        return
    pid, host = written[0].decode(errors="replace").split()
    if lives({"pid": int(pid), "host": host}):
        raise _busy(folder, {"pid": int(pid), "host": host}, LOCK)
    os.truncate(folder / LOCK, 0)


def _busy(folder: Path, who: dict[str, Any], name: str = HOLDER) -> WorkdirBusy:
    words = "another process"
    if {"pid", "host"} <= who.keys():
        words = f"process {who['pid']} on {who['host']}"
    more = ""
    if who.get("host") != platform.node() and who.get("system") is False or name == LOCK:
        more = f" If it has ended, remove {folder / name}."
    return WorkdirBusy(
        f"{folder} is in use by {words}. Wait for it, stop it, or name another directory.{more}"
    )
