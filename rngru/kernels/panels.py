"""Copying matrices into panels, and the products that do so on the way: weight gradients.

Shapes are those of :mod:`rngru.kernels.tiles`. Nothing here checks a bound: sizes come from
:mod:`rngru.kernels.jobs`.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rngru.kernels.atomic import add
from rngru.kernels.calls import shared
from rngru.kernels.compiling import kernel
from rngru.kernels.target import TARGET
from rngru.kernels.tiles import BLOCK, PANEL, contiguous, multiply, prefetch, tallest

WIDE = 4 * tallest(32)
"""Columns of A that a gradient product copies side by side.

They are whole vectors, and whole tiles in float32. A block of them is read again for each panel, from the
first cache as far as it stays there: with 48 instead of 24, tiles of 6 rows and 16 columns were 5 % slower.
"""

STRIP = WIDE // 2
"""Rows of a gradient that are one unit of work, where it is cut by rows: whole tiles, in float32."""

ROOM = BLOCK + 1
"""Rows that a ribbon or a panel of a block has room for.

With ``BLOCK`` they would begin a power of two apart, and so share a few lines of the first cache.
"""

TOGETHER = 64 // PANEL
"""Panels that a gradient product copies side by side: lines of the cache that follow each other."""

ROWS_AHEAD = 8
"""How many rows ahead a gathering copy fetches."""

LINE = 16
"""Rows that are packed at a time: numbers of a line of the cache, in float32."""

_VECTOR = TARGET.vector


@intrinsic
def span(typingctx, array, at, size):
    """Return the ``size`` numbers of a contiguous array that begin at number ``at``, as one dimension.

    For use in kernels. A slice would be cut at the end of the array and count references; this is an
    address and a length, which compiles in a tenth of the time. Nothing is checked when it runs; an
    array with strides of its own is refused when it is compiled.
    """
    contiguous(array)
    kind = types.Array(array.dtype, 1, "C")

    def generate(context, builder, signature, args):
        from numba.np.arrayobj import populate_array  # only what is compiled needs it

        array, at, size = args
        source = context.make_array(signature.args[0])(context, builder, array)
        result = context.make_array(kind)(context, builder)
        width = context.get_constant(
            types.intp, context.get_abi_sizeof(context.get_data_type(kind.dtype))
        )
        populate_array(
            result, data=builder.gep(source.data, [at]), shape=[size], strides=[width],
            itemsize=width, meminfo=None,
        )  # fmt: skip
        return result._getvalue()

    return kind(array, types.intp, types.intp), generate


@intrinsic
def _move(typingctx, kind, numbers, source, into, ahead):
    """Copy ``numbers`` numbers of the type of ``kind`` between two addresses; fetch what lies at ``ahead``.

    ``numbers`` is a constant: whole vectors, or 1 for one vector.
    """
    if not isinstance(numbers, types.IntegerLiteral):
        return None

    def generate(context, builder, signature, args):
        _, _, source, into, ahead = args
        lanes = TARGET.vector * 8 // kind.bitwidth
        pointer = ir.VectorType(context.get_data_type(kind), lanes).as_pointer()
        vectors = max(1, numbers.literal_value // lanes)
        for j in range(vectors):
            shift = source.type(j * TARGET.vector)
            value = builder.load(builder.inttoptr(builder.add(source, shift), pointer), align=4)
            builder.store(value, builder.inttoptr(builder.add(into, shift), pointer), align=4)
        for line in range(0, vectors * TARGET.vector, 64):
            prefetch(builder, builder.add(ahead, source.type(line)))
        return context.get_dummy_value()

    return types.void(kind, numbers, *[types.intp] * 3), generate


@intrinsic
def _transpose(typingctx, kind, source, source_row, into, into_row):
    """Copy a square of numbers of the type of ``kind``, as many as a vector has in each row, transposed.

    ``source`` and ``into`` are addresses, with the bytes from one row to the next.
    """

    def generate(context, builder, signature, args):
        _, source, source_row, into, into_row = args
        lanes = range(TARGET.vector * 8 // kind.bitwidth)
        pointer = ir.VectorType(context.get_data_type(kind), len(lanes)).as_pointer()

        def place(address, row, i):
            return builder.inttoptr(builder.add(address, builder.mul(row, row.type(i))), pointer)

        def shuffled(one, other, chosen):
            mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), chosen)
            return builder.shuffle_vector(one, other, mask)

        rows = [builder.load(place(source, source_row, i), align=4) for i in lanes]
        bit = len(lanes) // 2
        while bit:  # exchange this bit of a number's row with that of its column
            upper = [lane - bit + len(lanes) if lane & bit else lane for lane in lanes]
            lower = [lane + len(lanes) if lane & bit else lane + bit for lane in lanes]
            for i in lanes:
                if not i & bit:
                    pair = rows[i], rows[i | bit]
                    rows[i], rows[i | bit] = shuffled(*pair, upper), shuffled(*pair, lower)
            bit //= 2
        for i in lanes:
            builder.store(rows[i], place(into, into_row, i), align=4)
        return context.get_dummy_value()

    return types.void(kind, *[types.intp] * 4), generate


@kernel(keep=False)
def clear(numbers):
    """Fill an array with zeros; a loop, because an array assignment takes ten times as long to compile."""
    for i in range(numbers.size):
        numbers[i] = 0


@kernel(keep=False, inline="always")
def _gather(matrix, at, row, width, height, ribbons, ones):
    """Copy ``height`` rows of ``width`` numbers, the first at ``at``, to ribbons of ``WIDE`` columns.

    A ribbon has room for ``ROOM`` rows. After the last number of a row come so many ``ones``, 0 or 1.
    """
    zero, size = matrix.dtype.type(0), matrix.itemsize
    source, target, side = matrix.ctypes.data + at * size, ribbons.ctypes.data, _VECTOR // size
    full, whole = width // WIDE * WIDE, width // side * side
    for k in range(height):
        here, into = source + k * row * size, target + k * WIDE * size
        for j in range(0, full, WIDE):
            place = here + j * size
            _move(zero, WIDE, place, into + j * ROOM * size, place + ROWS_AHEAD * row * size)
        for j in range(full, whole, side):
            place = here + j * size
            last = into + (full * ROOM + j - full) * size
            _move(zero, 1, place, last, place + ROWS_AHEAD * row * size)
        for j in range(whole, width):
            ribbons[full * ROOM + k * WIDE + j - full] = matrix[at + k * row + j]
        for j in range(width, width + ones):
            last = j // WIDE * WIDE
            ribbons[last * ROOM + k * WIDE + j - last] = 1


@kernel(keep=False, inline="always")
def multiply_transposed(
    a, a_row, rows, inner, b, b_at, b_row, count, c, c_at, c_row, scratch, ones=0, unused=0
):
    """Add A-transposed times B to C, for ``count`` panels of B and C.

    A is (inner, rows) and B is (inner, columns), all three as they lie in memory. This is the weight
    gradient: ``inner`` runs over every time step and lane at once. A and B are copied together, ``BLOCK``
    rows at a time, into ``scratch``, of :func:`room` numbers. So many columns of A, the last, are ``ones``
    that do not lie in memory, 0 or 1. ``unused`` is that of :func:`~rngru.kernels.tiles.multiply`.
    """
    zero, size = c.dtype.type(0), c.itemsize
    panels = span(scratch, ROOM * ((rows + WIDE - 1) // WIDE * WIDE), TOGETHER * ROOM * PANEL)
    for start in range(0, inner, BLOCK):
        block = min(BLOCK, inner - start)
        _gather(a, start * a_row, a_row, rows - ones, block, scratch, ones)
        for p in range(0, count, TOGETHER):
            some = min(TOGETHER, count - p)
            for k in range(block):
                # The rows are too far apart for the processor to see where the next ones will be.
                here = b.ctypes.data + (b_at + (start + k) * b_row + p * PANEL) * size
                for i in range(some):
                    place = here + i * PANEL * size
                    into = panels.ctypes.data + (i * ROOM + k) * PANEL * size
                    _move(zero, PANEL, place, into, place + ROWS_AHEAD * b_row * size)
            for left in range(0, rows, WIDE):
                multiply(
                    scratch, left * ROOM, 1, WIDE, min(WIDE, rows - left), block,
                    panels, 0, some, c, c_at + left * c_row + p * PANEL, c_row, ROOM * PANEL,
                    unused if p + some == count else 0,
                )  # fmt: skip


def room(rows: int) -> int:
    """Return how many numbers of scratch :func:`multiply_transposed` needs for ``rows`` rows of C."""
    return ROOM * (-(-rows // WIDE) * WIDE + TOGETHER * PANEL)


@shared()
def products(
    left, right, more_left, more_right, from_column, result, to_column, panels, used, scratch,
    taken, first, last,
):  # fmt: skip
    """Fill a part of ``result`` (I, N) with the sum of ``left.T @ right`` over two pairs of matrices.

    They have rows for all time steps and lanes; of the second pair there may be none. If ``result`` has a row
    more than ``left`` has columns, it is as if these had a column of ones. Done are all rows of the panels
    ``first`` … ``last - 1``, counted from ``from_column`` of the right ones and ``to_column`` of the result;
    or, of so many ``panels``, if not 0, ``STRIP`` rows for each of ``first`` … ``last - 1``.
    Columns of ``right`` after those that are ``used`` are zero. ``scratch`` (threads, :func:`room`) is for
    what a thread copies: each takes the next row; ``taken`` (1,), int64, counts them.
    """
    top, bottom, columns = 0, result.shape[0], result.shape[1]
    panel, count = first, last - first
    if panels > 0:
        top, bottom, panel, count = first * STRIP, min(last * STRIP, bottom), 0, panels
    ones = max(bottom - left.shape[1], 0)
    at = top * columns + to_column + panel * PANEL
    for i in range(bottom - top):
        clear(span(result, at + i * columns, count * PANEL))
    own = add(taken, 0, 1) % scratch.shape[0]  # a plan that is done again goes on counting
    row = span(scratch, own * scratch.shape[1], scratch.shape[1])
    for one, other in ((left, right), (more_left, more_right)):
        multiply_transposed(
            span(one, top, one.size - top), one.shape[1], bottom - top, one.shape[0],
            span(other, 0, other.size), from_column + panel * PANEL, other.shape[1], count,
            span(result, 0, result.size), at, columns, row, ones, max((panel + count) * PANEL - used, 0),
        )  # fmt: skip


def strips(rows: int) -> int:
    """Return how many times ``STRIP`` rows there are."""
    return -(-rows // STRIP)


@shared()
def pack(matrix, row, column, inner, columns, panels, first, last):
    """Pack panels ``first`` … ``last - 1`` of a matrix (inner, columns), zeros in the padding.

    ``matrix`` is flat, with strides ``row`` and ``column`` in elements, one of them 1, so that a
    transpose is packed as easily; ``panels`` is flat, of ``inner * padded(columns)`` elements.
    """
    zero, size = matrix.dtype.type(0), matrix.itemsize
    side = _VECTOR // size  # of the squares that are transposed at once; it divides LINE
    # LINE rows of a panel at a time: those of all panels, which lie side by side in the matrix; or, of a
    # transpose, all those of one panel, which finds in the cache the lines that it has read a part of.
    turned, lines, count = column != 1, (inner + LINE - 1) // LINE, last - first
    for i in range(count if turned else lines):
        for j in range(lines if turned else count):
            p, line = (i, j) if turned else (j, i)
            top, left = line * LINE, (first + p) * PANEL
            height, width = min(LINE, inner - top), min(PANEL, columns - left)
            block = span(panels, left * inner + top * PANEL, height * PANEL)
            whole = 0
            if turned and height == LINE:
                whole = width // side * side
                for x in range(0, whole, side):
                    for y in range(0, LINE, side):
                        here = matrix.ctypes.data + (top + y + (left + x) * column) * size
                        into = block.ctypes.data + (y * PANEL + x) * size
                        _transpose(zero, here, column * size, into, PANEL * size)
            if whole == PANEL:
                continue
            for y in range(height):
                at = (top + y) * row + left * column
                if not turned and width == PANEL:
                    here = matrix.ctypes.data + at * size
                    into = block.ctypes.data + y * PANEL * size
                    _move(zero, PANEL, here, into, here + ROWS_AHEAD * row * size)
                else:
                    for x in range(whole, width):
                        block[y * PANEL + x] = matrix[at + x * column]
                    for x in range(width, PANEL):
                        block[y * PANEL + x] = zero
