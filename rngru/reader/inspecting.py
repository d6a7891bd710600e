"""What the neurons of a model do while it reads."""

import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from rngru.dataset import ONE_LANE_BELOW, WARMUP
from rngru.errors import InputError
from rngru.reader.generating import behind
from rngru.reader.reader import PIECE, Reader, Text
from rngru.sampling import Sample, probabilities
from rngru.settings import checked, real


def track(
    reader: Reader,
    text: Text,
    temp: float | None = None,
    start: "np.ndarray | Sample | None" = None,
    *,
    memory: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a text in pieces: beside what is returned it takes little memory.

    Parameters
    ----------
    temp: temperature of the outputs; None if they are not wanted.
    start: a state (L, 1, H), or a sample to read on from; by default a fresh state.
    memory: return an LSTM's memory instead of its state.

    Returns
    -------
    states : float32 array, (layer, step, neuron)
        Those of both stacks, one after the other, where there are two.
    outputs : float64 array, (step, V)
        The distribution over the next symbol after each one, at temperature ``temp``; None without one.
    """
    model, size = reader.model, reader.hyper.state_size
    if memory and (model.both or model.spec(reader.hyper).row.memory != 1):
        raise InputError(
            f"memory=True: a {model.name} has no memory beside its state that could be shown. LSTMEncode "
            "and LSTMResize have one."
        )
    if start is not None and model.both:
        raise InputError(
            f"{model.name} reads a text from both its ends, so it cannot go on from init_state."
        )
    ids, state = reader.encode(text), behind(reader, start)
    states = np.empty((model.depth(reader.hyper), len(ids), size), np.float32)
    outputs = None if temp is None else np.empty((len(ids), reader.hyper.vocab_size))
    done = 0
    looks = reader.silent if temp is None else reader
    for piece in looks.read(ids, state):
        count = piece.states.shape[1]
        states[:, done : done + count] = piece.states[:, :, 0]
        if outputs is not None and temp is not None:
            outputs[done : done + count] = probabilities(piece.logits[:, 0], temp)
        done += count
    return _memory(reader.silent, ids, state) if memory else states, outputs


def _memory(reader: Reader, ids: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Return the memory after each symbol, (layer, step, neuron).

    Only the memory at the end of what is read at once is known. So the text is cut into pieces; when
    the state at the beginning of each is known, all are read again side by side, symbol by symbol.
    """
    length = math.isqrt(len(ids) - 1) + 1
    begins = [state, *(piece.ending for piece in reader.read(ids, state, length))]
    count = len(begins) - 1
    padded = np.zeros(count * length, np.int32)
    padded[: len(ids)] = ids
    steps, state = padded.reshape(count, length).T.copy(), np.concatenate(begins[:-1], axis=1)
    found = []
    for t in range(length):
        state = reader.backend.trace(reader.weights, steps[t : t + 1], state).ending
        found.append(state[:, :, reader.hyper.state_size :])
    # (step in a piece, layer, piece, neuron)
    memory = np.stack(found).transpose(1, 2, 0, 3)
    return memory.reshape(len(memory), -1, memory.shape[-1])[:, : len(ids)]


def tracked(reader: Reader, ids: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read a long text, ``ids`` (n,), in lanes, from a fresh state; each symbol counts once.

    Each lane first reads 500 symbols that do not count: after them it no longer matters that its
    state was fresh. Where the model reads backwards, too, so it does behind its piece.

    Yields
    ------
    (positions (m,), states (layer, m, neuron), float32), which may be overwritten.
    """
    looks = reader.silent
    if reader.model.both:
        yield from _windows(looks, ids)
        return
    # States are those after a symbol, and lanes count those before one.
    for where, _, counted, trace in looks.lanes(np.append(ids, ids[-1:])):
        if counted.all():
            yield where.reshape(-1), trace.states.reshape(len(trace.states), where.size, -1)
        elif counted.any():
            yield where[counted], trace.states[:, counted]


def _windows(reader: Reader, ids: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read pieces of a text with what surrounds them, some side by side."""
    n = len(ids)
    if n < ONE_LANE_BELOW:
        (trace,) = reader.read(ids)
        yield np.arange(n), trace.states[:, :, 0]
        return
    wide = PIECE + 2 * WARMUP
    for first in range(0, n, 8 * PIECE):
        begins = np.arange(first, min(first + 8 * PIECE, n), PIECE)
        places = np.clip(begins - WARMUP, 0, n - wide) + np.arange(wide)[:, np.newaxis]
        state = reader.freshstate(len(begins))
        trace = reader.backend.trace(reader.weights, ids[places].astype(np.int32), state)
        counted = (places >= begins) & (places < begins + PIECE)
        yield places[counted], trace.states[:, counted]


def clamp(reader: Reader, values: Mapping[tuple[int, int], float]) -> Reader:
    """Return a model some of whose neurons keep a value; see :meth:`rngru.models.Model.clamped`.

    Raises
    ------
    InputError
        If there is no such neuron, or no neuron can have such a value.
    """
    if not isinstance(values, Mapping) or not values:
        raise InputError(
            "Expected values for neurons, as in clamped({(layer, neuron): 0.0}), got "
            f"{'none' if values == {} else type(values).__name__}."
        )
    allowed, wanted = real(-1, 1), {}
    for which, value in values.items():
        layer, neuron = existing(reader, which)
        name = f"value of layer {layer}, neuron {neuron}"
        wanted[layer, neuron] = checked(name, value, allowed)
    arrays = reader.backend.fetch(reader.weights)
    weights, held = reader.model.clamped(reader.hyper, arrays, wanted)
    if held is not None and reader.held is not None:  # it holds others already
        held = np.where(np.isnan(held), reader.held, held)
    return replace(reader, weights=reader.backend.place(weights), held=held)


def existing(reader: Reader, which: object) -> tuple[int, int]:
    """Return a (layer, neuron) that a user gave, or say that there is none.

    Layers are counted through both stacks where there are two.
    """
    depth, size = reader.model.depth(reader.hyper), reader.hyper.state_size
    try:
        layer, neuron = map(operator.index, which)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise InputError(
            f"{which!r} is no neuron: expected (layer, neuron), two whole numbers from 0."
        ) from None
    if not (0 <= layer < depth and 0 <= neuron < size):
        raise InputError(
            f"There is no neuron {neuron} in layer {layer}: there are layers 0 to {depth - 1}, with "
            f"neurons 0 to {size - 1} each."
        )
    return layer, neuron
