"""One recurrent layer on all threads: what the ``Op`` of :mod:`rngru.backends.ops` and the sampler call.

:func:`forward` and :func:`backward` cut the work over threads: by lanes while time runs, by columns
of the weight gradients after it. Neither cut can change a bit of the result. Weights are packed once
per call. The caller may pass large results back with the next batch, to be overwritten.

Shapes: T time steps, B lanes, I inputs, S units, G gates, H state (2 S for LSTM, else S), P = padded(S).
"""

from collections.abc import Callable

import numpy as np

from rngru.kernels import threads
from rngru.kernels.memory import reused
from rngru.kernels.sequence import (
    column_sums,
    lookup,
    lookup_back,
    project,
    project_back,
    unroll,
    unroll_back,
)
from rngru.kernels.spec import GRU, GRU_AFTER, LSTM, RNN
from rngru.kernels.tiles import PANEL, multiply_transposed, pack, padded, provide, room, unpack


def widened(array: np.ndarray, gates: int) -> np.ndarray:
    """Return ``array`` (…, G S) with each gate's S columns padded to whole panels, (…, G P).

    >>> widened(np.ones((2, 6), np.float32), gates=3).shape
    (2, 96)
    """
    size = array.shape[-1] // gates
    if size == padded(size):
        return np.ascontiguousarray(array)
    wide = np.zeros((*array.shape[:-1], gates, padded(size)), array.dtype)
    wide[..., :size] = array.reshape(*array.shape[:-1], gates, size)
    return wide.reshape(*array.shape[:-1], -1)


def narrowed(array: np.ndarray, gates: int, size: int) -> np.ndarray:
    """Undo :func:`widened`: (…, G P) to (…, G S)."""
    if array.shape[-1] == gates * size:
        return array
    parts = array.reshape(*array.shape[:-1], gates, -1)[..., :size]
    return np.ascontiguousarray(parts).reshape(*array.shape[:-1], gates * size)


def packed(
    matrix: np.ndarray,
    count: int,
    *,
    left: int = 0,
    right: int | None = None,
    transpose: bool = False,
) -> np.ndarray:
    """Return columns ``left:right`` of a contiguous matrix, or their transpose, in panels."""
    inner, row = matrix.shape
    columns = (row if right is None else right) - left
    column = 1
    if transpose:
        inner, columns, row, column = columns, inner, column, row
    flat = matrix.reshape(-1)[left:]
    panels = np.empty(inner * padded(columns), matrix.dtype)
    threads.run(
        lambda first, last: pack(flat, row, column, inner, columns, panels, first, last),
        padded(columns) // PANEL,
        threads.worth(panels.size, count),
    )
    return panels


def forward(spec, inputs, weights, start, recurrent, second_bias, *, old=(None, None, None), count):
    """Run a layer over a sequence.

    Parameters
    ----------
    spec: the :class:`~rngru.kernels.spec.LayerSpec`.
    inputs: (T, B, I) floats, or (T, B) int32 characters.
    weights: for floats ``(U, b)``, (I, G S) and (G S,); for characters ``(table,)``, (V, G S), one row each.
    start: (B, H), the state before the first step.
    recurrent: W, (S, G S).
    second_bias: (S,) for GRU_AFTER, or None.
    old: the last three results of an earlier call, to be overwritten.
    count: how many threads.

    Returns
    -------
    (states (T, B, S), ending (B, H), gates (T, B, G P), side (T, B, P or 0)).
    """
    provide(recurrent.dtype)
    steps, lanes = inputs.shape[:2]
    size = recurrent.shape[0]
    width, dtype, code = padded(size), recurrent.dtype, spec.code
    states = reused(old[0], (steps, lanes, size), dtype)
    gates = reused(old[1], (steps, lanes, spec.gates * width), dtype)
    side = reused(old[2], (steps, lanes, 0 if code == RNN else width), dtype)
    wide = widened(recurrent, spec.gates)
    main = packed(wide, count, right=spec.main(width))
    extra = packed(wide, count, left=spec.main(width))
    bias = np.zeros(width, dtype)
    if second_bias is not None:
        bias[:size] = second_bias
    if inputs.ndim == 2:
        table = widened(weights[0], spec.gates)
    else:
        panels = packed(widened(weights[0], spec.gates), count)
        input_bias = widened(weights[1], spec.gates)

    def share(first: int, last: int) -> None:
        if inputs.ndim == 2:
            lookup(inputs, table, gates, first, last)
        else:
            project(inputs, panels, input_bias, gates, first, last)
        unroll(code, spec.hard, gates, start, states, side, main, extra, bias, first, last)

    threads.run(share, lanes, count)
    ending = (
        states[-1] if code != LSTM else np.concatenate([states[-1], side[-1, :, :size]], axis=1)
    )
    return states, ending.copy(), gates, side


class Sums:
    """Several sums over all steps and lanes, run as one job.

    The panels of all results are dealt out to the threads at equal cost.
    """

    def __init__(self) -> None:
        self.work: list[tuple[int, int, Callable[[int, int], object]]] = []

    def add(self, columns: int, cost: int, call: Callable[[int, int], object]) -> None:
        """Plan ``call(first, last)`` over the panels of ``columns`` columns.

        ``cost`` is the cost of one panel: rows read times rows of the result.
        """
        self.work.append((columns // PANEL, cost, call))

    def product(self, pairs, from_column: int, result, to_column: int, columns: int) -> None:
        """Plan filling columns of ``result`` with the sum of ``left.T @ right`` of all pairs."""
        rows, flat = len(result), result.reshape(-1)

        def call(first: int, last: int) -> None:
            sums = np.zeros((last - first) * rows * PANEL, result.dtype)
            scratch = np.empty(room(rows), result.dtype)
            for left, right in pairs:
                multiply_transposed(
                    left.reshape(-1), left.shape[1], rows, left.shape[0],
                    right.reshape(-1), from_column + first * PANEL, right.shape[1], last - first,
                    sums, scratch,
                )  # fmt: skip
            at = to_column + first * PANEL
            unpack(sums, rows, last - first, flat, at, result.shape[1])

        self.add(columns, len(result) * sum(len(left) for left, _ in pairs), call)

    def rows(self, matrix, result) -> None:
        """Plan adding the rows of ``matrix`` to ``result``."""
        self.add(
            matrix.shape[1],
            len(matrix),
            lambda first, last: column_sums(matrix, result, first, last),
        )

    def run(self, count: int) -> None:
        """Run all of it on ``count`` threads; their shares differ by the cost of one panel at most."""
        total = sum(panels * cost for panels, cost, _ in self.work)

        def share(first: int, last: int) -> None:
            done = 0
            for panels, cost, call in self.work:
                low, high = (
                    min(max(round((edge - done) / cost), 0), panels) for edge in (first, last)
                )
                if low < high:
                    call(low, high)
                done += panels * cost

        threads.run(share, total, count)


def backward(
    spec,
    inputs,
    weights,
    start,
    recurrent,
    states,
    gates,
    side,
    above,
    ending,
    *,
    old=None,
    count,
):
    """Return the gradients of a layer after :func:`forward`; ``gates`` and ``side`` are overwritten.

    ``above`` (T, B, S) and ``ending`` (B, H) are the gradients of the two results. ``old`` is the
    dinputs of an earlier call, to be overwritten. The other arguments are those of :func:`forward`.

    Returns
    -------
    (dinputs (T, B, I), or None for characters; dweights, a tuple shaped like U and b, or the table;
    dstart (B, H); drecurrent (S, G S); dsecond_bias (S,) or None).
    """
    steps, lanes, size = states.shape
    width, dtype, code = padded(size), recurrent.dtype, spec.code
    columns, split = spec.gates * width, spec.main(width)
    wide = widened(recurrent, spec.gates)
    main = packed(wide, count, right=split, transpose=True)
    extra = packed(wide, count, left=split, right=split + size, transpose=True)
    truncate = steps if spec.truncate < 0 else spec.truncate
    dstart, carry, kept = np.empty_like(start), *np.zeros((2, lanes, width), dtype)
    dinputs = panels = None
    if inputs.ndim == 3:
        panels = packed(widened(weights[0], spec.gates), count, transpose=True)
        dinputs = reused(old, (steps, lanes, padded(inputs.shape[2])), dtype)

    def share(first: int, last: int) -> None:
        unroll_back(
            code, spec.hard, gates, start, states, side, above, ending,
            main, extra, truncate, dstart, carry, kept, first, last,
        )  # fmt: skip
        if dinputs is not None:
            project_back(gates, panels, dinputs, first, last)

    threads.run(share, lanes, count)

    deltas = gates.reshape(-1, columns)
    beside = side.reshape(len(deltas), side.shape[2])
    earlier = states[:-1].reshape(-1, size)  # the states before steps 1 … T - 1
    drecurrent = np.empty((size, columns), dtype)
    dbias = np.zeros(columns, dtype)
    dsecond = np.zeros(width, dtype) if code == GRU_AFTER else None
    sums = Sums()
    before_step = [(start[:, :size].copy(), deltas[:lanes]), (earlier, deltas[lanes:])]
    sums.product(before_step, 0, drecurrent, 0, split)
    if code == GRU:
        sums.product([(beside, deltas)], split, drecurrent, split, width)
    elif code == GRU_AFTER:
        before_step = [(start, beside[:lanes]), (earlier, beside[lanes:])]
        sums.product(before_step, 0, drecurrent, split, width)
        sums.rows(beside, dsecond)
    if inputs.ndim == 3:
        dweight = np.empty((inputs.shape[2], columns), dtype)
        sums.product([(inputs.reshape(-1, inputs.shape[2]), deltas)], 0, dweight, 0, columns)
        sums.rows(deltas, dbias)
    else:
        dweight = np.zeros((len(weights[0]), columns), dtype)
        sums.add(
            columns,
            steps * lanes,
            lambda first, last: lookup_back(inputs, gates, dweight, first, last),
        )
    sums.run(count)

    def narrow(array):
        return narrowed(array, spec.gates, size)

    if dinputs is not None:
        dinputs = narrowed(dinputs, 1, inputs.shape[2])
    return (
        dinputs,
        (narrow(dweight),) if inputs.ndim == 2 else (narrow(dweight), narrow(dbias)),
        dstart,
        narrow(drecurrent),
        None if dsecond is None else dsecond[:size],
    )
