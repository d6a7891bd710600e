"""A stack of recurrent layers on all threads: what the ``Op`` of :mod:`rngru.backends.ops` calls.

:func:`forward` and :func:`backward` cut the work over threads: by lanes while time runs, through all
layers at once, for no lane needs another; by columns of the weight gradients after it. Neither cut can
change a bit of the result. Weights are packed once per call. The caller may pass large results back
with the next batch, to be overwritten.

Shapes: L layers, T time steps, B lanes, I inputs, S units, G gates, H state (2 S for LSTM, else S),
P = padded(S).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from rngru.kernels import threads
from rngru.kernels.memory import reused
from rngru.kernels.panels import multiply_transposed, pack, room, unpack
from rngru.kernels.sequence import (
    column_sums,
    lookup,
    lookup_back,
    project,
    project_back,
    unroll,
    unroll_back,
)
from rngru.kernels.spec import GRU, GRU_AFTER, LSTM, LayerSpec, Weights
from rngru.kernels.tiles import PANEL, padded, provide


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


class Jobs:
    """Several pieces of work over panels, run as one: dealt out to the threads at equal cost."""

    def __init__(self) -> None:
        self.work: list[tuple[int, int, Callable[[int, int], object]]] = []

    def add(self, columns: int, cost: int, call: Callable[[int, int], object]) -> None:
        """Plan ``call(first, last)`` over the panels of ``columns`` columns, each of that cost."""
        self.work.append((columns // PANEL, cost, call))

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


class Packing(Jobs):
    """Several matrices to pack into panels."""

    def add_matrix(
        self,
        matrix: np.ndarray,
        *,
        left: int = 0,
        right: int | None = None,
        transpose: bool = False,
    ) -> np.ndarray:
        """Plan packing columns ``left:right`` of a contiguous matrix, or their transpose.

        Returns the panels, to be filled.
        """
        inner, row = matrix.shape
        columns = (row if right is None else right) - left
        column = 1
        if transpose:
            inner, columns, row, column = columns, inner, column, row
        flat = matrix.reshape(-1)[left:]
        panels = np.empty(inner * padded(columns), matrix.dtype)
        self.add(
            padded(columns),
            max(inner, 1),
            lambda first, last: pack(flat, row, column, inner, columns, panels, first, last),
        )
        return panels

    def run(self, count: int) -> None:
        """Pack them all."""
        super().run(threads.worth(PANEL * sum(n * cost for n, cost, _ in self.work), count))


def packed(matrix: np.ndarray, count: int, **which: Any) -> np.ndarray:
    """Return one matrix in panels; ``which`` as in :meth:`Packing.add_matrix`."""
    packing = Packing()
    panels = packing.add_matrix(matrix, **which)
    packing.run(count)
    return panels


class Sums(Jobs):
    """Sums over all steps and lanes: the gradients of weights."""

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

        self.add(columns, rows * sum(len(left) for left, _ in pairs), call)

    def rows(self, matrix, result) -> None:
        """Plan adding the rows of ``matrix`` to ``result``."""
        self.add(
            matrix.shape[1],
            len(matrix),
            lambda first, last: column_sums(matrix, result, first, last),
        )


class Pass(NamedTuple):
    """What a layer leaves behind when it has run over a sequence.

    ``states`` is (T, B, S) and ``ending`` (B, H). ``output`` (T, B, S) is what it hands on: the states, or
    what dropout left of them. ``gates`` (T, B, G P) and ``side`` (T, B, P or 0) are for the gradient.
    """

    output: Any
    ending: Any
    states: Any
    gates: Any
    side: Any


def forward(
    spec: LayerSpec,
    inputs: np.ndarray,
    weights: Sequence[Weights],
    start: np.ndarray,
    masks: np.ndarray | None = None,
    *,
    old: Sequence[Pass] | None = None,
    count: int,
) -> list[Pass]:
    """Run a stack of layers over a sequence.

    Parameters
    ----------
    spec: what each layer is made of.
    inputs: of the first layer, (T, B, I) floats, or (T, B) int32 characters.
    weights: of each layer.
    start: (L, B, H), the state before the first step.
    masks: (L, T or 1, B, S), what each layer's output is multiplied by, for dropout; or None.
    old: the results of an earlier call, to be overwritten, but not its endings.
    count: how many threads.
    """
    dtype = start.dtype
    provide(dtype)
    steps, lanes = inputs.shape[:2]
    packing, done = Packing(), []
    calls: list[Callable[[int, int], object]] = []
    for i, layer in enumerate(weights):
        size = spec.size(start.shape[2])
        width = padded(size)
        before = None if old is None else old[i]
        states = reused(before and before.states, (steps, lanes, size), dtype)
        gates = reused(before and before.gates, (steps, lanes, spec.gates * width), dtype)
        side = reused(before and before.side, (steps, lanes, width if spec.row.side else 0), dtype)
        calls.append(_entering(spec, inputs, layer.into, gates, packing))
        main, extra = _recurring(spec, layer, width, packing)
        bias = np.zeros(width, dtype)
        if layer.second is not None:
            bias[:size] = layer.second
        calls.append(
            partial(unroll, spec.code, spec.hard, gates, start[i], states, side, main, extra, bias)
        )
        output = states
        if masks is not None:
            # Of a call without masks, the output is the states: not to be multiplied in place.
            given = None if before is None or before.output is before.states else before.output
            output = reused(given, states.shape, dtype)
            calls.append(partial(_mask, states, masks[i], output))
        inputs = output
        done.append(Pass(output, None, states, gates, side))
    packing.run(count)
    _through(calls, lanes, count)
    return [each._replace(ending=_ending(spec, each)) for each in done]


def _recurring(
    spec, layer: Weights, width: int, packing: Packing, transpose: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Plan packing the recurrent weights, those of the first product of a step and those of the second."""
    if layer.recurrent is None:
        none = np.empty(0, layer.into[0].dtype)
        return none, none
    wide, split = widened(layer.recurrent, spec.gates), spec.main(width)
    last = split + (len(wide) if split < wide.shape[1] else 0)
    main = packing.add_matrix(wide, right=split, transpose=transpose)
    return main, packing.add_matrix(wide, left=split, right=last, transpose=transpose)


def _entering(spec, inputs, into, gates, packing: Packing) -> Callable[[int, int], object]:
    """Return what fills the gates of lanes ``first`` … ``last - 1`` from the input of a layer."""
    if inputs.ndim == 2:
        return partial(lookup, inputs, widened(into[0], spec.gates), gates)
    panels = packing.add_matrix(widened(into[0], spec.gates))
    return partial(project, inputs, panels, widened(into[1], spec.gates), gates)


def _through(calls: Sequence[Callable[[int, int], object]], lanes: int, count: int) -> None:
    """Run every call on all lanes, one after another for each of them."""

    def share(first: int, last: int) -> None:
        for call in calls:
            call(first, last)

    threads.run(share, lanes, count)


def _mask(array, mask, result, first: int, last: int) -> None:
    np.multiply(array[:, first:last], mask[:, first:last], out=result[:, first:last])


def _ending(spec: LayerSpec, done: Pass) -> np.ndarray:
    if spec.code != LSTM:
        return done.states[-1].copy()
    size = done.states.shape[2]
    return np.concatenate([done.states[-1], done.side[-1, :, :size]], axis=1)


class Gradients(NamedTuple):
    """The gradients of a stack of layers.

    ``inputs`` is (T, B, I), or None for characters; ``start`` (L, B, H); ``weights`` those of each layer.
    ``between`` holds memory for the next call: the gradient of what each layer was given.
    """

    inputs: Any
    start: Any
    weights: list[Weights]
    between: list[Any]


def backward(
    spec: LayerSpec,
    inputs: np.ndarray,
    weights: Sequence[Weights],
    start: np.ndarray,
    passes: Sequence[Pass],
    above: Sequence[np.ndarray | None],
    endings: Sequence[np.ndarray | None],
    masks: np.ndarray | None = None,
    *,
    old: Sequence[np.ndarray | None] | None = None,
    count: int,
) -> Gradients:
    """Return the gradients after :func:`forward`; ``gates`` and ``side`` of its passes are overwritten.

    ``above`` and ``endings`` are the gradients of each layer's output (T, B, S) and ending (B, H), or
    None for zeros. ``old`` is ``between`` of an earlier call, to be overwritten. The other arguments
    are those of :func:`forward`.
    """
    dtype = start.dtype
    provide(dtype)
    steps, lanes = inputs.shape[:2]
    packing, sums, dstart = Packing(), Sums(), np.empty_like(start)
    calls: list[Callable[[int, int], object]] = []
    results: list[Callable[[], Weights]] = []
    between: list[Any] = [None] * len(weights)
    given = None  # the gradient of this layer's output that comes from the layer above it
    for i in reversed(range(len(weights))):
        layer, done = weights[i], passes[i]
        size = done.states.shape[2]
        width = padded(size)
        given = _joined(given, above[i], done.states, None if masks is None else masks[i], calls)
        ending = endings[i] if endings[i] is not None else np.zeros_like(start[i])
        main, extra = _recurring(spec, layer, width, packing, transpose=True)
        carry, kept = np.zeros((2, lanes, width), dtype)
        truncate = steps if spec.truncate < 0 else spec.truncate
        calls.append(
            partial(
                unroll_back, spec.code, spec.hard, done.gates, start[i], done.states, done.side,
                given, ending, main, extra, truncate, dstart[i], carry, kept,
            )
        )  # fmt: skip
        read = inputs if i == 0 else passes[i - 1].output
        if read.ndim == 3:
            panels = packing.add_matrix(widened(layer.into[0], spec.gates), transpose=True)
            given = reused(
                None if old is None else old[i], (steps, lanes, padded(read.shape[2])), dtype
            )
            between[i] = given
            calls.append(partial(project_back, done.gates, panels, given))
        results.insert(0, _summed(spec, read, layer, start[i], done, sums))
    packing.run(count)
    _through(calls, lanes, count)
    sums.run(count)
    dinputs = None if inputs.ndim == 2 else narrowed(between[0], 1, inputs.shape[2])
    return Gradients(dinputs, dstart, [result() for result in results], between)


def _joined(given, above, states, mask, calls) -> np.ndarray:
    """Return the gradient of a layer's states, from those of its output; plan what makes it."""
    steps, lanes, size = states.shape
    if given is None and above is None:
        return np.zeros_like(states)
    if given is not None and above is not None:
        calls.append(partial(_add, above, given[:, :, :size]))
    result = above if given is None else given
    if mask is not None:
        part = result[:, :, :size]
        if given is None:  # the caller's
            result = part = np.empty_like(states)
        calls.append(partial(_mask, above if given is None else part, mask, part))
    return result


def _add(array, result, first: int, last: int) -> None:
    result[:, first:last] += array[:, first:last]


def _summed(spec, read, layer: Weights, start, done: Pass, sums: Sums) -> Callable[[], Weights]:
    """Plan the gradients of a layer's weights; return what gives them when they have been computed."""
    steps, lanes, size = done.states.shape
    width, dtype = padded(size), done.states.dtype
    columns = spec.gates * width
    deltas = done.gates.reshape(-1, columns)
    drecurrent, dsecond = _recurred(spec, start, done, deltas, sums)
    dbias = np.zeros(columns, dtype)
    if read.ndim == 3:
        dinto = np.empty((read.shape[2], columns), dtype)
        sums.product([(read.reshape(-1, read.shape[2]), deltas)], 0, dinto, 0, columns)
        sums.rows(deltas, dbias)
    else:
        dinto = np.zeros((len(layer.into[0]), columns), dtype)
        sums.add(columns, steps * lanes, partial(lookup_back, read, done.gates, dinto))

    def result() -> Weights:
        into = (dinto,) if read.ndim == 2 else (dinto, dbias)
        return Weights(
            tuple(narrowed(each, spec.gates, size) for each in into),
            None if drecurrent is None else narrowed(drecurrent, spec.gates, size),
            None if dsecond is None else dsecond[:size],
        )

    return result


def _recurred(spec, start, done: Pass, deltas, sums: Sums) -> tuple[Any, Any]:
    """Plan the gradients of W and of the second bias; None for what the cell does not have."""
    if not spec.row.recurrent:
        return None, None
    _, lanes, size = done.states.shape
    width, dtype = padded(size), done.states.dtype
    split = spec.main(width)
    beside = done.side.reshape(len(deltas), done.side.shape[2])
    earlier = done.states[:-1].reshape(-1, size)  # the states before steps 1 … T - 1
    first = start[:, :size].copy()
    drecurrent = np.empty((size, deltas.shape[1]), dtype)
    dsecond = np.zeros(width, dtype) if spec.code == GRU_AFTER else None
    sums.product([(first, deltas[:lanes]), (earlier, deltas[lanes:])], 0, drecurrent, 0, split)
    if spec.code == GRU:
        sums.product([(beside, deltas)], split, drecurrent, split, width)
    elif spec.code == GRU_AFTER:
        pairs = [(first, beside[:lanes]), (earlier, beside[lanes:])]
        sums.product(pairs, 0, drecurrent, split, width)
        sums.rows(beside, dsecond)
    return drecurrent, dsecond
