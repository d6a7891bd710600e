"""The few calls that reading and writing with a model are made of."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np

from rngru.backends import Arrays, Backend, Trace, Written
from rngru.dataset import evallanes
from rngru.errors import InputError, warn
from rngru.hyper import HyperParams
from rngru.models import Model
from rngru.sampling import Sample, Sampling
from rngru.text import Vocabulary

Text = str | bytes | Sample
"""What can be read: a string, at byte level bytes, or a sample."""

PIECE = 1000
"""Symbols that are read at once, between two looks at Ctrl-C."""


@final
@dataclass(frozen=True, slots=True)
class Reader:
    """A trained model at one moment; training makes another Reader, and never changes this one.

    Parameters
    ----------
    model : Model
        Which kind of model.
    hyper : HyperParams
        Its sizes.
    vocab : Vocabulary
        What its symbols are.
    weights : mapping of str to array
        Its parameters by name; :mod:`rngru.models` has names and shapes.
    backend : Backend
        What computes.
    """

    model: Model
    hyper: HyperParams
    vocab: Vocabulary
    weights: Arrays
    backend: Backend

    def encode(self, text: Text) -> np.ndarray:
        """Return the ids of what a user typed, (T,), int32; warns of symbols never seen.

        At byte level bytes are text, too; a sample is that of its own symbols.

        Raises
        ------
        InputError
            If it is no text, or an empty one.
        """
        if isinstance(text, Sample):
            if text.ids.size and text.vocabulary == self.vocab.digest:
                return text.ids
            text = text.text
        if isinstance(text, bytes) and self.vocab.level == "byte" and text:
            return self.vocab.encode(text).astype(np.int32)
        if not isinstance(text, str):
            raise InputError(f"Expected a text as one string, got {type(text).__name__}.")
        if not text:
            raise InputError("Expected a text of at least one character, got an empty one.")
        if len(text) < 256 and text.isprintable() and os.path.isfile(text):
            warn(
                f"{text!r} is read as a text, but a file has this name. For what is in it give "
                f"open({text!r}).read()."
            )
        self.warn(self.vocab.unknown_in(text))
        return self.vocab.encode(text).astype(np.int32)

    def warn(self, unknown: str) -> None:
        """Warn of symbols that the model has never seen, if there are any."""
        if unknown:
            warn(
                f"The model has never seen {unknown!r}; read as unknown ({self.vocab.unknown_char!r})."
            )

    def freshstate(self, lanes: int = 1) -> np.ndarray:
        """Return the state before any text: zeros (L, B, H)."""
        return self.model.freshstate(self.hyper, lanes)

    def read(self, ids: np.ndarray, state: np.ndarray | None = None) -> Iterator[Trace]:
        """Read one text, ``ids`` (T,), in pieces; each begins with the ending of the one before.

        A model that reads in both directions reads it at once.

        Parameters
        ----------
        state
            (L, 1, H), what to begin with; by default a fresh one.
        """
        state = self.freshstate() if state is None else state
        piece = len(ids) if self.model.both else PIECE
        for start in range(0, len(ids), max(piece, 1)):
            found = self.backend.trace(self.weights, ids[start : start + piece, np.newaxis], state)
            yield found
            state = found.ending

    def losses(self, ids: np.ndarray, start: int, stop: int) -> Iterator[np.ndarray]:
        """Predict each of the symbols ``ids[start:stop]`` once; see :func:`rngru.dataset.evallanes`.

        Yields
        ------
        float32 array, 1-d
            Nats of the symbols predicted in one chunk.
        """
        state = None
        chunks = evallanes(ids, start, stop, seq_len=200, symbols=self.hyper.vocab_size)
        for x, y, counted in chunks:
            state = self.freshstate(x.shape[1]) if state is None else state
            # Not a step beyond the last that counts: what is read there is padding.
            steps = 1 + max(np.flatnonzero(counted.any(axis=1)), default=len(counted) - 1)
            nats, state = self.backend.losses(self.weights, x[:steps], y[:steps], state)
            yield nats[counted[:steps]]

    def write(
        self, last: np.ndarray, state: np.ndarray, sampling: Sampling, uniforms: np.ndarray
    ) -> Written:
        """Draw symbols after ``last`` (B,), one for each of ``uniforms`` (n, B), from ``state``.

        "Unknown", which stands for what the model cannot write, is never drawn.
        """
        mask, unknown = None, self.vocab.unknown_idx
        if unknown is not None and self.vocab.vocab_size > 1:
            mask = np.zeros(self.vocab.vocab_size, np.float32)
            mask[unknown] = -np.inf
        return self.backend.generate(self.weights, last, state, uniforms, sampling, mask)
