"""Memory that is used again: getting new memory from the system takes longer than filling it.

>>> old = np.empty((2, 3), np.float32)
>>> reused(old, (2, 3), old.dtype) is old, reused(old, (3, 3), old.dtype).shape
(True, (3, 3))
"""

import itertools
import math
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace

import numpy as np


def reused(old: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return ``old`` if it has this shape and dtype, or a new uninitialised array."""
    if old is not None and old.shape == shape and old.dtype == dtype:
        return old
    return np.empty(shape, dtype)


LINE = 64
"""Arrays begin at multiples of so many bytes: a line of the cache."""

PAGE = 2 << 20
"""Bytes of a large page of memory, on most systems."""

LARGE = 4 << 20
"""Bytes of an array from which on NumPy asks the system for large pages."""


def large(size: int) -> np.ndarray:
    """Return so many bytes, on large pages where the system has them.

    A processor knows the places of a few dozen pages at a time. Of the usual ones, of 4 KB, a training step
    uses thousands.

    >>> large(10).shape, address(large(10)) % PAGE
    ((10,), 0)
    """
    # Those of small models are alike, and used again: else each new model would touch other pages.
    memory = _spare.piece(LARGE + PAGE) if size <= LARGE else np.empty(size + PAGE, np.uint8)
    skip = -memory.ctypes.data % PAGE
    return memory[skip : skip + size]


SMALL = PAGE // 8
"""Bytes of a piece below which it comes from the usual memory: few pages, and a small model has no others."""


class Arena:
    """Hands out pieces of memory; those that are not small lie side by side on large pages.

    >>> arena = Arena()
    >>> one, other = arena.piece(SMALL + 1), arena.piece(SMALL)
    >>> address(other) - address(one) == SMALL + LINE
    True
    """

    def __init__(self) -> None:
        self._rest = np.empty(0, np.uint8)

    def piece(self, size: int) -> np.ndarray:
        """Return so many bytes."""
        if size < SMALL:
            return np.empty(size, np.uint8)
        whole = -(-size // LINE) * LINE
        if whole > self._rest.size:
            self._rest = large(max(whole, LARGE))
        piece, self._rest = self._rest[:size], self._rest[whole:]
        return piece


class Pieces:
    """Arrays by number: each lies where the one of that number lay before, if there is room for it.

    Example
    -------
    >>> pieces = Pieces()
    >>> place = address(pieces.array(0, (2, 3), np.dtype(np.float32)))
    >>> address(pieces.array(0, (4,), np.dtype(np.float32))) == place
    True
    """

    def __init__(self, arena: Arena | None = None) -> None:
        self._new: Callable[[int], np.ndarray] = (
            partial(np.empty, dtype=np.uint8) if arena is None else arena.piece
        )
        self._pieces: dict[int, np.ndarray] = {}
        self.replaced = 0
        """How many were too small."""

    def array(self, number: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an uninitialised array."""
        size = math.prod(shape) * dtype.itemsize
        piece = self._pieces.get(number)
        if piece is None or piece.size < size:
            self.replaced += piece is not None
            piece = self._pieces[number] = self._new(size)
        return np.ndarray(shape, dtype, piece)


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
    _places[number] = weakref.ref(array, partial(_places.pop, number)), place
    return place


def borrowed(array: np.ndarray) -> np.ndarray:
    """Return an array in the same place that does not keep it alive: use it only while others do.

    >>> some = np.ones(3)
    >>> other = borrowed(some)
    >>> some[0] = 2
    >>> other
    array([2., 1., 1.])
    """
    return np.asarray(SimpleNamespace(__array_interface__=array.__array_interface__))


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
        piece = self.piece(starts.pop())
        made = {
            name: np.ndarray(each.shape, each.dtype, piece, start)
            for start, (name, each) in zip(starts, arrays.items(), strict=True)
        }
        place = address(piece)
        for start, each in zip(starts, made.values(), strict=True):
            _remember(each, place + start)
        return made

    def piece(self, size: int) -> np.ndarray:
        """Return so many bytes, which are free again when neither they nor a view of them is held."""
        idle = self._idle.setdefault(size, [])
        try:
            memory = idle.pop()  # no "if idle": another thread may pop in between
        except IndexError:
            memory = np.empty(size, np.uint8)
        # Made from a memoryview, not from the array, so that ``piece`` is the base of all its views.
        piece = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(piece, idle.append, memory).atexit = False
        return piece


_spare = Recycled()
