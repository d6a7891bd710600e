"""What happens while a model trains: frozen events, in the order in which they occur.

Training is a stream of records. Whoever wants to show, store or draw it reads the stream; nobody
has to be called back. One call to train gives

``Begin``, then for each round its ``Batch`` events, with a ``Drawn`` whenever a sample was asked
for, and one ``Round`` at the end of it; a ``Notice`` wherever there is something to say; at last
``End``, which says why it stopped.

Losses are pure cross-entropy in nats per character, never with the penalty on the weights.

>>> event = End("done")
>>> event.reason
'done'
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rngru.dataset import DataSet, evallanes
from rngru.errors import InputError, NumericsError
from rngru.hyper import HyperParams

if TYPE_CHECKING:  # importing the backends takes a while, and whoever only reads events needs none
    from rngru.compiled import Arrays, Backend, Caches, Step

GLANCE = 20
"""Characters of each lane that show, before a save, what the last update has done.

Enough that one surprising character is no alarm, and few, for whoever presses Ctrl-C waits for them.
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """The text of a new model is being encoded: ``done`` of ``total`` bytes, in ``seconds``.

    It is read twice, and both times count.
    """

    done: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Begin:
    """Training starts.

    ``rounds`` of ``batches`` batches each are planned, of ``batchsize`` lanes by ``seq_len``
    characters; the training text has ``trainlen`` characters. With ``max_seconds`` the clock
    decides when to stop, not the number of rounds.
    """

    rounds: int
    batches: int
    batchsize: int
    seq_len: int
    trainlen: int
    max_seconds: float | None


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch was trained on.

    ``batch`` counts from 1 to ``batches`` within the round. ``position`` is how many characters of
    training text have been consumed in the life of the model, ``epoch`` the same in passes over
    the text. ``loss`` is that of this batch before its update (nats per character), ``gradnorm``
    the length of its gradient before clipping. ``characters`` and ``seconds`` count from Begin.
    """

    round: int
    batch: int
    batches: int
    position: int
    epoch: float
    loss: float
    gradnorm: float
    characters: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """A sample was drawn from the model as it is now: ``text``."""

    position: int
    epoch: float
    text: str


@dataclass(frozen=True, slots=True)
class Round:
    """A round is over.

    ``trainloss`` is the mean over its batches, ``validloss`` that of the validation text and
    ``bits`` the same in bits per character (both None when nothing was validated).
    ``learnrate`` is the rate the round was trained with, ``gradnorm`` the mean gradient length.
    ``characters`` and ``seconds`` count from Begin; ``checkpoint`` names the one saved, if any.
    """

    round: int
    position: int
    epoch: float
    trainloss: float
    validloss: float | None
    bits: float | None
    learnrate: float
    gradnorm: float
    characters: int
    seconds: float
    checkpoint: str | None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the person at the prompt should know: ``text``, one or two sentences.

    ``position`` is where the run goes back to, if it does: batches beyond it are taken back.
    """

    text: str
    position: int | None = None


@dataclass(frozen=True, slots=True)
class End:
    """Training stopped.

    ``reason`` is ``'done'``, ``'time'``, ``'patience'`` or ``'interrupted'``.
    """

    reason: str


Event = Reading | Begin | Batch | Drawn | Round | Notice | End


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well a model predicts a text.

    Attributes
    ----------
    nats : float
        Mean cross-entropy, nats per symbol.
    characters : int
        How many symbols were predicted.
    seconds : float
        How long that took.
    units : str
        What a symbol is: ``'characters'``, ``'words'`` or ``'bytes'``.
    interrupted : bool
        Whether Ctrl-C cut it short.
    cloze : bool
        Whether symbols were predicted from the text after them, too, and not only from that before.

    Example
    -------
    >>> Evaluation(nats=1.5, characters=1000, seconds=0.5)
    1.5000 nats per character, 2.164 bits, perplexity 4.48, over 1,000 characters
    """

    nats: float
    characters: int
    seconds: float
    units: str = "characters"
    interrupted: bool = False
    cloze: bool = False

    @property
    def bits(self) -> float:
        """Bits per symbol."""
        return self.nats / math.log(2)

    @property
    def perplexity(self) -> float:
        """How many equally likely symbols would be as hard to predict."""
        return math.exp(self.nats)

    def __repr__(self) -> str:
        kind = "cloze loss: " if self.cloze else ""
        return (
            f"{kind}{self.nats:.4f} nats per {self.units[:-1]}, {self.bits:.3f} bits, "
            f"perplexity {self.perplexity:.2f}, over {self.characters:,} {self.units}"
            + (" (interrupted)" if self.interrupted else "")
        )


def evaluate(
    backend: "Backend",
    arrays: "Arrays",
    ids: np.ndarray,
    start: int,
    stop: int,
    *,
    units: str = "characters",
    interrupted: Callable[[], bool] = _never,
) -> Evaluation:
    """Predict each of the symbols ``ids[start:stop]`` once; see :func:`rngru.dataset.evallanes`.

    ``interrupted`` is asked between chunks whether to stop early.

    Raises
    ------
    InputError
        If there is nothing to predict.
    KeyboardInterrupt
        If it was stopped before anything was.
    """
    began = time.monotonic()
    total, count, state = 0.0, 0, None
    chunks = evallanes(ids, start, stop, seq_len=200, symbols=backend.hyper.vocab_size)
    try:
        for x, y, counted in chunks:
            state = backend.freshstate(x.shape[1]) if state is None else state
            # Not a step beyond the last that counts: what is read there is padding.
            steps = 1 + max(np.flatnonzero(counted.any(axis=1)), default=len(counted) - 1)
            losses, state = backend.losses(arrays, x[:steps], y[:steps], state)
            total += float(losses[counted[:steps]].sum(dtype=np.float64))
            count += int(counted.sum())
            if count and interrupted():
                break
    except KeyboardInterrupt:
        if not count:
            raise
    if not count:
        raise InputError(
            f"There is nothing to predict in {stop - start} {units}: expected 2 or more, for each "
            "is predicted from those before it."
        )
    seconds, whole = time.monotonic() - began, stop - max(start, 1)
    return Evaluation(total / count, count, seconds, units, count < whole, backend.model.both)


@dataclass(frozen=True, slots=True)
class Timing:
    """What one training batch costs: ``seconds`` (the median of ``batches``) and its size."""

    seconds: float
    batches: int
    batchsize: int
    seq_len: int

    @property
    def rate(self) -> float:
        """Characters per second."""
        return self.batchsize * self.seq_len / self.seconds

    def __repr__(self) -> str:
        return (
            f"{1000 * self.seconds:.1f} ms per batch of {self.batchsize} x {self.seq_len} "
            f"characters, {self.rate:,.0f} characters per second (median of {self.batches})"
        )


@dataclass(frozen=True, slots=True)
class Scores:
    """What validation has said of a run so far, over all calls.

    Parameters
    ----------
    latest: the last loss, nats per character; None before the first.
    best: the lowest loss after a round.
    worse: rounds in a row, since the best, whose loss was not lower.

    Example
    -------
    >>> Scores(latest=4.0).after(2.5).after(2.75)
    Scores(latest=2.75, best=2.5, worse=1)
    """

    latest: float | None = None
    best: float | None = None
    worse: int = 0

    def after(self, loss: float) -> "Scores":
        """Return the scores after one more round."""
        if self.best is None or loss < self.best:
            return Scores(loss, loss)
        return Scores(loss, self.best, self.worse + 1)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands. It is replaced whole after each batch, so it is always consistent.

    Parameters
    ----------
    arrays, caches: parameters and what the optimizer remembers; see :mod:`rngru.compiled`.
    state: (L, B, H), what the lanes carry into the next batch, or None to start from zero.
    position: characters of training text consumed.
    batches: batches trained on, one update each.
    scores: what validation has said.
    """

    arrays: "Arrays"
    caches: "Caches"
    state: np.ndarray | None = None
    position: int = 0
    batches: int = 0
    scores: Scores = Scores()


def scheduled(hyper: HyperParams, *, epoch: float, share: float) -> float:
    r"""Return the learning rate of the next batch, as ``hyper.schedule`` says.

    ==============  ==========================================================================
    constant        ``learnrate``
    plateau         ``learnrate``, which :func:`plateau` lowers after a round
    exponential     char-rnn's: × 0.97 at the end of the tenth epoch and of each one after it
    cosine          from 0 up to ``learnrate`` over ``warmup``, then down to a tenth of it along
                    :math:`(1 + \cos \pi u)/2`; over the length of the call
    ==============  ==========================================================================

    Parameters
    ----------
    epoch: passes over the training text so far.
    share: how much of this call to train is over, 0 … 1.

    Example
    -------
    >>> hyper = HyperParams(66, schedule="exponential", learnrate=1.0)
    >>> round(scheduled(hyper, epoch=11.5, share=0), 4)
    0.9409
    """
    rate = hyper.learnrate
    if hyper.schedule == "exponential":
        return rate * 0.97 ** max(0, math.floor(epoch) - 9)
    if hyper.schedule == "cosine":
        share = min(share, 1.0)
        if share < hyper.warmup:
            return rate * max(share, 0.01 * hyper.warmup) / hyper.warmup
        left = (1 - share) / max(1 - hyper.warmup, 1e-9)
        return rate * (0.1 + 0.9 * (1 - math.cos(math.pi * left)) / 2)
    return rate


def plateau(rate: float, loss: float, previous: float) -> float:
    """Return a lower rate if the validation loss has not come down: the 2016 rule, on losses.

    Halved where it rose by 3 % or more, × 0.8 where it changed by less than 2 or 3 %.

    >>> plateau(1.0, 2.0, 1.0), plateau(1.0, 1.0, 1.0), plateau(1.0, 1.0, 2.0)
    (0.5, 0.8, 1.0)
    """
    ratio = loss / previous
    if ratio >= 1.03:
        return rate * 0.5
    return rate * 0.8 if ratio > 0.98 else rate


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train, for one call.

    Parameters
    ----------
    rounds, batches: how many rounds of how many batches.
    batchsize, seq_len: B lanes, T characters each per batch.
    max_seconds: stop when this much wall time has passed, however many rounds that takes.
    print_every: draw a sample after so many batches of a round; 0: never.
    patience: stop after so many rounds in a row without a lower validation loss.
    save_every: save after so many seconds without it.
    """

    rounds: int
    batches: int
    batchsize: int
    seq_len: int
    max_seconds: float | None = None
    print_every: int = 0
    patience: int | None = None
    save_every: float = math.inf

    @property
    def size(self) -> int:
        """Characters in a batch."""
        return self.batchsize * self.seq_len


class Run:
    """A model being trained: a backend, a text and the progress made.

    Parameters
    ----------
    backend: computes the steps. Its ``hyper`` has the learning rate, and gets a lower one if the
        numbers go wrong.
    data: the training text.
    progress: where to go on from; the attribute of this name moves on with each batch.
    seed: what dropout masks are drawn from, with the number of the batch: the same batch has the
        same mask on any backend, however often it is tried.
    """

    def __init__(
        self, backend: "Backend", data: DataSet, progress: Progress, seed: int = 0
    ) -> None:
        self.backend, self.data, self.progress, self.seed = backend, data, progress, seed

    @property
    def epoch(self) -> float:
        """Passes over the training text so far."""
        return self.progress.position / len(self.data)

    @property
    def lanes(self) -> int:
        """Lanes that the carried state is of; 0 if there is none."""
        return 0 if self.progress.state is None else self.progress.state.shape[1]

    def clear(self) -> None:
        """Forget the hidden state."""
        self.progress = replace(self.progress, state=None)

    def step(self, batchsize: int, seq_len: int, rate: float) -> "Step":
        """Compute one training step from here, without taking it."""
        now, (x, y, state) = self.progress, self._next(batchsize, seq_len)
        return self.backend.step(
            now.arrays,
            now.caches,
            x,
            y,
            state,
            rate,
            number=now.batches + 1,
            masks=self._masks(seq_len, batchsize),
        )

    def lookahead(
        self, batches: int, batchsize: int, seq_len: int, stop: Callable[[], bool] = _never
    ) -> Evaluation:
        """Evaluate on the batches that come next, without training on them."""
        began, (_, _, state) = time.monotonic(), self._next(batchsize, seq_len)
        total, count, size = 0.0, 0, batchsize * seq_len
        while count < batches * size and not (count and stop()):
            x, y = self.data.batch(self.progress.position + count, batchsize, seq_len)
            losses, state = self.backend.losses(self.progress.arrays, x, y, state)
            total += float(losses.sum(dtype=np.float64))
            count += size
        seconds, units = time.monotonic() - began, self.data.vocab.units
        short = count < batches * size
        return Evaluation(total / count, count, seconds, units, short, self.backend.model.both)

    def train(
        self,
        plan: Plan,
        *,
        draw: Callable[[], str],
        save: Callable[[], object],
        finish: Callable[[Round, bool], Round],
        stop: Callable[[], bool] = _never,
    ) -> Iterator[Event]:
        """Train, and say what happens as it happens.

        When a loss or gradient is not finite, or the loss climbs to twice its start and a nat
        above that of blind guessing, the run goes back to where it was last saved and halves the
        learning rate; the fourth time it gives up.

        Parameters
        ----------
        plan: what to do.
        draw: gives a sample.
        save: keeps the progress as it is.
        finish: called at the end of each round with what is known of it, and whether it was cut
            short by ``stop``; validates, adds to the scores, saves, and gives the whole ``Round``.
        stop: whether to stop before the next batch.

        Raises
        ------
        NumericsError
            When it gives up. The progress is that of the last save.
        """
        began = saved = time.monotonic()
        if plan.patience is not None and self.progress.scores.worse >= plan.patience:
            # It has run out before, and whoever goes on all the same has some more.
            fresh = replace(self.progress.scores, worse=0)
            self.progress = replace(self.progress, scores=fresh)
        good, tamed, first, smooth = self.progress, 0, None, None
        reason, characters = "done", 0
        yield Begin(
            plan.rounds,
            plan.batches,
            plan.batchsize,
            plan.seq_len,
            len(self.data),
            plan.max_seconds,
        )
        for number in itertools.count(1):
            start = self.progress.batches
            losses: list[float] = []
            norms: list[float] = []
            rate = self.backend.hyper.learnrate
            while True:
                seconds = time.monotonic() - began
                if stop():
                    reason = "interrupted"
                elif plan.max_seconds is not None and seconds >= plan.max_seconds and characters:
                    reason = "time"
                over = reason != "done" or len(losses) == plan.batches
                due = self.progress is not good and (
                    over or time.monotonic() - saved >= plan.save_every
                )
                if over and not due:
                    break
                if plan.max_seconds is None:
                    share = (number - 1 + len(losses) / plan.batches) / plan.rounds
                else:
                    share = seconds / plan.max_seconds
                rate = scheduled(self.backend.hyper, epoch=self.epoch, share=share)
                # What an update did shows in the loss after it: nothing is saved before that is seen.
                try:
                    step = None if over else self.step(plan.batchsize, plan.seq_len, rate)
                    if step is None:
                        loss = self.lookahead(1, plan.batchsize, min(plan.seq_len, GLANCE)).nats
                    else:
                        loss = step.loss / plan.size
                except KeyboardInterrupt:  # told to stop at once: this batch is not taken
                    if not stop():
                        raise
                    continue
                ahead = loss if smooth is None else 0.9 * smooth + 0.1 * loss
                begin = loss if first is None else first
                # Not "ahead > limit": that is false for NaN.
                sane = ahead <= max(2 * begin, math.log(self.backend.hyper.vocab_size) + 1)
                finite = (step is None or step.finite) and not (due and self._spoilt)
                if not (finite and sane):
                    tamed += 1
                    wrong = self._wrong(step, loss, finite)
                    self._tame(wrong, good, tamed)
                    yield Notice(self._told(wrong, good), good.position)
                    smooth = None
                    kept = max(good.batches - start, 0)
                    del losses[kept:], norms[kept:]
                    continue
                if step is None:
                    break
                if due:
                    save()
                    good, saved = self.progress, time.monotonic()
                first, smooth = loss if first is None else first, ahead
                self.progress = replace(
                    self.progress,
                    arrays=step.arrays,
                    caches=step.caches,
                    state=step.state,
                    position=self.progress.position + plan.size,
                    batches=self.progress.batches + 1,
                )
                characters += plan.size
                losses.append(loss)
                norms.append(step.gradnorm)
                now, seconds = self.progress, time.monotonic() - began
                yield Batch(
                    number, len(losses), plan.batches, now.position, self.epoch, loss,
                    step.gradnorm, characters, seconds,
                )  # fmt: skip
                if plan.print_every and len(losses) % plan.print_every == 0 and not stop():
                    with suppress(KeyboardInterrupt):  # told to stop at once
                        yield Drawn(now.position, self.epoch, draw())
            if losses:
                mean, norm = math.fsum(losses) / len(losses), math.fsum(norms) / len(norms)
                seconds, position = time.monotonic() - began, self.progress.position
                done = finish(
                    Round(
                        number,
                        position,
                        self.epoch,
                        mean,
                        None,
                        None,
                        rate,
                        norm,
                        characters,
                        seconds,
                        None,
                    ),  # fmt: skip
                    reason == "interrupted",
                )
                good, saved = self.progress, time.monotonic()
                yield done
            worse = self.progress.scores.worse
            if reason == "done" and stop():
                reason = "interrupted"
            elif reason == "done" and plan.patience is not None and worse >= plan.patience:
                reason = "patience"
            if reason != "done" or (plan.max_seconds is None and number == plan.rounds):
                break
        yield End(reason)

    def _next(self, batchsize: int, seq_len: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the next batch and the state to begin it with."""
        state = self.progress.state
        if state is None or state.shape[1] != batchsize:
            state = self.backend.freshstate(batchsize)
        x, y = self.data.batch(self.progress.position, batchsize, seq_len)
        return x, y, state

    def _masks(self, seq_len: int, lanes: int) -> np.ndarray | None:
        """Draw what dropout multiplies the next batch by, (L, T or 1, B, S): 0, or 1 / (1 - p)."""
        hyper = self.backend.hyper
        if not hyper.dropout:
            return None
        rng = np.random.default_rng((self.seed, self.progress.batches))
        depth = len(self.backend.model.towers) * hyper.layers
        shape = (depth, 1 if hyper.locked else seq_len, lanes, hyper.state_size)
        kept = rng.integers(0, 1 << 16, shape, np.uint16) >= round(hyper.dropout * (1 << 16))
        return kept.astype(np.float32) / np.float32(1 - hyper.dropout)

    @property
    def _spoilt(self) -> bool:
        """Whether any number of the model or of what the optimizer remembers is none."""
        now = self.progress
        kinds = [now.arrays, *now.caches.values()]
        return not all(np.isfinite(array).all() for kind in kinds for array in kind.values())

    def _tame(self, wrong: str, good: Progress, times: int) -> None:
        """Go back to ``good`` with half the learning rate, or give up."""
        hyper, self.progress = self.backend.hyper, good
        if times > 3:
            raise NumericsError(
                f"{wrong}, after the learning rate was halved three times. The model is as it was "
                f"saved at batch {good.batches}. Try learnrate below {hyper.learnrate:g}, a smaller "
                "clip, or clipnorm=1."
            )
        self.backend.hyper = hyper.replace(learnrate=hyper.learnrate / 2)

    def _told(self, wrong: str, good: Progress) -> str:
        rate = self.backend.hyper.learnrate
        return f"{wrong}. Back to batch {good.batches}, with learnrate {rate:g} instead of {2 * rate:g}."

    @staticmethod
    def _wrong(step: "Step | None", loss: float, finite: bool) -> str:
        if finite and math.isfinite(loss):
            return f"The loss climbs far above its start, to {loss:.3g} nats per character"
        if step is None or step.finite:
            return f"The last update left numbers that are not finite; the loss is {loss:.3g}"
        return f"The loss is {loss:.3g} and the length of the gradient {step.gradnorm:.3g}"
