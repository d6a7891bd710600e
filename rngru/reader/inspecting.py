"""What the neurons of a model do while it reads."""

import numpy as np

from rngru.reader.reader import Reader, Text
from rngru.sampling import probabilities


def track(reader: Reader, text: Text, temp: float | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a text from a fresh state, in pieces: beside what is returned it takes little memory.

    Returns
    -------
    states : float32 array, (layer, step, neuron)
        Those of both stacks, one after the other, where there are two.
    outputs : float64 array, (step, V)
        The distribution over the next symbol after each one, at temperature ``temp``; None without one.
    """
    ids = reader.encode(text)
    layers = len(reader.model.towers) * reader.hyper.layers
    states = np.empty((layers, len(ids), reader.hyper.state_size), np.float32)
    outputs = None if temp is None else np.empty((len(ids), reader.hyper.vocab_size))
    done = 0
    for piece in reader.read(ids):
        count = piece.states.shape[1]
        states[:, done : done + count] = piece.states[:, :, 0]
        if outputs is not None and temp is not None:
            outputs[done : done + count] = probabilities(piece.logits[:, 0], temp)
        done += count
    return states, outputs
