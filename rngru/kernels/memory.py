"""Memory that is used again: getting new memory from the system takes longer than filling it."""

import itertools
import math
import operator
import sys
import weakref
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

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

    >>> large(10).shape, large(10).ctypes.data % PAGE
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
    >>> other.ctypes.data - one.ctypes.data == SMALL + LINE
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
    >>> first = pieces.array(0, (2, 3), np.dtype(np.float32))
    >>> pieces.array(0, (4,), np.dtype(np.float32)).ctypes.data == first.ctypes.data
    True
    """

    def __init__(self, arena: Arena | None = None) -> None:
        self._new: Callable[[int], np.ndarray] = (
            partial(np.empty, dtype=np.uint8) if arena is None else arena.piece
        )
        self._pieces: dict[int, np.ndarray] = {}
        self._last: dict[int, np.ndarray] = {}
        self.replaced = 0
        """How many were too small."""

    def array(self, number: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an uninitialised array, which may be the last one of that number."""
        last = self._last.get(number)
        if last is not None and last.shape == shape and last.dtype == dtype:
            return last
        size = math.prod(shape) * dtype.itemsize
        piece = self._pieces.get(number)
        if piece is None or piece.size < size:
            self.replaced += piece is not None
            piece = self._pieces[number] = self._new(size)
        last = self._last[number] = np.ndarray(shape, dtype, piece)
        return last


_places: dict[int, tuple[weakref.ref[np.ndarray], str]] = {}
"""The places of arrays, by their identity, as long as they live."""


def place(array: np.ndarray) -> str:
    """Return a text that differs for arrays of different addresses, shapes, strides or dtypes.

    NumPy takes a microsecond to say where an array lies, and a step asks it of dozens.

    >>> some = np.ones((2, 3))
    >>> place(some) is place(some), place(some) == place(some[:]), place(some) == place(some.T)
    (True, True, False)
    """
    number = id(array)
    known = _places.get(number)
    if known is None or known[0]() is not array:
        found = f"{array.ctypes.data} {array.shape} {array.strides} {array.dtype.str}"
        known = _places[number] = weakref.ref(array, partial(_places.pop, number)), found
    return known[1]


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

    Not only the memory: the arrays themselves are handed out again, for to make them anew takes longer.
    One thread at a time may call it.

    Example
    -------
    >>> make = Recycled()
    >>> first = make.like({"b": np.zeros(1000, np.float32)})["b"]
    >>> where = place(first)
    >>> del first
    >>> place(make.like({"b": np.ones(1000, np.float32)})["b"]) == where
    True
    """

    def __init__(self) -> None:
        self._made: dict[Any, list[list[np.ndarray]]] = {}

    def like(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return uninitialised arrays of the names, shapes and dtypes of ``arrays``.

        They lie in one piece of memory, which is free again when none of them is held any more.
        """
        kind = _kind(arrays.values())
        made = self._made.setdefault(kind, [])
        alone = (_ALONE + len(arrays), *[_ALONE] * len(arrays))  # each array holds the piece
        for number, some in enumerate(made):
            if all(map(operator.eq, map(sys.getrefcount, some), alone)):
                if _kind(some[1:]) == kind and all(each.flags.writeable for each in some):
                    break
                del made[number]  # somebody has changed what they are
                return self.like(arrays)
        else:
            some = _together(arrays.values())
            made.append(some)
        return dict(zip(arrays, some[1:], strict=True))

    def place(self, arrays: Mapping[str, np.ndarray]) -> Hashable:
        """Return a key that differs for arrays in different places. For those made here it takes no time."""
        for made in self._made.values():
            for some in made:
                if len(some) == len(arrays) + 1 and all(
                    map(operator.is_, arrays.values(), itertools.islice(some, 1, None))
                ):
                    return id(some)
        return tuple(map(place, arrays.values()))


def _together(arrays: Collection[np.ndarray]) -> list[np.ndarray]:
    """Return a piece of memory, and arrays in it like those given."""
    ends = [*itertools.accumulate(-(-each.nbytes // LINE) * LINE for each in arrays)]
    # Made from a memoryview, so that it is the base of all arrays in it, and of all views of those.
    piece = np.frombuffer(np.empty(ends[-1], np.uint8).data, np.uint8)
    made = [piece]
    for start, each in zip([0, *ends], arrays, strict=False):
        made.append(np.ndarray(each.shape, each.dtype, piece, start))
    return made


def _kind(arrays: Iterable[np.ndarray]) -> tuple[Any, ...]:
    return tuple((each.shape, each.dtype) for each in arrays)


[_ALONE] = map(sys.getrefcount, [np.empty(0)])
"""How often an array is held of which there is only one list. A view of it would hold its piece of memory."""


class _Spare:
    """Hands out memory that is used again once nobody holds it or a view of it."""

    def __init__(self) -> None:
        self._idle: dict[int, list[np.ndarray]] = {}

    def piece(self, size: int) -> np.ndarray:
        """Return so many bytes."""
        idle = self._idle.setdefault(size, [])
        try:
            memory = idle.pop()  # no "if idle": another thread may pop in between
        except IndexError:
            memory = np.empty(size, np.uint8)
        # Made from a memoryview, not from the array, so that ``piece`` is the base of all its views.
        piece = np.frombuffer(memory.data, np.uint8)
        weakref.finalize(piece, idle.append, memory).atexit = False
        return piece


_spare = _Spare()
