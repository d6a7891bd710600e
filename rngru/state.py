"""``ModelState``: everything a model is, in one object, from the Python prompt.

It composes the other parts — text, model, backend, training loop, checkpoints, reports — and holds no
arithmetic of its own. ``help(ModelState)`` is the manual.
"""

import inspect
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rngru.checkpoint import Checkpoint, Checkpoints
from rngru.dataset import Corpus, encodecorpus
from rngru.errors import CheckpointError, InputError, NumericsError, WorkdirError, choose
from rngru.hyper import CACHES, SETTINGS, HyperParams
from rngru.interrupts import Aside, Interrupts, shielded
from rngru.models import find
from rngru.report import History, Recorder, reporter
from rngru.sampling import Filled, Sample, checkedtemperature, fill, probabilities
from rngru.text import Source
from rngru.training import (
    Evaluation,
    Notice,
    Plan,
    Progress,
    Reading,
    Round,
    Run,
    Scores,
    Timing,
    evaluate,
    plateau,
)
from rngru.workdir import Saved, Workdir, versions

if TYPE_CHECKING:
    from rngru.compiled import Backend

AT_ONCE = 64
"""Characters generated between two looks at Ctrl-C."""

MANY = 50_000
"""Symbols above which a vocabulary is worth a warning."""

NEXT_SECTION = 200
"""Batches validated on when all text is for training and ``valid_len`` is 0."""


class ModelState:
    r"""A recurrent language model with its text, its progress and its working directory.

    The workflow, in order. Begin with a text file and a directory that need not exist:

    >>> ms = ModelState.initfromsrcfile('verse.txt', 'work', state_size=32, rng=1, report='silent')
    >>> ms                                                  # doctest: +ELLIPSIS
    <ModelState GRUEncode, 2 layers of 32, 15,762 parameters, on 1,609 characters of verse.txt: ...>

    Train: rounds of some batches, or for some seconds. What comes back is a table:

    >>> history = ms.trainmodel(2, batchsize=4, train_len=3, print_every=0, report='silent')
    >>> len(history), ms.position
    (2, 2400)

    Generate. The result shows itself at the prompt; ``temp`` makes it tame or wild, ``seed`` is what
    it continues, ``sample.state`` goes on with it:

    >>> sample = ms.generatestring(20, temp=0.8, seed='The ', rng=1)
    >>> len(sample.text)
    20

    Every round left a checkpoint. Come back another day, in another process:

    >>> ms = ModelState.load('work')
    >>> ms.position
    2400
    >>> ms.checkpoints()                                    # doctest: +ELLIPSIS
    step  epoch  train loss  valid loss             saved
       0   0.00           -       3.1...
       3   0.83       3.1...       3.1...
       6   1.66       3.1...       3.0...  best

    Training goes on exactly where it was, and an older checkpoint can be had back:

    >>> ms.restore(3)                                       # doctest: +ELLIPSIS
    <ModelState GRUEncode, ...: epoch 0.83 (position 1,200), train loss 3..., valid loss 3...>

    Measure and look inside: loss on the validation text or any other, the state of every neuron at
    every character, the loss curve as a picture, the cost of a batch:

    >>> ms.evaluate('The ship')                             # doctest: +ELLIPSIS
    2... nats per character, 4... bits, perplexity ..., over 7 characters
    >>> ms.trackneurons('The ship').shape                   # (layer, neuron, step)
    (2, 32, 8)
    >>> ms.plotloss().name                                  # needs rngru[plot]
    'loss.png'
    >>> str(ms.traintime(batchsize=4))                      # doctest: +ELLIPSIS
    '... ms per batch of 4 x 100 characters, ...'

    Several models may be used in one process, each in a thread of its own or not: they share nothing,
    and give the same bits as alone. While one thread trains a model, others may use it, too: whatever
    they generate, evaluate or look at is that of the parameters after one batch, those of the moment
    they begin. Two that train the same model at a time, or two models in one directory, get
    ``WorkdirBusy``. Give ``rng=`` in other threads, so that the model's own draws stay as they would be.

    Attributes
    ----------
    chars : Vocabulary
        The characters the model knows, usually a :class:`~rngru.text.CharSet`.
    hyper : HyperParams
        Sizes and rates; frozen. ``trainmodel(learnrate=...)`` changes the rate from then on.
    position : int
        Characters of training text consumed, over all epochs.
    epoch : int
        Whole passes over the training text.
    workdir : Path
        Where everything is kept; :mod:`rngru.workdir` says how.
    modeltype, backend : str
        Names: which model, and how it is computed.
    seq_len : int
        Characters a gradient reaches over: T.
    rng : numpy.random.Generator
        Where chance comes from when a call is given no ``rng``; saved with every checkpoint.
    """

    def __init__(self, disk: Workdir, model: Saved, corpus: Corpus | None) -> None:
        """Put a state together; :meth:`initfromsrcfile` and :meth:`load` do that."""
        self._disk, self._corpus = disk, corpus
        self._computes: Backend | None = None
        self._become(model)

    def _become(self, model: Saved) -> None:
        """Take over all that a checkpoint holds."""
        self.modeltype, self.hyper, self.chars = model.modeltype, model.hyper, model.chars
        self.seq_len, self.backend, self.rng = model.seq_len, model.backend, model.rng
        self._progress, self._seed, self._line = model.progress, model.seed, model.line
        self._summary, self._savedhyper = dict(model.summary), model.hyper

    # ------------------------------------------------------------------ making, loading, saving

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
        level: str = "char",
        min_count: int = 1,
        max_vocab: int | None = None,
        validfiles: Source | None = None,
        report: str | None = None,
        **hyperparams: Any,
    ) -> Self:
        """Make a new model for a text.

        Parameters
        ----------
        srcfile
            A text file; or a list of files, a directory, a pattern such as ``'novels/*.txt'``, or
            :class:`~rngru.text.Texts` of strings.
        usedir
            The working directory; made if it does not exist.
        modeltype : str
            ``GRU``, ``LSTM`` or ``RNN`` with ``Encode`` (an encoder before the layers) or
            ``Resize`` (none): ``'GRUEncode'``, …
        seq_len : int
            T, characters that a batch moves along the text and gradients reach over.
        trainfrac : float
            Share of the text to train on; the rest, at its end, is for validation. At 1.0 each
            round is validated on the section of the training text that comes next.
        init_checkpoint : bool
            Whether to save a checkpoint at once.
        rng : int or numpy.random.Generator
            Where chance comes from. With the same one, a run is the same to the bit.
        backend : str
            ``'cpu'`` (fast) or ``'scan'`` (PyTensor's own, the reference).
        overwrite : bool
            Whether a model that ``usedir`` holds already may be thrown away.
        encoding : str
            How the bytes of the file become characters.
        level : str
            What the model reads: ``'char'``, ``'word'`` or ``'byte'``.
        min_count : int
            Symbols that occur less often become "unknown".
        max_vocab : int
            How many symbols at most; the rarest beyond become "unknown".
        validfiles
            Whole files to validate on, instead of the tail of the text.
        report : str
            ``'rich'``, ``'plain'`` or ``'silent'``; by default what suits the screen.
        **hyperparams
            See :class:`~rngru.hyper.HyperParams`: ``state_size``, ``layers``, ``learnrate``, …

        Raises
        ------
        TextError
            If the text cannot be read.
        InputError
            For names that do not exist and sizes that make no sense.
        WorkdirError
            If the directory holds a model already, or under the names of its files something that
            rngru has not written, or cannot be written.
        """
        for name in hyperparams:
            _checkkeyword(name)
        find(modeltype).check(HyperParams(1, **hyperparams))
        _checkbackend(backend)
        from rngru.compiled import freshcaches

        seq_len = _whole("seq_len", seq_len, 1)
        generator = _generator(rng)
        disk, began = Workdir(usedir), time.monotonic()
        with Interrupts(late=True) as interrupts, disk.locked(new=True), reporter(report) as show:
            if disk.holdsmodel and not overwrite:
                raise WorkdirError(
                    f"{disk.path} holds a model already. ModelState.load({str(disk.path)!r}) goes on "
                    "with it; overwrite=True throws it away; or name another directory."
                )

            def follow(done: int, total: int) -> None:
                interrupts.check()
                show(Reading(done, total, time.monotonic() - began))

            corpus = encodecorpus(
                srcfile,
                disk.fresh,
                level=level,
                trainfrac=trainfrac,
                encoding=encoding,
                min_count=min_count,
                max_vocab=max_vocab,
                validfiles=validfiles,
                progress=follow,
            )
            hyper = HyperParams(corpus.vocab.vocab_size, **hyperparams)
            if hyper.vocab_size > MANY:
                # Parameters have a gradient and new values; caches have new values.
                copies = 3 + 2 * len(CACHES[hyper.optimizer])
                shapes = find(modeltype).shapes(hyper).values()
                sizes = (math.prod(shape) for shape in shapes if hyper.vocab_size in shape)
                lane = 8 * hyper.vocab_size * seq_len  # its logits and their gradient
                warnings.warn(
                    f"{hyper.vocab_size:,} different {corpus.vocab.units}: training will take about "
                    f"{4 * copies * sum(sizes) / 1e9:.1f} GB for them, and {lane / 1e9:.2f} GB for "
                    "each lane of batchsize=. Less with min_count=, max_vocab= or level='byte'.",
                    stacklevel=2,
                )
            with _enoughmemory(f"A model with {hyper!r}"):
                arrays = find(modeltype).initial(hyper, generator, corpus.train.counts())
                caches = freshcaches(arrays, hyper.optimizer)
            model = Saved(
                modeltype=modeltype,
                hyper=hyper,
                chars=corpus.vocab,
                seq_len=seq_len,
                backend=backend,
                progress=Progress(arrays, caches),
                rng=generator,
                seed=int(generator.integers(1 << 62)),
            )
            ms = cls(disk, model, corpus)
            show(Notice(f"{hyper.vocab_size:,} different {ms.chars.units}, with unknown."))
            if corpus.vocab.rare:
                show(Notice(f"{corpus.vocab.rare!r}"))
            show(
                Notice(
                    f"{len(corpus):,} {ms.chars.units}: {corpus.split:,} for training, "
                    f"{len(corpus) - corpus.split:,} for validation."
                )
            )
            loss = ms._untrained()
            ms._progress = replace(ms._progress, scores=Scores(latest=loss))
            show(
                Notice(
                    f"Untrained loss {loss:.4f} nats per {ms.chars.units[:-1]}: it knows how often each "
                    f"occurs; ln {hyper.vocab_size} is {math.log(hyper.vocab_size):.4f}."
                )
            )
            disk.setaside()
            if init_checkpoint:
                ms._save(validloss=loss)
            ms._corpus = disk.takeover(corpus)
        return ms

    @classmethod
    def load(cls, workdir: str | Path, *, backend: str | None = None) -> Self:
        """Return the model that a working directory holds, as its newest checkpoint has it.

        Light: nothing is compiled. A damaged checkpoint is skipped, with a warning.

        Parameters
        ----------
        workdir
            A directory that :meth:`initfromsrcfile` made.
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
        model = disk.load()
        then = {**model.versions, "backend": model.backend}
        if backend is not None:
            model = replace(model, backend=_checkbackend(backend))
        ms = cls(disk, model, disk.corpus(model.chars, model.corpus))
        here = versions() | {"backend": model.backend}
        if changed := [name for name in then if here.get(name) != then[name]]:
            told = ", ".join(f"{name} {then[name]} (here {here.get(name)})" for name in changed)
            warnings.warn(
                f"Saved with {told}. Training goes on, but perhaps not to the same bits.",
                stacklevel=2,
            )
        return ms

    def restore(self, which: "int | str | Path | Checkpoint | None" = None) -> Self:
        """Go to a checkpoint, and compile what training needs.

        Parameters
        ----------
        which
            The number of a checkpoint, ``'best'`` (the lowest validation loss), a
            :class:`~rngru.checkpoint.Checkpoint` or its path; by default the newest.

        Raises
        ------
        CheckpointError
            If there is no such checkpoint, it cannot be used, or it is of another model.
        WorkdirBusy
            While another thread trains, saves or restores this model.
        WorkdirError
            If another model has been put in place of this one.
        """
        with Interrupts(late=True), self._disk.alone():
            model = self._disk.load(which)
            if (model.modeltype, model.chars) != (self.modeltype, self.chars):
                raise CheckpointError(
                    f"That checkpoint is of another model, {model.modeltype}, or another text."
                )
            self._become(replace(model, backend=self.backend))
            self._compute.compile()
        return self

    def newcheckpoint(self) -> Checkpoint:
        """Save the model as it is now, and return the checkpoint.

        Raises
        ------
        CheckpointError
            If the disk refuses; what was saved before is intact.
        """
        with Interrupts(late=True), self._disk.locked():
            return self._save()

    def checkpoints(self) -> Checkpoints:
        """Return all checkpoints, oldest first; at the prompt, a table of them."""
        return self._disk.checkpoints()

    # ------------------------------------------------------------------------------- training

    def trainmodel(
        self,
        num_rounds: int = 1,
        batchsize: int = 16,
        train_len: int = 0,
        valid_len: int = 0,
        print_every: int = 1000,
        clear_state: bool = False,
        *,
        max_seconds: float | None = None,
        learnrate: float | None = None,
        patience: int | None = None,
        keep: int | None = None,
        save_every: float = 60.0,
        report: str | None = None,
    ) -> History:
        """Train; after each round validate and save a checkpoint.

        Training goes on where it was: at the same character, with the same hidden state. Ctrl-C
        stops after the current batch and saves; a second one does not wait for a long batch. SIGTERM
        saves, and then does what it would have done.

        Parameters
        ----------
        num_rounds : int
            How many rounds.
        batchsize : int
            B, lanes that move along the text side by side. Another one than before lays them anew
            from the same position and starts with a fresh state.
        train_len : int
            Batches in a round; 0: an epoch.
        valid_len : int
            Batches' worth of validation text after each round; 0: all of it.
        print_every : int
            Show a sample from the current state after so many batches; 0: never.
        clear_state : bool
            Start from a fresh hidden state.
        max_seconds : float
            Train for this much wall time, however many rounds it takes; ``inf``: until Ctrl-C.
        learnrate : float
            Changes ``hyper.learnrate``, from this call on.
        patience : int
            Stop after so many rounds in a row without a lower validation loss, those of earlier
            calls among them.
        keep : int
            Keep only so many of the newest checkpoints, and the best.
        save_every : float
            Seconds of training after which a checkpoint is saved in the middle of a round; the next
            one replaces it.
        report : str
            ``'rich'``, ``'plain'`` or ``'silent'``; by default what suits the screen.

        Returns
        -------
        History
            One :class:`~rngru.training.Round` for each round; its repr is a table.

        Raises
        ------
        NumericsError
            If loss or gradient go wrong a fourth time, after the rate was halved three times; the
            model is as it was last saved.
        InputError
            For sizes that make no sense.
        """
        rounds = _whole("num_rounds", num_rounds, 1)
        lanes = _whole("batchsize", batchsize, 1)
        length = _whole("train_len", train_len, 0)
        valid_len = _whole("valid_len", valid_len, 0)
        print_every = _whole("print_every", print_every, 0)
        if max_seconds is not None:
            max_seconds = _seconds("max_seconds", max_seconds)
            if max_seconds == math.inf and self.hyper.schedule == "cosine":
                raise InputError("max_seconds=inf: schedule='cosine' needs an end to fall to.")
        save_every = _seconds("save_every", save_every)
        patience = None if patience is None else _whole("patience", patience, 1)
        keep = None if keep is None else _whole("keep", keep, 1)
        data = self._text().train
        plan = Plan(
            rounds, length or data.batchepoch(lanes, self.seq_len), lanes, self.seq_len,
            max_seconds, print_every, patience, save_every,
        )  # fmt: skip
        record = Recorder()
        with (
            Interrupts(terminate=True) as interrupts,
            self._disk.locked(),
            reporter(report) as show,
        ):
            # Not before the lock is held: another thread may just have trained this model.
            if learnrate is not None:
                self.hyper = self.hyper.replace(learnrate=learnrate)
            run = Run(self._compute, data, self._progress, self._seed)
            run.backend.hyper = self.hyper

            def stop() -> bool:
                return interrupts.raised

            def follow() -> None:
                self._progress, self.hyper = run.progress, run.backend.hyper

            def save() -> None:
                follow()
                self._save(timed=True)

            def finish(done: Round, cut: bool) -> Round:
                follow()
                valid = None
                with suppress(KeyboardInterrupt):  # told to stop at once
                    valid = None if cut else self._validate(run, plan, valid_len, stop)
                if valid is not None and not valid.interrupted:
                    done = replace(done, validloss=valid.nats, bits=valid.bits)
                step = self._disk.nextstep(run.progress.batches)
                done = replace(done, checkpoint=str(step))
                self._line = self._disk.remember(done, record.curve(), self._line)
                if done.validloss is not None:
                    scores = run.progress.scores
                    if self.hyper.schedule == "plateau" and scores.latest:
                        rate = plateau(self.hyper.learnrate, done.validloss, scores.latest)
                        run.backend.hyper = self.hyper.replace(learnrate=rate)
                    run.progress = replace(run.progress, scores=scores.after(done.validloss))
                    follow()
                self._save(trainloss=done.trainloss, validloss=done.validloss, keep=keep)
                return done

            for notice in self._notices(lanes, data, clear_state):
                show(notice)
            if clear_state or run.lanes != lanes:
                run.clear()
            try:
                for event in run.train(
                    plan, draw=self._current, save=save, finish=finish, stop=stop
                ):
                    follow()
                    record(event)
                    show(event)
            except NumericsError:
                run.backend.hyper = self._savedhyper
                raise
            except MemoryError:
                raise InputError(
                    f"A batch of {lanes} x {self.seq_len} does not fit into memory. Choose a smaller "
                    "batchsize."
                ) from None
            finally:
                follow()
        return record.history()

    def traintime(self, batchsize: int = 16, batches: int = 5) -> Timing:
        """Measure what one training batch costs; the model stays as it is.

        Parameters
        ----------
        batchsize : int
            B, lanes side by side.
        batches : int
            How many to measure, after one that is not.
        """
        lanes, batches = _whole("batchsize", batchsize, 1), _whole("batches", batches, 1)
        run = Run(self._compute, self._text().train, self._progress, self._seed)
        seconds = []
        with Interrupts(late=True) as interrupts:
            for _ in range(batches + 1):
                began = time.perf_counter()
                run.step(lanes, self.seq_len, self.hyper.learnrate)
                seconds.append(time.perf_counter() - began)
                interrupts.check()
        return Timing(statistics.median(seconds[1:]), batches, lanes, self.seq_len)

    # ----------------------------------------------------------------------------- using it

    def generatestring(
        self,
        numchars: int = 100,
        temp: float = 0.5,
        seed: str = "\n",
        init_state: "np.ndarray | Sample | None" = None,
        ret_state: bool = False,
        *,
        rng: int | np.random.Generator | None = None,
    ) -> "Sample | tuple[Sample, np.ndarray]":
        """Generate text.

        Parameters
        ----------
        numchars : int
            How many characters.
        temp : float
            Temperature: 0 is greedy, low is tame, 1 is the model's own distribution, more is wild.
        seed : str
            What the text continues; it warms the hidden state. ``''`` begins with a character that
            starts a line in the source.
        init_state : array, (L, 1, H), or Sample
            Where to start from instead of an empty state, such as ``sample.state``; a sample itself
            is continued from its last character.
        ret_state : bool
            Return ``(sample, state)`` instead of the sample alone.
        rng : int or numpy.random.Generator
            Where chance comes from; by default the model's own.

        Returns
        -------
        Sample
            At the prompt it shows the text; ``str()`` is the text, ``.state`` continues it.
        """
        if find(self.modeltype).both:
            raise InputError(
                f"{self.modeltype} predicts each character from the text on both sides of it, so it "
                "cannot write on. ms.fillin('the qu_ck br_wn fox') fills gaps."
            )
        count = _whole("numchars", numchars, 0)
        temperature = checkedtemperature(temp)
        chance = self.rng if rng is None else _generator(rng)
        if isinstance(init_state, Sample):
            if seed == "\n":
                seed = (init_state.seed + init_state.text)[-1:]
            init_state = init_state.state
        state = self._startstate(init_state)
        drawn: list[np.ndarray] = []
        if seed == "":
            first = self.chars.semirandomidx(chance)
            ids, count = np.array([first], np.int32), max(count - 1, 0)
            drawn.append(ids)
        else:
            ids = self._encode(seed)
        arrays, backend = self._progress.arrays, self._compute
        with Interrupts() as interrupts:
            for start in range(0, len(ids) - 1, 1000):
                interrupts.check()
                warm = ids[start : min(start + 1000, len(ids) - 1), np.newaxis]
                _, _, state = backend.trace(arrays, warm, state)
            latest = ids[-1:]
            with suppress(KeyboardInterrupt):  # told to stop at once
                for start in range(0, count, AT_ONCE):
                    uniforms = chance.random((min(AT_ONCE, count - start), 1))
                    more, state = backend.generate(arrays, latest, state, uniforms, temperature)
                    drawn.append(more[:, 0])
                    latest = more[-1]
                    if interrupts.raised:
                        break
        text = self.chars.decode(np.concatenate(drawn) if drawn else np.zeros(0, np.int32))
        sample = Sample(text, state, seed, interrupts.raised)
        return (sample, state) if ret_state else sample

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
        if not find(self.modeltype).both:
            raise InputError(
                f"{self.modeltype} reads forwards only, so it cannot fill gaps. Train a model with "
                "modeltype='BiGRU', 'BiLSTM' or 'BiRNN'."
            )
        if not isinstance(text, str):
            raise InputError(f"Expected a text, got {text!r}.")
        choices, symbols = _whole("choices", choices, 1), self.chars.split(text)
        gaps = np.array([i for i, symbol in enumerate(symbols) if symbol == blank], np.int64)
        if not len(gaps):
            raise InputError(
                f"There is no {blank!r} in the text, so nothing to fill. Put blank={blank!r} where "
                "something is missing, or name another blank."
            )
        ids = self.chars.encode(text).astype(np.int32)
        if self.chars.unknown_idx is not None:
            unknown = {symbols[i] for i in np.flatnonzero(ids == self.chars.unknown_idx)}
            unknown -= {blank, self.chars.unknown_char}
            self._warn(" ".join(sorted(unknown)))
        return self._filled(ids, gaps, choices)

    def _filled(self, ids: np.ndarray, gaps: np.ndarray, choices: int = 1) -> Filled:
        """Fill the ``gaps`` of encoded text; see :meth:`fillin`."""
        arrays, backend = self._progress.arrays, self._compute

        def logits(ids: np.ndarray) -> np.ndarray:
            interrupts.check()
            return backend.trace(arrays, ids[:, np.newaxis], backend.freshstate(1))[1][:, 0]

        with Interrupts(late=True) as interrupts:
            ids, found = fill(ids, gaps, logits, self.chars.unknown_idx)
        alternatives = [
            tuple((self.chars.charatidx(int(i)), float(p[i])) for i in (-p).argsort()[:choices])
            for p in found
        ]
        return Filled(self.chars.decode(ids), tuple(zip(gaps.tolist(), alternatives, strict=True)))

    def trackneurons(
        self,
        usestr: str,
        temp: float = 0.5,
        ret_output: bool = False,
        transpose: bool = True,
    ) -> "np.ndarray | tuple[np.ndarray, np.ndarray]":
        """Return the state of every neuron after each character of a text.

        Parameters
        ----------
        usestr : str
            The text to read.
        temp : float
            Temperature of the outputs.
        ret_output : bool
            Return ``(states, outputs)``: outputs (step, V) is the distribution over the next
            character after each one, float64.
        transpose : bool
            Axes (layer, neuron, step); otherwise (step, layer, neuron).

        Returns
        -------
        float32 array, (layer, neuron, step) or (step, layer, neuron)
        """
        temperature = checkedtemperature(temp)
        ids = self._encode(usestr)[:, np.newaxis]
        states, logits, _ = self._compute.trace(
            self._progress.arrays, ids, self._compute.freshstate(1)
        )
        states = states[:, :, 0]
        states = states.transpose(0, 2, 1) if transpose else states.transpose(1, 0, 2)
        return (states, probabilities(logits[:, 0], temperature)) if ret_output else states

    def evaluate(self, text: str | None = None) -> Evaluation:
        """Return the loss on a text: nats and bits per character, perplexity, characters counted.

        Parameters
        ----------
        text : str
            What to predict, from its second character on; by default the whole validation text,
            each character of which is predicted from those before it.

        Raises
        ------
        InputError
            If there is nothing to predict.
        """
        arrays, units = self._progress.arrays, self.chars.units
        if text is not None:
            ids, start = self._encode(text), 0
        else:
            corpus = self._text()
            ids, start = corpus.ids, corpus.split
            if start == len(ids):
                raise InputError(
                    "All of the text is for training (trainfrac=1.0), so there is no validation "
                    "text. Give evaluate() a text."
                )
        with Interrupts() as interrupts:
            return evaluate(
                self._compute, arrays, ids, start, len(ids),
                units=units, interrupted=lambda: interrupts.raised,
            )  # fmt: skip

    def parameters(self) -> dict[str, np.ndarray]:
        """Return a copy of every parameter by name; :mod:`rngru.models` has names and shapes."""
        return {name: np.array(array) for name, array in self._progress.arrays.items()}

    def plotloss(self, path: str | Path | None = None) -> Path:
        """Draw training and validation loss against characters seen, and return the picture's path.

        Parameters
        ----------
        path
            Where to save it; by default ``loss.png`` in the working directory. The ending decides
            the format.

        Raises
        ------
        MissingExtra
            Without matplotlib: ``pip install 'rngru[plot]'``.
        InputError
            Before the first round of training.
        """
        from rngru.plots import lossfigure, savepicture

        lines = self._disk.rounds(self._line)
        rounds = [
            SimpleNamespace(**{k: line[k] for k in ("position", "trainloss", "validloss")})
            for line in lines
        ]
        points = [point for line in lines for point in line["curve"]]
        batches = tuple(np.array(points).T) if points else None
        if path is None:
            path = self.workdir / "loss.png"
            if path.is_symlink():
                path.unlink()  # so that nothing is written elsewhere
        return savepicture(lossfigure(rounds, batches=batches), path)

    @property
    def workdir(self) -> Path:
        """Where everything is kept."""
        return self._disk.path

    @property
    def position(self) -> int:
        """Characters of training text consumed, over all epochs."""
        return self._progress.position

    @property
    def epoch(self) -> int:
        """Whole passes over the training text."""
        return int(self._passes)

    def __repr__(self) -> str:
        hyper, count = self.hyper, sum(array.size for array in self._progress.arrays.values())
        source = self.chars.srcinfo or "a text"
        about = f"{len(self._corpus):,} {self.chars.units} of {source}" if self._corpus else source
        layers = f"{hyper.layers} layer{'s' if hyper.layers > 1 else ''} of {hyper.state_size}"
        losses = "".join(
            f", {name} loss {self._summary[key]:.3f}"
            for name, key in (("train", "trainloss"), ("valid", "validloss"))
            if self._summary.get(key) is not None
        )
        return (
            f"<ModelState {self.modeltype}, {layers}, {count:,} parameters, on {about}: "
            f"epoch {self._passes:.2f} (position {self.position:,}){losses}; backend {self.backend}>"
        )

    # ------------------------------------------------------------------------------- inside

    @property
    def _compute(self) -> "Backend":
        """The backend for the model as it is; made when it is first needed."""
        computes = self._computes
        # The rate is an input of what was compiled, not a part of it.
        if computes is None or (computes.name, computes.hyper.replace(learnrate=0)) != (
            self.backend,
            self.hyper.replace(learnrate=0),
        ):
            computes = self._computes = shielded(self.backend, find(self.modeltype), self.hyper)
        return computes

    @property
    def _passes(self) -> float:
        if self._corpus is None:
            return float(self._summary.get("epoch") or 0.0)
        return self.position / self._corpus.split

    def _text(self) -> Corpus:
        if self._corpus is None:
            raise WorkdirError(
                f"{self._disk.data} does not hold the text that this model was trained on. "
                "Generating and scoring work without it; training does not."
            )
        return self._corpus

    def _encode(self, text: str) -> np.ndarray:
        """Encode what a user typed, with a warning about what the model has never seen."""
        if not isinstance(text, str) or not text:
            raise InputError(f"Expected a text of at least one character, got {text!r}.")
        self._warn(self.chars.unknown_in(text))
        return self.chars.encode(text).astype(np.int32)

    def _warn(self, unknown: str) -> None:
        """Warn of symbols that the model has never seen, if there are any."""
        if unknown:
            warnings.warn(
                f"The model has never seen {unknown!r}; read as unknown ({self.chars.unknown_char!r}).",
                stacklevel=4,
            )

    def _startstate(self, given: np.ndarray | None) -> np.ndarray:
        """Return the state to generate from, (L, 1, H)."""
        fresh = find(self.modeltype).freshstate(self.hyper, 1)
        if given is None:
            return fresh
        state = np.asarray(given)
        if state.shape != fresh.shape or not np.isfinite(state).all():
            raise InputError(
                f"init_state has shape {state.shape}, expected finite numbers in {fresh.shape}: layers, "
                "1, state size. A sample's .state has it."
            )
        return state.astype(np.float32)

    def _untrained(self) -> float:
        """Loss on the beginning of the validation text, or of all text if there is none."""
        corpus = self._text()
        start = corpus.split if corpus.split < len(corpus) else 0
        stop = min(start + 20_000, len(corpus))
        return evaluate(self._compute, self._progress.arrays, corpus.ids, start, stop).nats

    def _validate(
        self, run: Run, plan: Plan, valid_len: int, interrupted: Callable[[], bool]
    ) -> Evaluation:
        """Evaluate as :meth:`trainmodel` says."""
        corpus, arrays = self._text(), run.progress.arrays
        start, stop = corpus.split, len(corpus)
        if start == stop:
            batches = min(
                valid_len or NEXT_SECTION, run.data.batchepoch(plan.batchsize, plan.seq_len)
            )
            return run.lookahead(batches, plan.batchsize, plan.seq_len, interrupted)
        if valid_len:
            stop = min(stop, start + valid_len * plan.size)
        return evaluate(
            self._compute, arrays, corpus.ids, start, stop,
            units=self.chars.units, interrupted=interrupted,
        )  # fmt: skip

    def _current(self) -> str:
        """What training shows: a sample from the state of the first lane, or gaps filled."""
        if find(self.modeltype).both:
            data, start = self._text().train, self.position % self._text().split
            ids = data.ids[start : start + 80].astype(np.int32)
            return str(self._filled(ids, np.arange(4, len(ids), 8)))
        state = self._progress.state
        assert state is not None, "samples are drawn after a batch"
        seed = self.chars.semirandomch(self.rng)
        return str(self.generatestring(100, seed=seed, init_state=state[:, :1]))

    def _notices(self, lanes: int, data: Any, clear_state: bool) -> list[Notice]:
        """What a person should know before training begins."""
        notices, state = [], self._progress.state
        if lanes * self.seq_len > len(data):
            notices.append(
                f"A batch of {lanes} x {self.seq_len} is more than the {len(data):,} "
                f"{self.chars.units} of training text: lanes read the same text several times."
            )
        if state is not None and state.shape[1] != lanes and not clear_state:
            notices.append(
                f"batchsize was {state.shape[1]} and is {lanes}: lanes are laid anew from the same "
                "position, with a fresh state."
            )
        return [Notice(text) for text in notices]

    def _save(
        self,
        *,
        trainloss: float | None = None,
        validloss: float | None = None,
        keep: int | None = None,
        timed: bool = False,
    ) -> Checkpoint:
        """Save the model as it is now; a ``timed`` checkpoint lasts until the next one."""
        if trainloss is validloss is None and self._summary.get("position") == self.position:
            trainloss, validloss = map(self._summary.get, ("trainloss", "validloss"))
        self._summary = {
            "epoch": self._passes,
            "position": self.position,
            "trainloss": trainloss,
            "validloss": validloss,
        }
        model = Saved(
            modeltype=self.modeltype,
            hyper=self.hyper,
            chars=self.chars,
            seq_len=self.seq_len,
            backend=self.backend,
            progress=self._progress,
            rng=self.rng,
            seed=self._seed,
            corpus=self._corpus.digest if self._corpus else None,
            line=self._line,
            summary=self._summary,
        )
        saved = self._disk.save(model, keep=keep, timed=timed)
        self._savedhyper = self.hyper
        return saved


def _whole(name: str, value: Any, least: int) -> int:
    """Return a whole number of at least ``least``, or say what is wrong with it."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{name}={value!r}: expected a whole number of at least {least}.")
    return int(value)


def _seconds(name: str, value: Any) -> float:
    """Return a number of seconds above 0, or say what is wrong with it."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InputError(f"{name}={value!r}: expected a number of seconds above 0.")
    return float(value)


def _checkkeyword(name: str) -> None:
    """Say what is wrong with the name of a keyword that is no hyperparameter."""
    if name == "vocab_size":
        raise InputError("vocab_size follows from the text; leave it out.")
    training = inspect.signature(ModelState.trainmodel).parameters
    if name in training and name not in SETTINGS:
        raise InputError(f"{name} belongs to trainmodel({name}=…), not to the model.")
    own = inspect.signature(ModelState.initfromsrcfile).parameters
    choose("keyword", name, {*SETTINGS, *own} - {"vocab_size", "hyperparams"})


@contextmanager
def _enoughmemory(what: str) -> Iterator[None]:
    """Say what it is that does not fit into memory."""
    try:
        yield
    except MemoryError:
        raise InputError(f"{what} does not fit into memory. Choose smaller sizes.") from None


def _generator(rng: int | np.random.Generator | None) -> np.random.Generator:
    """Return a generator whose state a checkpoint can hold."""
    try:
        generator = np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"rng={rng!r}: expected a whole number or a Generator ({error})."
        ) from None
    if isinstance(generator.bit_generator, np.random.PCG64):
        return generator
    return np.random.default_rng(generator.integers(2**63))


def _checkbackend(name: str) -> str:
    """Return the name of a backend. To import them takes a while, and Ctrl-C must not break that off."""

    def backends() -> Iterable[str]:
        from rngru.compiled import BACKENDS

        return BACKENDS

    with Interrupts(late=True) as interrupts:
        return choose("backend", name, Aside(backends).result(lambda: interrupts.raised))


def generatestring(ms: ModelState, *args: Any, **kwargs: Any) -> Any:
    """Generate text from a model: ``generatestring(ms, …)`` is ``ms.generatestring(…)``."""
    return ms.generatestring(*args, **kwargs)
