"""What the neurons of a model do while it reads."""

import numpy as np

from rngru.reader.reader import Reader, Text
from rngru.sampling import probabilities


def track(reader: Reader, text: Text, temp: float) -> tuple[np.ndarray, np.ndarray]:
    """Read a text from a fresh state.

    Returns
    -------
    states : float32 array, (layer, step, neuron)
        Those of both stacks, one after the other, where there are two.
    outputs : float64 array, (step, V)
        The distribution over the next symbol after each one, at temperature ``temp``.
    """
    ids = reader.encode(text)[:, np.newaxis]
    states, logits, _ = reader.backend.trace(reader.weights, ids, reader.freshstate())
    return states[:, :, 0], probabilities(logits[:, 0], temp)
