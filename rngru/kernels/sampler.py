"""Text, one character after another, without a graph: many streams at once, as one batch.

One call of :func:`generate` runs every layer, the readout and the draw for a number of characters, all
in compiled code. Shapes: L layers, n streams, S units, V symbols, P = padded(S), H state, G gates.
"""

import numba
import numpy as np

from rngru.kernels.elementwise import VECTOR, exp
from rngru.kernels.layer import GRU, GRU_AFTER, Layer
from rngru.kernels.layers import packed, widened
from rngru.kernels.sequence import _advance, _copy
from rngru.kernels.tiles import PANEL, multiply, padded, provide


@numba.njit(nogil=True, cache=True, **VECTOR)
def _draw(logits, temperature, uniform):
    """Return the index that :func:`rngru.sampling.choose` would, for one row; logits are used up."""
    best = 0
    for j in range(1, logits.size):
        if logits[j] > logits[best]:
            best = j
    if temperature == 0:
        return best
    largest, scale = logits[best], logits.dtype.type(1 / temperature)
    for j in range(logits.size):
        logits[j] = exp((logits[j] - largest) * scale)
    total = 0.0
    for j in range(logits.size):
        total += logits[j]
    reached, wanted = 0.0, uniform * total
    for j in range(logits.size):
        reached += logits[j]
        if reached > wanted:
            return j
    return best


@numba.njit(nogil=True, cache=True)
def _generate(
    cell, hard, table, inputs, biases, mains, extras, seconds, readout, output_bias,
    ids, state, uniforms, temperature, drawn,
):  # fmt: skip
    """Fill ``drawn`` (characters, n); ``ids`` (n,) and ``state`` (L, n, H) are carried along."""
    depth, lanes, _ = state.shape
    columns, size = table.shape[1], readout.size // output_bias.size
    pad = (size + PANEL - 1) // PANEL * PANEL
    symbols = output_bias.size
    gates = np.empty((lanes, columns), table.dtype)
    side = np.zeros((lanes, pad), table.dtype)
    fresh = np.empty((lanes, size), table.dtype)
    logits = np.empty((lanes, symbols), table.dtype)
    flat, flat_side = gates.reshape(-1), side.reshape(-1)
    for i in range(drawn.shape[0]):
        for k in range(depth):
            here = state[k]
            flat_here, stride = here.reshape(-1), here.shape[1]
            for b in range(lanes):
                _copy(table[ids[b]] if k == 0 else biases[k - 1], gates[b])
            if k > 0:
                multiply(
                    state[k - 1].reshape(-1), 0, stride, 1, lanes, size,
                    inputs[k - 1], 0, columns // PANEL, flat, 0, columns,
                )  # fmt: skip
            multiply(
                flat_here, 0, stride, 1, lanes, size,
                mains[k], 0, mains[k].size // (size * PANEL), flat, 0, columns,
            )  # fmt: skip
            if cell == GRU_AFTER:
                for b in range(lanes):
                    _copy(seconds[k], side[b])
                multiply(
                    flat_here, 0, stride, 1, lanes, size,
                    extras[k], 0, pad // PANEL, flat_side, 0, pad,
                )  # fmt: skip
            for b in range(lanes):
                before, memory = here[b, :size], here[b, size:]
                _advance(cell, 0, hard, gates[b], before, memory, side[b], fresh[b])
            if cell == GRU:
                multiply(
                    flat_side, 0, pad, 1, lanes, size,
                    extras[k], 0, pad // PANEL, flat, 2 * pad, columns,
                )  # fmt: skip
                for b in range(lanes):
                    before = here[b, :size]
                    _advance(cell, 1, hard, gates[b], before, before, side[b], fresh[b])
            for b in range(lanes):
                _copy(fresh[b], here[b])
                _copy(side[b, : stride - size], here[b, size:])
        for b in range(lanes):
            _copy(output_bias, logits[b])
        top = state[depth - 1]
        multiply(
            top.reshape(-1), 0, top.shape[1], 1, lanes, size,
            readout, 0, symbols // PANEL, logits.reshape(-1), 0, symbols,
        )  # fmt: skip
        for b in range(lanes):
            ids[b] = _draw(logits[b], temperature, uniforms[i, b])
            drawn[i, b] = ids[b]


class Sampler:
    """A model's weights, packed for generating.

    Parameters
    ----------
    layer: the description of each layer.
    table: (V, G S), the first layer's pre-activations for each character.
    inputs: (U, b) of each layer above the first.
    recurrent: W of each layer, (S, G S).
    seconds: second bias of each layer, (S,), for GRU_AFTER; or None.
    readout: (S, V) and (V,).
    """

    def __init__(self, layer: Layer, table, inputs, recurrent, seconds, readout) -> None:
        provide(table.dtype)
        self.layer, self.size = layer, len(recurrent[0])
        width = padded(self.size)
        split = layer.main(width)
        wide = [widened(each, layer.gates) for each in recurrent]
        self.table = widened(table, layer.gates)

        def stacked(arrays) -> np.ndarray:
            return np.stack(arrays) if arrays else np.empty((0, 0), table.dtype)

        self.inputs = stacked([packed(widened(u, layer.gates), 1) for u, _ in inputs])
        self.biases = stacked([widened(b, layer.gates) for _, b in inputs])
        self.mains = stacked([packed(each, 1, right=split) for each in wide])
        self.extras = stacked([packed(each, 1, left=split) for each in wide])
        self.seconds = stacked([] if seconds is None else [widened(each, 1) for each in seconds])
        self.readout = packed(readout[0], 1)
        self.bias = np.full(padded(readout[1].size), -np.inf, table.dtype)
        self.bias[: readout[1].size] = readout[1]

    def generate(
        self, ids: np.ndarray, state: np.ndarray, uniforms: np.ndarray, temperature: float
    ) -> np.ndarray:
        """Generate as many characters as ``uniforms`` (characters, n) has rows.

        ``ids`` (n,), int32, the last character of each stream, and ``state`` (L, n, H) are written
        over with the new ones. Returns the characters, (characters, n), int32.
        """
        drawn = np.empty(uniforms.shape, np.int32)
        _generate(
            self.layer.code, self.layer.hard, self.table, self.inputs, self.biases, self.mains,
            self.extras, self.seconds, self.readout, self.bias,
            ids, state, uniforms, float(temperature), drawn,
        )  # fmt: skip
        return drawn
