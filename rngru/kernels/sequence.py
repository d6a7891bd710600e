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
=============  =====  ===============  ===  ==========================================================

Weights come packed (see :mod:`rngru.kernels.tiles`): ``main`` multiplies the previous state into
the first gates, ``extra`` is the candidate's product of the two GRUs. Lanes are independent, so a
thread takes ``first`` … ``last - 1`` of them through the whole sequence and meets the others only
at the end; the weight gradients are one product over all steps and lanes after that.
"""

from rngru.kernels.compiling import kernel
from rngru.kernels.elementwise import VECTOR, gate, gate_slope, tanh
from rngru.kernels.spec import GRU, GRU_AFTER, LSTM, RNN
from rngru.kernels.tiles import PANEL, multiply


@kernel(**VECTOR)
def advance(cell, phase, hard, gates, before, memory, side, state):
    """The elementwise part of one step of one lane, forward.

    ``before`` is the previous state's output, ``memory`` its memory (LSTM). Phase 0 follows the
    first product of the step; only GRU has a second product, and phase 1 after it.
    """
    n = state.size
    if cell == RNN:
        for j in range(n):
            gates[j] = tanh(gates[j])
            state[j] = gates[j]
        return
    if cell == LSTM:
        width = gates.size // 4
        i, f, o = gates[:n], gates[width : width + n], gates[2 * width : 2 * width + n]
        c = gates[3 * width : 3 * width + n]
        for j in range(3 * width):
            gates[j] = gate(gates[j], hard)
        for j in range(n):
            c[j] = tanh(c[j])
            side[j] = f[j] * memory[j] + i[j] * c[j]
            state[j] = o[j] * tanh(side[j])
        return
    width = gates.size // 3
    z, r, c = gates[:n], gates[width : width + n], gates[2 * width : 2 * width + n]
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


@kernel(**VECTOR)
def retreat(cell, phase, hard, gates, before, memory, side, above, carry, kept):
    """The elementwise part of one step of one lane, backward: the reverse of :func:`advance`.

    ``above`` is the gradient from the layer above, ``carry`` that from the step after; ``kept``
    carries the LSTM's memory gradient, and between GRU's two phases the gradient of r ∘ s.
    Gradients of the pre-activations replace the activations in ``gates``.
    """
    n = before.size
    one = gates.dtype.type(1)
    if cell == RNN:
        for j in range(n):
            gates[j] = (above[j] + carry[j]) * (one - gates[j] * gates[j])
            carry[j] = 0
        return
    if cell == LSTM:
        width = gates.size // 4
        i, f, o = gates[:n], gates[width : width + n], gates[2 * width : 2 * width + n]
        c = gates[3 * width : 3 * width + n]
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
    width = gates.size // 3
    z, r, c = gates[:n], gates[width : width + n], gates[2 * width : 2 * width + n]
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


@kernel(keep=False)
def _clear(target):
    for j in range(target.size):
        target[j] = 0


@kernel()
def lookup(ids, table, gates, first, last):
    """Fill ``gates`` with rows of ``table`` (V, G P) for ``ids`` (T, B): the first layer's input."""
    for t in range(gates.shape[0]):
        for b in range(first, last):
            copyrow(table[ids[t, b]], gates[t, b])


@kernel()
def project(inputs, panels, bias, gates, first, last):
    """Fill ``gates`` with ``inputs`` (T, B, I) times the packed U (I, G P), plus ``bias`` (G P,)."""
    steps, lanes, width = gates.shape
    size = inputs.shape[2]
    flat_in, flat = inputs.reshape(-1), gates.reshape(-1)
    for t in range(steps):
        for b in range(first, last):
            copyrow(bias, gates[t, b])
        at = t * lanes + first
        multiply(
            flat_in, at * size, size, 1, last - first, size,
            panels, 0, width // PANEL, flat, at * width, width,
        )  # fmt: skip


@kernel()
def unroll(cell, hard, gates, start, states, side, main, extra, bias, first, last):
    """Run the cell forward over all steps of lanes ``first`` … ``last - 1``.

    ``bias`` (P,) is the candidate's second bias, of ``GRU_AFTER`` alone.
    """
    steps, lanes, width = gates.shape
    size = states.shape[2]
    pad = (size + PANEL - 1) // PANEL * PANEL
    products = main.size // (size * PANEL)
    origin, flat_gates = start.reshape(-1), gates.reshape(-1)
    flat_states, flat_side = states.reshape(-1), side.reshape(-1)
    rows = last - first
    for t in range(steps):
        at = t * lanes + first
        if t == 0:
            source, here, stride = origin, first * start.shape[1], start.shape[1]
        else:
            source, here, stride = flat_states, (at - lanes) * size, size
        multiply(
            source, here, stride, 1, rows, size, main, 0, products, flat_gates, at * width, width
        )
        if cell == GRU_AFTER:
            for b in range(first, last):
                copyrow(bias, side[t, b])
            multiply(
                source,
                here,
                stride,
                1,
                rows,
                size,
                extra,
                0,
                pad // PANEL,
                flat_side,
                at * pad,
                pad,
            )
        for phase in range(2 if cell == GRU else 1):
            if phase == 1:
                multiply(
                    flat_side, at * pad, pad, 1, rows, size,
                    extra, 0, pad // PANEL, flat_gates, at * width + 2 * pad, width,
                )  # fmt: skip
            for b in range(first, last):
                before = start[b, :size] if t == 0 else states[t - 1, b]
                memory = start[b, size:] if t == 0 else side[t - 1, b, :size]
                advance(cell, phase, hard, gates[t, b], before, memory, side[t, b], states[t, b])


@kernel()
def unroll_back(
    cell,
    hard,
    gates,
    start,
    states,
    side,
    above,
    ending,
    main,
    extra,
    truncate,
    dstart,
    carry,
    kept,
    first,
    last,
):
    """Backpropagate through all steps of lanes ``first`` … ``last - 1``, after :func:`unroll`.

    ``above`` (T, B, S) is the gradient of ``states``, ``ending`` (B, H) that of the last state, and
    ``dstart`` (B, H) receives that of the first. ``main`` and ``extra`` are the packed transposes.
    Only the last ``truncate`` steps get a gradient. ``carry`` and ``kept`` (B, P) are zero.
    """
    steps, lanes, width = gates.shape
    size = states.shape[2]
    pad = (size + PANEL - 1) // PANEL * PANEL
    inner = main.size // pad
    flat, flat_side = gates.reshape(-1), side.reshape(-1)
    rows = last - first
    flat_carry, flat_kept = carry.reshape(-1), kept.reshape(-1)
    for b in range(first, last):
        copyrow(ending[b, :size], carry[b])
        if cell == LSTM:
            copyrow(ending[b, size:], kept[b])
    for t in range(steps - 1, -1, -1):
        if t < steps - truncate:
            for b in range(first, last):
                _clear(gates[t, b])
                _clear(side[t, b])
                _clear(carry[b])
                _clear(kept[b])
            continue
        at = t * lanes + first
        for phase in range(2 if cell == GRU else 1):
            for b in range(first, last):
                before = start[b, :size] if t == 0 else states[t - 1, b]
                memory = start[b, size:] if t == 0 else side[t - 1, b, :size]
                retreat(
                    cell, phase, hard, gates[t, b], before, memory,
                    side[t, b], above[t, b], carry[b], kept[b],
                )  # fmt: skip
            if cell == GRU and phase == 0:
                multiply(
                    flat, at * width + 2 * pad, width, 1, rows, size,
                    extra, 0, pad // PANEL, flat_kept, first * pad, pad,
                )  # fmt: skip
        multiply(
            flat,
            at * width,
            width,
            1,
            rows,
            inner,
            main,
            0,
            pad // PANEL,
            flat_carry,
            first * pad,
            pad,
        )
        if cell == GRU_AFTER:
            multiply(
                flat_side,
                at * pad,
                pad,
                1,
                rows,
                size,
                extra,
                0,
                pad // PANEL,
                flat_carry,
                first * pad,
                pad,
            )
    for b in range(first, last):
        copyrow(carry[b, :size], dstart[b])
        if cell == LSTM:
            copyrow(kept[b, :size], dstart[b, size:])


@kernel()
def project_back(gates, panels, dinputs, first, last):
    """Fill ``dinputs`` (T, B, padded(I)) with the gradients in ``gates`` times the packed U-transposed."""
    steps, lanes, width = gates.shape
    out = dinputs.shape[2]
    flat, flat_out = gates.reshape(-1), dinputs.reshape(-1)
    for t in range(steps):
        for b in range(first, last):
            _clear(dinputs[t, b])
        at = t * lanes + first
        multiply(
            flat, at * width, width, 1, last - first, width,
            panels, 0, out // PANEL, flat_out, at * out, out,
        )  # fmt: skip


@kernel()
def lookup_back(ids, gates, dtable, first, last):
    """Add the rows of ``gates`` to the rows of ``dtable`` (V, G P) they came from.

    Works on panels ``first`` … ``last - 1``, so that threads never add to the same number.
    """
    left, right = first * PANEL, last * PANEL
    for t in range(gates.shape[0]):
        for b in range(gates.shape[1]):
            row, source = dtable[ids[t, b], left:right], gates[t, b, left:right]
            for j in range(right - left):
                row[j] += source[j]


@kernel()
def column_sums(matrix, sums, first, last):
    """Add the rows of ``matrix`` (rows, N) to ``sums`` (N,), for panels ``first`` … ``last - 1``."""
    left, right = first * PANEL, last * PANEL
    total = sums[left:right]
    for i in range(matrix.shape[0]):
        row = matrix[i, left:right]
        for j in range(right - left):
            total[j] += row[j]
