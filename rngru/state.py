"""``ModelState``: everything a model is, in one object, from the Python prompt.

Each verb has its manual here, and its body in a room below. ``help(ModelState)`` is the manual.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn, Self, overload

import numpy as np

from rngru import backends, models
from rngru.backends import TEAM, Backend
from rngru.checkpoint import Checkpoint, Checkpoints, ispacked
from rngru.corpus import Corpus
from rngru.errors import InputError, WorkdirError, helpful, warn
from rngru.events import Event
from rngru.hyper import HyperParams
from rngru.instrument import Instrument
from rngru.interrupts import Interrupts
from rngru.making import checkoptions, imported, make, warnofother
from rngru.pictures import Picture, losspicture
from rngru.reader import Copies, Reader, copied, gathered, glimpse
from rngru.report import History, Listeners, Running, reporter, watched
from rngru.sampling import Sample
from rngru.settings import checked, generator, one_of, real, whole
from rngru.snapshot import Part, Snapshot
from rngru.text import Source, Vocabulary
from rngru.training import Plan, RateTest, Run, Session, Timing, ranged, timed, validate, validlen
from rngru.workdir import Workdir, WorkdirKeeper

_ANOTHER = "initfromsrcfile(...) makes another model."
_RATE = f"trainmodel(learnrate=...) changes the rate; {_ANOTHER}"
_LOAD = "ModelState.load(workdir, backend=...) computes on another."
_MOVE = "Move the directory, then load the model from its new place."
_BACK = "It follows from training; restore(...) goes back."


@helpful
class ModelState(Instrument):
    r"""A recurrent language model with its text and its working directory.

    The workflow, in order. Begin with a text file and a directory that need not
    exist:

    >>> ms = ModelState.initfromsrcfile('verse.txt', 'work', state_size=32,
    ...                                 rng=1, report='silent')
    >>> ms
    <ModelState GRUEncode, 2 layers of 32, 15,762 parameters, ...>

    ``recipe='quick'`` chooses all sizes for the text and the time that one has.

    Train: rounds of some batches, or for some seconds. What comes back is a
    table. The next call does as the last one did, unless it is told otherwise;
    ``background=True`` leaves the prompt free:

    >>> history = ms.trainmodel(2, batchsize=4, train_len=3, print_every=0)
    >>> len(history), ms.position
    (2, 2400)

    Write. The result shows itself at the prompt; ``temp`` makes it tame or
    wild, ``seed`` is what it continues, ``init_state=sample`` goes on with it.
    ``top_k``, ``top_p`` and ``min_p`` leave out what is unlikely, ``stop`` says
    where to end, ``streams`` writes several texts at once; ``ms.stream`` gives
    a text piece by piece, and ``ms.beam`` looks for the likeliest ones:

    >>> sample = ms.generatestring(20, temp=0.8, seed='The ', rng=1)
    >>> len(sample.text), sample.whole[:4]
    (20, 'The ')
    >>> len(ms.generatestring(300, 1.0, top_p=0.9, stop='\n', streams=4))
    4

    Every round left a checkpoint, and a row in ``ms.history()``. Come back
    another day:

    >>> ms = ModelState.load('work')
    >>> ms.position
    2400
    >>> ms.checkpoints()
    step  epoch  train loss  valid loss             saved
       0   0.00           -       3.1...
       3   0.83       3.1...       3.1...
       6   1.66       3.1...       3.0...  best

    Training goes on exactly where it was, and an older checkpoint can be had
    back:

    >>> ms.restore(3)
    <ModelState GRUEncode, ...: epoch 0.83 (position 1,200), train loss 3...>

    Measure: the loss on the validation text or any other, how surprising each
    character of it is, what comes next, and what a text has copied word for
    word from the training text. The scores of two models can be subtracted:
    ``a.score(text) - b.score(text)``:

    >>> ms.evaluate('The ship')
    2... nats per character, 4... bits, perplexity ..., over 7 characters
    >>> len(ms.score('The ship').nats)
    7
    >>> ms.predict('The shi')[0]
    (' ', 0.1...)
    >>> ms.copied('The ship').share
    0.0

    What it predicts well gets small (``rngru[compress]``):

    >>> packed = ms.compress('The ship drove fast, ' * 9, 'ship.rngz')
    >>> ms.decompress('ship.rngz') == 'The ship drove fast, ' * 9
    True

    A model can learn a text while it reads it, each piece after it was
    predicted; the model itself stays as it is:

    >>> ms.adapted('The ship drove fast, ' * 9).evaluate('The ship').characters
    7

    Look inside: the state of every neuron after every character; which neurons
    follow a property of the text, the text coloured by one
    (``ms.plotneurons``), and what the model does with some of them held still;
    texts as vectors (``ms.vectors``, ``ms.similar``):

    >>> ms.trackneurons('The ship').shape           # (layer, neuron, step)
    (2, 32, 8)
    >>> text = 'the ship Sails and the Sea is wide, ' * 9
    >>> found = ms.neurons(text, 'upper case')
    >>> still = ms.clamped({found[0]: 0.0})
    >>> still.evaluate('The ship').characters
    7
    >>> ms.plotloss().name                          # needs rngru[plot]
    'loss.png'
    >>> str(ms.traintime(batchsize=4))
    '... ms per batch of 4 x 100 characters, ...'

    Take it elsewhere: one file without the text, for a friend or to go on with
    another text; or a program, a web page, weights for other libraries:

    >>> ModelState.load(ms.pack('model.rngru')).position
    1200
    >>> ms.export('model.py').name
    'model.py'

    Several models may be used in one process, each in a thread of its own or
    not: they share nothing, and give the same bits as alone. While one thread
    trains a model, others may use it, too: each such call uses the parameters
    as they were when it began. Two that train the same model at a time, or two
    models in one directory, get ``WorkdirBusy``.
    """

    __slots__ = ("__weakref__", "_computes", "_corpus", "_model", "_place", "_report")

    def __init__(
        self,
        place: Workdir | Path,
        model: Snapshot | None = None,
        corpus: Corpus | None = None,
        report: str | None = None,
    ) -> None:
        """Put a state together; :meth:`initfromsrcfile` and :meth:`load` do that."""
        if model is None:
            raise InputError(
                f"ModelState.load({str(place)!r}) loads a model, and ModelState.initfromsrcfile(text, "
                "workdir) makes one."
            )
        self._place, self._corpus, self._report = place, corpus, report
        self._become(model)

    @classmethod
    def initfromsrcfile(
        cls,
        srcfile: Source,
        usedir: str | Path,
        *,
        modeltype: str = "GRUEncode",
        seq_len: int = 100,
        trainfrac: float = 0.9,
        init_checkpoint: bool = True,
        rng: int | np.random.Generator | None = None,
        backend: str = "cpu",
        overwrite: bool = False,
        encoding: str = "utf-8",
        errors: str = "strict",
        level: str = "char",
        min_count: int = 1,
        max_vocab: int | None = None,
        validfiles: Source | None = None,
        exist: str = "refuse",
        skip: bool = False,
        model: "str | Path | ModelState | None" = None,
        recipe: str | None = None,
        seconds: float | None = None,
        report: str | None = None,
        **hyperparams: Any,
    ) -> Self:
        """Make a new model for a text.

        Parameters
        ----------
        srcfile
            A text file; or a list of files, a directory, a pattern such as
            ``'novels/*.txt'``, or :class:`~rngru.text.Texts` of strings.
        usedir
            The working directory; made if it does not exist.
        modeltype : str
            ``GRU``, ``LSTM``, ``RNN``, ``MinGRU`` or ``MinLSTM`` with
            ``Encode`` (an encoder before the layers) or ``Resize`` (none):
            ``'GRUEncode'``, …
        seq_len : int
            T: characters per training sequence; gradients do not reach further
            back.
        trainfrac : float
            Share of the text to train on; the rest, at its end, is for
            validation. At 1.0 each round is validated on the section of the
            training text that comes next.
        init_checkpoint : bool
            Whether to save a checkpoint at once.
        rng : int or numpy.random.Generator
            Seed or Generator for all random numbers. The same seed gives the
            same run, to the bit.
        backend : str
            ``'cpu'`` (fast), ``'jax'`` (GPUs, several devices; needs JAX) or
            ``'scan'`` (PyTensor's own, the reference).
        overwrite : bool
            Whether a model that ``usedir`` holds already may be thrown away.
        encoding, errors : str
            Encoding of all the files: ``'utf-8'`` (default), ``'cp1252'``,
            ``'utf-16'``, …; or ``'guess'``, of each file by itself. With
            ``errors='replace'`` bytes that are not in it are read as unknown.
        level : str
            What the model reads: ``'char'``, ``'word'`` or ``'byte'``.
        min_count : int
            Symbols that occur less often are left out, and read as "unknown".
        max_vocab : int
            How many symbols at most; rarer ones are left out, and read as
            "unknown".
        validfiles
            Whole files to validate on, instead of the tail of the text.
        exist : str
            What to do if ``usedir`` holds a model: ``'refuse'``, or ``'load'``
            it as :meth:`load` does, so that a script can run twice.
        skip : bool
            Whether to leave out files that cannot be read as text, with a
            warning.
        model : path or ModelState
            A model that is to learn this text, instead of a new one: of another
            working directory, or from :meth:`pack`. Symbols that it has not
            seen are added to those that it knows.
        recipe : str
            Settings with a name, made to fit the text and the time:
            ``'quick'``, ``'best'`` or ``'small'``; help("rngru.recipes") says
            what each is for. The first ``trainmodel()`` then trains as the
            recipe says. Hyperparameters that are given as well come first.
        seconds : float
            How long that is to take, for a recipe.
        report : str
            ``'rich'``, ``'plain'`` or ``'silent'``; by default what suits the
            screen. It holds for the training of this object, too.
        **hyperparams
            See :class:`~rngru.hyper.HyperParams`: ``state_size``, ``layers``,
            ``learnrate``, …

        Raises
        ------
        TextError
            If the text cannot be read.
        InputError
            For names that do not exist and sizes that make no sense.
        WorkdirError
            If it holds a model, or files of others under rngru's names, or
            cannot be written.
        """
        modeltype, seq_len = checkoptions(
            modeltype, seq_len, backend, hyperparams, {*cls.initfromsrcfile.__annotations__}, recipe, seconds,
        )  # fmt: skip
        disk, rng = Workdir(usedir), generator(rng)
        load = checked("exist", exist, one_of(("refuse", "load"))) == "load" and not overwrite
        if load and disk.holdsmodel:
            ms = cls.load(usedir, backend=backend)
            ms._report = report
            own = {"modeltype": modeltype, "level": level, "trainfrac": trainfrac}
            warnofother(
                ms._model, ms._corpus, srcfile, {**own, **hyperparams, "seq_len": seq_len},
                validfiles=validfiles, encoding=encoding, errors=errors, skip=skip,
            )  # fmt: skip
            return ms
        with Interrupts(raises=True) as interrupts, disk.locked(new=True), reporter(report) as show:
            disk.refusemodel(overwrite=overwrite)
            made, corpus = make(
                srcfile, disk.fresh, old=None if model is None else cls._found(model), recipe=recipe,
                modeltype=modeltype, hyperparams=hyperparams, seq_len=seq_len, backend=backend, rng=rng,
                level=level, trainfrac=trainfrac, encoding=encoding, errors=errors, min_count=min_count,
                max_vocab=max_vocab, validfiles=validfiles, skip=skip, seconds=seconds, show=show,
                check=interrupts.check,
            )  # fmt: skip
            corpus = disk.install(made, corpus, save=init_checkpoint)
        return cls(disk, made, corpus, report)

    @classmethod
    def load(cls, workdir: str | Path, *, backend: str | None = None) -> Self:
        """Return the model that a working directory holds, as it was left.

        That is as the newest checkpoint has it, or the one that :meth:`restore`
        went to. Light: nothing is compiled. A damaged checkpoint is skipped,
        with a warning.

        Parameters
        ----------
        workdir
            A directory that :meth:`initfromsrcfile` made; or a file that
            :meth:`pack` wrote, which generates and scores, but has no text to
            train on.
        backend : str
            Computes on another backend than the one it was saved with.

        Raises
        ------
        NoModelError
            If there is no model in it.
        CheckpointDamaged
            If there is no checkpoint that can be used.
        """
        disk = Workdir(workdir)
        packed = ispacked(disk.path)
        saved = Snapshot.unpack(disk.path) if packed else disk.resume()
        model = saved if backend is None else replace(saved, backend=backends.named(backend))
        corpus = None if packed else disk.corpus(model.chars, model.corpus)
        ms = cls(disk.path if packed else disk, model, corpus)
        if not packed and (changed := saved.differences(model.backend)):
            warn(f"Saved with {changed}. Training goes on, but perhaps not to the same bits.")
        return ms

    @classmethod
    def frommodule(
        cls,
        module: Any,
        path: str | Path,
        *,
        symbols: "str | Sequence[str] | None" = None,
        rng: int | np.random.Generator | None = None,
    ) -> Self:
        """Return a model with the weights of one from PyTorch, packed into a file.

        It generates, scores and inspects like any other that :meth:`pack`
        wrote; ``initfromsrcfile(text, workdir, model=path)`` trains it on.

        Parameters
        ----------
        module
            A module, its state dict, or the path of a ``.pt`` file: an
            ``nn.GRU``, ``nn.LSTM`` or ``nn.RNN``, an ``nn.Linear`` from its
            states to the logits, and an ``nn.Embedding`` if its input is not
            one-hot.
        path
            The file to write.
        symbols
            The characters that its ids stand for, in their order: a string or a
            list. Without them the model reads bytes, and has 256.
        rng : int or numpy.random.Generator
            Seed or Generator for all random numbers.

        Raises
        ------
        InputError
            If the module is of another form, or the symbols do not fit it.
        """
        made = imported(module, symbols, 100, generator(rng))
        return cls.load(made.pack(path, training=False, half=False))

    def restore(self, which: "int | str | Path | Checkpoint | None" = None) -> Self:
        """Go to a checkpoint.

        The next :meth:`load` gives it, too, until something newer is saved.
        Nothing is removed.

        Parameters
        ----------
        which
            The number of a checkpoint, ``'best'`` (the lowest validation loss),
            a :class:`~rngru.checkpoint.Checkpoint` or its path; by default the
            newest.

        Raises
        ------
        CheckpointError
            If there is no such checkpoint, it cannot be used, or it is of
            another model.
        WorkdirBusy
            While another thread trains, saves or restores this model.
        WorkdirError
            If another model has been put in place of this one.
        """
        with Interrupts(raises=True), self._disk.alone():
            model = self._disk.restore(which, like=self._model)
            self._become(replace(model, backend=self.backend, plan=self._model.plan))
        return self

    def newcheckpoint(self) -> Checkpoint:
        """Save the model as it is now, and return the checkpoint.

        Raises
        ------
        CheckpointError
            If the disk refuses; what was saved before is intact.
        """
        with Interrupts(raises=True), self._disk.locked():
            keeper = self._keeper()
            saved = keeper.save(self._model.progress)
            self._become(keeper.model)
        return saved

    def pack(self, path: str | Path, *, training: bool = True, half: bool = False) -> Path:
        """Write the model into one file, without its text; return its path.

        :meth:`load` reads it, and ``initfromsrcfile(text, workdir,
        model=path)`` trains it on. It is a zip file of ``arrays.npz``,
        ``meta.json`` and their checksums, and holds no code.

        Parameters
        ----------
        path
            Where to write it: ``'model.rngru'``, say. A packed model that is
            there is replaced.
        training : bool
            With what the optimizer remembers. Without it the file is a half or
            a third as large; averaged weights are then the only ones.
        half : bool
            Numbers in float16: half the size, and losses that differ in the
            fourth digit.

        Raises
        ------
        InputError
            If the file is there and is something else.
        WorkdirError
            If it cannot be written.
        """
        with Interrupts(raises=True):
            now = self._model.progress.fetched(self._computes)
            return replace(self._model, progress=now).pack(path, training=training, half=half)

    def checkpoints(self) -> Checkpoints:
        """Return all checkpoints, oldest first; at the prompt, a table of them."""
        return self._disk.checkpoints()

    @overload
    def trainmodel(self, *values: Any, background: Literal[True], **named: Any) -> Running: ...
    @overload
    def trainmodel(
        self,
        num_rounds: int | None = None,
        batchsize: int | None = None,
        train_len: int | None = None,
        valid_len: int | None = None,
        print_every: int | None = None,
        clear_state: bool = False,
        *,
        max_seconds: float | None = None,
        learnrate: float | None = None,
        patience: int | None = None,
        keep: int | None = None,
        keep_best: bool | None = None,
        save_every: float | None = None,
        schedule: Callable[[float, float], float] | None = None,
        listen: Callable[[Event], object] | Sequence[Callable[[Event], object]] | None = None,
        report: str | None = None,
        background: Literal[False] = False,
    ) -> History: ...
    def trainmodel(  # type: ignore[misc]  # the first form is written short
        self,
        num_rounds: int | None = None,
        batchsize: int | None = None,
        train_len: int | None = None,
        valid_len: int | None = None,
        print_every: int | None = None,
        clear_state: bool = False,
        *,
        max_seconds: float | None = None,
        learnrate: float | None = None,
        patience: int | None = None,
        keep: int | None = None,
        keep_best: bool | None = None,
        save_every: float | None = None,
        schedule: Callable[[float, float], float] | None = None,
        listen: Callable[[Event], object] | Sequence[Callable[[Event], object]] | None = None,
        report: str | None = None,
        background: bool = False,
    ) -> History | Running:
        """Train; after each round validate and save a checkpoint.

        Training goes on where it was: at the same character, with the same
        hidden state. Ctrl-C stops after the current batch, validates and saves;
        a second one waits for neither a long batch nor the validation. On
        SIGTERM, and when the terminal is closed, the model is saved; then the
        process ends as usual.

        What is not given is as in the call before, also on another day; only
        ``num_rounds``, ``max_seconds``, ``clear_state`` and ``schedule`` hold
        for one call. The first call does what a recipe says, if the model was
        made by one.

        Parameters
        ----------
        num_rounds : int
            How many rounds at most; by default one, or as many as
            ``max_seconds`` allows.
        batchsize : int
            B: lanes that move along the text side by side, 16 at first. With
            another number than before, training goes on at the same place, but
            the hidden state starts empty.
        train_len : int
            Batches in a round; 0, as at first: an epoch.
        valid_len : int
            Batches' worth of validation text after each round; 0, as at first:
            all of it, but with ``max_seconds`` no more than takes a tenth of
            the time of a round.
        print_every : int
            Show a sample from the current state after so many batches; 0:
            never. At first one is shown every 10 seconds.
        clear_state : bool
            Start from a fresh hidden state.
        max_seconds : float
            Stop after this much wall time, validation included; ``inf``: until
            Ctrl-C.
        learnrate : float
            Changes ``hyper.learnrate``, from this call on.
        patience : int
            Stop after so many rounds in a row, also over calls, without a lower
            validation loss; 0, as at first: never.
        keep : int
            Keep only so many of the newest checkpoints, and the best; 0, as at
            first: all.
        keep_best : bool
            At the end go back to the round with the lowest validation loss, as
            ``restore('best')`` does.
        save_every : float
            Save after so many seconds in the middle of a round, 60 at first;
            the next save replaces it.
        schedule : callable
            Gives what the learning rate is multiplied by, instead of
            ``hyper.schedule``: ``lambda share, epoch: 1 - share``, with the
            share of the call, or of ``hyper.lifetime``, that is over, 0 to 1.
        listen : callable, or several
            Called with every event of the run (:mod:`rngru.events`). If it
            returns True, or a string that says why, training stops after the
            batch as it does on Ctrl-C. One that raises an exception is left
            out, with a warning. :mod:`rngru.report` has
            ``TensorBoard(folder)``, ``Lines(path)`` and ``Log()``.
        report : str
            ``'rich'``, ``'plain'`` or ``'silent'``; by default what suits the
            screen.
        background : bool
            Train in a thread, silently, while the prompt is free: to write with
            the model as it is meanwhile, say.

        Returns
        -------
        History
            One :class:`~rngru.events.Round` for each round; its repr is a
            table. If the best round was not the last one, it says so. In the
            background a :class:`~rngru.report.Running`: it shows where training
            stands; ``.stop()`` and ``.wait()`` return the history.

        Raises
        ------
        NumericsError
            If loss or gradient go wrong a fourth time; the model is then as it
            was last saved.
        InputError
            For sizes that make no sense.
        WorkdirError
            If another prompt has trained the model further, or the directory is
            gone.
        """
        plan = Plan.following(
            self._model.plan, num_rounds, batchsize, train_len, valid_len, print_every, clear_state,
            max_seconds=max_seconds, learnrate=learnrate, patience=patience, keep=keep,
            keep_best=keep_best, save_every=save_every,
        )  # fmt: skip
        heard = Listeners(listen if TEAM.leads else ())
        train = partial(self._train, plan, schedule, heard)
        if background:
            return Running(lambda hear, stop: train(stop, stop, "silent", hear))
        with Interrupts(terminate=True) as stop:
            return train(stop.asked, stop.again, report or self._report)

    def history(self) -> History:
        """Return all rounds of training that led to this model, on all days.

        Returns
        -------
        History
            One :class:`~rngru.events.Round` for each round; its repr is a
            table. ``losses`` and ``positions`` are means of some batches at a
            time, at most 50 for each round.

        Example
        -------
        ::

            ms = ModelState.load('work')
            ms.history()                        # a table
            ms.history().validloss.min()        # nats per character
        """
        return self._disk.history(self._model.historyline, self.chars.units)

    def traintime(self, batchsize: int | None = None, batches: int = 5) -> Timing:
        """Measure what one training batch costs; the model stays as it is.

        Parameters
        ----------
        batchsize : int
            B, lanes side by side; by default as in training.
        batches : int
            How many to measure, after one that is not.
        """
        lanes = Plan.following(self._model.plan, batchsize=batchsize).batchsize
        batches = checked("batches", batches, whole(1))
        with Interrupts(raises=True) as interrupts:
            return timed(self._run(), lanes, self.seq_len, batches, interrupts.check)

    def findrate(
        self,
        seconds: float = 15.0,
        *,
        lowest: float = 1e-6,
        highest: float = 1.0,
        batchsize: int | None = None,
    ) -> RateTest:
        """Look for a good learning rate; the model stays as it is.

        A copy of it is trained, at a rate that grows from batch to batch, until
        the loss climbs (Smith, arXiv 1506.01186). It is a hint, not a proof:
        the best rate also depends on how long one trains.

        Parameters
        ----------
        seconds : float
            How long it takes, about.
        lowest, highest : float
            The rate begins with ``lowest`` and does not go beyond ``highest``.
        batchsize : int
            B, lanes side by side; by default as in training. Larger batches
            allow higher rates.

        Returns
        -------
        RateTest
            At the prompt a rate to try, and some of the losses; ``.suggestion``
            is the rate, a fifth of the highest that did no harm; ``.columns()``
            is for a data frame, ``.figure`` a picture, ``.plot(path)`` saves
            it. Ctrl-C ends it early.

        Raises
        ------
        InputError
            For rates that make no sense, or if ``lowest`` is too high already.
        WorkdirError
            If the working directory does not hold the training text any more.

        Example
        -------
        ::

            ms.findrate()
            ms.trainmodel(learnrate=ms.findrate().suggestion)
        """
        seconds = checked("seconds", seconds, real(above=True))
        lowest = checked("lowest", lowest, real(above=True))
        highest = checked("highest", highest, real(lowest, above=True))
        lanes = Plan.following(self._model.plan, batchsize=batchsize).batchsize
        with Interrupts() as interrupts:
            return ranged(
                self._run(), lanes, self.seq_len, seconds,
                lowest=lowest, highest=highest, asked=interrupts.asked,
            )  # fmt: skip

    def copied(self, text: str | bytes | Sample | os.PathLike, least: int = 20) -> Copies:
        """Return what of a text stands in the training text, word for word.

        The part of the text that is for validation does not count. All files of
        the training text are one text: a stretch may begin in one and end in
        the next.

        Parameters
        ----------
        text : str, bytes, Sample or path
            What to look for, such as something generated; bytes only at byte
            level. Symbols that the model does not know match nothing.
        least : int
            Only stretches of so many symbols or more. Everybody writes "of the
            " again: small numbers find what is common, not what is copied.

        Returns
        -------
        Copies
            At the prompt a table, the longest first: where each stretch is in
            the text, its length, and where it stands in the training text.
            ``.share`` is the share of the text that is copied; ``.columns()``
            is for a data frame.

        Raises
        ------
        InputError
            If the text is empty.
        WorkdirError
            If the working directory does not hold the training text any more.

        Example
        -------
        ::

            ms = ModelState.load('work')
            ms.copied(ms.generatestring(10_000, temp=0.5))
        """
        corpus = self._text()
        train, documents = corpus.ids[: corpus.split], corpus.documents
        with Interrupts(raises=True) as interrupts:
            given, check = self._given(text), interrupts.check
            return copied(self._reader, given, train, documents, least, check=check)

    def parameters(self) -> dict[str, np.ndarray]:
        """Return a copy of every parameter by name; see :mod:`rngru.models`.

        With ``average=`` they are the averaged ones, which read and write.
        """
        weights = self._computes.fetch(self._model.progress.weights)
        return {name: np.array(array) for name, array in weights.items()}

    def setparameters(self, parameters: Mapping[str, Any]) -> Self:
        """Put other numbers in place of some parameters.

        Training goes on from there: at the same character, with what the
        optimizer remembers of these parameters empty, and no other average of
        them. The next checkpoint has them; until then :meth:`restore` goes
        back.

        Parameters
        ----------
        parameters : mapping of str to array
            New values by name, as :meth:`parameters` returns them.

        Raises
        ------
        InputError
            If a name is not known, a shape is another, or a number is not
            finite. Then nothing changes.
        WorkdirBusy
            While another thread trains, saves or restores this model.

        Example
        -------
        ::

            weights = ms.parameters()
            ms.setparameters({'V': 0.9 * weights['V']})
            ms.newcheckpoint()
        """
        place = self._place
        alone = place.alone(changed=True) if isinstance(place, Workdir) else nullcontext()
        with Interrupts(raises=True), alone:
            self._become(self._model.having(parameters, self._computes))
        return self

    def plotloss(self, path: str | Path | None = None) -> Picture:
        """Draw training and validation loss against characters seen.

        Parameters
        ----------
        path
            Where to save it; by default ``loss.png`` in the working directory.
            The ending decides the format.

        Returns
        -------
        Picture
            In a notebook it shows the picture, in a terminal the path of the
            file and, with ``pip install 'rngru[term]'``, the curves in
            characters; these are there without matplotlib, too. It can be used
            as the path.

        Raises
        ------
        MissingExtra
            Without matplotlib: ``pip install 'rngru[plot]'``.
        InputError
            Before the first round of training.
        """
        history, wanted = self.history(), self._disk.own("loss.png") if path is None else path
        batches = history.positions, history.losses
        return losspicture(history, batches, wanted, needed=path is not None)

    modeltype = Part[str]("_model.modeltype", "Which kind of model: ``'GRUEncode'``, …", _ANOTHER)
    hyper = Part[HyperParams]("_model.hyper", "Sizes, and the learning rate in force.", _RATE)
    chars = Part[Vocabulary]("_model.chars", "The symbols it knows, and their ids.", _ANOTHER)
    seq_len = Part[int]("_model.seq_len", "T: characters per training sequence.", _ANOTHER)
    backend = Part[str](
        "_model.backend", "How it is computed: ``'cpu'``, ``'jax'``, ``'scan'``.", _LOAD
    )
    rng = Part[np.random.Generator](
        "_model.rng",
        "A Generator of its own, saved with it: ``generatestring(rng=ms.rng)``.",
        "initfromsrcfile(rng=...) seeds a model; generatestring takes rng=....",
    )
    workdir = Part[Path]("_where", "Where everything is kept.", _MOVE)
    position = Part[int](
        "_model.progress.position", "Characters of training text read, over all epochs.", _BACK
    )
    epoch = Part[int]("_epoch", "Whole passes over the training text.", _BACK)

    def __repr__(self) -> str:
        text = self._corpus
        return self._model.described((len(text), text.split) if text else None)

    def __reduce__(self) -> NoReturn:
        again = f"ModelState.load({str(self.workdir)!r})"
        raise InputError(f"A ModelState cannot be copied or pickled; {again} gives another of it.")

    def _become(self, model: Snapshot) -> None:
        """Take over all that a snapshot holds; what was compiled is kept where it fits."""
        wanted = (model.backend, models.named(model.modeltype), model.made.replace(learnrate=0))
        now: Backend | None = getattr(self, "_computes", None)
        if now is None or (now.name, now.model, now.hyper.replace(learnrate=0)) != wanted:
            self._computes = backends.shielded(model.backend, wanted[1], model.made)
        self._model = model

    def _follow(self, run: Run, keeper: WorkdirKeeper, event: Event | None = None) -> None:
        """Be what a session has made of the model so far."""
        self._model = replace(keeper.model, progress=run.progress)

    @classmethod
    def _found(cls, model: "str | Path | ModelState") -> Snapshot:
        """What a model is, given as an object, a directory or a file."""
        return (model if isinstance(model, ModelState) else cls.load(model))._model

    @property
    def _disk(self) -> Workdir:
        if isinstance(self._place, Workdir):
            return self._place
        raise WorkdirError(
            f"This model was loaded from the file {self._place}, which holds neither its text nor other "
            f"checkpoints. ModelState.initfromsrcfile(text, workdir, model={str(self._place)!r}) goes on "
            "training it."
        )

    @property
    def _where(self) -> Path:
        return self._place.path if isinstance(self._place, Workdir) else self._place

    @property
    def _reader(self) -> Reader:
        return self._model.reader(self._computes)

    @property
    def _trainlen(self) -> int | None:
        return self._corpus.split if self._corpus else None

    @property
    def _epoch(self) -> int:
        return int(self._model.passes(self._trainlen))

    @property
    def _validation(self) -> tuple[np.ndarray, int]:
        return self._text().validation

    def _squares(self) -> Mapping[str, np.ndarray]:
        known = self._model.squares()
        if known is not None:
            return known
        with Interrupts(raises=True) as interrupts:
            return gathered(self._reader, self._text().train.ids, asked=interrupts.asked)

    def _text(self) -> Corpus:
        if self._corpus is None:
            raise WorkdirError(
                f"{self._disk.data} does not hold the text that this model was trained on. "
                "Generating, and scoring a text that you give, work without it; training, validation "
                "and copied() do not."
            )
        return self._corpus

    def _run(self) -> Run:
        """The model as one that is trained."""
        return self._model.run(self._computes, self._text().train)

    def _train(
        self,
        plan: Plan,
        schedule: Callable[[float, float], float] | None,
        heard: Listeners,
        asked: Callable[[], bool],
        again: Callable[[], bool],
        kind: str | None,
        *hearers: Callable[[Event], object],
    ) -> History:
        """Do what a plan says, until asked to stop."""
        corpus, disk = self._text(), self._disk
        hold = disk.locked(text=True) if TEAM.leads else nullcontext()
        with hold, reporter(kind if TEAM.leads else "silent") as show, heard:
            # Not before the lock is held: another thread may just have trained this model.
            run, keeper = self._run(), self._keeper(plan)
            TEAM.compare(keeper.shared(plan))
            session = Session(
                run, plan, keeper, seq_len=self.seq_len, sample=self._sample if TEAM.leads else str,
                schedule=schedule, symbols=validlen(run, corpus, plan, self.seq_len),
                validate=partial(validate, run, corpus, plan, self.seq_len),
                **TEAM.agreed(asked, again, heard.told, time.monotonic),
            )  # fmt: skip
            try:
                history = watched(
                    session, partial(self._follow, run, keeper), show, *hearers, heard
                )
            finally:  # what gives up, or cannot save, has gone somewhere without an event
                self._follow(run, keeper)
            TEAM.finish()
            if plan.keep_best:
                best = disk.best(self._model)
                self._become(replace(best, backend=self.backend, plan=self._model.plan))
            return history

    def _keeper(self, plan: Plan | None = None) -> WorkdirKeeper:
        """What saves the model in its directory."""
        return WorkdirKeeper(self._disk, self._model, self._trainlen, self._computes, plan)

    def _sample(self) -> str:
        """What training shows."""
        now = self._model.progress
        rng = np.random.default_rng([self._model.seed, now.batches])  # whenever it is shown
        return glimpse(self._reader, now.state, self._text().train, now.position, rng)


def generatestring(ms: ModelState, *args: Any, **kwargs: Any) -> Any:
    """Generate text from a model: ``generatestring(ms, …)`` is ``ms.generatestring(…)``."""
    return ms.generatestring(*args, **kwargs)
