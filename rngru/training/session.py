"""One call to train: rounds of batches, validation, saves, and a way back from numbers gone wrong."""

import itertools
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol, final

from rngru.backends import Step
from rngru.corpus import Corpus
from rngru.errors import NumericsError
from rngru.events import Batch, Begin, Drawn, End, Event, Notice, Round, Validating
from rngru.interrupts import never
from rngru.reader import Evaluation, Reader, evaluating
from rngru.training.guard import Guard
from rngru.training.plan import Plan
from rngru.training.progress import Progress
from rngru.training.run import Run
from rngru.training.schedules import Rule, checkend, checkrule, plateau, scheduled
from rngru.training.verdict import Verdict

LOOKAHEAD = 20
"""Symbols of each lane that show, before a save, what the last update has done.

Enough that one surprising symbol is no alarm, and few, for whoever presses Ctrl-C waits for them.
"""

NEXT_SECTION = 200
"""Batches validated on when all text is for training and ``valid_len`` is 0."""

VALIDATION = 0.1
"""Seconds of validation after a round with ``max_seconds``, for each of its training, at most.

Of a longer text, the beginning is read.
"""

FORWARD = 3.0
"""How much faster a text is evaluated than trained on, about."""

LEAST = 2_000
"""Symbols that are validated on, however short the time."""

SAMPLE = 10.0
"""Seconds between two samples, where nobody says after how many batches."""

Validation = Generator[int, None, Evaluation | None]
"""Yields how many symbols have been read, and returns what was measured."""


class Keeper(Protocol):
    """What saves the progress of a session."""

    def keep(self, progress: Progress) -> None:
        """Save in the middle of a round."""

    def close(self, done: Round, curve: list[tuple[int, float]], progress: Progress) -> Round:
        """Save at the end of a round; return it with the name of its checkpoint.

        ``curve`` has position and loss of each batch of the round.
        """


def validlen(run: Run, corpus: Corpus, plan: Plan, seq_len: int) -> int:
    """Return how many symbols :func:`validate` reads."""
    size = plan.batchsize * seq_len
    if corpus.split == len(corpus):
        epoch = run.data.batchepoch(plan.batchsize, seq_len)
        return size * min(plan.valid_len or NEXT_SECTION, epoch)
    whole = len(corpus) - corpus.split
    return min(whole, plan.valid_len * size) if plan.valid_len else whole


def validate(
    run: Run,
    corpus: Corpus,
    plan: Plan,
    seq_len: int,
    most: int | None = None,
    asked: Callable[[], bool] = never,
) -> Validation:
    """Evaluate a run on the validation text; where there is none, on what it reads next.

    With ``most``, on so many symbols of it at most, from its beginning. ``asked`` says whether to stop
    early.
    """
    symbols = validlen(run, corpus, plan, seq_len)
    symbols = symbols if most is None else min(symbols, most)
    if corpus.split == len(corpus):
        batches = -(-symbols // (plan.batchsize * seq_len))
        weights = run.progress.weights
        return run.lookahead(batches, plan.batchsize, seq_len, weights=weights, asked=asked)
    start, stop = corpus.split, corpus.split + symbols
    backend, weights = run.backend, run.progress.weights
    reader = Reader(backend.model, run.hyper, corpus.vocab, weights, backend, together=True)
    return (yield from evaluating(reader, corpus.ids, start, stop, asked=asked))


@dataclass(slots=True)
class _Round:
    """What is known of the round at hand."""

    number: int
    start: int
    rate: float
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def forget(self, after: int) -> None:
        """Take back the batches beyond so many of the run."""
        kept = max(after - self.start, 0)
        for each in (self.losses, self.norms, self.positions):
            del each[kept:]


@final
class Session:
    """One call to train, as a stream of events: iterate over it once.

    When a loss or gradient goes wrong (see :class:`~rngru.training.guard.Guard`), the run goes back
    to where it was last saved and halves the learning rate; the fourth time it gives up. Nothing is
    saved before the loss after the last update was seen.

    Parameters
    ----------
    run: what is trained; its progress moves on.
    plan: what to do.
    keeper: what saves.
    seq_len: T, symbols that each lane reads in a batch.
    validate: evaluates the run as it is, after each round; on so many symbols at most as it is told,
        until the second argument says to stop.
    symbols: how many it reads when it is told nothing.
    sample: draws text from the run as it is.
    asked: whether to stop before the next batch; the last round is still validated.
    again: whether to stop at once, without that.
    told: what a listener says that wants to stop before the next batch; '' if none does.
    schedule: how the rate changes, instead of as the model's hyperparameters say.
    clock: gives seconds.

    Raises
    ------
    NumericsError
        When it gives up. The progress is that of the last save.
    """

    def __init__(
        self,
        run: Run,
        plan: Plan,
        keeper: Keeper,
        *,
        seq_len: int,
        validate: Callable[[int | None, Callable[[], bool]], Validation],
        symbols: int = 0,
        sample: Callable[[], str],
        asked: Callable[[], bool] = never,
        again: Callable[[], bool] = never,
        told: Callable[[], str] = str,
        schedule: Rule | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        checkrule(schedule)
        if plan.max_seconds == math.inf and not plan.rounds and schedule is None:
            checkend(run.hyper)
        self.run, self.plan, self.keeper, self.seq_len = run, plan, keeper, seq_len
        self._validate, self._sample, self._clock = validate, sample, clock
        self._asked, self._again, self._told, self._schedule = asked, again, told, schedule
        self._batches = plan.train_len or run.data.batchepoch(plan.batchsize, seq_len)
        self._size = plan.batchsize * seq_len
        self._units = run.data.vocab.units
        self._guard = Guard(run.hyper.vocab_size, self._units)
        self._reason, self._symbols, self._validlen = "done", 0, symbols
        self._most: int | None = None
        self._fastest = self._before = math.inf
        self._past, self._count = run.progress.scores, 0
        self._verdict = Verdict(self._past)

    def __iter__(self) -> Iterator[Event]:
        """Train, and say what happens as it happens."""
        self._began = self._saved = self._opened = self._shown = self._clock()
        yield from self._open()
        plan = self.plan
        yield Begin(
            plan.rounds,
            self._batches,
            plan.batchsize,
            self.seq_len,
            len(self.run.data),
            plan.max_seconds,
            self._units,
        )
        for number in itertools.count(1):
            yield from self._train(number)
            if self._finished(number):
                break
        said = self._told() if self._reason == "listener" else ""
        yield End(self._reason, self._past.best, plan.keep_best, said)

    @property
    def _seconds(self) -> float:
        return self._clock() - self._began

    @property
    def _stopped(self) -> str:
        """Why to stop before the next batch; '' if nobody wants to."""
        if self._asked():
            return "interrupted"
        return "listener" if self._told() else ""

    def _open(self) -> list[Notice]:
        """Set out from the progress; return what a person should know before training begins."""
        run, plan, now = self.run, self.plan, self.run.progress
        notices = []
        if self._size > len(run.data):
            notices.append(
                f"A batch of {plan.batchsize} x {self.seq_len} is more than the {len(run.data):,} "
                f"{self._units} of training text: lanes read the same text several times."
            )
        if run.lanes not in (0, plan.batchsize) and not plan.clear_state:
            notices.append(
                f"batchsize changed from {run.lanes} to {plan.batchsize}. Training goes on at the same "
                f"place in the text, but the hidden state starts empty; batchsize={run.lanes} "
                "continues exactly."
            )
        if said := run.backend.remark(plan.batchsize):
            notices.append(said)
        state = None if plan.clear_state else now.state
        scores = now.scores
        if 0 < plan.patience <= scores.worse:
            # Patience ran out in an earlier call; calling again grants it anew.
            scores = replace(scores, worse=0)
        self._good = replace(now, state=state, scores=scores)
        rate = now.learnrate if plan.learnrate is None else plan.learnrate
        run.progress = replace(self._good, learnrate=rate)
        if self._schedule is not None:
            notices.append(
                "schedule= is a function, which cannot be saved: it holds for this call alone, and then "
                f"schedule={run.hyper.schedule!r} does."
            )
        notices += self._verdict.opening(rate, run.hyper.optimizer)
        return [Notice(text) for text in notices]

    def _train(self, number: int) -> Iterator[Event]:
        """One round."""
        run = self.run
        here = _Round(number, run.progress.batches, run.progress.learnrate)
        while True:
            over, due, share = self._where(here)
            if over and not due:
                break
            rate = None if over else self._rate(share)
            try:
                step, loss = self._ahead(rate)
            except KeyboardInterrupt:  # told to stop at once: this batch is not taken
                if not self._asked():
                    raise
                continue
            wrong = self._guard.fault(loss, step, finite=not due or run.finite)
            if wrong:
                yield self._goback(wrong)
                here.forget(self._good.batches)
                continue
            if step is None or rate is None:
                break
            if due:
                self.keeper.keep(run.progress)
                self._saved_here()
            size = self.plan.batchsize * run.length(self.seq_len)
            run.take(step, size)
            self._symbols += size
            here.rate = rate
            yield self._took(here, loss, step.gradnorm)
            if self._showing() and not self._stopped:
                with suppress(KeyboardInterrupt):  # told to stop at once
                    yield Drawn(run.progress.position, run.epoch, self._sample())
        if here.losses:
            yield from self._close(here)

    def _showing(self) -> bool:
        """Whether it is time for a sample."""
        self._count += 1
        if self.plan.print_every is not None:
            return self.plan.print_every > 0 and self._count % self.plan.print_every == 0
        due = self._clock() >= self._shown + SAMPLE
        self._shown = self._clock() if due else self._shown
        return due

    def _where(self, here: _Round) -> tuple[bool, bool, float]:
        """Return (whether the round is over, whether to save, how much of the schedule is done)."""
        plan, seconds = self.plan, self._seconds
        if seconds > self._before:  # a batch was trained in between
            self._fastest = min(self._fastest, seconds - self._before)
        self._before = seconds
        most = math.inf if plan.max_seconds is None else plan.max_seconds - self._reserve
        if self._stopped:
            self._reason = self._stopped
        elif seconds >= most and self._symbols:
            self._reason = "time"
        over = self._reason != "done" or len(here.losses) == self._batches
        due = self.run.progress.batches != self._good.batches and (
            over or self._clock() - self._saved >= plan.save_every
        )
        done = 0.0 if plan.max_seconds is None else seconds / most if most > 0 else 1.0
        if plan.rounds is not None:
            rounds = here.number - 1 + len(here.losses) / self._batches
            done = max(done, rounds / plan.rounds)
        if self.run.hyper.lifetime:
            done = min(self.run.progress.batches / self.run.hyper.lifetime, 1.0)
        return over, due, done

    def _rate(self, share: float) -> float:
        """Return the learning rate of the next batch."""
        run, rate = self.run, self.run.progress.learnrate
        return scheduled(run.hyper, rate, epoch=run.epoch, share=share, rule=self._schedule)

    def _ahead(self, rate: float | None) -> tuple[Step | None, float]:
        """Return the next step and its loss per symbol; without a rate, the loss of a look ahead.

        What an update did shows in the loss after it: nothing is saved before that is seen.
        """
        lanes = self.plan.batchsize
        if rate is None:
            return None, self.run.lookahead(1, lanes, min(self.seq_len, LOOKAHEAD)).nats
        length = self.run.length(self.seq_len)  # where that varies, so does the rate
        step = self.run.propose(lanes, length, rate * (length / self.seq_len))
        return step, step.loss / (lanes * length)

    def _took(self, here: _Round, loss: float, gradnorm: float) -> Batch:
        """Note a batch that was taken."""
        position = self.run.progress.position
        here.losses.append(loss)
        here.norms.append(gradnorm)
        here.positions.append(position)
        return Batch(
            here.number,
            len(here.losses),
            self._batches,
            position,
            self.run.epoch,
            loss,
            gradnorm,
            self._symbols,
            self._seconds,
        )

    def _goback(self, wrong: str) -> Notice:
        """Go back to the last save with half the learning rate, or give up."""
        good, rate = self._good, self.run.progress.learnrate
        if self._guard.times > 3:
            self.run.progress = good
            raise NumericsError(
                f"{wrong}, after the learning rate was halved three times. The model is as it was "
                f"saved at batch {good.batches}. Try learnrate below {rate:g}, a smaller clip, or "
                "clipnorm=1."
            )
        self.run.progress = replace(good, learnrate=rate / 2)
        return Notice(
            f"{wrong}. Back to batch {good.batches}, with learnrate {rate / 2:g} instead of {rate:g}.",
            good.position,
        )

    @property
    def _affordable(self) -> float:
        """Symbols that a validation may read, so that the seconds are left for training."""
        plan = self.plan
        if plan.valid_len or plan.max_seconds in (None, math.inf):
            return math.inf
        batches = min(self._batches, plan.max_seconds / max(self._fastest, 1e-9))
        return max(VALIDATION * FORWARD * batches * self._size, LEAST)

    @property
    def _reserve(self) -> float:
        """Seconds to leave for the validation after the last round."""
        if not self._symbols or self._fastest == math.inf:
            return 0.0
        symbols = min(self._validlen, self._most or self._affordable)
        return symbols * self._fastest / (FORWARD * self._size)

    def _limit(self) -> int | None:
        """Symbols to validate on in this call, at most; None: all that was asked for."""
        affordable = self._affordable
        if self._most is None and affordable < math.inf:
            if affordable < self._validlen:  # a round number, so that calls can be compared
                digits = math.floor(math.log10(affordable))
                affordable = affordable // 10**digits * 10**digits
            self._most = int(min(affordable, self._validlen))
        return self._most

    def _close(self, here: _Round) -> Iterator[Event]:
        """End a round: validate and save."""
        run, count, seconds = self.run, len(here.losses), self._seconds
        done = Round(
            here.number,
            run.progress.position,
            run.epoch,
            math.fsum(here.losses) / count,
            None,
            None,
            here.rate,
            math.fsum(here.norms) / count,
            self._symbols,
            seconds,
            None,
            self._units,
            seconds - (self._opened - self._began),
        )
        first, most = self._most is None, self._limit()
        if first and most is not None and most < self._validlen:
            yield Notice(
                f"Validation reads the first {most:,} of {self._validlen:,} {self._units}, so "
                "that training has nine tenths of max_seconds; valid_len= sets how much it reads."
            )
        valid = yield from self._measure(most)
        if valid is not None and not valid.interrupted:
            done = replace(done, validloss=valid.nats, bits=valid.bits)
            # Else a resumed run would not be the uninterrupted one.
            if self._reason not in ("interrupted", "listener"):
                self._score(valid.nats)
        for text in self._verdict.closing(done, run.progress.scores, self._count):
            yield Notice(text)
        curve = list(zip(here.positions, here.losses, strict=True))
        done = self.keeper.close(done, curve, run.progress)
        self._saved_here()
        self._opened, self._before = self._saved, math.inf
        yield done

    def _measure(self, most: int | None) -> Generator[Validating, None, Evaluation | None]:
        """Validate, and say how far that is; None if there is no validation text, or no time."""
        total = self._validlen if most is None else min(most, self._validlen)
        work = self._validate(most, self._again)
        with suppress(KeyboardInterrupt):  # told to stop at once
            while not self._again():
                try:
                    done = next(work)
                except StopIteration as end:
                    return end.value
                yield Validating(done, total, self._seconds, self._asked())
        return None

    def _score(self, loss: float) -> None:
        """Take a validation loss into account."""
        now, rate = self.run.progress, self.run.progress.learnrate
        if self.run.hyper.schedule == "plateau" and now.scores.latest:
            rate = plateau(rate, loss, now.scores.latest)
        self.run.progress = replace(now, learnrate=rate, scores=now.scores.after(loss))

    def _saved_here(self) -> None:
        self._good, self._saved = self.run.progress, self._clock()

    def _finished(self, number: int) -> bool:
        """Whether round ``number`` was the last, and why."""
        plan, worse = self.plan, self.run.progress.scores.worse
        if self._reason == "done" and self._stopped:
            self._reason = self._stopped
        elif self._reason == "done" and 0 < plan.patience <= worse:
            self._reason = "patience"
        return self._reason != "done" or number == plan.rounds
