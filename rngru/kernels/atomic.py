"""Numbers that several threads read, write and wait for: elements of arrays of int64, for use in kernels.

All threads see all that is done to such numbers in one order (sequential consistency).
"""

import os

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from rngru.kernels.compiling import kernel


def _place(context, builder, signature, args):
    """Return the address of ``array[at]``, from the first two arguments of an intrinsic."""
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return builder.gep(array.data, [args[1]])


@intrinsic
def add(typingctx, array, at, number):
    """Add to ``array[at]``; return what it was before."""

    def generate(context, builder, signature, args):
        place = _place(context, builder, signature, args)
        return builder.atomic_rmw("add", place, args[2], "seq_cst")

    return types.int64(array, types.int64, types.int64), generate


@intrinsic
def read(typingctx, array, at):
    """Return ``array[at]``, with what other threads have written there before."""

    def generate(context, builder, signature, args):
        return builder.load_atomic(_place(context, builder, signature, args), "seq_cst", 8)

    return types.int64(array, types.int64), generate


@intrinsic
def write(typingctx, array, at, number):
    """Write ``array[at]``, after all that this thread has written before."""

    def generate(context, builder, signature, args):
        place = _place(context, builder, signature, args)
        builder.store_atomic(args[2], place, "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), generate


@intrinsic
def swap(typingctx, array, at, old, new):
    """Write ``new`` where ``array[at]`` is ``old``; return whether it was."""

    def generate(context, builder, signature, args):
        place = _place(context, builder, signature, args)
        result = builder.cmpxchg(place, args[2], args[3], "seq_cst", "seq_cst")
        return builder.extract_value(result, 1)

    return types.boolean(array, *[types.int64] * 3), generate


@intrinsic
def pause(typingctx):
    """Let the other thread of this core run for some tens of cycles."""

    def generate(context, builder, signature, args):
        processor, number = builder.module.triple.split("-")[0], ir.IntType(32)
        wait, given = {
            "x86_64": ("llvm.x86.sse2.pause", []),
            "aarch64": ("llvm.aarch64.hint", [number(1)]),
            "arm64": ("llvm.aarch64.hint", [number(1)]),
        }.get(processor, ("", []))
        if wait:
            kind = ir.FunctionType(ir.VoidType(), [number] * len(given))
            builder.call(cgutils.get_or_insert_function(builder.module, kind, wait), given)
        return context.get_dummy_value()

    return types.void(), generate


PATIENCE = 2000
"""Looks before a thread that waits offers its core to others: about 50 microseconds."""

give_way = types.ExternalFunction(
    "SwitchToThread" if os.name == "nt" else "sched_yield", types.int32()
)


@kernel(keep=False, inline="always")
def until(array, at, number):
    """Wait until ``array[at]`` is at least ``number``."""
    looks = 0
    while read(array, at) < number:
        looks += 1
        if looks < PATIENCE:
            pause()
        else:  # the other may wait for this very core
            give_way()
