"""Generating text one character after another, without a graph: many streams at once, as one batch.

One call of :meth:`Sampler.generate` runs every layer, the readout and the draw for a number of
characters, all in compiled code.

Shapes: L layers, n streams, S units, V symbols, P = padded(S), H state, G gates.
"""

import math
import time

import numpy as np

from rngru.kernels import threads
from rngru.kernels.compiling import kernel
from rngru.kernels.elementwise import VECTOR, exp
from rngru.kernels.jobs import packed, widened
from rngru.kernels.memory import Arena
from rngru.kernels.panels import span
from rngru.kernels.sequence import advance, copyrow
from rngru.kernels.spec import GRU, GRU_AFTER, LSTM, LayerSpec
from rngru.kernels.threads import meet
from rngru.kernels.tiles import PANEL, multiply, padded, provide

CACHE_BYTES = 1 << 20
"""Up to so many bytes of weights, about the cache of one core, one thread is the fastest."""


@kernel(keep=False)
def _likelier(logits, one, other):
    return logits[one] > logits[other] or (logits[one] == logits[other] and one < other)


@kernel(keep=False)
def _sift(logits, heap, at, size):
    """Let ``heap[at]`` sink to where it belongs: the likeliest is on top."""
    moved = heap[at]
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and _likelier(logits, heap[child + 1], heap[child]):
            child += 1
        if not _likelier(logits, heap[child], moved):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = moved


@kernel(outside=False)
def _cut(logits, weights, heap, largest, temperature, top_k, top_p, min_p):
    """Set to zero the ``weights`` (V,) of all that :func:`rngru.sampling.kept` leaves out.

    ``heap`` (V,), int32, is overwritten: what is popped off it comes in the order of likelihood.
    """
    n, limit = logits.size, largest + temperature * math.log(min_p) if min_p > 0 else -math.inf
    for j in range(n):
        heap[j] = j
    for j in range(n // 2 - 1, -1, -1):
        _sift(logits, heap, j, n)
    total = 0.0
    if top_k >= n:
        for j in range(n):
            if logits[j] >= limit:
                total += weights[j]
    size, mass, wanted = n, 0.0, top_p * total if top_p < 1 else math.inf
    while (
        size > 0 and n - size < top_k and logits[heap[0]] >= limit and (top_k < n or mass < wanted)
    ):
        first = heap[0]
        mass += weights[first]
        size -= 1
        heap[0], heap[size] = heap[size], first
        _sift(logits, heap, 0, size)
    for j in range(size):
        weights[heap[j]] = 0
    if top_k < n:
        wanted, mass = top_p * mass, 0.0
        for j in range(n - 1, size - 1, -1):
            if mass >= wanted:
                weights[heap[j]] = 0
            mass += weights[heap[j]]


@kernel(**VECTOR)
def _draw(logits, weights, heap, temperature, top_k, top_p, min_p, uniform):
    """Return the index that :func:`rngru.sampling.draw` would, for one row of logits.

    ``weights`` (V,) and ``heap`` (V,), int32, are overwritten.
    """
    best = 0
    for j in range(1, logits.size):
        if logits[j] > logits[best]:
            best = j
    if temperature == 0:
        return best
    largest, scale = logits[best], logits.dtype.type(1 / temperature)
    for j in range(logits.size):
        weights[j] = exp((logits[j] - largest) * scale)
    if top_k < logits.size or top_p < 1 or min_p > 0:
        _cut(logits, weights, heap, largest, temperature, top_k, top_p, min_p)
    total = 0.0
    for j in range(logits.size):
        total += weights[j]
    reached, wanted = 0.0, uniform * total
    for j in range(logits.size):
        reached += weights[j]
        if reached > wanted:
            return j
    return best


@kernel(**VECTOR)
def _ruled(logits, mask, recent, lane, penalty, ruled):
    """Fill ``ruled`` (V,) with the logits to draw from: masked, and lowered where they are ``recent``."""
    for j in range(logits.size):
        ruled[j] = logits[j] + mask[j]
    for r in range(recent.shape[0]):  # a symbol that is there twice gets the same number twice
        j = recent[r, lane]
        ruled[j] = (logits[j] + mask[j]) - penalty


@kernel(**VECTOR)
def _logprob(logits, symbol, weights):
    """Return ln p of one symbol at temperature 1; ``weights`` (V,), V even, is overwritten."""
    # Two of each: a maximum or a sum that waits for the one before it takes longer than its exp.
    largest, other = logits[0], logits[1]
    for j in range(0, logits.size, 2):
        largest, other = max(largest, logits[j]), max(other, logits[j + 1])
    largest = max(largest, other)
    for j in range(logits.size):
        weights[j] = exp(logits[j] - largest)
    even, odd = 0.0, 0.0
    for j in range(0, logits.size, 2):
        even += weights[j]
        odd += weights[j + 1]
    return logits[symbol] - largest - math.log(even + odd)


@kernel(outside=False, **VECTOR)
def _lift(state, normed, gain, shift, added, up):
    """Replace what a layer has read, ``up`` (S,), by what goes up from its new ``state`` (S,).

    That is the state: first ``normed``, as in :func:`rngru.network.normalised`, then ``added`` to
    what is there.
    """
    mean, variance, scale = 0.0, 0.0, 1.0
    if normed:
        for j in range(state.size):
            mean += state[j]
        mean /= state.size
        for j in range(state.size):
            variance += (state[j] - mean) ** 2
        scale = 1 / math.sqrt(variance / state.size + 1e-5)
    for j in range(state.size):
        new = (state[j] - mean) * scale * gain[j] + shift[j] if normed else state[j]
        up[j] = up[j] + new if added else new


@kernel()
def _generate(
    cell, hard, table, inputs, biases, mains, extras, seconds, gains, shifts, residual, readout,
    output_bias, state, other, side, logits, uniforms, mask, penalty, temperature, top_k, top_p,
    min_p, drawn, logprobs, here, scratch, row, heap, ruled, recent, up, share, shares, counter,
):  # fmt: skip
    """Fill ``drawn`` and ``logprobs`` (characters, n), as thread ``share`` of ``shares``.

    Each thread computes its own panels of every gate, and of the logits. The threads meet wherever
    one needs results of the others. ``state`` (L, n, H) is the state before the first step; ``other`` has
    the same shape, and each step reads one of the two and fills the other. ``side`` is (n, P), ``logits``
    (n, K). ``mask`` (K,) is added to them for the draw, and ``penalty`` is taken off those of
    ``recent`` (r, n), the last characters of each stream, oldest first. The thread's own are
    ``here`` (n,), the last character of each stream, ``scratch`` (n G P,), ``row``, ``heap`` and
    ``ruled`` (K,), ``recent``, which becomes a ring, and ``up`` (1, n, S), what goes up from a layer
    if that is not its state: if there are ``gains`` and ``shifts`` (L, S), or it is ``residual``.
    """
    depth, lanes, height = state.shape
    columns, symbols = table.shape[1], output_bias.size
    size = readout.size // symbols
    pad = (size + PANEL - 1) // PANEL * PANEL
    gates_of = columns // pad
    left, right = pad // PANEL * share // shares, pad // PANEL * (share + 1) // shares
    first, own = left * PANEL, (right - left) * PANEL
    last = min(first + own, size)
    symbol_left = symbols // PANEL * share // shares
    symbol_right = symbols // PANEL * (share + 1) // shares
    own_of = gates_of * own
    normed = gains.size > 0
    lifted = normed or residual
    stride = size if lifted else height
    now, new = state, other
    met = 0
    for i in range(drawn.shape[0]):
        for k in range(depth):
            layer = k * lanes * height
            for b in range(lanes):
                source = span(table, here[b] * columns, columns)
                if k > 0:
                    source = span(biases, (k - 1) * columns, columns)
                for g in range(gates_of):
                    into = span(scratch, b * own_of + g * own, own)
                    copyrow(span(source, g * pad + first, own), into)
            main, extra = span(mains, k * mains.shape[1], 0), span(extras, k * extras.shape[1], 0)
            products = mains.shape[1] // (size * pad)
            for g in range(gates_of):
                panel = (g * pad + first) // PANEL
                if k > 0:
                    below = 0 if lifted else layer - lanes * height
                    into = span(inputs, (k - 1) * inputs.shape[1], 0)
                    multiply(
                        up if lifted else new, below, stride, 1, lanes, size,
                        into, panel, right - left, scratch, g * own, own_of,
                    )  # fmt: skip
                if g < products:
                    multiply(
                        now, layer, height, 1, lanes, size,
                        main, panel, right - left, scratch, g * own, own_of,
                    )  # fmt: skip
            if cell == GRU_AFTER:
                for b in range(lanes):
                    second = span(seconds, k * pad + first, own)
                    copyrow(second, span(side, b * pad + first, own))
                multiply(
                    now, layer, height, 1, lanes, size,
                    extra, left, right - left, side, first, pad,
                )  # fmt: skip
            for phase in range(2 if cell == GRU else 1):
                if phase == 1:
                    met += shares
                    meet(counter, met)
                    multiply(
                        side, 0, pad, 1, lanes, size,
                        extra, left, right - left, scratch, 2 * own, own_of,
                    )  # fmt: skip
                for b in range(lanes):
                    at = layer + b * height + first
                    beside, memory = b * pad + first, at + height - size
                    advance(
                        cell, phase, hard, span(scratch, b * own_of, own_of),
                        span(now, at, last - first), span(now, memory, last - first),
                        span(side, beside, last - first), span(new, at, last - first),
                    )  # fmt: skip
                    if cell == LSTM:
                        kept = span(side, beside, last - first)
                        copyrow(kept, span(new, memory, last - first))
            met += shares
            meet(counter, met)
            for b in range(lanes if lifted else 0):  # every thread all of it, as it is needed
                _lift(
                    span(new, layer + b * height, size), normed, span(gains, k * size, size),
                    span(shifts, k * size, size), residual and k > 0, span(up, b * size, size),
                )  # fmt: skip
        symbol, count = symbol_left * PANEL, (symbol_right - symbol_left) * PANEL
        for b in range(lanes):
            copyrow(span(output_bias, symbol, count), span(logits, b * symbols + symbol, count))
        top = 0 if lifted else (depth - 1) * lanes * height
        multiply(
            up if lifted else new, top, stride, 1, lanes, size,
            readout, symbol_left, symbol_right - symbol_left, logits, symbol, symbols,
        )  # fmt: skip
        met += shares
        meet(counter, met)
        for b in range(lanes):  # every thread draws, which is cheaper than to meet again
            line = span(logits, b * symbols, symbols)
            _ruled(line, mask, recent, b, penalty, ruled)
            here[b] = _draw(
                ruled, row, heap, temperature, top_k, top_p, min_p, uniforms[i, b]
            )  # fmt: skip
            if recent.shape[0] > 0:
                recent[i % recent.shape[0], b] = here[b]
            if share == 0:
                drawn[i, b] = here[b]
                logprobs[i, b] = _logprob(line, here[b], row)
        now, new = new, now


class Sampler:
    """A model's weights, packed for generating.

    Parameters
    ----------
    spec: what each layer is made of.
    table: (V, G S), the first layer's pre-activations for each character.
    inputs: (U, b) of each layer above the first.
    recurrent: W of each layer, (S, G S); empty for a cell without.
    seconds: second bias of each layer, (S,), for GRU_AFTER; or None.
    readout: (S, V) and (V,).
    norms: gain and shift of each layer, (S,) each, for layer norm; or None.
    residual: whether layers above the first add what they read to their outputs.
    """

    def __init__(
        self,
        spec: LayerSpec,
        table,
        inputs,
        recurrent,
        seconds,
        readout,
        norms=None,
        residual=False,
    ) -> None:
        provide(table.dtype)
        self.spec, self.size = spec, len(readout[0])
        width = padded(self.size)
        split = spec.main(width)
        wide = [widened(each, spec.gates) for each in recurrent]
        self.table = widened(table, spec.gates)

        arena = Arena()

        def stacked(arrays) -> np.ndarray:
            if not arrays:
                return np.empty((0, 0), table.dtype)
            memory = arena.piece(sum(each.nbytes for each in arrays))
            shape = len(arrays), *arrays[0].shape
            return np.stack(arrays, out=np.ndarray(shape, table.dtype, memory))

        self.inputs = stacked([packed(widened(u, spec.gates), 1) for u, _ in inputs])
        self.biases = stacked([widened(b, spec.gates) for _, b in inputs])
        self.mains = stacked([packed(each, 1, right=split) for each in wide])
        self.extras = stacked([packed(each, 1, left=split) for each in wide])
        self.seconds = stacked([] if seconds is None else [widened(each, 1) for each in seconds])
        self.gains, self.shifts = map(stacked, norms or ([], []))
        self.residual = residual
        [self.readout] = stacked([packed(readout[0], 1)])
        self.bias = np.full(padded(readout[1].size), -np.inf, table.dtype)
        self.bias[: readout[1].size] = readout[1]
        parts = (self.inputs, self.mains, self.extras, self.readout)
        self.weight = sum(part.nbytes for part in parts)
        self.pace: dict[int, float] = {}  # recent seconds per character, by number of threads
        self.calls = 0

    def _faster(self, most: int) -> int:
        """Return 1, or ``most``, threads that wait for each other: whichever was faster recently.

        If another program keeps a core busy, waiting for it costs more than a thread gains. The slower
        choice is tried again now and then, and one that had no chance so far, because threads were
        busy or could not be started, is tried first. The text is the same to the bit.
        """
        self.calls += 1
        if most == 1:
            return 1
        if self.calls <= 4:
            return (1, most)[self.calls % 2]
        fast, slow = sorted((1, most), key=lambda number: self.pace.get(number, 0.0))
        return slow if self.calls % 32 == 0 else fast

    def generate(
        self,
        ids: np.ndarray,
        state: np.ndarray,
        uniforms: np.ndarray,
        rule: tuple[float, int | None, float, float],
        mask: np.ndarray | None = None,
        recent: np.ndarray | None = None,
        *,
        penalty: float = 0.0,
        logits: np.ndarray | None = None,
        count: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Generate as many characters as ``uniforms`` (characters, n) has rows.

        ``ids`` (n,), int32, the last character of each stream, and ``state`` (L, n, H) are replaced by
        the new ones in place; ``rule`` is (temperature, top_k, top_p, min_p) as in
        :class:`rngru.sampling.Sampling`; ``mask`` (V,) is added to all logits of a draw, ``penalty`` is
        taken off those of the ``recent`` (r, n) characters, oldest first; ``logits``
        (n, padded V) is filled with those of the last character; ``count`` is the number of threads.

        Returns
        -------
        (characters, int32; their log-probabilities before all these rules), both (characters, n).
        """
        # Of a larger one, the inverse is 0 in float32, and 0 times minus infinity is NaN.
        temperature, top_k, top_p, min_p = rule
        numbers = min(float(temperature), 1e30), top_k or self.bias.size, float(top_p), float(min_p)
        drawn, bias = np.empty(uniforms.shape, np.int32), self.bias
        logprobs, added = np.empty(uniforms.shape, bias.dtype), np.zeros_like(bias)
        if mask is not None:
            added[: mask.size] = mask
        if recent is None:
            recent = np.empty((0, len(ids)), np.int32)
        other, lanes = np.empty_like(state), len(ids)
        side = np.zeros((lanes, padded(self.size)), self.table.dtype)
        if logits is None:
            logits = np.empty((lanes, self.bias.size), self.table.dtype)
        counter = np.zeros(1, np.int64)
        most = min(count, padded(self.size) // PANEL) if self.weight > CACHE_BYTES else 1

        def run(shares: int) -> None:
            # Before any begins: one that failed for want of memory would let the others wait for ever.
            width, symbols = lanes * self.table.shape[1], bias.size
            lifted = self.residual or self.gains.size > 0
            own = [
                (
                    ids.copy(), np.empty(width, bias.dtype), np.empty_like(bias),
                    np.empty(symbols, np.int32), np.empty_like(bias), recent.astype(np.int32),
                    np.empty((1, lanes, self.size if lifted else 0), bias.dtype),
                )
                for _ in range(shares)
            ]  # fmt: skip

            def share(first: int, last: int) -> None:
                _generate(
                    self.spec.code, self.spec.hard, self.table, self.inputs, self.biases,
                    self.mains, self.extras, self.seconds, self.gains, self.shifts, self.residual,
                    self.readout, bias, state, other, side, logits, uniforms, added,
                    bias.dtype.type(penalty), *numbers, drawn, logprobs, *own[first], first, shares, counter,
                )  # fmt: skip

            began = time.perf_counter()
            threads.run(share, shares, shares)
            pace = (time.perf_counter() - began) / max(len(drawn), 1)
            # Near the best recent one: a single call that was disturbed says little.
            self.pace[shares] = min(pace, 1.02 * self.pace.get(shares, pace))

        shares = threads.ready(self._faster(most))
        if shares > 1:
            with threads.together.held(blocking=False) as alone:
                run(shares if alone else 1)
        else:
            run(1)
        if len(drawn) % 2:
            state[:] = other
        if len(drawn):
            ids[:] = drawn[-1]
        return drawn, logprobs
