"""Small models of every kind, for tests of what is exported, and what they compute."""

import numpy as np

from rngru.backends import backend
from rngru.hyper import HyperParams
from rngru.models import MODELS
from rngru.reader import Reader, generate
from rngru.sampling import Sampling
from rngru.text import LEVELS

KINDS = {
    "gru": ("GRUEncode", "char", {}),
    "gru-after": ("GRUEncode", "word", {"reset_after": True}),
    "gru-after-hard": ("GRUResize", "byte", {"reset_after": True, "gate": "hard_sigmoid"}),
    "gru-hard-tied": ("GRUEncode", "char", {"gate": "hard_sigmoid", "tied": True}),
    "gru-resize": ("GRUResize", "word", {"layers": 3}),
    "lstm": ("LSTMEncode", "byte", {}),
    "lstm-resize": ("LSTMResize", "char", {"layers": 1}),
    "lstm-hard-tied": ("LSTMEncode", "word", {"gate": "hard_sigmoid", "tied": True}),
    "lstm-embedded": ("LSTMEncode", "char", {"embed_size": 7}),
    "rnn": ("RNNEncode", "char", {}),
    "rnn-resize": ("RNNResize", "byte", {}),
    "min-gru-hard": ("MinGRUEncode", "char", {"gate": "hard_sigmoid"}),
    "min-lstm-resize": ("MinLSTMResize", "word", {}),
}
"""Every cell, with and without an encoder, at every level."""


def reader(text: str, modeltype: str, level: str = "char", **options) -> Reader:
    """A model that has learned nothing, but has no zeros where others would hide a mistake."""
    vocab, model = LEVELS[level](text, srcinfo="verse.txt"), MODELS[modeltype]
    hyper = HyperParams(vocab.vocab_size, **{"state_size": 12} | options)
    rng = np.random.default_rng(5)
    weights = model.initial(hyper, rng)
    for name, array in weights.items():
        if array.ndim == 1:
            weights[name] = rng.normal(0, 0.5, array.shape).astype(np.float32)
        elif name in ("V", "E"):  # sure of some symbols, as one that has learned
            weights[name] = 2 * array
    return Reader(model, hyper, vocab, weights, backend("cpu", model, hyper))


def logits(reader: Reader, ids: np.ndarray) -> np.ndarray:
    """What the model itself gives, (T, V)."""
    return np.concatenate([trace.logits[:, 0] for trace in reader.read(ids)])


def written(reader: Reader, count: int, seed: str | None, rng: int, temp: float = 1.0, **options):
    """What the model itself writes."""
    sampling = Sampling(temp, **options)
    return generate(
        reader, count, sampling, seed=seed, start=None, rng=np.random.default_rng(rng)
    ).text
