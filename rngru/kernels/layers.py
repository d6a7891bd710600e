"""A stack of recurrent layers on all threads: what the ``Op`` of :mod:`rngru.backends.ops` calls.

:func:`forward` and :func:`backward` cut the work over threads: by lanes while time runs, for no lane needs
another; the product of a layer's input before that, by steps and lanes; the weight gradients after it, by
columns or rows. Where there are fewer lanes than layers and threads, each thread has layers of its own
instead, some steps behind the thread with the layer before. No cut can change a bit of the result. Weights
are packed once per call. The caller may pass large results back with the next batch, to be overwritten.

Shapes: L layers, T time steps, B lanes, I inputs, S units, G gates, H state (2 S for LSTM, else S),
P = padded(S).
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from rngru.kernels import calls, threads
from rngru.kernels.memory import reused
from rngru.kernels.panels import WIDE, pack, products, ribbons, room
from rngru.kernels.phases import Phase, deal, side_by_side
from rngru.kernels.sequence import (
    add,
    column_sums,
    lookup,
    lookup_back,
    project,
    times,
    unroll,
    unroll_back,
)
from rngru.kernels.spec import GRU, GRU_AFTER, LSTM, LayerSpec, Weights
from rngru.kernels.tiles import PANEL, padded, provide


class Part(NamedTuple):
    """A part of the work of a layer: a call on ``range(units)``."""

    call: calls.Call
    units: int


Plan = Callable[[slice], Part]
"""Returns a part of the work of a layer on some steps."""


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
    """Several calls, most of them over panels, dealt out to the threads at equal cost.

    Parameters
    ----------
    count: how many threads.
    """

    def __init__(self, count: int) -> None:
        self.count, self.work = count, list[tuple[calls.Call, int, int]]()

    def add(self, call: calls.Call, units: int, cost: int) -> None:
        """Plan a call over so many panels or other units, each of that cost."""
        self.work.append((call, units, max(cost, 1)))

    def phase(self) -> Phase:
        """Return all of it."""
        return deal(self.work, self.count)


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
        if columns:
            call = pack.bind(flat, row, column, inner, columns, panels)
            self.add(call, padded(columns) // PANEL, inner)
        return panels

    def phase(self) -> Phase:
        """Return all of it."""
        numbers = PANEL * sum(panels * cost for _, panels, cost in self.work)
        return deal(self.work, threads.worth(numbers, self.count))


def packed(matrix: np.ndarray, count: int, **which: Any) -> np.ndarray:
    """Return one matrix in panels; ``which`` as in :meth:`Packing.add_matrix`."""
    packing = Packing(count)
    panels = packing.add_matrix(matrix, **which)
    threads.do(packing.phase())
    return panels


ADDITION = 10
"""Multiply-adds of a product that take as long as one addition to a number in memory."""


class Sums(Jobs):
    """Sums over all steps and lanes: the gradients of weights. Its phase can be done once."""

    def product(self, pairs, from_column: int, result, to_column: int, columns: int) -> None:
        """Plan filling columns of ``result`` with the sum of ``left.T @ right`` of one or two pairs.

        It is cut by panels, or by rows of the result where there are more of these.
        """
        pairs = [[np.ascontiguousarray(each) for each in pair] for pair in pairs]
        (left, right), *more = pairs
        [(more_left, more_right)] = more or [(left[:0], right[:0])]
        rows, panels = len(result), columns // PANEL
        by_rows = ribbons(rows) > panels
        call = products.bind(
            left, right, more_left, more_right, from_column, result, to_column, panels if by_rows else 0,
            np.empty((self.count, room(rows)), result.dtype), np.zeros(1, np.int64),
        )  # fmt: skip
        units, other = (ribbons(rows), panels * WIDE) if by_rows else (panels, rows)
        self.add(call, units, other * (len(left) + len(more_left)))

    def rows(self, matrix, result) -> None:
        """Plan adding the rows of ``matrix`` to ``result``."""
        self.add(column_sums.bind(matrix, result), matrix.shape[1] // PANEL, ADDITION * len(matrix))


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
    packing, done, stages = Packing(count), [], []
    for i, layer in enumerate(weights):
        size = spec.size(start.shape[2])
        width = padded(size)
        before = None if old is None else old[i]
        states = reused(before and before.states, (steps, lanes, size), dtype)
        gates = reused(before and before.gates, (steps, lanes, spec.gates * width), dtype)
        side = reused(before and before.side, (steps, lanes, width if spec.row.side else 0), dtype)
        stage = [
            _entering(spec, inputs, layer.into, gates, packing),
            _running(spec, layer, start[i], states, gates, side, packing),
        ]
        output = states
        if masks is not None:
            # Of a call without masks, the output is the states: not to be multiplied in place.
            given = None if before is None or before.output is before.states else before.output
            output = reused(given, states.shape, dtype)
            stage.append(partial(_masking, states, masks[i], output))
        inputs = output
        done.append(Pass(output, None, states, gates, side))
        stages.append(stage)
    _through(packing, stages, weights, (steps, lanes))
    return [
        each._replace(ending=_before(spec, first, each.states, each.side, steps).copy())
        for each, first in zip(done, start, strict=True)
    ]


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


def _entering(spec, inputs, into, gates, packing: Packing) -> Plan:
    """Return what fills the gates from the input of a layer."""
    if inputs.ndim == 2:
        table = widened(into[0], spec.gates)
        return lambda at: Part(lookup.bind(inputs[at], table, gates[at]), inputs.shape[1])
    panels, bias = packing.add_matrix(widened(into[0], spec.gates)), widened(into[1], spec.gates)
    return partial(_projecting, inputs, panels, bias, gates)


def _projecting(inputs, panels, bias, results, at: slice) -> Part:
    """Return a product for all rows, of each step of each lane: many at once are faster."""
    rows, filled = (each[at].reshape(-1, each.shape[2]) for each in (inputs, results))
    return Part(project.bind(rows, panels, bias, filled), len(rows))


def _running(spec, layer: Weights, start, states, gates, side, packing: Packing) -> Plan:
    """Return what runs a layer whose gates are filled."""
    size = states.shape[2]
    width = padded(size)
    main, extra = _recurring(spec, layer, width, packing)
    bias = np.zeros(width, states.dtype)
    if layer.second is not None:
        bias[:size] = layer.second

    def plan(at: slice) -> Part:
        before = _before(spec, start, states, side, at.start)
        call = unroll.bind(
            spec.code, spec.hard, gates[at], before, states[at], side[at], main, extra, bias
        )
        return Part(call, len(start))

    return plan


WINDOW = 8
"""Steps after which one thread hands its layer's output on to another."""


def _through(
    packing: Packing,
    stages: Sequence[Sequence[Plan]],
    weights: Sequence[Weights],
    shape: tuple[int, int],
    sums: Sums | None = None,
) -> None:
    """Run what all stages plan, of one layer each, on all steps of all lanes: ``shape``.

    A stage needs the results of the one before it, of the same steps; and its own, of the steps before
    (those after, if there are ``sums`` to follow). Each thread has some of the lanes; or some of the stages,
    if there are more of these, and enough to do.
    """
    steps, lanes = shape
    count, after = packing.count, [] if sums is None else [sums.phase()]
    numbers = min(sum(each.size for each in layer.all()) for layer in weights)
    if steps <= WINDOW or min(len(stages), threads.worth(numbers, count)) <= lanes:
        parts = [plan(slice(0, steps)) for plan in itertools.chain(*stages)]
        phases = [
            side_by_side([part.call for part in some], units, count)
            for units, some in itertools.groupby(parts, key=lambda part: part.units)
        ]
        threads.do(packing.phase(), *phases, *after)
        return
    threads.do(packing.phase())
    windows = [slice(at, min(at + WINDOW, steps)) for at in range(0, steps, WINDOW)]
    if after:
        windows.reverse()
    done = [threads.Count() for _ in stages]

    def layer(first: int, last: int) -> None:
        for number, at in enumerate(windows, start=1):
            for i in range(first, last):
                if i == first and i > 0:
                    done[i - 1].wait(number)
                for plan in stages[i]:
                    part = plan(at)
                    part.call(0, part.units)
                done[i].up()

    def failed() -> None:
        for each in done:
            each.up(len(windows))

    with threads.together.held(blocking=False) as alone:
        threads.run(layer, len(stages), count if alone else 1, failed)
    if after:
        threads.do(*after)


def _masking(array, mask, result, at: slice) -> Part:
    some = mask if len(mask) == 1 else mask[at]
    return Part(times.bind(array[at], some, result[at]), mask.shape[1])


def _adding(array, result, at: slice) -> Part:
    return Part(add.bind(array[at], result[at]), array.shape[1])


def _before(spec: LayerSpec, start, states, side, step: int) -> np.ndarray:
    """Return the state (B, H) before a step; after the last one that is the ending."""
    if step == 0:
        return start
    if spec.code != LSTM:
        return states[step - 1]
    return np.concatenate([states[step - 1], side[step - 1, :, : states.shape[2]]], axis=1)


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
    packing, sums, dstart = Packing(count), Sums(count), np.empty_like(start)
    stages: list[list[Plan]] = []
    results: list[Callable[[], Weights]] = []
    between: list[Any] = [None] * len(weights)
    given = None  # the gradient of this layer's output that comes from the layer above it
    for i in reversed(range(len(weights))):
        layer, done = weights[i], passes[i]
        stage: list[Plan] = []
        given = _joined(given, above[i], done.states, None if masks is None else masks[i], stage)
        ending = endings[i] if endings[i] is not None else np.zeros_like(start[i])
        stage.append(_running_back(spec, layer, start[i], done, given, ending, dstart[i], packing))
        read = inputs if i == 0 else passes[i - 1].output
        if read.ndim == 3:
            panels = packing.add_matrix(widened(layer.into[0], spec.gates), transpose=True)
            given = reused(
                None if old is None else old[i], (steps, lanes, padded(read.shape[2])), dtype
            )
            between[i] = given
            none = np.zeros(given.shape[2], dtype)
            stage.append(partial(_projecting, done.gates, panels, none, given))
        stages.append(stage)
        results.insert(0, _summed(spec, read, layer, start[i], done, sums))
    _through(packing, stages, weights, (steps, lanes), sums)
    dinputs = None if inputs.ndim == 2 else narrowed(between[0], 1, inputs.shape[2])
    return Gradients(dinputs, dstart, [result() for result in results], between)


def _running_back(spec, layer, start, done: Pass, above, ending, dstart, packing: Packing) -> Plan:
    """Return what turns the gates of a layer into their gradients."""
    steps, lanes, size = done.states.shape
    width = padded(size)
    main, extra = _recurring(spec, layer, width, packing, transpose=True)
    carry, kept = np.zeros((2, lanes, width), start.dtype)
    left_out = 0 if spec.truncate < 0 else steps - spec.truncate

    def plan(at: slice) -> Part:
        before = _before(spec, start, done.states, done.side, at.start)
        after = ending if at.stop == steps else dstart
        call = unroll_back.bind(
            spec.code, spec.hard, done.gates[at], before, done.states[at], done.side[at],
            above[at], after, main, extra, max(0, at.stop - max(left_out, at.start)), dstart, carry, kept,
        )  # fmt: skip
        return Part(call, lanes)

    return plan


def _joined(given, above, states, mask, stage: list[Plan]) -> np.ndarray:
    """Return the gradient of a layer's states, from those of its output; plan what makes it."""
    if given is None and above is None:
        return np.zeros_like(states)
    if given is not None and above is not None:
        stage.append(partial(_adding, above, given))
    result = above if given is None else given
    if mask is not None:
        if given is None:  # the caller's
            result = np.empty_like(states)
        stage.append(partial(_masking, above if given is None else given, mask, result))
    return result


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
        call = lookup_back.bind(read, done.gates, dinto)
        sums.add(call, columns // PANEL, ADDITION * steps * lanes)

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
