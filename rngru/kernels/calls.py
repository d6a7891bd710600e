"""Calls of kernels that any thread can make without Python, and so without waiting for its lock, the GIL.

The last two arguments of a :class:`Shared` kernel say what part of its work to do: ``first`` … ``last - 1``.
The others are noted once, in a record, by :meth:`Shared.bind`; what that returns runs on any part.

>>> import numpy as np
>>> @shared()
... def double(numbers, first, last):
...     for i in range(first, last):
...         numbers[i] *= 2
>>> numbers = np.ones(4)
>>> half = double.bind(numbers)
>>> half(2, 4)
>>> numbers
array([1., 1., 2., 2.])
"""

import hashlib
from collections.abc import Callable
from typing import Any, final

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rngru.kernels.compiling import kernel
from rngru.kernels.memory import LINE

WORDS = 16
"""Numbers of 64 bits that a record has for each argument; an array of three dimensions takes 11.

The arguments begin a line of the cache after the address of the kernel.
"""


@intrinsic
def enter(typingctx, entry, record, first, last):
    """Call what lies at the address ``entry`` on a record, for ``first`` … ``last - 1``."""

    def generate(context, builder, signature, args):
        entry, *args = args
        kind = ir.FunctionType(ir.VoidType(), [each.type for each in args])
        builder.call(builder.inttoptr(entry, kind.as_pointer()), args)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


def _key(kinds) -> int:
    """Return a number for the types of arguments."""
    return int.from_bytes(hashlib.blake2b(str(tuple(kinds)).encode(), digest_size=7).digest())


def _entry(context, module, kinds) -> ir.Function:
    """Write the code that makes the call in a record: the address of a kernel, then its arguments."""
    number = ir.IntType(64)
    entry = ir.Function(module, ir.FunctionType(ir.VoidType(), [number] * 3), "entry")
    entry.linkage = "internal"
    builder = ir.IRBuilder(entry.append_basic_block())
    record, *part = entry.args
    given = [context.get_value_type(each) for each in kinds]
    kernel = ir.FunctionType(context.get_value_type(types.none), [*given, number, number])
    at = builder.add(record, number(LINE))
    args = builder.load(builder.inttoptr(at, ir.LiteralStructType(given).as_pointer()))
    target = builder.load(builder.inttoptr(record, kernel.as_pointer().as_pointer()))
    builder.call(target, [*(builder.extract_value(args, i) for i in range(len(given))), *part])
    builder.ret_void()
    return entry


@intrinsic
def _note(typingctx, record, args):
    """Write ``args`` into the array ``record``.

    Returns the key of their types, the address of what makes the call, and that of the record.
    """

    def generate(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        word = ir.IntType(64)
        address = builder.ptrtoint(array.data, word)
        place = builder.inttoptr(builder.add(address, word(LINE)), args[1].type.as_pointer())
        builder.store(args[1], place)
        entry = _entry(context, builder.module, signature.args[1])
        results = [word(_key(signature.args[1])), builder.ptrtoint(entry, word), address]
        return context.make_tuple(builder, signature.return_type, results)

    return types.UniTuple(types.int64, 3)(record, args), generate


@kernel()
def _call(entry, record, first, last):
    enter(entry, record, first, last)


@final
class Call:
    """A kernel with all its arguments but the part of the work to do.

    ``entry`` and ``record`` are addresses. ``kept``, the record and the arguments, lie there.
    """

    __slots__ = ("entry", "kept", "record")

    def __init__(self, entry: int, record: int, kept: tuple[np.ndarray, tuple]) -> None:
        self.entry, self.record, self.kept = entry, record, kept

    def __call__(self, first: int, last: int) -> None:
        """Do ``first`` … ``last - 1`` on this thread."""
        _call(self.entry, self.record, first, last)


@final
class Shared:
    """A kernel of which several threads may each do a part.

    Parameters
    ----------
    function: its last two arguments are ``first`` and ``last``; it returns nothing.
    options: as for :func:`~rngru.kernels.compiling.kernel`. It must not raise: there may be no Python to
        tell.
    """

    def __init__(self, function: Callable, **options: Any) -> None:
        self._kernel = kernel(no_cpython_wrapper=True, **options)(function)
        self._targets: dict[int, int] = {}

        def note(record, *args):
            return _note(record, args)

        note.__module__, note.__qualname__ = function.__module__, f"{function.__qualname__}.note"
        self._note = kernel(nogil=False, no_cfunc_wrapper=True)(note)

    def bind(self, *args: Any) -> Call:
        """Return the call with these arguments. Arrays are kept alive with it."""
        record = np.empty(WORDS * (len(args) + 1), np.int64)
        key, entry, address = self._note(record, *args)
        record[0] = self._targets.get(key) or self._compile(key)
        return Call(entry, address, (record, args))

    def _compile(self, key: int) -> int:
        """Return the address of the kernel for arguments of such types."""
        [kinds] = (given[1] for given in list(self._note.overloads) if _key(given[1]) == key)
        kinds = (*kinds, types.int64, types.int64)
        self._kernel.compile(kinds)
        found = self._kernel.overloads[kinds]
        address = found.library.get_pointer_to_function(found.fndesc.llvm_cfunc_wrapper_name)
        self._targets[key] = address
        return address


def shared(**options: Any) -> Callable[[Callable], Shared]:
    """Return a decorator that makes a :class:`Shared` kernel; ``options`` are those of ``kernel``."""
    return lambda function: Shared(function, **options)
