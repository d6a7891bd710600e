"""A stack of recurrent layers in JAX: over the whole sequence, and backpropagation through time.

The same arithmetic as :mod:`rngru.kernels.layers`. A step puts out one array, all that its gradient
needs side by side, for on a GPU each array that a loop fills costs a kernel a step; and the weight
gradients are products after the loop. A cell has its step and its step backwards in :data:`CELLS`; one
that is not there, a user's own say, is taken from :data:`rngru.cells.STEPS`, and JAX finds its gradient.

Shapes: T steps, B lanes, I inputs, S units, G gates, H state, V symbols, K what a step keeps.

=============  ======================================  =======
cell           kept of each step, S columns each       K
=============  ======================================  =======
``GRU``        s', z, r, c                             4 S
``GRU_AFTER``  s', z, r, c, s·Wc + d                   5 S
``LSTM``       h', m', i, f, o, c                      6 S
``RNN``        s'                                      S
=============  ======================================  =======
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytensor.tensor as pt
from jax import lax

from rngru.backends.jaxed.computing import computing
from rngru.cells import GATE_FUNCTIONS, STEPS
from rngru.kernels.spec import LayerSpec, Weights

UNROLL = {"cpu": 1}
"""Steps of a loop that are compiled side by side, by platform; fewer kernels, more to compile."""

_MANY = 10

FEW = 256
"""Symbols whose gradients are a product with rows of zeros and a one; of more, rows are added one by one.

Such a product costs little for few symbols, and adds up in the same order on every device.
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """One step of a cell, and one backwards.

    Parameters
    ----------
    advance: ``advance(gate, pre (B, G S), state (B, H), matrices, d)`` gives what is kept (B, K), the new
        state first.
    retreat: ``retreat(slope, carry (B, H), kept (B, K), before (B, H), matrices)`` gives the gradients of
        the state before (B, H) and of the pre-activations (B, G S or more); ``carry`` is that of the new
        state, ``slope`` gives the slope of a gate at its value, and the matrices are transposed.
    apart: whether there are two matrices, for the candidate has a product of its own.
    """

    advance: Callable
    retreat: Callable
    apart: bool = False

    def matrices(self, recurrent: Any) -> list[Any]:
        """Cut W (S, G S) into what is multiplied at a time: once, not in every step."""
        size = len(recurrent)
        return [recurrent[:, : 2 * size], recurrent[:, 2 * size :]] if self.apart else [recurrent]


class Pass(NamedTuple):
    """What a layer leaves: output and states (T, B, S), ending (B, H), and ``kept`` (T, B, K)."""

    output: Any
    ending: Any
    states: Any
    kept: Any


def _split(array: Any, parts: int) -> list[Any]:
    return jnp.split(array, parts, axis=-1)


def _beside(*arrays: Any) -> Any:
    return jnp.concatenate(arrays, axis=-1)


def _rnn(gate: Any, pre: Any, state: Any, matrices: Any, second: Any) -> Any:
    return jnp.tanh(pre + state @ matrices[0])


def _rnn_back(slope: Any, carry: Any, kept: Any, before: Any, matrices: Any) -> Any:
    deltas = carry * (1 - kept * kept)
    return deltas @ matrices[0], deltas


def _gru(gate: Any, pre: Any, state: Any, matrices: Any, second: Any) -> Any:
    size = state.shape[1]
    gates = gate(pre[:, : 2 * size] + state @ matrices[0])
    z, r = _split(gates, 2)
    c = jnp.tanh(pre[:, 2 * size :] + (r * state) @ matrices[1])
    return _beside(c + z * (state - c), gates, c)


def _gru_back(slope: Any, carry: Any, kept: Any, before: Any, matrices: Any) -> Any:
    _, z, r, c = _split(kept, 4)
    dz = carry * (before - c) * slope(z)
    dc = carry * (1 - z) * (1 - c * c)
    dreset = dc @ matrices[1]
    both = _beside(dz, dreset * before * slope(r))
    carry = carry * z + dreset * r + both @ matrices[0]
    return carry, _beside(both, dc)


def _gru_after(gate: Any, pre: Any, state: Any, matrices: Any, second: Any) -> Any:
    size = state.shape[1]
    product = state @ matrices[0]
    gates = gate(pre[:, : 2 * size] + product[:, : 2 * size])
    z, r = _split(gates, 2)
    side = product[:, 2 * size :] + second
    c = jnp.tanh(pre[:, 2 * size :] + r * side)
    return _beside(c + z * (state - c), gates, c, side)


def _gru_after_back(slope: Any, carry: Any, kept: Any, before: Any, matrices: Any) -> Any:
    """The pre-activations' gradient, and beside it that of s·Wc + d."""
    _, z, r, c, side = _split(kept, 5)
    dz = carry * (before - c) * slope(z)
    dc = carry * (1 - z) * (1 - c * c)
    both, dside = _beside(dz, dc * side * slope(r)), dc * r
    carry = carry * z + _beside(both, dside) @ matrices[0]
    return carry, _beside(both, dc, dside)


def _lstm(gate: Any, pre: Any, state: Any, matrices: Any, second: Any) -> Any:
    output, memory = _split(state, 2)
    sums = pre + output @ matrices[0]
    size = output.shape[1]
    gates, c = gate(sums[:, : 3 * size]), jnp.tanh(sums[:, 3 * size :])
    i, f, o = _split(gates, 3)
    memory = f * memory + i * c
    return _beside(o * jnp.tanh(memory), memory, gates, c)


def _lstm_back(slope: Any, carry: Any, kept: Any, before: Any, matrices: Any) -> Any:
    _, memory, i, f, o, c = _split(kept, 6)
    dh, dm = _split(carry, 2)
    squashed = jnp.tanh(memory)
    dm = dm + dh * o * (1 - squashed * squashed)
    di, dc = dm * c * slope(i), dm * i * (1 - c * c)
    df = dm * _split(before, 2)[1] * slope(f)
    deltas = _beside(di, df, dh * squashed * slope(o), dc)
    return _beside(deltas @ matrices[0], dm * f), deltas


CELLS = {
    "GRU": Cell(_gru, _gru_back, apart=True),
    "GRU_AFTER": Cell(_gru_after, _gru_after_back),
    "LSTM": Cell(_lstm, _lstm_back),
    "RNN": Cell(_rnn, _rnn_back),
}
"""The cells with a hand-written gradient, by name."""


def _hard(x: Any) -> Any:
    return jnp.clip(0.2 * x + 0.5, 0, 1)


def _gate(spec: LayerSpec) -> tuple[Callable, Callable]:
    """Return the gate function, and its slope where its value is known."""
    if spec.hard:
        return _hard, lambda g: jnp.where((g > 0) & (g < 1), 0.2, g * 0)
    return jax.nn.sigmoid, lambda g: g * (1 - g)


def _advancing(spec: LayerSpec, weights: Sequence[Any]) -> Callable:
    """Return what makes one step: of (pre (B, G S), state (B, H)) what is kept (B, K)."""
    if spec.cell not in CELLS:
        step = defined(spec)
        return lambda pre, state: step(pre, state, *weights)
    cell, gate = CELLS[spec.cell], _gate(spec)[0]
    matrices, second = cell.matrices(weights[0]), weights[1] if len(weights) > 1 else None
    return lambda pre, state: cell.advance(gate, pre, state, matrices, second)


def defined(spec: LayerSpec) -> Callable:
    """Return a cell's step as :data:`rngru.cells.STEPS` defines it."""
    gate = GATE_FUNCTIONS["hard_sigmoid" if spec.hard else "sigmoid"]
    given = [pt.fmatrix("recurrent")] if spec.row.recurrent else []
    pre, state = pt.fmatrix("pre"), pt.fmatrix("state")
    step = computing([pre, state, *given], [STEPS[spec.cell](pre, state, gate, *given)])
    return lambda *values: step(*values)[0]


def _entering(inputs: Any, into: Sequence[Any]) -> Any:
    """Return the pre-activations (T, B, G S) of a layer from its inputs, (T, B) or (T, B, I)."""
    if inputs.ndim == 2:
        return into[0].at[inputs].get(mode="promise_in_bounds")
    return inputs @ into[0] + into[1]


def _further(layer: Weights) -> list[Any]:
    """Return the weights of a layer that every step needs."""
    return [each for each in (layer.recurrent, layer.second) if each is not None]


def _unroll() -> int:
    return UNROLL.get(jax.default_backend(), _MANY)


def _unrolled(spec: LayerSpec, pre: Any, state: Any, weights: Sequence[Any], width: int) -> Any:
    """Return (ending (B, H), the first ``width`` numbers of what each step keeps (T, B, width))."""
    height, advance = state.shape[1], _advancing(spec, weights)

    def step(state: Any, pre: Any) -> tuple[Any, Any]:
        kept = advance(pre, state)
        return kept[:, :height], kept[:, :width]

    return lax.scan(step, state, pre, unroll=_unroll())


def forward(
    spec: LayerSpec,
    inputs: Any,
    weights: Sequence[Weights],
    start: Any,
    masks: Any = None,
    *,
    keep: bool = True,
) -> list[Pass]:
    """Run a stack of layers; the arguments are those of :func:`rngru.kernels.layers.forward`.

    What a gradient needs is kept unless that is not asked for.
    """
    size, passes = start.shape[2] // spec.state(1), []
    for i, layer in enumerate(weights):
        pre = _entering(inputs, layer.into)
        width = size if not keep else 1 << 30
        ending, kept = _unrolled(spec, pre, start[i], _further(layer), width)
        states = kept[:, :, :size]
        inputs = states if masks is None else states * masks[i]
        passes.append(Pass(inputs, ending, states, kept))
    return passes


def backward(
    spec: LayerSpec,
    inputs: Any,
    weights: Sequence[Weights],
    start: Any,
    passes: Sequence[Pass],
    outputs: Sequence[Any],
    endings: Sequence[Any],
    masks: Any = None,
) -> tuple[Any, Any, list[Weights]]:
    """Return the gradients of the inputs (None for characters), of ``start`` and of the weights.

    ``outputs`` and ``endings`` are the gradients of those of each layer; None is zero.
    """
    arriving: Any = None
    starts, found = [], []
    for i in reversed(range(len(weights))):
        parts = [each for each in (outputs[i], arriving) if each is not None]
        above = sum(parts[1:], parts[0]) if parts else jnp.zeros_like(passes[i].states)
        above = above if masks is None else above * masks[i]
        carry = jnp.zeros_like(start[i]) if endings[i] is None else endings[i]
        read = inputs if i == 0 else passes[i - 1].output
        arriving, began, gradients = _layer_back(
            spec, read, weights[i], start[i], passes[i], above, carry
        )
        starts.append(began)
        found.append(gradients)
    return arriving, jnp.stack(starts[::-1]), found[::-1]


def _layer_back(
    spec: LayerSpec, read: Any, layer: Weights, start: Any, done: Pass, above: Any, carry: Any
) -> tuple[Any, Any, Weights]:
    """:func:`backward` of one layer."""
    steps, height = len(read), start.shape[1]
    first = max(steps - spec.truncate, 0) if spec.truncate >= 0 else 0
    before = jnp.concatenate([start[jnp.newaxis], done.kept[:-1, :, :height]])[first:]
    kept, above, late = done.kept[first:], above[first:], read[first:]
    retreat = _retreating if spec.cell in CELLS else _differentiated
    began, deltas, recurrent, second = retreat(spec, read, layer, before, kept, above, carry)
    began = began if first == 0 else jnp.zeros_like(began)
    rows = deltas.reshape(-1, deltas.shape[2])
    if read.ndim == 2:
        into: tuple[Any, ...] = (_rows_back(late, len(layer.into[0]), rows),)
        return None, began, Weights(into, recurrent, second)
    into = (late.reshape(-1, late.shape[2]).T @ rows, rows.sum(axis=0))
    arriving = jnp.pad(deltas @ layer.into[0].T, ((first, 0), (0, 0), (0, 0)))
    return arriving, began, Weights(into, recurrent, second)


def _retreating(
    spec: LayerSpec, read: Any, layer: Weights, before: Any, kept: Any, above: Any, carry: Any
) -> tuple[Any, Any, Any, Any]:
    """Gradients of the state before, the pre-activations and the weights, as written above."""
    size, slope = above.shape[2], _gate(spec)[1]
    cell = CELLS[spec.cell]
    matrices = [each.T for each in cell.matrices(layer.recurrent)]

    def step(carry: Any, given: Any) -> tuple[Any, Any]:
        kept, before, above = given
        new = carry[:, :size] + above
        carry = new if carry.shape == new.shape else _beside(new, carry[:, size:])
        return cell.retreat(slope, carry, kept, before, matrices)

    began, deltas = lax.scan(step, carry, (kept, before, above), reverse=True, unroll=_unroll())
    width = spec.gates * size
    pre, outputs = deltas[:, :, :width], before[:, :, :size].reshape(-1, size).T
    rows = deltas.reshape(-1, deltas.shape[2])
    if spec.cell == "GRU":
        reset = (kept[:, :, 2 * size : 3 * size] * before).reshape(-1, size).T
        gradient = _beside(outputs @ rows[:, : 2 * size], reset @ rows[:, 2 * size :])
        return began, pre, gradient, None
    if spec.cell == "GRU_AFTER":
        rows = _beside(rows[:, : 2 * size], rows[:, width:])
        return began, pre, outputs @ rows, rows[:, 2 * size :].sum(axis=0)
    return began, pre, outputs @ rows, None


def _differentiated(
    spec: LayerSpec, read: Any, layer: Weights, before: Any, kept: Any, above: Any, carry: Any
) -> tuple[Any, Any, Any, Any]:
    """The same of a cell that has no step backwards: it runs again, and JAX differentiates."""
    size = above.shape[2]
    pre = _entering(read, layer.into)[len(read) - len(kept) :]

    def run(pre: Any, state: Any, *weights: Any) -> tuple[Any, Any]:
        return _unrolled(spec, pre, state, weights, size)

    _, back = jax.vjp(run, pre, before[0], *_further(layer))
    deltas, began, *weights = back((carry, above))
    return began, deltas, *(*weights, None, None)[:2]


def _rows_back(ids: Any, symbols: int, rows: Any) -> Any:
    """Return the gradient (V, G S) of a table whose rows ``ids`` were read, from those of the rows."""
    ids = ids.reshape(-1)
    if symbols > FEW:
        return jnp.zeros((symbols, rows.shape[1]), rows.dtype).at[ids].add(rows)
    return (ids == jnp.arange(symbols, dtype=ids.dtype)[:, jnp.newaxis]).astype(rows.dtype) @ rows
