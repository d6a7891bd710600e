"""A trained model as an instrument: all that can be done with its weights and without its text.

:class:`Instrument` has the verbs; :class:`~rngru.state.ModelState` is one, with a text, a directory and
training besides. Each verb has its manual here, and its body in :mod:`rngru.reader`.

>>> from rngru.state import ModelState
>>> issubclass(ModelState, Instrument)
True
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rngru import export
from rngru.errors import InputError, helpful
from rngru.interrupts import Interrupts
from rngru.reader import (
    Evaluation,
    Prediction,
    Reader,
    Scores,
    evaluate,
    evaluatetexts,
    fillgaps,
    generate,
    generatemany,
    predict,
    scoretexts,
    track,
)
from rngru.sampling import Filled, Sample, Samples, Sampling
from rngru.settings import checked, generator, or_none, whole
from rngru.text import opentexts, readtext

ONE = str | bytes | Sample | os.PathLike
"""What is one text; anything else that can be iterated over is several."""


@helpful
class Instrument:
    """Writes text with a model, scores it, and shows what its neurons do."""

    __slots__ = ()

    @property
    def _reader(self) -> Reader:
        """The model as it is now: whoever reads or writes text with it begins here."""
        raise NotImplementedError

    @property
    def _validation(self) -> tuple[np.ndarray, int]:
        """The whole text, encoded, and where its validation part begins."""
        raise NotImplementedError

    def generatestring(
        self,
        numchars: int = 100,
        temp: float = 0.5,
        seed: "str | bytes | Sample | None" = None,
        init_state: "np.ndarray | Sample | None" = None,
        ret_state: bool = False,
        *,
        top_k: int | None = None,
        top_p: float = 1.0,
        min_p: float = 0.0,
        forbid: "str | Iterable[str] | None" = None,
        allow: "str | Iterable[str] | None" = None,
        stop: "str | Iterable[str] | None" = None,
        streams: int | None = None,
        rng: int | np.random.Generator | None = None,
    ) -> "Sample | Samples | tuple[Sample | Samples, np.ndarray]":
        """Generate text.

        Parameters
        ----------
        numchars : int
            How many characters.
        temp : float
            Temperature: 0 is greedy, low is tame, 1 is the model's own distribution, more is wild.
        seed : str, bytes or Sample
            What the text continues; by default a newline, or the end of the sample to start from.
            ``''`` begins with a character that starts a line. Bytes are for byte level only.
        init_state : array, (L, 1, H), or Sample
            Where to start from instead of an empty state. A sample is continued exactly, as if it
            had not stopped; with a ``seed``, that is read from the sample's state instead.
        ret_state : bool
            Return ``(sample, state)`` instead of the sample alone.
        top_k : int
            Draw from so many of the likeliest characters only.
        top_p : float
            Draw from the likeliest characters that together have this share of the probability.
        min_p : float
            Leave out characters that are less likely than this share of the likeliest one's
            probability. Each of the three makes wild temperatures readable.
        forbid, allow : str, or several
            Characters that are never drawn, and the only ones that are; at word level a list of words.
        stop : str, or several
            The text ends with the first of these that it comes to, if that is before ``numchars``. Its
            state is that of the text, and no random number is used for what would have followed.
        streams : int
            Write so many texts side by side, which takes hardly longer than one.
        rng : int or numpy.random.Generator
            Seed or Generator for the draws, to have the same text again; by default it is another each
            time.

        Returns
        -------
        Sample
            At the prompt it shows the text; ``str()`` is the text, ``.state`` continues it. With
            ``streams`` a sequence of them, :class:`~rngru.sampling.Samples`, which shows a table.
        """
        count = checked("numchars", numchars, whole(0))
        sampling = Sampling(
            temp, top_k=top_k, top_p=top_p, min_p=min_p, forbid=forbid, allow=allow, stop=stop
        )
        several = checked("streams", streams, or_none(whole(1, 4096)))
        with Interrupts() as interrupts:
            given: dict[str, Any] = {
                "seed": seed, "start": init_state, "rng": generator(rng), "asked": interrupts.asked,
            }  # fmt: skip
            if several is None:
                found = generate(self._reader, count, sampling, **given)
                return (found, found.state) if ret_state else found
            many = generatemany(self._reader, count, sampling, several, **given)
        states = np.concatenate([each.state for each in many], axis=1)
        return (many, states) if ret_state else many

    def fillin(self, text: str, blank: str = "_", choices: int = 5) -> Filled:
        """Fill the gaps of a text, for a model that reads in both directions.

        Parameters
        ----------
        text : str
            Text with gaps; several are filled together.
        blank : str
            What stands for a gap: one symbol.
        choices : int
            How many alternatives to list for each gap.

        Returns
        -------
        Filled
            At the prompt it shows the likeliest text; ``.gaps`` has the alternatives.

        Raises
        ------
        InputError
            If the model reads forwards only, or there is no gap.

        Example
        -------
        ::

            ms = ModelState.initfromsrcfile('verse.txt', 'bi', modeltype='BiGRU')
            ms.trainmodel(max_seconds=60)
            ms.fillin('the qu_ck br_wn fox')
        """
        choices = checked("choices", choices, whole(1))
        with Interrupts(raises=True) as interrupts:
            return fillgaps(self._reader, text, blank, choices, check=interrupts.check)

    def evaluate(
        self,
        text: str
        | bytes
        | Sample
        | os.PathLike
        | Iterable[str | bytes | Sample | os.PathLike]
        | None = None,
        init_state: np.ndarray | Sample | None = None,
    ) -> Evaluation:
        """Return the loss on a text: nats and bits per character, perplexity, characters counted.

        Parameters
        ----------
        text : str, bytes, Sample, path, or several of them
            What to predict, from its second character on; bytes only at byte level. A
            ``pathlib.Path`` is a file of text, in UTF-8. Of several texts it is the mean over all
            characters of all of them, each text read by itself. By default it is the whole
            validation text, each character of which is predicted from those before it.
        init_state : array, (L, 1, H), or Sample
            Where to start each text from instead of an empty state. After a sample the first
            character is predicted, too.

        Raises
        ------
        InputError
            If there is nothing to predict, or an ``init_state`` but no text.
        TextError
            If a file cannot be read.
        """
        with Interrupts() as interrupts:
            if text is not None:
                texts = self._texts(text)
                return evaluatetexts(self._reader, texts, init_state, asked=interrupts.asked)
            if init_state is not None:
                raise InputError("init_state is where a text starts: give the text, too.")
            return evaluate(self._reader, *self._validation, asked=interrupts.asked)

    def trackneurons(
        self,
        usestr: "str | bytes | Sample",
        temp: float = 1.0,
        ret_output: bool = False,
        transpose: bool = True,
    ) -> "np.ndarray | tuple[np.ndarray, np.ndarray]":
        """Return the state of every neuron after each character of a text.

        Parameters
        ----------
        usestr : str, bytes or Sample
            The text to read; bytes only at byte level.
        temp : float
            Temperature of the outputs; 1 is the model's own distribution.
        ret_output : bool
            Return ``(states, outputs)``: outputs (step, V) is the distribution over the next
            character after each one, float64.
        transpose : bool
            Axes (layer, neuron, step); otherwise (step, layer, neuron).

        Returns
        -------
        float32 array, (layer, neuron, step) or (step, layer, neuron)
        """
        temp = Sampling(temp).temp
        states, outputs = track(self._reader, usestr, temp if ret_output else None)
        states = states.transpose(0, 2, 1) if transpose else states.transpose(1, 0, 2)
        return states if outputs is None else (states, outputs)

    def score(
        self,
        text: "str | bytes | Sample | os.PathLike | Iterable[str | bytes | Sample | os.PathLike]",
        init_state: "np.ndarray | Sample | None" = None,
    ) -> Scores | list[Scores]:
        """Return how well each character of a text is predicted.

        Parameters
        ----------
        text : str, bytes, Sample, path, or several of them
            What to predict, from its second character on; bytes only at byte level. A
            ``pathlib.Path`` is a file of text, in UTF-8.
        init_state : array, (L, 1, H), or Sample
            Where to start from instead of an empty state. After a sample the first character is
            predicted, too.

        Returns
        -------
        Scores, or a list of them
            At the prompt it shows the mean and the most surprising places, in a notebook the text.
            ``.nats``, ``.bits``, ``.ranks`` and ``.entropy`` have a number for each character;
            ``.words()`` and ``.lines()`` add them up; ``.plot()`` draws them; ``.columns()`` is for a
            data frame. Those of two models on one text can be subtracted: ``a.score(t) - b.score(t)``.

        Raises
        ------
        InputError
            If there is nothing to predict.
        TextError
            If a file cannot be read.
        """
        with Interrupts() as interrupts:
            texts = self._texts(text)
            found = scoretexts(self._reader, texts, init_state, asked=interrupts.asked)
        return found[0] if isinstance(text, ONE) else found

    def predict(
        self,
        text: "str | bytes | Sample" = "\n",
        init_state: "np.ndarray | Sample | None" = None,
    ) -> Prediction:
        """Return what comes after a text: every symbol with its probability, the likeliest first.

        Parameters
        ----------
        text : str, bytes or Sample
            What has been read; bytes only at byte level.
        init_state : array, (L, 1, H), or Sample
            Where to start reading from instead of an empty state.

        Returns
        -------
        Prediction
            A sequence of (symbol, probability); at the prompt a table of the ten likeliest.
        """
        return predict(self._reader, text, init_state)

    def export(self, path: str | os.PathLike[str]) -> Path:
        """Take the model elsewhere: write it in the format that the ending of ``path`` names.

        Parameters
        ----------
        path
            The file to write. A file of the same kind is replaced, any other is not.

            ``.py``
                A program that writes text with NumPy alone; the weights are inside.
            ``.html``
                A page that writes text in any browser, without a server; the weights are inside.
            ``.safetensors``
                All parameters under rngru's names, and what the model is. ``pip install
                'rngru[export]'``
            ``.onnx``
                One step of the model, state in and out, for ONNX Runtime and others. ``pip install
                'rngru[onnx]'``
            ``.pt``
                A state dict for PyTorch, and beside it ``…_model.py``, the module that loads it.
                ``pip install torch``

        Returns
        -------
        Path
            Where it is.

        Raises
        ------
        InputError
            For another ending, and if the file is there and rngru has not written it. A model that
            reads in both directions can be a ``.safetensors`` only.
        MissingExtra
            If the format needs a package that is not installed; the message says which.
        WorkdirError
            If the file cannot be written.

        Example
        -------
        ::

            ms = ModelState.load('work')
            ms.export('verse.html')                       # open it in a browser
            ms.export('verse.safetensors')
            rngru.export.weights('verse.safetensors')     # and back
        """
        with Interrupts(raises=True):
            return export.export(self._reader, path)

    def _texts(self, text: Any) -> "Iterator[str | bytes | Sample]":
        """Yield a text, or each of several."""
        if isinstance(text, ONE):
            yield self._given(text)
            return
        if not isinstance(text, Iterable):
            raise InputError(f"Expected a text, a path, or several, got {type(text).__name__}.")
        yield from map(self._given, text)

    def _given(self, text: "str | bytes | Sample | os.PathLike") -> "str | bytes | Sample":
        """Return a text, read from its file if it is a path."""
        if not isinstance(text, os.PathLike):
            return text
        if os.path.isdir(text):
            raise InputError(
                f"{os.fspath(text)!r} is a directory. Give a file of it, or several: "
                "Path(...).glob('*.txt')."
            )
        if self._reader.vocab.level != "byte":
            return readtext(text)
        return b"".join(block for document in opentexts(text) for block in document.blocks())
