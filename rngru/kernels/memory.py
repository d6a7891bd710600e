"""Memory that is used again: getting new memory from the system takes longer than filling it.

>>> old = np.empty((2, 3), np.float32)
>>> reused(old, (2, 3), old.dtype) is old, reused(old, (3, 3), old.dtype).shape
(True, (3, 3))
"""

import weakref
from collections.abc import Mapping

import numpy as np


def reused(old: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return ``old`` if it has this shape and dtype, or a new uninitialised array."""
    if old is not None and old.shape == shape and old.dtype == dtype:
        return old
    return np.empty(shape, dtype)


class Recycled:
    """Makes arrays whose memory is used again once nobody holds them or a view of them.

    Example
    -------
    >>> make = Recycled()
    >>> first = make.like({"b": np.zeros(1000, np.float32)})["b"]
    >>> place = first.__array_interface__["data"]
    >>> del first
    >>> make.like({"b": np.ones(1000, np.float32)})["b"].__array_interface__["data"] == place
    True
    """

    def __init__(self) -> None:
        self._idle: dict[int, list[np.ndarray]] = {}

    def like(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return uninitialised arrays of the names, shapes and dtypes of ``arrays``."""
        return {name: self._one(array) for name, array in arrays.items()}

    def _one(self, array: np.ndarray) -> np.ndarray:
        idle = self._idle.setdefault(array.nbytes, [])
        try:
            memory = idle.pop()  # no "if idle": another thread may pop in between
        except IndexError:
            memory = np.empty(array.nbytes, np.uint8)
        # Made from a memoryview, not from the array, so that ``flat`` is the base of all its views.
        flat = np.frombuffer(memory.data, array.dtype)
        weakref.finalize(flat, idle.append, memory).atexit = False
        return flat.reshape(array.shape)
