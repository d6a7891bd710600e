r"""One layer of any cell over a whole sequence: forward, and backpropagation through time.

The loops here know a cell only by two elementwise functions, :func:`advance` and
:func:`retreat`; everything else (products, threads, truncation, layouts) exists once.

Shapes: T time steps, B lanes, S units of state, P = padded(S), G gates. Arrays are C-contiguous.

====================  =================  ============================================================
``gates``             (T, B, G P)        pre-activations on entry, activations after forward,
                                         gradients of the pre-activations after backward
``start``             (B, H)             state before the first step
``states``            (T, B, S)          output of each step
``side``              (T, B, P)          what else the cell keeps of each step, see below
====================  =================  ============================================================

=============  =====  ===============  ===  ==========================================================
cell           G      gates            H    ``side``
=============  =====  ===============  ===  ==========================================================
``GRU``        3      z, r, c          S    r ∘ s: what the candidate's weights multiply
``GRU_AFTER``  3      z, r, c          S    s·Wc + b: the product that r then scales
``LSTM``       4      i, f, o, c       2 S  the memory; a state is (output, memory) side by side
``RNN``        1      c                S    nothing (width 0)
``MIN_GRU``    2      z, c             S    nothing (width 0)
``MIN_LSTM``   3      i, f, c          S    nothing (width 0)
=============  =====  ===============  ===  ==========================================================

Weights come packed (see :mod:`rngru.kernels.tiles`): ``main`` multiplies the previous state into
the first gates, ``extra`` is the candidate's product of the two GRUs. Lanes are independent, so a
thread takes ``first`` … ``last - 1`` of them through steps ``begin`` … ``end - 1``; the weight
gradients are one product over all steps and lanes after that. The two minimal
cells have no recurrent weights: ``main`` and ``extra`` are empty, and a step is elementwise.
"""

from rngru.kernels.calls import shared
from rngru.kernels.compiling import kernel
from rngru.kernels.elementwise import VECTOR, gate, gate_slope, tanh
from rngru.kernels.panels import clear, span
from rngru.kernels.spec import GRU, GRU_AFTER, LSTM, MIN_GRU, MIN_LSTM, RNN, TINY
from rngru.kernels.tiles import PANEL, multiply

ROWS_AT_ONCE = 64
"""Rows of a product that stay in the cache together with a panel."""


@kernel(outside=False, **VECTOR)
def advance(cell, phase, hard, gates, before, memory, side, state):
    """The elementwise part of one step of one lane, forward.

    ``before`` is the previous state's output, ``memory`` its memory (LSTM). Phase 0 follows the
    first product of the step; only GRU has a second product, and phase 1 after it.
    """
    n = state.size
    one, tiny = gates.dtype.type(1), gates.dtype.type(TINY)
    if cell == RNN:
        for j in range(n):
            gates[j] = tanh(gates[j])
            state[j] = gates[j]
        return
    if cell == LSTM:
        width = gates.size // 4
        i, f = span(gates, 0, n), span(gates, width, n)
        o, c = span(gates, 2 * width, n), span(gates, 3 * width, n)
        for j in range(3 * width):
            gates[j] = gate(gates[j], hard)
        for j in range(n):
            c[j] = tanh(c[j])
            side[j] = f[j] * memory[j] + i[j] * c[j]
            state[j] = o[j] * tanh(side[j])
        return
    if cell == MIN_LSTM:
        width = gates.size // 3
        i, f, c = span(gates, 0, n), span(gates, width, n), span(gates, 2 * width, n)
        for j in range(2 * width):
            gates[j] = gate(gates[j], hard)
        for j in range(n):
            share = one / (i[j] + f[j] + tiny)
            state[j] = (f[j] * before[j] + i[j] * c[j]) * share
        return
    if cell == MIN_GRU:
        width = gates.size // 2
        z, c = span(gates, 0, n), span(gates, width, n)
        for j in range(n):
            z[j] = gate(z[j], hard)
            state[j] = c[j] + z[j] * (before[j] - c[j])
        return
    width = gates.size // 3
    z, r, c = span(gates, 0, n), span(gates, width, n), span(gates, 2 * width, n)
    if phase == 0:
        for j in range(2 * width):
            gates[j] = gate(gates[j], hard)
        if cell == GRU:
            for j in range(n):
                side[j] = r[j] * before[j]
            return
        for j in range(n):
            c[j] += r[j] * side[j]
    for j in range(n):
        c[j] = tanh(c[j])
        state[j] = c[j] + z[j] * (before[j] - c[j])


@kernel(outside=False, **VECTOR)
def retreat(cell, phase, hard, gates, before, memory, side, above, carry, kept):
    """The elementwise part of one step of one lane, backward: the reverse of :func:`advance`.

    ``above`` is the gradient from the layer above, ``carry`` that from the step after; ``kept``
    carries the LSTM's memory gradient, and between GRU's two phases the gradient of r ∘ s.
    Gradients of the pre-activations replace the activations in ``gates``.
    """
    n = before.size
    one, tiny = gates.dtype.type(1), gates.dtype.type(TINY)
    if cell == RNN:
        for j in range(n):
            gates[j] = (above[j] + carry[j]) * (one - gates[j] * gates[j])
            carry[j] = 0
        return
    if cell == LSTM:
        width = gates.size // 4
        i, f = span(gates, 0, n), span(gates, width, n)
        o, c = span(gates, 2 * width, n), span(gates, 3 * width, n)
        for j in range(n):
            squashed = tanh(side[j])
            ds = above[j] + carry[j]
            dm = kept[j] + ds * o[j] * (one - squashed * squashed)
            kept[j] = dm * f[j]
            di = dm * c[j] * gate_slope(i[j], hard)
            dc = dm * i[j] * (one - c[j] * c[j])
            f[j] = dm * memory[j] * gate_slope(f[j], hard)
            o[j] = ds * squashed * gate_slope(o[j], hard)
            i[j] = di
            c[j] = dc
            carry[j] = 0
        return
    if cell == MIN_LSTM:
        width = gates.size // 3
        i, f, c = span(gates, 0, n), span(gates, width, n), span(gates, 2 * width, n)
        for j in range(n):
            share = one / (i[j] + f[j] + tiny)
            new = (f[j] * before[j] + i[j] * c[j]) * share
            ds = (above[j] + carry[j]) * share
            carry[j] = ds * f[j]
            f[j] = ds * (before[j] - new) * gate_slope(f[j], hard)
            dc = ds * i[j]
            i[j] = ds * (c[j] - new) * gate_slope(i[j], hard)
            c[j] = dc
        return
    if cell == MIN_GRU:
        width = gates.size // 2
        z, c = span(gates, 0, n), span(gates, width, n)
        for j in range(n):
            ds = above[j] + carry[j]
            carry[j] = ds * z[j]
            dz = ds * (before[j] - c[j]) * gate_slope(z[j], hard)
            c[j] = ds * (one - z[j])
            z[j] = dz
        return
    width = gates.size // 3
    z, r, c = span(gates, 0, n), span(gates, width, n), span(gates, 2 * width, n)
    if phase == 0:
        for j in range(n):
            ds = above[j] + carry[j]
            dz = ds * (before[j] - c[j]) * gate_slope(z[j], hard)
            c[j] = ds * (one - z[j]) * (one - c[j] * c[j])
            carry[j] = ds * z[j]
            kept[j] = 0
            z[j] = dz
        if cell == GRU:
            return
        for j in range(n):
            dr = c[j] * side[j] * gate_slope(r[j], hard)
            side[j] = c[j] * r[j]
            r[j] = dr
        return
    for j in range(n):
        carry[j] += kept[j] * r[j]
        r[j] = kept[j] * before[j] * gate_slope(r[j], hard)


@kernel(keep=False)
def copyrow(source, target):
    """Copy a row; a loop, because an array assignment takes ten times as long to compile."""
    for j in range(source.size):
        target[j] = source[j]


@shared()
def lookup(ids, table, gates, first, last):
    """Fill ``gates`` with rows of ``table`` (V, G P) for ``ids`` (T, B): the first layer's input."""
    steps, lanes, width = gates.shape
    for t in range(steps):
        for b in range(first, last):
            at = t * lanes + b
            copyrow(span(table, ids[t, b] * width, width), span(gates, at * width, width))


@shared()
def project(rows, panels, bias, results, first, last):
    """Fill ``results`` (N, P) with ``rows`` (N, I) times packed weights (I, P), plus ``bias`` (P,)."""
    wide, width = rows.shape[1], results.shape[1]
    for top in range(first, last, ROWS_AT_ONCE):
        multiply(
            rows, top * wide, wide, 1, min(ROWS_AT_ONCE, last - top), panels.size // width,
            panels, 0, width // PANEL, results, top * width, width, start=bias,
        )  # fmt: skip


@kernel(keep=False)
def _earlier(t, b, lanes, start, states, side):
    """Return the output and the memory of lane ``b`` before step ``t``; without a memory, anything."""
    height, size, kept = start.shape[1], states.shape[2], side.shape[2]
    if t == 0:
        return span(start, b * height, size), span(start, b * height + height - size, size)
    at = (t - 1) * lanes + b
    return span(states, at * size, size), span(side, at * kept, min(size, kept))


@kernel(keep=False, inline="always")
def _alike(cell, size, width):
    """Whether the numbers of all lanes may be treated as those of one: it has one gate, and no padding."""
    return cell == RNN and size == width


@shared()
def unroll(
    cell, hard, begin, end, gates, start, states, side, main, extra, bias, ending, first, last
):  # fmt: skip
    """Run the cell forward over steps ``begin`` … ``end - 1`` of lanes ``first`` … ``last - 1``.

    ``bias`` (S,) is the candidate's second bias, of ``GRU_AFTER`` alone. ``ending`` (B, H) receives the state
    after them.
    """
    lanes, width = gates.shape[1:]
    size, height, kept = states.shape[2], start.shape[1], side.shape[2]
    pad = (size + PANEL - 1) // PANEL * PANEL
    products, rows = main.size // (size * PANEL), last - first
    together = rows if _alike(cell, size, width) else 1
    for t in range(begin, end):
        at = t * lanes + first
        source = span(start, first * height, rows * height)
        stride = height
        if t > 0:
            source, stride = span(states, (at - lanes) * size, rows * size), size
        multiply(source, 0, stride, 1, rows, size, main, 0, products, gates, at * width, width)
        if cell == GRU_AFTER:
            for b in range(at, at + rows):
                copyrow(bias, span(side, b * pad, size))
                clear(span(side, b * pad + size, pad - size))
            multiply(source, 0, stride, 1, rows, size, extra, 0, pad // PANEL, side, at * pad, pad)
        for phase in range(2 if cell == GRU else 1):
            if phase == 1:
                multiply(
                    side, at * pad, pad, 1, rows, size,
                    extra, 0, pad // PANEL, gates, at * width + 2 * pad, width,
                )  # fmt: skip
            for b in range(first, last, together):
                before, memory = _earlier(t, b, lanes, start, states, side)
                here = t * lanes + b
                advance(
                    cell, phase, hard, span(gates, here * width, together * width), before, memory,
                    span(side, here * kept, kept), span(states, here * size, together * size),
                )  # fmt: skip
    for b in range(first, last):
        before, memory = _earlier(end, b, lanes, start, states, side)
        copyrow(before, span(ending, b * height, size))
        if cell == LSTM:
            copyrow(memory, span(ending, b * height + size, size))


@shared()
def unroll_back(
    cell, hard, begin, end, gates, start, states, side, above, ending, main, extra, left_out,
    dstart, carry, kept, first, last,
):  # fmt: skip
    """Backpropagate through steps ``begin`` … ``end - 1`` of lanes ``first`` … ``last - 1``.

    ``above`` (T, B, S or more) is the gradient of ``states``, ``ending`` (B, H) that of the state after these
    steps, and ``dstart`` (B, H) receives that of the state before them; both may be one array. ``main`` and
    ``extra`` are the packed transposes. The first ``left_out`` of all steps get no gradient. ``carry`` and
    ``kept`` are memory, (B, P).
    """
    lanes, width = gates.shape[1:]
    size, height, beside = states.shape[2], start.shape[1], side.shape[2]
    pad, wide = carry.shape[1], above.shape[2]
    inner, rows = main.size // pad, last - first
    together = rows if _alike(cell, size, width) and wide == size else 1
    clear(span(carry, first * pad, rows * pad))
    clear(span(kept, first * pad, rows * pad))
    for b in range(first, last):
        copyrow(span(ending, b * height, size), span(carry, b * pad, size))
        if cell == LSTM:
            copyrow(span(ending, b * height + size, size), span(kept, b * pad, size))
    for t in range(end - 1, begin - 1, -1):
        at = t * lanes + first
        if t < left_out:
            clear(span(gates, at * width, rows * width))
            clear(span(side, at * beside, rows * beside))
            clear(span(carry, first * pad, rows * pad))
            clear(span(kept, first * pad, rows * pad))
            continue
        for phase in range(2 if cell == GRU else 1):
            for b in range(first, last, together):
                before, memory = _earlier(t, b, lanes, start, states, side)
                before = span(before, 0, together * size)  # the lanes after it follow it in memory
                here = t * lanes + b
                retreat(
                    cell, phase, hard, span(gates, here * width, together * width), before, memory,
                    span(side, here * beside, beside), span(above, here * wide, together * wide),
                    span(carry, b * pad, together * pad), span(kept, b * pad, pad),
                )  # fmt: skip
            if cell == GRU and phase == 0:
                multiply(
                    gates, at * width + 2 * pad, width, 1, rows, size,
                    extra, 0, pad // PANEL, kept, first * pad, pad,
                )  # fmt: skip
        multiply(
            gates, at * width, width, 1, rows, inner, main, 0, pad // PANEL, carry, first * pad, pad
        )
        if cell == GRU_AFTER:
            multiply(
                side, at * pad, pad, 1, rows, size, extra, 0, pad // PANEL, carry, first * pad, pad
            )
    for b in range(first, last):
        copyrow(span(carry, b * pad, size), span(dstart, b * height, size))
        if cell == LSTM:
            copyrow(span(kept, b * pad, size), span(dstart, b * height + size, size))


@kernel(keep=False)
def _add(source, total):
    for j in range(total.size):
        total[j] += source[j]


@shared()
def lookup_back(ids, gates, dtable, first, last):
    """Fill each row of ``dtable`` (V, G P) with the sum of those rows of ``gates`` that came from it.

    Works on panels ``first`` … ``last - 1``, so that threads never add to the same number.
    """
    steps, lanes, width = gates.shape
    left, size = first * PANEL, (last - first) * PANEL
    for i in range(dtable.shape[0]):
        clear(span(dtable, i * width + left, size))
    for t in range(steps):
        for b in range(lanes):
            source = span(gates, (t * lanes + b) * width + left, size)
            _add(source, span(dtable, ids[t, b] * width + left, size))


@shared(**VECTOR)
def times(array, mask, result, first, last):
    """Fill ``result`` with ``array`` times ``mask`` (T or 1, B, S); the first two are (T, B, S or more)."""
    steps, lanes, wide = array.shape
    size, width, all_alike = mask.shape[2], result.shape[2], mask.shape[0] == 1
    for t in range(steps):
        for b in range(first, last):
            at = t * lanes + b
            source, into = span(array, at * wide, size), span(result, at * width, size)
            some = span(mask, (b if all_alike else at) * size, size)
            for j in range(size):
                into[j] = source[j] * some[j]


@shared()
def add(array, result, first, last):
    """Add ``array`` (T, B, S) to ``result`` (T, B, S or more)."""
    steps, lanes, size = array.shape
    for t in range(steps):
        for b in range(first, last):
            at = t * lanes + b
            _add(span(array, at * size, size), span(result, at * result.shape[2], size))
