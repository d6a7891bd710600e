"""A trained model as an instrument: all that can be done with its weights and without its text.

:class:`Instrument` has the verbs; :class:`~rngru.state.ModelState` is one, with a text, a directory and
training besides. Each verb has its manual here, and its body in :mod:`rngru.reader`.

>>> from rngru.state import ModelState
>>> issubclass(ModelState, Instrument)
True
"""

import os
from collections.abc import Callable, Iterable, Iterator
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
    beam,
    evaluate,
    evaluatetexts,
    fillgaps,
    generateall,
    predict,
    scoretexts,
    stream,
    track,
)
from rngru.sampling import Filled, Sample, Samples, Sampling, resumed
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
        temp: float | Iterable[float] = 0.5,
        seed: str | bytes | Sample | None = None,
        init_state: np.ndarray | Sample | str | os.PathLike | None = None,
        ret_state: bool = False,
        *,
        top_k: int | None = None,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repeat: float = 1.0,
        repeat_last: int = 64,
        forbid: str | Iterable[str] | Callable[[str], Any] | None = None,
        allow: str | Iterable[str] | Callable[[str], Any] | None = None,
        regex: str | None = None,
        stop: str | Iterable[str] | None = None,
        streams: int | None = None,
        rng: int | np.random.Generator | None = None,
    ) -> Sample | Samples | tuple[Sample | Samples, np.ndarray]:
        r"""Generate text.

        Parameters
        ----------
        numchars : int
            How many characters.
        temp : float, or several
            Temperature: 0 is greedy, low is tame, 1 is the model's own distribution, more is wild. With
            several a text for each, one after the other.
        seed : str, bytes or Sample
            What the text continues; by default a newline, or the end of what to start from. Where
            nobody says what to continue, the first character is no white space. ``''`` begins with
            a character that starts a line. Bytes are for byte level only.
        init_state : array, (L, 1, H), Sample or path
            Where to start from instead of an empty state. A sample, or the file it was saved to, is
            continued exactly, as if it had not stopped; with a ``seed``, that is read from the
            sample's state instead.
        ret_state : bool
            Return ``(sample, state)`` instead of the sample alone.
        top_k : int
            Draw from so many of the likeliest characters only.
        top_p : float
            Draw from the likeliest characters that together have this share of the probability.
        min_p : float
            Leave out characters that are less likely than this share of the likeliest one's
            probability. Each of the three makes wild temperatures readable.
        repeat : float
            Characters that occur among the last ``repeat_last``, those of the seed included, are less
            likely by this factor (before the temperature). Most useful at word level: 1.2, say.
        repeat_last : int
            How far back ``repeat`` looks, at most 10,000.
        forbid, allow : str, several, or a function
            Characters that are never drawn, and the only ones that are; at word level a list of words.
            A function is given all text so far, the seed included, before each character, and
            returns them, or None for no rule.
        regex : str
            A regular expression for the text (without the seed): it matches as a whole, or can still
            come to match if it is cut at ``numchars``. It ends where nothing can follow a match. At byte
            level each byte is matched as one character, ``\xc3`` for example. Needs ``rngru[regex]``.
            This and functions look at every character, and ``streams`` are written one after the other.
        stop : str, or several
            The text ends with the first of these that it comes to, if that is before ``numchars``. Its
            state is that of the text. No random number is used for what would have followed, except
            with ``streams``.
        streams : int
            Write so many texts side by side, which takes hardly longer than one; with several
            temperatures so many for each.
        rng : int or numpy.random.Generator
            Seed or Generator for the draws, to have the same text again; by default it is another each
            time.

        Returns
        -------
        Sample
            At the prompt it shows the text; ``str()`` is the text, ``.state`` continues it, ``.save(path)``
            keeps it for another day, ``.logprob`` is how likely the model finds it. With ``streams``
            or several temperatures a sequence of them, :class:`~rngru.sampling.Samples`, which shows a
            table.

        Example
        -------
        ::

            ms.generatestring(200, temp=[0.3, 0.6, 0.9], rng=1)         # a table of three
            ms.generatestring(10, regex=r'\d\d:\d\d')
            ms.generatestring(300, allow=lambda text: 'aeiou' if text[-1] in 'bcdfg' else None)
        """
        count = checked("numchars", numchars, whole(0))
        sampling = Sampling.several(
            temp, top_k=top_k, top_p=top_p, min_p=min_p, repeat=repeat, repeat_last=repeat_last,
            forbid=forbid, allow=allow, regex=regex, stop=stop,
        )  # fmt: skip
        several, start = checked("streams", streams, or_none(whole(1, 4096))), resumed(init_state)
        with Interrupts() as interrupts:
            found = generateall(
                self._reader, count, sampling, several,
                seed=seed, start=start, rng=generator(rng), asked=interrupts.asked,
            )  # fmt: skip
        return (found, found.state) if ret_state else found

    def stream(
        self,
        numchars: int | None = None,
        temp: float = 0.5,
        seed: str | bytes | Sample | None = None,
        init_state: np.ndarray | Sample | str | os.PathLike | None = None,
        *,
        top_k: int | None = None,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repeat: float = 1.0,
        repeat_last: int = 64,
        forbid: str | Iterable[str] | Callable[[str], Any] | None = None,
        allow: str | Iterable[str] | Callable[[str], Any] | None = None,
        regex: str | None = None,
        stop: str | Iterable[str] | None = None,
        rng: int | np.random.Generator | None = None,
    ) -> Iterator[str]:
        """Generate text piece by piece, to show it while it is written.

        It uses the model as it is when this is called, also if it is trained meanwhile. Ctrl-C stops the
        loop over it, as any other.

        Parameters
        ----------
        numchars : int
            How many characters; by default without end.
        temp, seed, init_state, top_k, top_p, min_p, repeat, repeat_last, forbid, allow, regex, stop, rng
            As in :meth:`generatestring`; one temperature.

        Returns
        -------
        iterator over str
            Together the text that :meth:`generatestring` returns for the same ``rng``; no character is
            cut, also at byte level.

        Example
        -------
        ::

            for piece in ms.stream(temp=0.7, seed='The '):
                print(piece, end='', flush=True)
        """
        count = checked("numchars", numchars, or_none(whole(0)))
        sampling = Sampling(
            temp, top_k=top_k, top_p=top_p, min_p=min_p, repeat=repeat, repeat_last=repeat_last,
            forbid=forbid, allow=allow, regex=regex, stop=stop,
        )  # fmt: skip
        with Interrupts(raises=True) as interrupts:
            return stream(
                self._reader, count, sampling,
                seed=seed, start=resumed(init_state), rng=generator(rng), asked=interrupts.asked,
            )  # fmt: skip

    def beam(
        self,
        seed: str | bytes | Sample | None = None,
        numchars: int = 40,
        width: int = 8,
        init_state: np.ndarray | Sample | str | os.PathLike | None = None,
    ) -> Samples:
        """Search the likeliest texts, under the model's own distribution (beam search).

        After each character only the ``width`` likeliest texts so far are kept, so a likelier one may be
        missed. The likeliest text is often a dull one: it repeats itself.

        Parameters
        ----------
        seed : str, bytes or Sample
            What the texts continue; by default a newline, or the end of what to start from.
        numchars : int
            How many characters.
        width : int
            How many texts to keep, at most 4,096.
        init_state : array, (L, 1, H), Sample or path
            Where to start from, as in :meth:`generatestring`.

        Returns
        -------
        Samples
            The likeliest first, each with its ``.logprob``; ``init_state=texts[0]`` goes on with one.

        Raises
        ------
        InputError
            If there is nothing to continue.

        Example
        -------
        ::

            ms.beam('The ship ', 20)
        """
        count = checked("numchars", numchars, whole(0))
        width, start = checked("width", width, whole(1, 4096)), resumed(init_state)
        with Interrupts() as interrupts:
            return beam(self._reader, count, width, seed=seed, start=start, asked=interrupts.asked)

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
        init_state: np.ndarray | Sample | str | os.PathLike | None = None,
    ) -> Evaluation:
        """Return the loss on a text: nats and bits per character, perplexity, characters counted.

        Parameters
        ----------
        text : str, bytes, Sample, path, or several of them
            What to predict, from its second character on; bytes only at byte level. A
            ``pathlib.Path`` is a file of text, in UTF-8. Of several texts it is the mean over all
            characters of all of them, each text read by itself. By default it is the whole
            validation text, each character of which is predicted from those before it.
        init_state : array, (L, 1, H), Sample or path
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
                start = resumed(init_state)
                return evaluatetexts(self._reader, texts, start, asked=interrupts.asked)
            if init_state is not None:
                raise InputError("init_state is where a text starts: give the text, too.")
            return evaluate(self._reader, *self._validation, asked=interrupts.asked)

    def trackneurons(
        self,
        usestr: str | bytes | Sample,
        temp: float = 1.0,
        ret_output: bool = False,
        transpose: bool = True,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
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
        text: str | bytes | Sample | os.PathLike | Iterable[str | bytes | Sample | os.PathLike],
        init_state: np.ndarray | Sample | str | os.PathLike | None = None,
    ) -> Scores | list[Scores]:
        """Return how well each character of a text is predicted.

        Parameters
        ----------
        text : str, bytes, Sample, path, or several of them
            What to predict, from its second character on; bytes only at byte level. A
            ``pathlib.Path`` is a file of text, in UTF-8.
        init_state : array, (L, 1, H), Sample or path
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
        start = resumed(init_state)
        with Interrupts() as interrupts:
            texts = self._texts(text)
            found = scoretexts(self._reader, texts, start, asked=interrupts.asked)
        return found[0] if isinstance(text, ONE) else found

    def predict(
        self,
        text: str | bytes | Sample = "\n",
        init_state: np.ndarray | Sample | str | os.PathLike | None = None,
    ) -> Prediction:
        """Return what comes after a text: every symbol with its probability, the likeliest first.

        Parameters
        ----------
        text : str, bytes or Sample
            What has been read; bytes only at byte level.
        init_state : array, (L, 1, H), Sample or path
            Where to start reading from instead of an empty state.

        Returns
        -------
        Prediction
            A sequence of (symbol, probability); at the prompt a table of the ten likeliest.
        """
        return predict(self._reader, text, resumed(init_state))

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

    def _texts(self, text: Any) -> Iterator[str | bytes | Sample]:
        """Yield a text, or each of several."""
        if isinstance(text, ONE):
            yield self._given(text)
            return
        if not isinstance(text, Iterable):
            raise InputError(f"Expected a text, a path, or several, got {type(text).__name__}.")
        yield from map(self._given, text)

    def _given(self, text: str | bytes | Sample | os.PathLike) -> str | bytes | Sample:
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
