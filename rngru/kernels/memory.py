"""Memory that is used again: getting new memory from the system takes longer than filling it.

>>> old = np.empty((2, 3), np.float32)
>>> reused(old, (2, 3), old.dtype) is old, reused(old, (3, 3), old.dtype).shape
(True, (3, 3))
"""

import itertools
import weakref
from collections.abc import Mapping

import numpy as np


def reused(old: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return ``old`` if it has this shape and dtype, or a new uninitialised array."""
    if old is not None and old.shape == shape and old.dtype == dtype:
        return old
    return np.empty(shape, dtype)


_places: dict[int, tuple[weakref.ref[np.ndarray], int]] = {}
"""The addresses of arrays, by their identity, as long as they live."""


def address(array: np.ndarray) -> int:
    """Return where an array lies. NumPy takes a microsecond to say so, and here it is asked for often.

    >>> some = np.ones(3)
    >>> address(some) == address(some) == some.ctypes.data
    True
    """
    known = _places.get(id(array))
    if known is not None and known[0]() is array:
        return known[1]
    return _remember(array, array.ctypes.data)


def _remember(array: np.ndarray, place: int) -> int:
    number = id(array)
    _places[number] = weakref.ref(array, lambda gone: _places.pop(number, None)), place
    return place


LINE = 64
"""Arrays begin at multiples of so many bytes of their piece of memory: a line of the cache."""


def settle() -> None:
    """Have the memory of arrays that are freed stay with this process, for the next ones.

    The GNU C library gives memory back to the system if more is free than twice the largest array that was
    freed so far; arrays of more than 32 MB do not count (see mallopt(3)). Each page that is asked for again
    takes some microseconds. So an array of 31 MB is freed here. It was never written to, so it takes no
    memory.

    >>> settle()
    """
    np.empty(31 << 20, np.uint8)


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
        """Return uninitialised arrays of the names, shapes and dtypes of ``arrays``.

        They lie in one piece of memory, which is free again when none of them is held any more.
        """
        starts = [
            0,
            *itertools.accumulate(-(-each.nbytes // LINE) * LINE for each in arrays.values()),
        ]
        piece = self._piece(starts.pop())
        made = {
            name: np.ndarray(each.shape, each.dtype, piece, start)
            for start, (name, each) in zip(starts, arrays.items(), strict=True)
        }
        place = address(piece)
        for start, each in zip(starts, made.values(), strict=True):
            _remember(each, place + start)
        return made

    def _piece(self, size: int) -> np.ndarray:
        idle = self._idle.setdefault(size, [])
        try:
            memory = idle.pop()  # no "if idle": another thread may pop in between
        except IndexError:
            memory = np.empty(size, np.uint8)
        # Made from a memoryview, not from the array, so that ``piece`` is the base of all its views.
        piece = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(piece, idle.append, memory).atexit = False
        return piece
