r"""Matrix products on packed panels: the arithmetic that every kernel is made of.

A product :math:`C \mathrel{+}= A B` walks over *tiles*: up to ``ROWS`` rows of ``C`` by one
*panel* of ``PANEL`` columns, held in vector registers while the inner dimension runs. ``B`` is
packed beforehand, so that a panel is one contiguous ribbon; ``A`` is read in place, with any
strides. One element of ``C`` is always the same chain of fused multiply-adds, in the order of the
inner index, whatever the tile it falls into: how the rows are divided over threads never changes
a bit of the result.

The tile is written in LLVM's vector instructions, because no loop in Python keeps a block of
accumulators in registers; see Goto and van de Geijn, "Anatomy of high-performance matrix
multiplication", ACM TOMS 34 (2008). It is compiled once per dtype, into a C function that the
other kernels call by its symbol: inlined into each of them it would be compiled ten times, and
compile time is what a user waits for at the first prompt. :func:`provide` must have been called
for a dtype before a kernel of that dtype runs.

Shapes: a matrix of K rows and N columns is packed as ``(ceil(N / PANEL), K, PANEL)``, padded with
zeros, so that the padding of every product is zero.
"""

import importlib.util

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from rngru.errors import InputError
from rngru.forks import Lock
from rngru.kernels.keeping import KEEP

if numba.config.DISABLE_JIT:
    raise InputError(
        "NUMBA_DISABLE_JIT is set, but the kernels run compiled only. Unset it, and start Python anew."
    )


def _load_numba() -> None:
    """Load Numba's array functions without SciPy.

    They import all of ``scipy.linalg``, 0.2 s, only to note whether ``np.dot`` will find a BLAS. No
    kernel needs one. So for these few milliseconds Numba's check says yes if SciPy is installed at
    all; it has been put back when user code compiles an ``np.dot``, and imports SciPy then.
    """
    from numba.np import linalg

    check = getattr(linalg, "ensure_blas", None)
    if check is not None and importlib.util.find_spec("scipy") is not None:
        linalg.ensure_blas = lambda: None
    try:
        import numba.np.arraymath  # noqa: F401
    finally:
        if check is not None:
            linalg.ensure_blas = check


_load_numba()

PANEL = 32
"""Columns of a panel; widths that kernels work with are padded to a multiple of it."""

_features = binding.get_host_cpu_features()
if _features.get("avx512f"):
    VECTOR_BYTES, ROWS = 64, 8
elif _features.get("avx"):
    VECTOR_BYTES, ROWS = 32, 3
else:
    VECTOR_BYTES, ROWS = 16, 2

BLOCK = 256
"""Inner length of one pass of a gradient product: two blocks of it stay in the caches."""


def padded(width: int) -> int:
    """Return ``width`` rounded up to whole panels.

    >>> padded(1), padded(32), padded(100)
    (32, 32, 128)
    """
    return -(-width // PANEL) * PANEL


def _tile(rows, panels=1):
    """Return the intrinsic that adds ``rows`` rows of A times neighbouring panels of B to a tile of C.

    Its arguments are ``kind``, a scalar of the dtype; then for A the address, the strides of rows
    and columns; for B the address and the stride of panels; for C the address, the strides of rows
    and panels; and the length of the inner dimension. Addresses and strides count bytes.
    """

    @intrinsic
    def tile(typingctx, kind, a, a_row, a_col, b, b_panel, c, c_row, c_panel, inner):
        def generate(context, builder, signature, args):
            _, a, a_row, a_col, b, b_panel, c, c_row, c_panel, inner = args
            scalar = context.get_data_type(kind)
            lanes = VECTOR_BYTES * 8 // kind.bitwidth
            vector = ir.VectorType(scalar, lanes)
            word = inner.type
            each = PANEL // lanes
            vectors = range(panels * each)
            fma = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(vector, [vector] * 3),
                f"llvm.fma.v{lanes}f{kind.bitwidth}",
            )

            def load(address, of):
                return builder.load(builder.inttoptr(address, of.as_pointer()), align=4)

            def broadcast(value):
                undefined = ir.Constant(vector, ir.Undefined)
                zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
                first = builder.insert_element(undefined, value, ir.IntType(32)(0))
                return builder.shuffle_vector(first, undefined, zeros)

            def shift(j, panel):
                within = word(j % each * VECTOR_BYTES)
                return builder.add(builder.mul(panel, word(j // each)), within)

            rows_a = [builder.mul(a_row, word(i)) for i in range(rows)]
            places = [
                [
                    builder.add(builder.add(c, builder.mul(c_row, word(i))), shift(j, c_panel))
                    for j in vectors
                ]
                for i in range(rows)
            ]
            before = [[load(place, vector) for place in row] for row in places]
            shifts = [shift(j, b_panel) for j in vectors]

            entry = builder.block
            loop = builder.append_basic_block("inner")
            done = builder.append_basic_block("done")
            builder.cbranch(builder.icmp_signed(">", inner, word(0)), loop, done)

            builder.position_at_end(loop)
            k, here_a, here_b = builder.phi(word), builder.phi(word), builder.phi(word)
            sums = [[builder.phi(vector) for _ in vectors] for _ in range(rows)]
            panel = [load(builder.add(here_b, shifts[j]), vector) for j in vectors]
            after = []
            for i in range(rows):
                left = broadcast(load(builder.add(here_a, rows_a[i]), scalar))
                after.append([builder.call(fma, [left, panel[j], sums[i][j]]) for j in vectors])
            following = builder.add(k, word(1))
            steps = [
                (k, word(0), following),
                (here_a, a, builder.add(here_a, a_col)),
                (here_b, b, builder.add(here_b, word(PANEL * kind.bitwidth // 8))),
            ]
            steps += [(sums[i][j], before[i][j], after[i][j]) for i in range(rows) for j in vectors]
            for phi, first, later in steps:
                phi.add_incoming(first, entry)
                phi.add_incoming(later, loop)
            builder.cbranch(builder.icmp_signed("<", following, inner), loop, done)

            builder.position_at_end(done)
            results = []
            for i in range(rows):
                for j in vectors:
                    result = builder.phi(vector)
                    result.add_incoming(before[i][j], entry)
                    result.add_incoming(after[i][j], loop)
                    results.append((result, places[i][j]))
            for result, place in results:
                builder.store(result, builder.inttoptr(place, vector.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(kind, *[types.intp] * 9), generate

    return tile


_tile1, _tile2, _tile3, _tile4 = _tile(1), _tile(2), _tile(3), _tile(4)
_tile5, _tile6, _tile7, _tile8 = _tile(5), _tile(6), _tile(7), _tile(8)
_wide1 = _tile(1, panels=4)


@numba.njit(nogil=True)
def _product(kind, a, a_row, a_col, rows, inner, b, b_panel, count, c, c_row, c_panel):
    """Add A times ``count`` panels of B to C, in tiles of nearly equal height.

    25 rows are 7 + 6 + 6 + 6, not 8 + 8 + 8 + 1. Addresses and strides count bytes.
    """
    tiles = (rows + ROWS - 1) // ROWS
    done = 0
    if rows == 1:
        # Each sum waits for its own last addition, and one panel has few sums: add to four at once.
        while done + 4 <= count:
            panel, into = b + done * b_panel, c + done * c_panel
            _wide1(kind, a, a_row, a_col, panel, b_panel, into, c_row, c_panel, inner)
            done += 4
    for p in range(done, count):
        panel, column = b + p * b_panel, c + p * c_panel
        for i in range(tiles):
            top = i * rows // tiles
            height = (i + 1) * rows // tiles - top
            left, into = a + top * a_row, column + top * c_row
            # Numba leaves out the branches of tiles higher than ROWS, and what they call.
            if ROWS >= 8 and height == 8:
                _tile8(kind, left, a_row, a_col, panel, 0, into, c_row, 0, inner)
            elif ROWS >= 7 and height == 7:
                _tile7(kind, left, a_row, a_col, panel, 0, into, c_row, 0, inner)
            elif ROWS >= 6 and height == 6:
                _tile6(kind, left, a_row, a_col, panel, 0, into, c_row, 0, inner)
            elif ROWS >= 5 and height == 5:
                _tile5(kind, left, a_row, a_col, panel, 0, into, c_row, 0, inner)
            elif ROWS >= 4 and height == 4:
                _tile4(kind, left, a_row, a_col, panel, 0, into, c_row, 0, inner)
            elif ROWS >= 3 and height == 3:
                _tile3(kind, left, a_row, a_col, panel, 0, into, c_row, 0, inner)
            elif height == 2:
                _tile2(kind, left, a_row, a_col, panel, 0, into, c_row, 0, inner)
            else:
                _tile1(kind, left, a_row, a_col, panel, 0, into, c_row, 0, inner)


def _product32(a, a_row, a_col, rows, inner, b, b_panel, count, c, c_row, c_panel):
    _product(np.float32(0), a, a_row, a_col, rows, inner, b, b_panel, count, c, c_row, c_panel)


def _product64(a, a_row, a_col, rows, inner, b, b_panel, count, c, c_row, c_panel):
    _product(np.float64(0), a, a_row, a_col, rows, inner, b, b_panel, count, c, c_row, c_panel)


_SIGNATURE = types.void(*[types.intp] * 11)
_SOURCE = {"float32": _product32, "float64": _product64}
_SYMBOL = {name: types.ExternalFunction(f"rngru_product_{name}", _SIGNATURE) for name in _SOURCE}
_provided: dict[str, object] = {}
_providing = Lock()


def provide(dtype: np.dtype) -> None:
    """Make the product of ``dtype`` (float32 or float64) callable from kernels."""
    name = np.dtype(dtype).name
    if name not in _provided:
        with _providing.held():
            compiled = numba.cfunc(_SIGNATURE, cache=KEEP)(_SOURCE[name])
            binding.add_symbol(_SYMBOL[name].symbol, compiled.address)
            _provided[name] = compiled


def multiply(a, a_at, a_row, a_col, rows, inner, panels, first, count, c, c_at, c_row):
    """Add ``rows`` rows of A times panels ``first`` … ``first + count - 1`` of B to C.

    For use in kernels. Arrays are contiguous; offsets ``_at`` and strides count elements.
    """
    raise NotImplementedError("multiply() is called by compiled kernels only")


@overload(multiply)
def _multiply(a, a_at, a_row, a_col, rows, inner, panels, first, count, c, c_at, c_row):
    product, size = _SYMBOL[str(c.dtype)], c.dtype.bitwidth // 8

    def call(a, a_at, a_row, a_col, rows, inner, panels, first, count, c, c_at, c_row):
        ribbon = inner * PANEL * size
        product(
            a.ctypes.data + a_at * size, a_row * size, a_col * size, rows, inner,
            panels.ctypes.data + first * ribbon, ribbon, count,
            c.ctypes.data + c_at * size, c_row * size, PANEL * size,
        )  # fmt: skip

    return call


@numba.njit(nogil=True, cache=KEEP)
def multiply_transposed(a, a_row, rows, inner, b, b_at, b_row, first, last, c, c_row, ribbon):
    """Add A-transposed times B to C, for the columns of panels ``first`` … ``last - 1``.

    A is (inner, rows) and B is (inner, columns), both as they lie in memory; C is (rows, columns).
    This is the weight gradient: ``inner`` runs over every time step and lane at once. B is packed
    here, a block of ``BLOCK`` rows of one panel at a time, into ``ribbon``, (BLOCK * PANEL,).
    """
    for start in range(0, inner, BLOCK):
        block = min(BLOCK, inner - start)
        for p in range(first, last):
            for k in range(block):
                here = b_at + (start + k) * b_row + p * PANEL
                source, into = b[here : here + PANEL], ribbon[k * PANEL : (k + 1) * PANEL]
                for j in range(PANEL):
                    into[j] = source[j]
            multiply(a, start * a_row, 1, a_row, rows, block, ribbon, 0, 1, c, p * PANEL, c_row)


@numba.njit(nogil=True, cache=KEEP)
def pack(matrix, row, column, inner, columns, panels, first, last):
    """Pack panels ``first`` … ``last - 1`` of a matrix (inner, columns), zeros in the padding.

    ``matrix`` is flat, with strides ``row`` and ``column`` in elements, one of them 1, so that a
    transpose is packed as easily; ``panels`` is flat, of ``inner * padded(columns)`` elements.
    """
    for p in range(first, last):
        left = p * PANEL
        width = min(PANEL, columns - left)
        # A block of rows at a time, so that a transpose finds the lines it reads in the cache again;
        # and slices, because LLVM makes vector code of a loop over one, but not over computed indices.
        for top in range(0, inner, 16):
            height = min(16, inner - top)
            block = panels[(p * inner + top) * PANEL : (p * inner + top + height) * PANEL]
            if column == 1:
                for k in range(height):
                    at = (top + k) * row + left
                    source, into = matrix[at : at + width], block[k * PANEL : k * PANEL + width]
                    for j in range(width):
                        into[j] = source[j]
            else:
                for j in range(width):
                    at = top + (left + j) * column
                    source = matrix[at : at + height]
                    for k in range(height):
                        block[k * PANEL + j] = source[k]
            for k in range(height):
                for j in range(width, PANEL):
                    block[k * PANEL + j] = 0
