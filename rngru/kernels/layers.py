"""A stack of recurrent layers on all threads: what the ``Op`` of :mod:`rngru.backends.ops` calls.

:func:`forward` and :func:`backward` cut the work over threads: by lanes while time runs, for no lane needs
another; the product of a layer's input before that, by steps and lanes; the weight gradients after it, by
columns or rows. Where there are fewer lanes than layers and threads, each thread has layers of its own
instead, some steps behind the thread with the layer before. No cut can change a bit of the result. Weights
are packed once per call.

Shapes: L layers, T time steps, B lanes, I inputs, S units, G gates, H state (2 S for LSTM, else S),
P = padded(S).
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from rngru.kernels import calls, threads
from rngru.kernels.jobs import ADDITION, Packing, Sums, padding, trimmed
from rngru.kernels.phases import side_by_side
from rngru.kernels.plans import Plan, Planned
from rngru.kernels.sequence import (
    add,
    lookup,
    lookup_back,
    project,
    times,
    unroll,
    unroll_back,
)
from rngru.kernels.spec import GRU, GRU_AFTER, LayerSpec, Weights
from rngru.kernels.tiles import PANEL, padded, provide


class Part(NamedTuple):
    """A part of the work of a layer: a call on ``range(units)``."""

    call: calls.Call
    units: int


Stage = Callable[[slice], Part]
"""Returns a part of the work of a layer on some steps."""


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


@Planned
def forward(
    plan: Plan,
    spec: LayerSpec,
    inputs: np.ndarray,
    weights: Sequence[Weights],
    start: np.ndarray,
    masks: np.ndarray | None = None,
) -> list[Pass]:
    """Run a stack of layers over a sequence.

    Parameters
    ----------
    plan: what to add to.
    spec: what each layer is made of.
    inputs: of the first layer, (T, B, I) floats, or (T, B) int32 characters.
    weights: of each layer.
    start: (L, B, H), the state before the first step.
    masks: (L, T or 1, B, S), what each layer's output is multiplied by, for dropout; or None.
    """
    dtype = start.dtype
    provide(dtype)
    steps, lanes = inputs.shape[:2]
    packing, done, stages = Packing(plan), [], []
    for i, layer in enumerate(weights):
        size = spec.size(start.shape[2])
        width = padded(size)
        states = plan.empty((steps, lanes, size), dtype)
        gates = plan.empty((steps, lanes, spec.gates * width), dtype)
        side = plan.empty((steps, lanes, width if spec.row.side else 0), dtype)
        ending = plan.empty(start[i].shape, dtype)
        run = Pass(states, ending, states, gates, side)
        stage = [
            _entering(spec, inputs, layer.into, gates, packing),
            _running(spec, layer, start[i], run, packing),
        ]
        if masks is not None:
            run = run._replace(output=plan.empty(states.shape, dtype))
            stage.append(partial(_masking, states, masks[i], run.output))
        inputs = run.output
        done.append(run)
        stages.append(stage)
    _through(packing, stages, weights, (steps, lanes))
    return done


def _recurring(
    spec, layer: Weights, width: int, packing: Packing, transpose: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Plan packing the recurrent weights, those of the first product of a step and those of the second."""
    if layer.recurrent is None:
        none = np.empty(0, layer.into[0].dtype)
        return none, none
    wide, split = padding(packing.plan, layer.recurrent, spec.gates), spec.main(width)
    last = split + (len(wide) if split < wide.shape[1] else 0)
    main = packing.add_matrix(wide, right=split, transpose=transpose)
    return main, packing.add_matrix(wide, left=split, right=last, transpose=transpose)


def _entering(spec, inputs, into, gates, packing: Packing) -> Stage:
    """Return what fills the gates from the input of a layer."""
    if inputs.ndim == 2:
        table = padding(packing.plan, into[0], spec.gates)
        return lambda at: Part(lookup.bind(inputs[at], table, gates[at]), inputs.shape[1])
    matrix, bias = (padding(packing.plan, each, spec.gates) for each in into)
    return partial(_projecting, inputs, packing.add_matrix(matrix), bias, gates)


def _projecting(inputs, panels, bias, results, at: slice) -> Part:
    """Return a product for all rows, of each step of each lane: many at once are faster."""
    rows, filled = (each[at].reshape(-1, each.shape[2]) for each in (inputs, results))
    return Part(project.bind(rows, panels, bias, filled), len(rows))


def _running(spec, layer: Weights, start, run: Pass, packing: Packing) -> Stage:
    """Return what runs a layer whose gates are filled."""
    main, extra = _recurring(spec, layer, padded(run.states.shape[2]), packing)
    bias = np.zeros(0, start.dtype) if layer.second is None else layer.second

    def stage(at: slice) -> Part:
        call = unroll.bind(
            spec.code, spec.hard, at.start, at.stop, run.gates, start, run.states, run.side,
            main, extra, bias, run.ending,
        )  # fmt: skip
        return Part(call, len(start))

    return stage


WINDOW = 8
"""Steps after which one thread hands its layer's output on to another."""


def _through(
    packing: Packing,
    stages: Sequence[Sequence[Stage]],
    weights: Sequence[Weights],
    shape: tuple[int, int],
    sums: Sums | None = None,
) -> None:
    """Plan all stages, of one layer each, on all steps of all lanes: ``shape``.

    A stage needs the results of the one before it, of the same steps; and its own, of the steps before
    (those after, if there are ``sums`` to follow). Each thread has some of the lanes; or some of the stages,
    if there are more of these, and enough to do.
    """
    steps, lanes = shape
    plan, count = packing.plan, packing.plan.count
    after = [] if sums is None else [sums.phase()]
    numbers = min(sum(each.size for each in layer.all()) for layer in weights)
    if steps <= WINDOW or min(len(stages), threads.worth(numbers, count)) <= lanes:
        parts = [stage(slice(0, steps)) for stage in itertools.chain(*stages)]
        phases = [
            side_by_side([part.call for part in some], units, count)
            for units, some in itertools.groupby(parts, key=lambda part: part.units)
        ]
        plan.do(packing.phase(), *phases, *after)
        return
    plan.do(packing.phase())
    windows = [slice(at, min(at + WINDOW, steps)) for at in range(0, steps, WINDOW)]
    if after:
        windows.reverse()

    @functools.cache
    def within(layer: int, window: int) -> list[Part]:
        return [stage(windows[window]) for stage in stages[layer]]

    plan.call(partial(_side_by_side, within, len(stages), len(windows), count))
    if after:
        plan.do(*after)


def _side_by_side(
    parts: Callable[[int, int], Sequence[Part]], layers: int, windows: int, count: int
) -> None:
    """Run layers on threads of their own, each as soon as the one before has done a window."""
    done = [threads.Count() for _ in range(layers)]

    def run(first: int, last: int) -> None:
        for window in range(windows):
            for i in range(first, last):
                if i == first and i > 0:
                    done[i - 1].wait(window + 1)
                for part in parts(i, window):
                    part.call(0, part.units)
                done[i].up()

    def failed() -> None:
        for each in done:
            each.up(windows)

    with threads.together.held(blocking=False) as alone:
        threads.run(run, layers, count if alone else 1, failed)


def _masking(array, mask, result, at: slice) -> Part:
    some = mask if len(mask) == 1 else mask[at]
    return Part(times.bind(array[at], some, result[at]), mask.shape[1])


def _adding(array, result, at: slice) -> Part:
    return Part(add.bind(array[at], result[at]), array.shape[1])


class Gradients(NamedTuple):
    """The gradients of a stack of layers.

    ``inputs`` is (T, B, I), or None for characters; ``start`` (L, B, H); ``weights`` those of each layer.
    """

    inputs: Any
    start: Any
    weights: list[Weights]


@Planned
def backward(
    plan: Plan,
    spec: LayerSpec,
    inputs: np.ndarray,
    weights: Sequence[Weights],
    start: np.ndarray,
    passes: Sequence[Pass],
    above: Sequence[np.ndarray | None],
    endings: Sequence[np.ndarray | None],
    masks: np.ndarray | None = None,
) -> Gradients:
    """Return the gradients after :func:`forward`; ``gates`` and ``side`` of its passes are overwritten.

    ``above`` and ``endings`` are the gradients of each layer's output (T, B, S) and ending (B, H), or
    None for zeros. The other arguments are those of :func:`forward`.
    """
    dtype = start.dtype
    provide(dtype)
    steps, lanes = inputs.shape[:2]
    packing, sums, dstart = Packing(plan), Sums(plan), plan.empty(start.shape, dtype)
    stages: list[list[Stage]] = []
    results: list[Callable[[], Weights]] = []
    between: list[Any] = [None] * len(weights)
    given = None  # the gradient of this layer's output that comes from the layer above it
    for i in reversed(range(len(weights))):
        layer, done = weights[i], passes[i]
        stage: list[Stage] = []
        mask = None if masks is None else masks[i]
        given = _joined(plan, given, above[i], done.states, mask, stage)
        ending = endings[i] if endings[i] is not None else np.zeros_like(start[i])
        stage.append(_running_back(spec, layer, start[i], done, given, ending, dstart[i], packing))
        read = inputs if i == 0 else passes[i - 1].output
        if read.ndim == 3:
            matrix = padding(plan, layer.into[0], spec.gates)
            panels = packing.add_matrix(matrix, transpose=True)
            given = between[i] = plan.empty((steps, lanes, padded(read.shape[2])), dtype)
            stage.append(
                partial(_projecting, done.gates, panels, np.zeros(given.shape[2], dtype), given)
            )
        stages.append(stage)
        results.insert(0, _summed(spec, read, layer, start[i], done, sums))
    _through(packing, stages, weights, (steps, lanes), sums)

    dinputs = None if inputs.ndim == 2 else trimmed(plan, between[0], 1, inputs.shape[2])
    return Gradients(dinputs, dstart, [result() for result in results])


def _running_back(spec, layer, start, done: Pass, above, ending, dstart, packing: Packing) -> Stage:
    """Return what turns the gates of a layer into their gradients."""
    steps, lanes, size = done.states.shape
    width = padded(size)
    main, extra = _recurring(spec, layer, width, packing, transpose=True)
    carry, kept = packing.plan.empty((2, lanes, width), start.dtype)
    left_out = 0 if spec.truncate < 0 else steps - spec.truncate

    def stage(at: slice) -> Part:
        after = ending if at.stop == steps else dstart
        call = unroll_back.bind(
            spec.code, spec.hard, at.start, at.stop, done.gates, start, done.states, done.side,
            above, after, main, extra, left_out, dstart, carry, kept,
        )  # fmt: skip
        return Part(call, lanes)

    return stage


def _joined(plan: Plan, given, above, states, mask, stage: list[Stage]) -> np.ndarray:
    """Return the gradient of a layer's states, from those of its output; plan what makes it."""
    if given is None and above is None:
        return np.zeros_like(states)
    if given is not None and above is not None:
        stage.append(partial(_adding, above, given))
    result = above if given is None else given
    if mask is not None:
        if given is None:  # the caller's
            result = plan.empty(states.shape, states.dtype)
        stage.append(partial(_masking, above if given is None else given, mask, result))
    return result


def _summed(spec, read, layer: Weights, start, done: Pass, sums: Sums) -> Callable[[], Weights]:
    """Plan the gradients of a layer's weights; return what is to be called when that is planned too."""
    steps, lanes, size = done.states.shape
    width, dtype = padded(size), done.states.dtype
    columns = spec.gates * width
    deltas = done.gates.reshape(-1, columns)
    recurred = _recurred(spec, start, done, deltas, sums)
    if read.ndim == 3:
        into = sums.plan.empty((read.shape[2] + 1, columns), dtype)
        sums.product([(read.reshape(-1, read.shape[2]), deltas)], 0, into, 0, columns)
        found = [into[:-1], into[-1]]
    else:
        table = sums.plan.empty((len(layer.into[0]), columns), dtype)
        call = lookup_back.bind(read, done.gates, table)
        sums.add(call, columns // PANEL, ADDITION * steps * lanes)
        found = [table]

    def result() -> Weights:
        into = tuple(trimmed(sums.plan, each, spec.gates, size) for each in found)
        if recurred is None:
            return Weights(into)
        weights = trimmed(sums.plan, recurred[:size], spec.gates, size)
        split = spec.main(width)
        second = recurred[size, split : split + size] if spec.row.second_bias else None
        return Weights(into, weights, second)

    return result


def _recurred(spec, start, done: Pass, deltas, sums: Sums) -> np.ndarray | None:
    """Plan the gradients of W and, in a row more, of the second bias; None if the cell has no W."""
    if not spec.row.recurrent:
        return None
    _, lanes, size = done.states.shape
    width = padded(size)
    split = spec.main(width)
    beside = done.side.reshape(len(deltas), done.side.shape[2])
    earlier = done.states[:-1].reshape(-1, size)  # the states before steps 1 … T - 1
    result = sums.plan.empty((size + spec.row.second_bias, deltas.shape[1]), deltas.dtype)
    sums.product([(start, deltas[:lanes]), (earlier, deltas[lanes:])], 0, result, 0, split)
    if spec.code == GRU:
        sums.product([(beside, deltas)], split, result, split, width)
    elif spec.code == GRU_AFTER:
        pairs = [(start, beside[:lanes]), (earlier, beside[lanes:])]
        sums.product(pairs, 0, result, split, width)
    return result
