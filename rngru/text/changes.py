"""Whether files are still what they were when they were encoded.

A file that was copied, checked out or touched has another time, but the same contents: only these
count. They are read where size and time cannot tell, up to :data:`AT_MOST` bytes of them.

>>> changedfiles([("/no/such/file", 5, 0)], [None])
([], [])
"""

import hashlib
import os
import stat
from collections.abc import Sequence
from contextlib import suppress

AT_MOST = 1 << 28
"""Bytes of text that are read to see whether they have changed; more take too long."""


def changedfiles(
    files: Sequence[tuple[str, int, int]], digests: Sequence[str | None]
) -> tuple[list[str], list[str]]:
    """Return the files that have changed, and those that may have; missing ones are neither.

    Parameters
    ----------
    files
        Path, size and time of the last change, in nanoseconds, of each file as it was.
    digests
        SHA-256 of what each held, in hexadecimal, where it is known.
    """
    changed, perhaps, left = [], [], AT_MOST
    for (path, size, time), digest in zip(files, digests, strict=True):
        with suppress(OSError, ValueError):
            now = os.stat(path)
            if now.st_size != size:
                changed.append(path)
            elif now.st_mtime_ns != time:
                left -= size
                found = (
                    _digest(path) if digest and left >= 0 and stat.S_ISREG(now.st_mode) else None
                )
                if found is None:
                    perhaps.append(path)
                elif found != digest:
                    changed.append(path)
    return changed, perhaps


def _digest(path: str) -> str | None:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None
