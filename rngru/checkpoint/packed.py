"""A checkpoint packed into one file: its three files, stored plainly in a zip file.

>>> ispacked("no such file")
False
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rngru.checkpoint.content import READABLE_SINCE, contents
from rngru.checkpoint.encoding import packfiles
from rngru.disk import isforeign, topath, writeatomic
from rngru.errors import InputError


def ispacked(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as one that :func:`pack` wrote; an empty one does not."""
    mark = rb"(?s)^PK\x03\x04.{26}arrays\.npz"
    return os.path.isfile(path) and os.path.getsize(path) > 0 and not isforeign(topath(path), mark)


def pack(
    path: str | os.PathLike[str],
    step: int,
    arrays: Mapping[str, np.ndarray],
    meta: Mapping[str, Any],
    *,
    needs: str = READABLE_SINCE,
) -> Path:
    """Write the three files of a checkpoint into one zip file, for :func:`readpacked`; return its path.

    What is there under this name is replaced if rngru has packed it.

    Raises
    ------
    InputError
        If a name, dtype or value cannot be kept, or there is a file of another kind.
    WorkdirError
        If the disk refuses.

    Example
    -------
    >>> import tempfile
    >>> from rngru.checkpoint import readpacked
    >>> path = pack(tempfile.mkdtemp() + "/model.rngru", 7, {"b": np.arange(3)}, {"layers": 2})
    >>> readpacked(path)[1]["b"]
    array([0, 1, 2])
    """
    path = topath(path).expanduser()
    _, files = contents(path, step, arrays, meta, needs)
    if os.path.lexists(path) and path.stat().st_size and not ispacked(path):
        raise InputError(f"{path} is there and is no packed model. Name another file.")
    writeatomic(path, packfiles(files))
    return path
