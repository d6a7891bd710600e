"""The few calls that reading and writing with a model are made of."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self, final
from unicodedata import category, combining, normalize

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

STEPS = 200
"""Symbols that each lane of several reads at once."""

NAMED = 20
"""Unknown symbols that a warning names."""

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
    held : array, (L, 1, H), float32, optional
        The part of the state that every text begins with, NaN where that is not decided.
    together : bool
        Whether all processes, where there are several, ask for the same losses at the same time: then each
        reads some of the lanes.
    """

    model: Model
    hyper: HyperParams
    vocab: Vocabulary
    weights: Arrays
    backend: Backend
    held: np.ndarray | None = None
    together: bool = False

    def encode(self, text: Text) -> np.ndarray:
        """Return the ids of what a user typed, (T,), int32; warns of symbols never seen.

        At byte level bytes are text, too; a sample is that of its own symbols. A text that spells
        its accents in another way than the model's is read in the model's way.

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
        text = self.respelt(text)
        self.warn(self.vocab.unknown_in(text))
        return self.vocab.encode(text).astype(np.int32)

    def symbols(self, text: Text) -> tuple[str, ...]:
        """Return the symbols of a text as they are written, one for each id of :meth:`encode`."""
        if isinstance(text, Sample):  # split anew, two words drawn side by side would be one
            drawn = text.ids.size and text.vocabulary == self.vocab.digest
            text = text.text if not drawn else text
        if isinstance(text, str) and self.vocab.level != "byte":
            return tuple(self.vocab.split(self.respelt(text, told=False)))
        ids = self.encode(text).tolist()
        written = {i: self.vocab.charatidx(i) for i in set(ids)}
        return tuple(written[i] for i in ids)

    def respelt(self, text: str, *, told: bool = True) -> str:
        """Return a text in the form of Unicode in which the model knows most of it.

        Warns of a change, if it is to be ``told``.

        An accented letter can be one code point (form NFC) or a letter and a mark (NFD): they look the
        same, but are different symbols.
        """
        if text.isascii() or not self.vocab.unknown_in(text):
            return text
        forms = {form: normalize(form, text) for form in ("NFC", "NFD")}
        unknown = {form: self._unknown(each) for form, each in forms.items()}
        best = min(forms, key=lambda form: unknown[form])
        if unknown[best] >= self._unknown(text):
            return text
        if not told:
            return forms[best]
        marks = sorted({_code(char) for char in forms["NFD"] if combining(char)})
        mark = f" ({', '.join(marks[:3])})" if marks else ""
        spelt = "as one character" if best == "NFC" else "apart"
        warn(
            f"The model's text writes letters and their marks{mark} {spelt}, and what you gave does not. "
            f"It is read in that form, as unicodedata.normalize({best!r}, ...) makes it."
        )
        return forms[best]

    def warn(self, unknown: str) -> None:
        """Warn of symbols that the model has never seen, if there are any.

        A mark, which would be shown on the quote before it, is named by its number.
        """
        apart = " " if self.vocab.level == "word" else ""
        symbols = unknown.split(apart) if apart else list(unknown)
        symbols, more = symbols[:NAMED], len(symbols) - NAMED
        marks = [symbol for symbol in symbols if symbol and category(symbol[0])[0] == "M"]
        others = apart.join(symbol for symbol in symbols if symbol not in marks)
        told = [repr(others)] if others else []
        told += ["+".join(map(_code, symbol)) for symbol in marks]
        if unknown:
            others = f" and {more:,} more" if more > 0 else ""
            known = "does not know" if self.vocab.rare else "has never seen"
            warn(
                f"The model {known} {', '.join(told)}{others}; read as unknown "
                f"({self.vocab.unknown_char!r})."
            )

    def _unknown(self, text: str) -> int:
        """How many symbols of a text are unknown."""
        return int(np.count_nonzero(self.vocab.encode(text) == self.vocab.unknown_idx))

    def freshstate(self, lanes: int = 1) -> np.ndarray:
        """Return the state before any text, (L, B, H): zeros, but for what is held."""
        return self.begun(self.model.freshstate(self.hyper, lanes))

    def begun(self, state: np.ndarray) -> np.ndarray:
        """Return a state to begin with: a given one (L, B, H), but for what is held."""
        if self.held is None:
            return state
        # What a held neuron came to by itself may differ in the last digit, and is to go on with it.
        near = np.isclose(state, self.held, rtol=1e-5, atol=1e-5)
        return np.where(np.isnan(self.held) | near, state, self.held)

    @property
    def silent(self) -> Self:
        """The same model for whoever looks at states alone: it has a single output, which costs little."""
        if self.hyper.tied:  # the outputs are the encoder
            return self
        arrays = self.backend.fetch(self.weights)
        fewer = {"V": np.ascontiguousarray(arrays["V"][:, :1]), "c": arrays["c"][:1].copy()}
        return replace(self, weights=self.backend.place({**arrays, **fewer}))

    def read(
        self, ids: np.ndarray, state: np.ndarray | None = None, most: int | None = None
    ) -> Iterator[Trace]:
        """Read one text, ``ids`` (T,), in pieces; each begins with the ending of the one before.

        A model that reads in both directions reads it at once.

        Parameters
        ----------
        state
            (L, 1, H), what to begin with; by default a fresh one.
        most
            Symbols in a piece, if that is to be another number than usual.
        """
        state = self.freshstate() if state is None else state
        piece = len(ids) if self.model.both else most or PIECE
        for start in range(0, len(ids), max(piece, 1)):
            found = self.backend.trace(self.weights, ids[start : start + piece, np.newaxis], state)
            yield found
            state = found.ending

    def lanes(self, ids: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, Trace]]:
        """Read a long text, ``ids`` (N,), side by side; see :func:`rngru.dataset.evallanes`.

        Yields
        ------
        (positions, the symbols after them, which of these count, what was seen): (T, B) each, and a trace.
        """
        chunks = evallanes(ids, seq_len=STEPS, symbols=self.hyper.vocab_size)
        numbers, state = evallanes(np.arange(len(ids)), seq_len=STEPS), None
        for (x, y, counted), (where, _, _) in zip(chunks, numbers, strict=True):
            state = self.freshstate(x.shape[1]) if state is None else state
            trace = self.backend.trace(self.weights, x, state)
            state = trace.ending
            yield where, y, counted, trace

    def losses(self, ids: np.ndarray, start: int, stop: int) -> Iterator[np.ndarray]:
        """Predict each of the symbols ``ids[start:stop]`` once; see :func:`rngru.dataset.evallanes`.

        Yields
        ------
        float32 array, 1-d
            Nats of the symbols predicted in one chunk.
        """
        state = None
        chunks = evallanes(ids, start, stop, seq_len=STEPS, symbols=self.hyper.vocab_size)
        for x, y, counted in chunks:
            state = self.freshstate(x.shape[1]) if state is None else state
            # Not a step beyond the last that counts: what is read there is padding.
            steps = 1 + max(np.flatnonzero(counted.any(axis=1)), default=len(counted) - 1)
            own = self.backend.dealt(x.shape[1]) if self.together else slice(None)
            nats, state = self.backend.losses(self.weights, x[:steps, own], y[:steps, own], state)
            yield nats[counted[:steps]]

    def write(
        self,
        last: np.ndarray,
        state: np.ndarray,
        sampling: Sampling,
        uniforms: np.ndarray,
        barred: np.ndarray | None = None,
        recent: np.ndarray | None = None,
    ) -> Written:
        """Draw symbols after ``last`` (B,), one for each of ``uniforms`` (n, B), from ``state``.

        Parameters
        ----------
        barred
            bool (V,), what is never drawn; by default what :meth:`barred` says.
        recent
            (r, B), the last symbols of each text, oldest first, of which ``last`` is the newest. What
            occurs among the last r is less likely by the factor ``sampling.repeat``.
        """
        barred = self.barred(sampling) if barred is None else barred
        mask = np.where(barred, -np.inf, 0).astype(np.float32) if barred.any() else None
        return self.backend.generate(self.weights, last, state, uniforms, sampling, mask, recent)

    def barred(self, sampling: Sampling) -> np.ndarray:
        """Return which symbols are never drawn, whatever their probability and the text; bool (V,).

        "Unknown", which stands for what the model cannot write, is one of them. What a function allows or
        forbids depends on the text: :class:`rngru.reader.limits.Limits` asks it.

        Raises
        ------
        InputError
            If none is left.
        """
        allow = None if callable(sampling.allow) else sampling.allow
        barred = np.full(self.vocab.vocab_size, allow is not None)
        if allow is not None:
            barred[self.idsof(allow)] = False
        if sampling.forbid is not None and not callable(sampling.forbid):
            barred[self.idsof(sampling.forbid)] = True
        if self.vocab.unknown_idx is not None and len(barred) > 1:
            barred[self.vocab.unknown_idx] = True
        if barred.all():
            raise InputError(
                f"forbid={sampling.forbid!r} and allow={sampling.allow!r} leave no symbol that the model "
                "knows. Forbid less, or allow more."
            )
        return barred

    def idsof(self, texts: Iterable[str]) -> np.ndarray:
        """Return the ids of all symbols of some texts, int64."""
        return np.concatenate([np.empty(0, int), *map(self.vocab.encode, texts)]).astype(np.int64)


def _code(char: str) -> str:
    """Return the number of a character as Unicode writes it."""
    return f"U+{ord(char):04X}"
