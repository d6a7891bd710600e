r"""Matrix products on packed panels: the arithmetic that every kernel is made of.

A product :math:`C \mathrel{+}= A B` walks over *tiles*: some rows of ``C`` by one *panel* of ``PANEL``
columns, held in vector registers while the inner dimension runs. ``B`` is packed beforehand, so that a
panel is one contiguous ribbon; ``A`` is read in place, with any strides. One element of ``C`` is always
the same chain of multiply-adds, in the order of the inner index, whatever the tile it falls into: how
the rows are divided over threads never changes a bit of the result.

A tile of R rows and v vectors needs R v registers for its sums, v for the panel and one for an element
of A. So its size follows from the registers of :data:`rngru.kernels.target.TARGET`:

==============  ==========  =======================
registers       panel       rows of a tile, float32
==============  ==========  =======================
32 of 64 bytes  32 columns  8
16 of 32 bytes  16          6
16 of 16 bytes   8          6
32 of 16 bytes  16          6
==============  ==========  =======================

The tile is written in LLVM's vector instructions, because no loop in Python keeps a block of
accumulators in registers; see Goto and van de Geijn, "Anatomy of high-performance matrix
multiplication", ACM TOMS 34 (2008). It is compiled once per dtype, into a C function that the
other kernels call by its symbol: inlined into each of them it would be compiled ten times, and
compile time is what a user waits for at the first prompt. :func:`provide` must have been called
for a dtype before a kernel of that dtype runs.

Shapes: a matrix of K rows and N columns is packed as ``(ceil(N / PANEL), K, PANEL)``, padded with
zeros, so that the padding of every product is zero.
"""

import itertools

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload

from rngru.forks import Lock
from rngru.kernels.compiling import kernel, pointer
from rngru.kernels.target import TARGET

MOST_ROWS = 8
"""A tile of more rows is no faster: eight already hide what a multiply-add takes."""


def _rows(vectors: int) -> int:
    """Return how many rows of ``vectors`` sums fit into the registers.

    Beside the sums, either the vectors of B stay there and one element of A at a time, or one vector of
    B at a time and an element of A for each row.
    """
    free = TARGET.registers - 1
    return max(1, min(MOST_ROWS, max((free - vectors) // vectors, free // (vectors + 1))))


PANEL = max(v * TARGET.vector // 4 for v in (1, 2, 4) if _rows(v) >= 6 and v * TARGET.vector <= 128)
"""Columns of a panel; widths that kernels work with are padded to a multiple of it.

As many as still leave six rows to a tile, but at most 32, for padding is arithmetic too.
"""


PAIRED = 9 if TARGET.registers == 16 else 3
"""Up to so many rows, tiles of two panels are faster."""


def tallest(bits: int, panels: int = 1) -> int:
    """Return the most rows of a tile of one panel or two, for numbers of so many bits."""
    most = _rows(panels * PANEL * bits // 8 // TARGET.vector)
    return most if panels == 1 else min(most, PAIRED)


HIGH = 4 if TARGET.registers == 16 else 0
"""Rows of a tile of three vectors, of which three panels have a whole number; 0 where it is no faster.

Then 4, 7 and 8 rows are one or two of these tiles: twelve sums each, where two panels would give eight.
"""


def forms(bits: int) -> list[tuple[int, int, int]]:
    """Return the forms of tiles: the rows, the panels, and of three panels which three vectors.

    0 panels stand for half a panel, with twice the rows of a whole one.
    """
    some = [(r, p, 0) for p in (1, 2) for r in range(1, tallest(bits, p) + 1)] + [(1, 4, 0)]
    some += [(2 * tallest(bits), 0, 0)]
    parts = PANEL * bits // 8 // TARGET.vector
    return some + [(r, 3, part) for part in range(parts) for r in (HIGH - 1, HIGH) if HIGH > 0]


AT_ONCE = 2 if (TARGET.registers, TARGET.vector) == (16, 32) else 1
"""Steps of the inner dimension in one pass of a tile's loop.

With AVX2, a step of a tile of twelve sums takes six cycles, so to count each step alone costs time: 1 to 2 %
of it. With four at once, or with the short registers of SSE2, the sums no longer stay in registers.
"""

BLOCK = 256
"""Inner length of one pass over a panel that several tiles read: it stays in the first cache."""


def padded(width: int) -> int:
    """Return ``width`` rounded up to whole panels.

    >>> padded(1) == PANEL, padded(2 * PANEL) == 2 * PANEL
    (True, True)
    """
    return -(-width // PANEL) * PANEL


@intrinsic
def _tile(typingctx, kind, rows, panels, part, a, a_row, a_col, b, b_panel, c, c_row, start, inner):
    """Add ``rows`` rows of A times ``panels`` panels of B to a tile of C, of a form in :func:`forms`.

    ``kind`` is a scalar of the dtype. After the form come for A the address, the strides of rows and columns;
    for B the address and the stride of panels; for C the address and the stride of rows; the address of a
    row that is there instead of each of C, or 0; and the length of the inner dimension. Addresses and strides
    count bytes.
    """

    def generate(context, builder, signature, args):
        _, rows, panels, part, *numbers = args
        word = rows.type
        lanes = TARGET.vector * 8 // kind.bitwidth
        done = builder.append_basic_block("done")
        cases = {form: builder.append_basic_block("tile") for form in forms(kind.bitwidth)}
        chosen = rows
        for number in (panels, part):
            chosen = builder.add(builder.mul(chosen, word(16)), number)
        switch = builder.switch(chosen, cases[1, 1, 0])
        for (height, width, which), block in cases.items():
            switch.add_case(word((16 * height + width) * 16 + which), block)
            builder.position_at_end(block)
            vectors = range(width * PANEL // lanes)
            if width == 0:
                vectors = range(PANEL // lanes // 2)
            elif width == 3:
                vectors = range(3 * which, 3 * which + 3)
            _Tile(builder, context.get_data_type(kind), lanes, height, vectors)(*numbers)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(kind, *[types.intp] * 12), generate


def prefetch(builder, address) -> None:
    """Write the code that fetches a line of memory into the first cache."""
    number = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, *[number] * 3])
    fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    place = builder.inttoptr(address, cgutils.voidptr_t)
    builder.call(fetch, [place, number(0), number(3), number(1)])


class _Tile:
    """Writes the code of a tile of ``rows`` rows and some ``vectors`` of neighbouring panels."""

    def __init__(self, builder, scalar, lanes: int, rows: int, vectors: range) -> None:
        self.builder, self.scalar, self.lanes = builder, scalar, lanes
        self.vector = ir.VectorType(scalar, lanes)
        self.rows, self.each = range(rows), PANEL // lanes
        self.vectors = vectors

    def __call__(self, a, a_row, a_col, b, b_panel, c, c_row, start, inner) -> None:
        build, word, line = self.builder, inner.type, max(1, 64 // TARGET.vector)
        rows_a = [build.mul(a_row, word(i)) for i in self.rows]
        rows_c = [build.add(c, build.mul(c_row, word(i))) for i in self.rows]
        rows = [self._places(row) for row in rows_c]
        places = [*itertools.chain(*rows)]
        before = self._before(start, places)
        # The same rows of the next panels: a tile can do nothing before it has what is there already.
        ahead = word(-(-len(self.vectors) // self.each) * self.each * TARGET.vector)
        for place in (each for row in rows for each in row[::line]):
            prefetch(build, build.add(place, ahead))
        shifts = [self._shift(j, b_panel) for j in self.vectors]

        numbers = [a, b, *before]
        for steps in sorted({AT_ONCE, 1}, reverse=True):
            passes, inner = build.udiv(inner, word(steps)), build.urem(inner, word(steps))
            numbers = self._loop(passes, steps, numbers, rows_a, a_col, shifts)
        for result, place in zip(numbers[2:], places, strict=True):
            build.store(result, build.inttoptr(place, self.vector.as_pointer()), align=4)

    def _loop(self, passes, steps: int, numbers, rows_a, a_col, shifts):
        """Write a loop of some ``steps`` of the inner dimension in each of its ``passes``.

        ``numbers`` are where A and B are read, and the sums, row by row. Returns those after the loop.
        """
        build, word = self.builder, passes.type
        entry = build.block
        loop, done = build.append_basic_block("inner"), build.append_basic_block("summed")
        build.cbranch(build.icmp_signed(">", passes, word(0)), loop, done)

        build.position_at_end(loop)
        k, *here = [build.phi(each.type) for each in (passes, *numbers)]
        after = here
        for _ in range(steps):
            after = self._step(after, rows_a, a_col, shifts)
        following = build.add(k, word(1))
        for phi, first, later in zip(
            (k, *here), (word(0), *numbers), (following, *after), strict=True
        ):
            phi.add_incoming(first, entry)
            phi.add_incoming(later, loop)
        build.cbranch(build.icmp_signed("<", following, passes), loop, done)

        build.position_at_end(done)
        results = [build.phi(each.type) for each in numbers]
        for result, first, later in zip(results, numbers, after, strict=True):
            result.add_incoming(first, entry)
            result.add_incoming(later, loop)
        return results

    def _step(self, numbers, rows_a, a_col, shifts):
        """Write one step of the inner dimension: one column of A times one row of B."""
        build, (here_a, here_b, *sums) = self.builder, numbers
        # Whichever is fewer stays in registers: the elements of A, or the vectors of the panel.
        left = [build.add(here_a, row) for row in rows_a]
        right = [build.add(here_b, shift) for shift in shifts]
        after = [*sums]
        if len(left) < len(right):
            column = [self._broadcast(self._load(place, self.scalar)) for place in left]
            for j, place in enumerate(right):
                vector = self._load(place, self.vector)
                for i, element in enumerate(column):
                    at = i * len(right) + j
                    after[at] = self._multiply_add(element, vector, sums[at])
        else:
            panel = [self._load(place, self.vector) for place in right]
            for i, place in enumerate(left):
                element = self._broadcast(self._load(place, self.scalar))
                for j, vector in enumerate(panel):
                    at = i * len(right) + j
                    after[at] = self._multiply_add(element, vector, sums[at])
        ribbon = here_b.type(PANEL // self.lanes * TARGET.vector)
        return [build.add(here_a, a_col), build.add(here_b, ribbon), *after]

    def _places(self, row):
        """Return the addresses of the vectors of a row of C, whose panels lie side by side."""
        return [self.builder.add(row, row.type(j * TARGET.vector)) for j in self.vectors]

    def _before(self, start, places):
        """Return the vectors that the sums begin with: of the row at ``start``, or of C if that is 0."""
        build = self.builder
        given, found, ready = map(build.append_basic_block, ("given", "found", "ready"))
        build.cbranch(build.icmp_signed("!=", start, start.type(0)), given, found)
        build.position_at_end(given)
        row = [self._load(place, self.vector) for place in self._places(start)]
        build.branch(ready)
        build.position_at_end(found)
        there = [self._load(place, self.vector) for place in places]
        build.branch(ready)
        build.position_at_end(ready)
        before = [build.phi(self.vector) for _ in places]
        for phi, one, other in zip(before, row * len(self.rows), there, strict=True):
            phi.add_incoming(one, given)
            phi.add_incoming(other, found)
        return before

    def _load(self, address, of):
        return self.builder.load(self.builder.inttoptr(address, of.as_pointer()), align=4)

    def _broadcast(self, value):
        undefined = ir.Constant(self.vector, ir.Undefined)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        first = self.builder.insert_element(undefined, value, ir.IntType(32)(0))
        return self.builder.shuffle_vector(first, undefined, zeros)

    def _multiply_add(self, x, y, total):
        if not TARGET.fused:  # the intrinsic would be a call of the C library for each number
            return self.builder.fadd(total, self.builder.fmul(x, y))
        bits = TARGET.vector * 8 // self.lanes
        fma = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(self.vector, [self.vector] * 3),
            f"llvm.fma.v{self.lanes}f{bits}",
        )
        return self.builder.call(fma, [x, y, total])

    def _shift(self, j: int, panel):
        word = panel.type
        within = word(j % self.each * TARGET.vector)
        return self.builder.add(self.builder.mul(panel, word(j // self.each)), within)


_SIZES = tuple(
    (tallest(bits), tallest(bits, panels=2), PANEL * bits // 8 // TARGET.vector)
    for bits in (32, 64)
)
"""The most rows of a tile of one panel, and of two, and the vectors of a panel, by dtype."""


@kernel(keep=False)
def _product(kind, size, a, a_row, a_col, rows, inner, b, b_panel, count, c, c_row, start, unused):
    """Add A times ``count`` panels of B to C, in tiles of nearly equal height.

    25 rows are 7 + 6 + 6 + 6, not 8 + 8 + 8 + 1. A few rows make too few sums to be fast, since each
    sum waits for its own last addition: then a tile is a few rows of two panels, or of three vectors, or one
    row of four panels. If half of the last panel or more is ``unused``, tall tiles leave that half out.
    Addresses and strides count bytes; ``size`` is those of one number.
    """
    high, low, each = _SIZES[size // 8]
    panels = 4 if rows == 1 else 2 if rows <= PAIRED else 1
    if rows == HIGH or 2 * HIGH - 1 <= rows <= 2 * HIGH:
        panels = 3
    p = 0
    while p < count:
        if panels == 3 and (count - p < 3 or count - p == 4):
            panels = 2  # 2 + 2, not 3 + 1
        while panels > count - p:
            panels //= 2
        most = (1, high, low, HIGH, 1)[panels]
        tall = rows // (2 * high) if p == count - 1 and unused >= PANEL // 2 else 0
        rest = rows - 2 * high * tall
        lower = (rest + most - 1) // most
        block = BLOCK if tall + lower > 1 else max(inner, 1)
        row = start + p * PANEL * size if start != 0 else 0
        for k in range(0, max(inner, 1), block):
            length = min(block, inner - k)
            panel, left = b + p * b_panel + k * PANEL * size, a + k * a_col
            for part in range(each if panels == 3 else 1):
                top = 0
                for i in range(tall + lower):  # the tall ones first
                    width, height = 0, 2 * high
                    if i >= tall:
                        j = i - tall
                        width, height = panels, (j + 1) * rest // lower - j * rest // lower
                    here, into = left + top * a_row, c + p * PANEL * size + top * c_row
                    _tile(
                        kind, height, width, part, here, a_row, a_col, panel, b_panel,
                        into, c_row, row, length,
                    )  # fmt: skip
                    top += height
            row = 0
        p += panels


def _product32(a, a_row, a_col, rows, inner, b, b_panel, count, c, c_row, start, unused):
    _product(
        np.float32(0), 4, a, a_row, a_col, rows, inner, b, b_panel, count, c, c_row, start, unused
    )


def _product64(a, a_row, a_col, rows, inner, b, b_panel, count, c, c_row, start, unused):
    _product(
        np.float64(0), 8, a, a_row, a_col, rows, inner, b, b_panel, count, c, c_row, start, unused
    )


_SIGNATURE = types.void(*[types.intp] * 12)
_SOURCE = {"float32": _product32, "float64": _product64}
_SYMBOL = {name: types.ExternalFunction(f"rngru_product_{name}", _SIGNATURE) for name in _SOURCE}
_provided: dict[object, object] = {}  # by dtype, not by its name: that takes long to find
_providing = Lock()


def provide(dtype: np.dtype) -> None:
    """Make the product of ``dtype`` (float32 or float64) callable from kernels."""
    if dtype not in _provided:
        with _providing.held():
            name = np.dtype(dtype).name
            compiled = pointer(_SIGNATURE, _SOURCE[name])
            binding.add_symbol(_SYMBOL[name].symbol, compiled.address)
            _provided[dtype] = compiled


def contiguous(*arrays) -> None:
    """Raise TypingError unless arrays, given by their Numba types, are C-contiguous and of one dtype.

    Addresses are computed from shapes alone: of an array with other strides, in Fortran's order, or of
    numbers of another width, the wrong ones would be read, and some beyond its end.
    """
    for each in arrays:
        if each.layout != "C" or each.dtype != arrays[0].dtype:
            given = ", ".join(map(str, arrays))
            raise TypingError(f"a kernel needs C-contiguous arrays of one dtype, not {given}")


def multiply(
    a, a_at, a_row, a_col, rows, inner, panels, first, count, c, c_at, c_row, apart=None, unused=0,
    start=None,
):  # fmt: skip
    """Add ``rows`` rows of A times panels ``first`` … ``first + count - 1`` of B to C.

    For use in kernels. Arrays are contiguous; offsets ``_at`` and strides count elements. Panels begin so
    many elements ``apart``; None if one follows another. Of the columns, the last ones that are
    ``unused`` are zero in B, and may stay as they are in C. If there is a ``start``, a row of numbers for
    these columns, each row of C is filled with its sum with the product, whatever was there before.
    """
    raise NotImplementedError("multiply() is called by compiled kernels only")


@overload(multiply)
def _multiply(
    a, a_at, a_row, a_col, rows, inner, panels, first, count, c, c_at, c_row, apart=None, unused=0,
    start=None,
):  # fmt: skip
    started = isinstance(start, types.Array)
    contiguous(a, panels, c, *([start] if started else []))
    product, size = _SYMBOL[str(c.dtype)], c.dtype.bitwidth // 8

    def call(
        a, a_at, a_row, a_col, rows, inner, panels, first, count, c, c_at, c_row, apart=None, unused=0,
        start=None,
    ):  # fmt: skip
        ribbon = (inner * PANEL if apart is None else apart) * size
        product(
            a.ctypes.data + a_at * size, a_row * size, a_col * size, rows, inner,
            panels.ctypes.data + first * ribbon, ribbon, count,
            c.ctypes.data + c_at * size, c_row * size, start.ctypes.data if started else 0, unused,
        )  # fmt: skip

    return call
