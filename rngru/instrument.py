"""A trained model as an instrument: all that can be done with its weights and without its text.

:class:`Instrument` has the verbs; :class:`~rngru.state.ModelState` is one, with a text, a directory and
training besides. Each verb has its manual here, and its body in :mod:`rngru.reader`.

>>> from rngru.state import ModelState
>>> issubclass(ModelState, Instrument)
True
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn, final, overload

import numpy as np

from rngru.compression import Compressed, compress, decompress
from rngru.errors import InputError, helpful
from rngru.interrupts import Interrupts
from rngru.pictures import NeuronPlot
from rngru.reader import (
    Evaluation,
    Learner,
    Neurons,
    Prediction,
    Reader,
    Scores,
    Similar,
    Wanted,
    beam,
    chosen,
    clamp,
    evaluate,
    evaluatetexts,
    fillgaps,
    follow,
    generateall,
    learned,
    predict,
    propertyof,
    scoretexts,
    similar,
    stream,
    teaching,
    together,
    track,
    vectors,
)
from rngru.sampling import Filled, Sample, Samples, Sampling, resumed
from rngru.settings import checked, generator, or_none, real, whole
from rngru.text import opentexts, readtext

ONE = str | bytes | Sample | os.PathLike
"""What is one text; anything else that can be iterated over is several."""

CALLED = {
    "trainmodel(...)": ("train", "fit", "learn", "train_model", "trainModel"),
    "generatestring(...)": ("generate", "sample", "write", "generate_string", "generate_text"),
    "newcheckpoint() or pack(path)": ("save", "checkpoint", "dump", "store"),
    "evaluate(...)": ("loss", "eval", "test", "perplexity", "validate"),
    "plotloss()": ("plot", "show", "plot_loss"),
    "trackneurons(...)": ("states", "activations", "hidden"),
    "parameters() or hyper": ("weights", "params", "state_dict", "config", "summary"),
}
"""What people call a verb who come from elsewhere."""


@helpful
class Instrument:
    """Writes text with a model, scores it, and shows what its neurons do."""

    __slots__ = ()

    def __getattr__(self, name: str) -> NoReturn:
        """Say what there is instead of a verb that is called otherwise here."""
        meant = next((verb for verb, words in CALLED.items() if name in words), "")
        told = f" Did you mean {meant}?" if meant else ""
        raise AttributeError(f"{type(self).__name__} has no {name!r}.{told}")

    @property
    def _reader(self) -> Reader:
        """The model as it is now: whoever reads or writes text with it begins here."""
        raise NotImplementedError

    @property
    def _validation(self) -> tuple[np.ndarray, int]:
        """The whole text, encoded, and where its validation part begins."""
        raise NotImplementedError

    @overload
    def generatestring(self, *values: Any, streams: int, **named: Any) -> Samples: ...
    @overload
    def generatestring(
        self, numchars: int, temp: Iterable[float], *values: Any, **named: Any
    ) -> Samples: ...
    @overload
    def generatestring(
        self, *values: Any, ret_state: Literal[True], streams: None = None, **named: Any
    ) -> tuple[Sample, np.ndarray]: ...
    @overload
    def generatestring(
        self,
        numchars: int = 100,
        temp: float = 0.5,
        seed: str | bytes | Sample | None = None,
        init_state: np.ndarray | Sample | str | os.PathLike | None = None,
        ret_state: Literal[False] = False,
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
        streams: None = None,
        rng: int | np.random.Generator | None = None,
    ) -> Sample: ...
    def generatestring(  # type: ignore[misc]  # three forms are written short
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
            Temperature: 0 is greedy, low is tame, 1 is the model's own
            distribution, more is wild. With several a text for each, one after
            the other.
        seed : str, bytes or Sample
            What the text continues; by default a newline, or the end of what to
            start from. Where nobody says what to continue, the first character
            is no white space. ``''`` begins with a character that starts a
            line. Bytes are for byte level only.
        init_state : array, (L, 1, H), Sample or path
            Where to start from instead of an empty state. A sample, or the file
            it was saved to, is continued exactly, as if it had not stopped; a
            ``seed`` is read behind its last character.
        ret_state : bool
            Return ``(sample, state)`` instead of the sample alone.
        top_k : int
            Draw from so many of the likeliest characters only.
        top_p : float
            Draw from the likeliest characters that together have this share of
            the probability.
        min_p : float
            Leave out characters that are less likely than this share of the
            likeliest one's probability. Each of the three makes wild
            temperatures readable.
        repeat : float
            Characters that occur among the last ``repeat_last``, those of the
            seed included, are less likely by this factor (before the
            temperature). Most useful at word level: 1.2, say.
        repeat_last : int
            How far back ``repeat`` looks, at most 10,000.
        forbid, allow : str, several, or a function
            Characters that are never drawn, and the only ones that are; at word
            level a list of words. A function is given all text so far, the seed
            included, before each character, and returns them, or None for no
            rule.
        regex : str
            A regular expression for the text (without the seed): it matches as
            a whole, or can still come to match if it is cut at ``numchars``. It
            ends where nothing can follow a match. At byte level each byte is
            matched as one character, ``\xc3`` for example. Needs
            ``rngru[regex]``. This and functions look at every character, and
            ``streams`` are written one after the other.
        stop : str, or several
            The text ends with the first of these that it comes to, if that is
            before ``numchars``. Its state is that of the text. No random number
            is used for what would have followed, except with ``streams``.
        streams : int
            Write so many texts side by side, which takes hardly longer than
            one; with several temperatures so many for each.
        rng : int or numpy.random.Generator
            Seed or Generator for the draws, to have the same text again; by
            default it is another each time.

        Returns
        -------
        Sample
            At the prompt it shows the text; ``str()`` is the text, ``.state``
            continues it, ``.save(path)`` keeps it for another day, ``.logprob``
            is how likely the model finds it. With ``streams`` or several
            temperatures a sequence of them, :class:`~rngru.sampling.Samples`,
            which shows a table.

        Example
        -------
        ::

            ms.generatestring(200, temp=[0.3, 0.6, 0.9])   # a table of three
            ms.generatestring(10, regex=r'\d\d:\d\d')
            ms.generatestring(30, allow=lambda text: 'aeiou')   # no other
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

        It uses the model as it is when this is called, also if it is trained
        meanwhile. Ctrl-C stops the loop over it, as any other.

        Parameters
        ----------
        numchars : int
            How many characters; by default without end.
        temp, seed, init_state, top_k, top_p, min_p, repeat, repeat_last,
        forbid, allow, regex, stop, rng
            As in :meth:`generatestring`; one temperature.

        Returns
        -------
        iterator over str
            Together the text that :meth:`generatestring` returns for the same
            ``rng``; no character is cut, also at byte level.

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
        """Search the likeliest texts (beam search).

        After each character only the ``width`` likeliest texts so far are kept,
        so a likelier one may be missed. The likeliest text is often a dull one:
        it repeats itself.

        Parameters
        ----------
        seed : str, bytes or Sample
            What the texts continue; by default a newline, or the end of what to
            start from.
        numchars : int
            How many characters.
        width : int
            How many texts to keep, at most 4,096.
        init_state : array, (L, 1, H), Sample or path
            Where to start from, as in :meth:`generatestring`.

        Returns
        -------
        Samples
            The likeliest first, each with its ``.logprob``;
            ``init_state=texts[0]`` goes on with one.

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
            At the prompt it shows the likeliest text; ``.gaps`` has the
            alternatives.

        Raises
        ------
        InputError
            If the model reads forwards only, or there is no gap.

        Example
        -------
        ::

            new = ModelState.initfromsrcfile
            ms = new('verse.txt', 'bi', modeltype='BiGRU')
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
        *,
        adapt: bool | float = False,
    ) -> Evaluation:
        """Return the loss on a text: nats and bits per character, perplexity.

        Parameters
        ----------
        text : str, bytes, Sample, path, or several of them
            What to predict, from its second character on; bytes only at byte
            level. A ``pathlib.Path`` is a file of text, in UTF-8. Of several
            texts it is the mean over all characters of all of them, each text
            read by itself. By default it is the whole validation text, each
            character of which is predicted from those before it.
        init_state : array, (L, 1, H), Sample or path
            Where to start each text from instead of an empty state. After a
            sample the first character is predicted, too.
        adapt : bool or float
            Learn each piece of the text after it was predicted: True, or the
            rate. The model itself stays as it is. See :meth:`adapted`.

        Raises
        ------
        InputError
            If there is nothing to predict, or an ``init_state`` but no text.
        TextError
            If a file cannot be read.
        """
        with Interrupts() as interrupts:
            asked, learn = interrupts.asked, self._learning(adapt)
            if text is not None:
                texts, start = self._texts(text), resumed(init_state)
                if learn is None:
                    return evaluatetexts(self._reader, texts, start, asked=asked)
                return together(scoretexts(self._reader, texts, start, learn=learn, asked=asked))
            if init_state is not None:
                raise InputError("init_state is where a text starts: give the text, too.")
            if learn is not None:
                return learned(learn(), *self._validation, asked=asked)
            return evaluate(self._reader, *self._validation, asked=interrupts.asked)

    @overload
    def trackneurons(
        self, usestr: str | bytes | Sample | os.PathLike, *, ret_output: Literal[True], **named: Any
    ) -> tuple[np.ndarray, np.ndarray]: ...
    @overload
    def trackneurons(
        self, usestr: list[str | bytes | Sample | os.PathLike], *values: Any, **named: Any
    ) -> list[Any]: ...
    @overload
    def trackneurons(
        self,
        usestr: str | bytes | Sample | os.PathLike,
        temp: float = 1.0,
        ret_output: Literal[False] = False,
        transpose: bool = True,
        *,
        init_state: np.ndarray | Sample | str | os.PathLike | None = None,
        memory: bool = False,
    ) -> np.ndarray: ...
    def trackneurons(  # type: ignore[misc]  # two forms are written short
        self,
        usestr: str | bytes | Sample | os.PathLike | Iterable[str | bytes | Sample | os.PathLike],
        temp: float = 1.0,
        ret_output: bool = False,
        transpose: bool = True,
        *,
        init_state: np.ndarray | Sample | str | os.PathLike | None = None,
        memory: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray] | list[Any]:
        """Return the state of every neuron after each character of a text.

        Parameters
        ----------
        usestr : str, bytes, Sample or path, or several of them
            The text to read; bytes only at byte level.
        temp : float
            Temperature of the outputs; 1 is the model's own distribution.
        ret_output : bool
            Return ``(states, outputs)``: outputs (step, V) is the distribution
            over the next character after each one, float64.
        transpose : bool
            Axes (layer, neuron, step); otherwise (step, layer, neuron).
        init_state : array, (L, 1, H), Sample or path
            Where to start from instead of an empty state; of a sample, behind
            its last character.
        memory : bool
            Return the memory of LSTM neurons instead of their state. It has no
            bounds.

        Returns
        -------
        float32 array, (layer, neuron, step) or (step, layer, neuron)
            For several texts a list of them.
            Of a model that reads in both directions, the layers of the second
            stack come last.

        Raises
        ------
        InputError
            If it is no text, or ``memory`` is asked of a model that has none.

        Example
        -------
        ::

            ms.trackneurons('The ship')[1, 5]         # 8 numbers of a neuron
            ms.trackneurons(['The ship', 'A ship'])   # a list of two arrays
        """
        if not isinstance(usestr, ONE):
            each = partial(
                self.trackneurons, temp=temp, ret_output=ret_output, transpose=transpose,
                init_state=init_state, memory=memory,
            )  # fmt: skip
            return [each(text) for text in _several("usestr", usestr)]
        temp = Sampling(temp).temp
        tracked = track(
            self._reader,
            self._given(usestr),
            temp if ret_output else None,
            resumed(init_state),
            memory=memory,
        )
        states, outputs = tracked
        states = states.transpose(0, 2, 1) if transpose else states.transpose(1, 0, 2)
        return states if outputs is None else (states, outputs)

    def neurons(self, text: str | bytes | Sample | os.PathLike, wanted: Wanted) -> Neurons:
        r"""Find the neurons that follow a property of a text.

        The neurons are put in order by their correlation with the property on
        the first half of the text; what is shown was measured on the second
        half. Among hundreds of neurons, some follow any property on any one
        text by chance.

        Parameters
        ----------
        text : str, bytes, Sample or path
            What to read, the longer the better; a megabyte takes seconds. Bytes
            only at byte level.
        wanted : str, compiled regular expression, function or array
            The property. The name of one: ``'quoted'``, ``'brackets'`` (how
            many are open), ``'line position'``, ``'word position'``,
            ``'indent'``, ``'upper case'``, ``'digit'``, ``'blank'``. Any other
            string is a regular expression: symbols inside its matches are 1,
            others 0. A function gets the text; it returns numbers, one for each
            symbol or character, as an array has them.

        Returns
        -------
        Neurons
            At the prompt a table of the best. ``found[0]`` is the best as
            (layer, neuron); ``found.chance`` is a correlation that the best of
            all neurons hardly reaches by chance; ``.columns()`` is for a data
            frame. Ctrl-C ends it with what has been read.

        Raises
        ------
        InputError
            If there is no such property, or it does not change in each half of
            the text.

        Example
        -------
        ::

            found = ms.neurons(Path('novel.txt'), 'quoted')
            ms.neurons(text, r'\d+')                        # inside numbers
            ms.neurons(text, lambda text: [c in 'aeiou' for c in text])
            ms.plotneurons(text[:500], found)
            ms.clamped({found[0]: 0.0}).evaluate()
        """
        given, reader = self._given(text), self._reader
        what, values = propertyof(reader, given, wanted)
        with Interrupts() as interrupts:
            return follow(reader, given, what, values, asked=interrupts.asked)

    def plotneurons(
        self,
        text: str | bytes | Sample | os.PathLike,
        which: tuple[int, int] | Neurons | Iterable[tuple[int, int]],
    ) -> NeuronPlot:
        """Show a text coloured by neurons: red is positive, blue negative.

        Parameters
        ----------
        text : str, bytes, Sample or path
            The text to read; bytes only at byte level.
        which : (int, int), several, or Neurons
            Layer and number of a neuron, or of each of several; of
            :meth:`neurons` the best.

        Returns
        -------
        NeuronPlot
            At the prompt and in a notebook it shows itself;
            ``.save('neuron.png')`` writes a picture and ``.figure`` is one of
            matplotlib's (``pip install 'rngru[plot]'``): of one neuron the
            coloured text, of several a heat map.

        Raises
        ------
        InputError
            If there is no such neuron.

        Example
        -------
        ::

            ms.plotneurons('He said "no".', (1, 37))
            ms.plotneurons('He said "no".', [(0, 3), (1, 37)]).save('two.png')
        """
        given, reader = self._given(text), self._reader
        names = chosen(reader, which)
        states, _ = track(reader, given)
        drawn = np.stack([states[layer, :, neuron] for layer, neuron in names])
        return NeuronPlot(reader.symbols(given), drawn, names)

    def clamped(self, held: Mapping[tuple[int, int], float]) -> "Clamped":
        """Return the model with some neurons held at a value.

        The neurons have these values before and after each symbol, whatever is
        read, and the others go on from that. The model itself stays as it is;
        what is returned has the parameters that it has now.

        Parameters
        ----------
        held : mapping of (layer, neuron) to float
            A number from -1 to 1 for each neuron; 0 silences it. Of a model
            that reads in both directions, neurons are held from the first
            symbol on that their stack reads, and those of an LSTM between -0.76
            and 0.76.

        Returns
        -------
        Clamped
            It generates, scores and evaluates as the model does, and can be
            clamped further.

        Raises
        ------
        InputError
            If there is no such neuron, or it cannot have such a value.

        Example
        -------
        ::

            silenced = ms.clamped({(1, 37): 0.0})
            silenced.evaluate().nats - ms.evaluate().nats
            silenced.score(text) - ms.score(text)
        """
        return Clamped(self, clamp(self._reader, held), held)

    def vectors(
        self, texts: Iterable[str | bytes | Sample | os.PathLike], how: str = "last"
    ) -> np.ndarray:
        """Return texts as vectors: what the model makes of each of them.

        Parameters
        ----------
        texts : list of str, bytes, Sample or path
            The texts; bytes only at byte level.
        how : str
            ``'last'``: the state after the text; ``'mean'``: the mean of the
            states after each symbol.

        Returns
        -------
        float32 array, (text, layer times neuron)
            The neurons of the first layer come first.

        Example
        -------
        ::

            ms.vectors(['The ship', 'A sail']).shape        # (2, 256)
        """
        given = [self._given(text) for text in _several("texts", texts)]
        with Interrupts(raises=True) as interrupts:
            return vectors(self._reader, given, how, check=interrupts.check)

    def similar(
        self,
        text: str | bytes | Sample | os.PathLike,
        texts: Iterable[str | bytes | Sample | os.PathLike],
        how: str = "last",
    ) -> Similar:
        """Sort texts by how similar they are to a text, for this model.

        Parameters
        ----------
        text : str, bytes, Sample or path
            What to compare with.
        texts : list of them
            What to sort.
        how : str
            As in :meth:`vectors`, whose cosine is the similarity.

        Returns
        -------
        Similar
            A sequence of (text, similarity), at the prompt a table.

        Example
        -------
        ::

            ms.similar('The ship', ['A sail', 'A sum', 'The shop'])
        """
        given = [self._given(each) for each in (text, *_several("texts", texts))]
        with Interrupts(raises=True) as interrupts:
            return similar(self._reader, given[0], given[1:], how, check=interrupts.check)

    @overload
    def score(
        self,
        text: str | bytes | Sample | os.PathLike,
        init_state: np.ndarray | Sample | str | os.PathLike | None = None,
        *,
        adapt: bool | float = False,
    ) -> Scores: ...
    @overload
    def score(
        self,
        text: list[str | bytes | Sample | os.PathLike],
        init_state: np.ndarray | Sample | str | os.PathLike | None = None,
        *,
        adapt: bool | float = False,
    ) -> list[Scores]: ...
    def score(
        self,
        text: str | bytes | Sample | os.PathLike | Iterable[str | bytes | Sample | os.PathLike],
        init_state: np.ndarray | Sample | str | os.PathLike | None = None,
        *,
        adapt: bool | float = False,
    ) -> Scores | list[Scores]:
        """Return how well each character of a text is predicted.

        Parameters
        ----------
        text : str, bytes, Sample, path, or several of them
            What to predict, from its second character on; bytes only at byte
            level. A ``pathlib.Path`` is a file of text, in UTF-8.
        init_state : array, (L, 1, H), Sample or path
            Where to start from instead of an empty state. After a sample the
            first character is predicted, too.
        adapt : bool or float
            Learn each piece of the text after it was predicted: True, or the
            rate. See :meth:`adapted`.

        Returns
        -------
        Scores, or a list of them
            At the prompt it shows the mean and the most surprising places, in a
            notebook the text. ``.nats``, ``.bits``, ``.ranks`` and ``.entropy``
            have a number for each character; ``.words()`` and ``.lines()`` add
            them up; ``.plot()`` draws them; ``.columns()`` is for a data frame.
            Those of two models on one text can be subtracted: ``a.score(t) -
            b.score(t)``.

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
            found = scoretexts(
                self._reader, texts, start, learn=self._learning(adapt), asked=interrupts.asked
            )
        return found[0] if isinstance(text, ONE) else found

    def predict(
        self,
        text: str | bytes | Sample | os.PathLike = "\n",
        init_state: np.ndarray | Sample | str | os.PathLike | None = None,
    ) -> Prediction:
        """Return what comes after a text: symbols, with their probabilities.

        Parameters
        ----------
        text : str, bytes, Sample or path
            What has been read; bytes only at byte level.
        init_state : array, (L, 1, H), Sample or path
            Where to start reading from instead of an empty state; of a sample,
            behind its last character.

        Returns
        -------
        Prediction
            A sequence of (symbol, probability); at the prompt a table of the
            ten likeliest.
        """
        return predict(self._reader, self._given(text), resumed(init_state))

    def adapted(
        self,
        text: str | bytes | Sample | os.PathLike | Iterable[str | bytes | Sample | os.PathLike],
        rate: float | None = None,
    ) -> "Adapted":
        """Return the model as it is after it has learned a text.

        The text is read once. Each piece of 50 characters is predicted, also
        from what followed the same characters earlier in the text, and then
        learned by one small step (dynamic evaluation: Krause et al., arXiv
        1709.07432). So a model writes in the style of a letter, or reads the
        rest of a book knowing its beginning.

        Parameters
        ----------
        text : str, bytes, Sample, path, or several of them
            What to learn, in this order.
        rate : float
            How far each piece moves the parameters; by default 0.1 divided by
            ``state_size``, and no more than 0.001.

        Returns
        -------
        Adapted
            An :class:`Instrument` with the new parameters; ``.scores`` says how
            well each character was predicted before it was learned.

        Raises
        ------
        InputError
            For a model that reads in both directions, or with neurons held.

        Example
        -------
        ::

            ms.adapted(letter).generatestring(300, temp=0.7)
        """
        learn = self._learning(True if rate is None else rate)
        assert learn is not None, "there is a rate"
        with Interrupts(raises=True) as interrupts:
            learner, texts, asked = learn(), self._texts(text), interrupts.asked
            found = scoretexts(self._reader, texts, learn=lambda: learner, asked=asked)
        return Adapted(self, learner.reader, found)

    def _learning(self, adapt: bool | float) -> Callable[[], Learner] | None:
        """Return what gives a reader that learns, at a rate or the usual one; None for False."""
        if adapt is False:
            return None
        rate = None if adapt is True else checked("adapt", adapt, real(above=True))
        return partial(Learner, self._reader, self._squares(), rate, teaching(self._reader))

    def _squares(self) -> Mapping[str, np.ndarray]:
        """The mean square of the gradient of each parameter."""
        raise InputError(
            f"{self!r} cannot learn while it reads: its parameters are not those of a model in training."
        )

    def compress(
        self,
        source: str | bytes | os.PathLike,
        path: str | os.PathLike[str] | None = None,
        *,
        adapt: bool | float = True,
        overwrite: bool = False,
    ) -> Compressed:
        """Compress a file or a text: what the model predicts well gets small.

        Nothing is lost: what the model does not know is spelt out.

        Parameters
        ----------
        source : path, str or bytes
            The name of a file that is there, or a text. A file is UTF-8; at
            byte level any file.
        path
            The file to write; by default that of the source with ``.rngz``.
        adapt : bool or float
            Learn each piece after it was compressed, as in :meth:`adapted`.
        overwrite : bool
            Whether to replace a file that is there.

        Returns
        -------
        Compressed
            At the prompt it shows the sizes. Needs ``rngru[compress]``.
        """
        with Interrupts(raises=True) as interrupts:
            return compress(
                self._reader, source, path, adapt=adapt, learning=self._learning,
                overwrite=overwrite, check=interrupts.check,
            )  # fmt: skip

    def decompress(
        self,
        path: str | os.PathLike[str],
        target: str | os.PathLike[str] | None = None,
        *,
        overwrite: bool = False,
    ) -> str | bytes | Path:
        """Return the text, at byte level bytes, that :meth:`compress` compressed.

        With a ``target`` it is written to this file, whose path is returned.

        Raises
        ------
        InputError
            For another model or kind of processor; if ``target`` is there.
        TextError
            If the file is damaged, or is none of :meth:`compress`.
        """
        with Interrupts(raises=True) as interrupts:
            return decompress(
                self._reader, path, target, learning=self._learning, overwrite=overwrite,
                check=interrupts.check,
            )  # fmt: skip

    def export(self, path: str | os.PathLike[str]) -> Path:
        """Write the model in the format that the ending of ``path`` names.

        Parameters
        ----------
        path
            The file to write. A file of the same kind is replaced, any other is
            not.

            ``.py``
                A program that writes text with NumPy alone; the weights are
                inside.
            ``.html``
                A page that writes text in any browser, without a server; the
                weights are inside.
            ``.safetensors``
                All parameters under rngru's names, and what the model is. ``pip
                install 'rngru[export]'``
            ``.onnx``
                One step of the model, state in and out, for ONNX Runtime and
                others. ``pip install 'rngru[onnx]'``
            ``.pt``
                A state dict for PyTorch, and beside it ``…_model.py``, the
                module that loads it. ``pip install torch``

        Returns
        -------
        Path
            Where it is.

        Raises
        ------
        InputError
            For another ending, and if the file is there and rngru has not
            written it. A model that reads in both directions can be a
            ``.safetensors`` only. A clamped model can be exported if its
            neurons are held at 0.
        MissingExtra
            If the format needs a package that is not installed; the message
            says which.
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
        from rngru import export  # not before it is needed: it takes a while

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


@final
class Clamped(Instrument):
    """A model some of whose neurons are held at a value; :meth:`Instrument.clamped` makes it.

    It can do what the model can do without its text, and evaluate the same
    validation text.

    Attributes
    ----------
    values : dict of (int, int) to float
        The value of each neuron that is held, by layer and number.
    """

    __slots__ = ("_held", "_of", "values")

    def __init__(
        self, of: Instrument, held: Reader, values: Mapping[tuple[int, int], float]
    ) -> None:
        """Put one together; :meth:`Instrument.clamped` does that."""
        before = of.values if isinstance(of, Clamped) else {}
        self._of: Instrument = of._of if isinstance(of, Clamped) else of
        self._held = held
        own = {(int(layer), int(neuron)): float(value) for (layer, neuron), value in values.items()}
        self.values: dict[tuple[int, int], float] = before | own

    @property
    def _reader(self) -> Reader:
        return self._held

    @property
    def _validation(self) -> tuple[np.ndarray, int]:
        return self._of._validation

    def __repr__(self) -> str:
        held = [
            f"layer {layer}, neuron {neuron} held at {value:g}"
            for (layer, neuron), value in self.values.items()
        ]
        more = [f"{len(held) - 3:,} more"] if len(held) > 3 else []
        return f"<Clamped: {'; '.join(held[:3] + more)}; of {self._of!r}>"


@final
class Adapted(Instrument):
    """A model that has learned a text; :meth:`Instrument.adapted` makes it.

    Attributes
    ----------
    scores : list of Scores
        How well each character of each text was predicted, before it was
        learned.
    """

    __slots__ = ("_now", "_of", "scores")

    def __init__(self, of: Instrument, now: Reader, scores: list[Scores]) -> None:
        """Put one together; :meth:`Instrument.adapted` does that."""
        self._of: Instrument = of._of if isinstance(of, Adapted) else of
        self._now, self.scores = now, scores

    @property
    def _reader(self) -> Reader:
        return self._now

    @property
    def _validation(self) -> tuple[np.ndarray, int]:
        return self._of._validation

    def _squares(self) -> Mapping[str, np.ndarray]:
        return self._of._squares()

    def __repr__(self) -> str:
        return f"<Adapted: has learned {together(self.scores)!r}; of {self._of!r}>"


def _several(name: str, texts: object) -> list[Any]:
    """Return several texts as a list, or say what was expected."""
    if isinstance(texts, ONE) or not isinstance(texts, Iterable):
        raise InputError(
            f"{name}: expected a list of texts, got {type(texts).__name__}. Put one text into [ ]."
        )
    several = list(texts)
    for number, text in enumerate(several):
        if not isinstance(text, ONE):
            raise InputError(f"{name}[{number}]: expected a text, got {type(text).__name__}.")
    return several
