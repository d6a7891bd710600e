r"""tanh, exp and the two gates, written so that LLVM turns a loop over them into vector code; sums of rows.

In float32, tanh is the rational function

.. math:: \tanh x \approx
    \frac{x\,(a_1 + a_3 x^2 + \dots + a_{13} x^{12})}{b_0 + b_2 x^2 + b_4 x^4 + b_6 x^6}

on :math:`|x| \le 7.905`, where tanh reaches 1 in float32 (error below 4e-7), the logistic sigmoid
is :math:`(1 + \tanh(x/2))/2`, and exp is :math:`2^n e^f` with a polynomial of degree six on
:math:`|f| \le \ln 2 / 2` (relative error below 1e-7; 0 below -87, infinity above 88).
Both are the well-known minimax approximations of Cephes and Eigen. In float64, which serves gradient
checks, the C library is called. NaN stays NaN in all of them.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from rngru.kernels.compiling import kernel

VECTOR: dict[str, Any] = {"fastmath": {"contract", "nsz"}, "error_model": "numpy"}
"""Compiler options of elementwise code. Multiply-adds may be fused; NaN, infinity and the order of
sums stay as written; a division does not check for zero. Nothing is allowed that gives other bits in
vector code than in scalar code, such as dividing by an estimate of the reciprocal: which of the two
runs depends on where arrays lie in memory, and no result may."""


def tanh(x):
    """Hyperbolic tangent; kernels use the approximation above."""
    return math.tanh(x)


def exp(x):
    """Exponential; kernels use the approximation above."""
    return math.exp(x)


@overload(tanh, jit_options=VECTOR | {"forceinline": True})
def _tanh(x):
    if x != types.float32:
        return lambda x: math.tanh(x)
    single = numba.float32
    bound = single(7.90531110763549805)
    a1, a3, a5 = (
        single(4.89352455891786e-03),
        single(6.37261928875436e-04),
        single(1.48572235717979e-05),
    )
    a7, a9 = single(5.12229709037114e-08), single(-8.60467152213735e-11)
    a11, a13 = single(2.00018790482477e-13), single(-2.76076847742355e-16)
    b0, b2 = single(4.89352518554385e-03), single(2.26843463243900e-03)
    b4, b6 = single(1.18534705686654e-04), single(1.19825839466702e-06)

    def rational(x):
        y = min(max(x, -bound), bound)
        q = y * y
        top = ((((((a13 * q + a11) * q + a9) * q + a7) * q + a5) * q + a3) * q + a1) * y
        return top / (((b6 * q + b4) * q + b2) * q + b0)

    return rational


@overload(exp, jit_options=VECTOR | {"forceinline": True})
def _exp(x):
    if x != types.float32:
        return lambda x: math.exp(x)
    single = numba.float32
    low, high = single(-87.0), single(88.0)
    per_ln2, half = single(1.44269504088896341), single(0.5)
    ln2_high, ln2_low = single(0.693359375), single(-2.12194440e-4)
    p0, p1, p2 = single(1.9875691500e-4), single(1.3981999507e-3), single(8.3334519073e-3)
    p3, p4, p5 = single(4.1665795894e-2), single(1.6666665459e-1), single(5.0000001201e-1)
    zero, one, infinity = single(0), single(1), single(math.inf)

    def reduced(x):
        y = min(max(x, low), high)
        whole = np.floor(y * per_ln2 + half)  # math.floor gives an int64, which is slow to convert
        n = np.float64(whole)  # and so all of the polynomial: it is rounded once
        f = y - n * ln2_high - n * ln2_low
        value = (((((p0 * f + p1) * f + p2) * f + p3) * f + p4) * f + p5) * f * f + f + one
        power = np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)
        value = zero if x < low else np.float32(value) * power
        return infinity if x > high else value

    return reduced


@kernel(keep=False, forceinline=True, **VECTOR)
def gate(x, hard):
    """Logistic sigmoid of ``x``, or ``clip(0.2 x + 0.5, 0, 1)`` if ``hard``.

    The constants take the dtype of ``x``: a literal would turn float32 into float64.
    """
    half = type(x)(0.5)
    if hard:
        y = x * type(x)(0.2) + half
        y = type(x)(0) if y < 0 else y
        return type(x)(1) if y > 1 else y
    return half + half * tanh(half * x)


@kernel(keep=False, forceinline=True, **VECTOR)
def gate_slope(g, hard):
    """Derivative of :func:`gate`, from its value ``g``."""
    one = type(g)(1)
    if hard:
        return type(g)(0.2) if (g > 0) and (g < one) else g * type(g)(0)
    return g * (one - g)


def _folded(step: Callable, lanes: int, *, wide: bool = False):
    """Return what folds a row (N,) with ``step``, for use in kernels; N is a multiple of ``lanes``.

    So many numbers are taken at a time, whatever the size of a register, so that the bits are the same
    everywhere; in a loop of Python, each would wait for the one before. What is ``wide`` is in float64.
    """

    @intrinsic
    def fold(typingctx, row):
        kind = types.float64 if wide else row.dtype

        def generate(context, builder, signature, args):
            array = context.make_array(signature.args[0])(context, builder, args[0])
            number, word = ir.IntType(32), ir.IntType(64)
            given, taken = (
                ir.VectorType(context.get_data_type(each), lanes) for each in (row.dtype, kind)
            )

            def read(at):
                place = builder.bitcast(builder.gep(array.data, [at]), given.as_pointer())
                value = builder.load(place, align=4)
                return value if given == taken else builder.fpext(value, taken)

            folded = cgutils.alloca_once_value(builder, read(word(0)))
            size, some = builder.extract_value(array.shape, 0), word(lanes)
            with cgutils.for_range_slice(builder, some, size, some, word) as (at, _):
                builder.store(step(builder, builder.load(folded), read(at)), folded)
            value, width = builder.load(folded), lanes
            while width > 1:  # each with its neighbour
                width //= 2
                masks = ([*range(k, 2 * width, 2)] for k in (0, 1))
                kinds = ir.VectorType(number, width)
                parts = (
                    builder.shuffle_vector(value, value, ir.Constant(kinds, mask)) for mask in masks
                )
                value = step(builder, *parts)
            return builder.extract_element(value, number(0))

        return kind(row), generate

    return fold


total = _folded(lambda build, x, y: build.fadd(x, y), 4, wide=True)
"""Sum of a row, four sums in float64 that are added up at the end."""

largest = _folded(lambda build, x, y: build.select(build.fcmp_ordered(">", x, y), x, y), 8)
"""Largest number of a row; of a row with NaN, any of its numbers."""
