"""One call to train, with a backend of canned losses and a counted clock: no file, no signal."""

import math
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest

from rngru.checkpoint import decodejson, encodejson
from rngru.dataset import DataSet
from rngru.errors import NumericsError
from rngru.events import Batch, Begin, Drawn, End, Notice, Round, Validating
from rngru.hyper import HyperParams
from rngru.reader.scoring import Evaluation, finished
from rngru.report import History
from rngru.snapshot import Snapshot
from rngru.text import CharSet
from rngru.training import Plan, Progress, Run, Scores, Session, scheduled, session, validate
from rngru.training.session import LOOKAHEAD
from rngru.workdir import WorkdirKeeper
from tests.models import Act, Call, Canned, There

LANES, SEQ_LEN = 2, 3
SIZE = LANES * SEQ_LEN
RATE = 1e-3
NAN = math.nan


class Clock:
    """Seconds that pass only when somebody counts them."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float = 1.0) -> None:
        self.now += seconds


class Records:
    """A keeper that only records."""

    def __init__(self, log):
        self.log, self.kept, self.closed = log, [], []

    def keep(self, progress):
        self.log.append(("keep", progress.batches))
        self.kept.append(progress)

    def close(self, done, curve, progress):
        self.log.append(("close", progress.batches))
        self.closed.append((done, curve, progress))
        return replace(done, checkpoint=str(progress.batches))


@dataclass
class Bench:
    """A model that computes nothing, and all that can be seen of a call that trains it."""

    run: Run
    backend: Canned
    clock: Clock
    log: list
    asked: int = 0
    valid: list = field(default_factory=list)
    samples: int = 0
    validlen: int = 0

    def session(self, seq_len=SEQ_LEN, **plan) -> Session:
        self.keeper = Records(self.log)
        return Session(
            self.run,
            Plan(**{"batchsize": LANES, "print_every": 0, "train_len": 4} | plan),
            self.keeper,
            seq_len=seq_len,
            validate=self.validate,
            symbols=self.validlen,
            sample=self.sample,
            asked=lambda: self.asked > 0,
            again=lambda: self.asked > 1,
            clock=self.clock,
        )

    def train(self, **plan) -> list:
        return list(self.session(**plan))

    def validate(self, most, asked):
        self.log.append("validate")
        self.most = most
        yield 5
        nats = self.valid.pop(0) if self.valid else None
        nats = nats() if callable(nats) else nats
        return None if nats is None else Evaluation(nats, 10, 0.0, interrupted=asked())

    def sample(self):
        self.samples += 1
        return f"sample {self.samples} after {self.run.progress.batches}"

    def ask(self):
        self.asked += 1

    @property
    def rates(self) -> list[float]:
        return [call.rate for call in self.backend.stepped]


def bench(
    steps=(), looks=(), *, symbols=48, valid=(), places=False, progress=None, **hyper
) -> Bench:
    """A bench on a text of so many symbols; eight batches are an epoch of it."""
    clock, log = Clock(), []
    data = DataSet(np.arange(symbols) % 4 + 1, CharSet("abcd"))
    hyper = HyperParams(5, learnrate=RATE, **hyper)
    backend = Canned(hyper, steps, looks, places=places, tick=clock.tick, log=log)
    caches = {"mean": backend.weights()}
    progress = progress or Progress(backend.weights(), caches, hyper.learnrate)
    run = Run(backend, data, progress, hyper=hyper, seed=7)
    return Bench(run, backend, clock, log, valid=list(valid))


def of(kind, events) -> list:
    return [event for event in events if isinstance(event, kind)]


def names(events) -> list[str]:
    return [type(event).__name__ for event in events if not isinstance(event, Validating)]


# ----------------------------------------------------------------------------- the stream


def test_events_come_in_order():
    """A sample after its round, or a round that never ends."""
    told = bench().train(num_rounds=2, train_len=3, print_every=2)
    one = ["Batch", "Batch", "Drawn", "Batch", "Round"]
    two = ["Batch", "Drawn", "Batch", "Batch", "Drawn", "Round"]
    assert names(told) == ["Begin", *one, *two, "End"]
    assert told[-1] == End("done")
    assert [drawn.text for drawn in of(Drawn, told)] == [
        "sample 1 after 2", "sample 2 after 4", "sample 3 after 6",
    ]  # fmt: skip
    assert [drawn.position for drawn in of(Drawn, told)] == [2 * SIZE, 4 * SIZE, 6 * SIZE]


def test_what_begin_says():
    """A reporter that draws a bar of the wrong length."""
    begin = bench().train(num_rounds=3, train_len=0, max_seconds=None)[0]
    assert begin == Begin(3, 8, LANES, SEQ_LEN, 48, None, "characters")


def test_what_a_batch_says():
    """Counts that start at 0 or go on through rounds; a loss summed over the batch; time of day."""
    bank = bench([1.5, Act(1.25, gradnorm=3)])
    batches = of(Batch, bank.train(num_rounds=2, train_len=1))
    assert batches == [
        Batch(1, 1, 1, SIZE, SIZE / 48, 1.5, 1.0, SIZE, 1.0),
        Batch(2, 1, 1, 2 * SIZE, 2 * SIZE / 48, 1.25, 3.0, 2 * SIZE, 2.0),
    ]


def test_what_a_round_says():
    """A mean over the whole call, or bits that are nats; the checkpoint's name lost."""
    bank = bench([1, 2, Act(1, gradnorm=2), Act(4, gradnorm=4)], valid=[None, 2.0])
    first, second = of(Round, bank.train(num_rounds=2, train_len=2))
    assert first == Round(1, 12, 0.25, 1.5, None, None, RATE, 1.0, 12, 2.0, "2", trained=2.0)
    assert second.trainloss == 2.5
    assert second.gradnorm == 3.0
    assert second.validloss == 2.0
    assert second.bits == pytest.approx(2 / math.log(2))
    assert second.checkpoint == "4"
    done, curve, progress = bank.keeper.closed[1]
    assert curve == [(18, 1.0), (24, 4.0)]
    assert replace(done, checkpoint="4") == second
    assert progress is bank.run.progress


def test_units_are_those_of_the_text():
    """Words reported as characters."""
    from rngru.text import ByteSet

    bank = bench()
    bank.run.data = DataSet(np.arange(48), ByteSet())
    told = bank.train()
    assert {each.units for each in (*of(Begin, told), *of(Round, told))} == {"bytes"}


@pytest.mark.parametrize(("symbols", "train_len", "expected"), [(48, 5, 5), (48, 0, 8), (49, 0, 9)])
def test_how_many_batches_a_round_has(symbols, train_len, expected):
    """An epoch rounded down leaves the end of the text unread."""
    bank = bench(symbols=symbols)
    told = bank.train(train_len=train_len)
    assert len(of(Batch, told)) == of(Begin, told)[0].batches == expected


def test_a_session_reads_the_text_in_order_with_the_state_it_carries():
    """A state dropped between two batches or rounds: each would start as if nothing had been read."""
    bank = bench()
    bank.train(num_rounds=2, train_len=3)
    for number, call in enumerate(bank.backend.stepped):
        assert call.number == number + 1
        read = np.array([0, 24])[np.newaxis] + np.arange(SEQ_LEN)[:, np.newaxis] + number * SEQ_LEN
        assert np.array_equal(call.x, read % 48 % 4 + 1)
        assert np.array_equal(call.y, (read + 1) % 48 % 4 + 1)
        assert (call.state[:, :, 0] == number * SEQ_LEN).all()
        if number:
            assert np.array_equal(call.state[0, :, 1], bank.backend.stepped[number - 1].x[-1])
    assert bank.run.progress.arrays["w"] == 6
    assert bank.run.progress.position == 6 * SIZE


def test_a_text_shorter_than_a_batch_is_told_of_first():
    """A notice after training has begun, or no word about lanes that read the same."""
    told = bench(symbols=5).train(train_len=1)
    assert names(told)[:2] == ["Notice", "Begin"]
    assert told[0].text.startswith(
        "A batch of 2 x 3 is more than the 5 characters of training text"
    )
    assert names(bench(symbols=6).train(train_len=1))[0] == "Begin"


def test_samples_are_counted_within_a_round():
    """A sample every so many batches of the run: none in short rounds, two in others."""
    told = bench().train(num_rounds=2, train_len=3, print_every=3)
    assert [drawn.position for drawn in of(Drawn, told)] == [3 * SIZE, 6 * SIZE]
    assert of(Drawn, bench().train(print_every=0)) == []


def test_samples_come_every_ten_seconds_where_nobody_says():
    """A text of an epoch of 627 batches, and not one sample in an hour."""
    drawn = of(Drawn, bench().train(num_rounds=9, train_len=4, print_every=None))
    assert [each.position for each in drawn] == [10 * SIZE, 20 * SIZE, 30 * SIZE]


# --------------------------------------------------------------------------------- the clock


def test_max_seconds_stops_after_the_first_batch_past_the_time():
    """A batch less, or one more; or one round, for nobody said how many."""
    told = bench().train(train_len=2, max_seconds=5)
    assert [(batch.round, batch.batch) for batch in of(Batch, told)] == [
        (1, 1), (1, 2), (2, 1), (2, 2), (3, 1),
    ]  # fmt: skip
    assert [done.position for done in of(Round, told)] == [12, 24, 30]
    assert told[-1] == End("time")


def test_of_rounds_and_seconds_the_first_to_be_over_ends_the_call():
    """Two rounds asked for, and sixteen trained, because there was time."""
    told = bench().train(num_rounds=2, train_len=2, max_seconds=50)
    assert len(of(Round, told)) == 2
    assert told[-1] == End("done")
    told = bench().train(num_rounds=2, train_len=4, max_seconds=5)
    assert [done.position for done in of(Round, told)] == [24, 30]
    assert told[-1] == End("time")


def test_max_seconds_that_end_with_a_round():
    """An empty round, closed and saved, when the time is over just then."""
    told = bench().train(train_len=2, max_seconds=4)
    assert len(of(Round, told)) == 2
    assert told[-1] == End("time")


def test_however_short_the_time_there_is_a_batch():
    """A machine so slow that it never trains at all."""
    bank = bench()
    session = bank.session(max_seconds=1e-9)
    told = []
    for event in session:
        bank.clock.tick(5)
        told.append(event)
    assert names(told) == ["Begin", "Batch", "Round", "End"]


def test_time_runs_from_the_start_of_the_call():
    """A model made an hour ago has no time left."""
    bank = bench()
    session = bank.session(max_seconds=3)
    bank.clock.tick(3600)
    told = list(session)
    assert len(of(Batch, told)) == 3
    assert of(Batch, told)[0].seconds == 1.0


def test_endless_time_ends_with_the_question():
    """inf taken for a number to divide by."""
    bank = bench()
    session = iter(bank.session(max_seconds=math.inf, train_len=2))
    told = []
    for event in session:
        told.append(event)
        bank.asked = int(len(of(Batch, told)) == 7)
    assert told[-1] == End("interrupted")
    assert len(of(Batch, told)) == 7


def test_save_every_saves_what_was_seen_to_be_fine_and_starts_anew():
    """A save before the loss after it was seen; a timer that runs out once and then at every batch."""
    bank = bench()
    bank.train(train_len=9, save_every=2.5)
    order = [
        f"step {each.number}" if isinstance(each, Call) and each.kind == "step"
        else each.kind if isinstance(each, Call) else each
        for each in bank.log
    ]  # fmt: skip
    assert order == [
        "step 1", "step 2", "step 3", "step 4", ("keep", 3), "step 5", "step 6", "step 7", "step 8",
        ("keep", 7), "step 9", "losses", "validate", ("close", 9),
    ]  # fmt: skip


def test_what_is_kept_is_the_progress_before_the_step_that_was_looked_at():
    """The parameters of one batch with the position of another."""
    bank = bench()
    bank.train(train_len=9, save_every=2.5)
    assert [progress.batches for progress in bank.keeper.kept] == [3, 7]
    for progress in bank.keeper.kept:
        assert progress.arrays["w"] == progress.batches
        assert progress.position == progress.batches * SIZE
        assert (progress.state[:, :, 0] == progress.batches * SEQ_LEN).all()


def test_the_end_of_a_round_is_a_save_too():
    """A timer that does not hear of it: two saves in a row."""
    bank = bench()
    bank.train(num_rounds=3, train_len=2, save_every=2.5)
    assert bank.keeper.kept == []
    assert [progress.batches for _, _, progress in bank.keeper.closed] == [2, 4, 6]


def test_the_look_before_a_round_is_saved_is_at_what_comes_next():
    """A look at text that the model has just been trained on, from another state than the carried one."""
    bank = bench()
    bank.train(train_len=2)
    (look,) = [call for call in bank.backend.calls if call.kind == "losses"]
    assert (look.state[:, :, 0] == 2 * SEQ_LEN).all()
    assert np.array_equal(look.x, bank.run.data.batch(2 * SIZE, LANES, SEQ_LEN)[0])


def test_the_look_is_short_and_measured_as_batches_are():
    """A person who waits a minute after Ctrl-C; or bits compared with nats: a false alarm."""
    bank = bench(looks=[15.0])  # 0.9 · 1 + 0.1 · 15 = 2.4 nats, and log(5) + 1 = 2.6
    assert of(Notice, bank.train(train_len=2)) == []
    (notice,) = of(Notice, bench(looks=[20.0]).train(train_len=2))
    assert "to 20 nats" in notice.text
    bank = bench(symbols=480)
    list(bank.session(seq_len=50, train_len=1))
    assert [len(call.x) for call in bank.backend.calls] == [50, LOOKAHEAD]


# ------------------------------------------------------------------------------ the learning rate


def test_a_constant_rate_stays():
    """A rate that drifts."""
    bank = bench()
    bank.train(num_rounds=2)
    assert bank.rates == [RATE] * 8
    assert bank.run.progress.learnrate == RATE


def test_batches_of_random_length_follow_on_and_move_as_far_as_they_are_long():
    """Text that is skipped or read twice, a loss that is not per symbol, a rate that is not scaled."""
    bank = bench(random_len=0.3)
    told = list(bank.session(seq_len=40, num_rounds=2, train_len=200))
    lengths = np.array([len(call.x) for call in bank.backend.stepped])
    begins = np.cumsum([0, *lengths])
    assert all(
        (call.state[:, :, 0] == begin).all()
        for call, begin in zip(bank.backend.stepped, begins, strict=False)
    )
    assert all(
        call.x[0, 0] == begin % 4 + 1
        for call, begin in zip(bank.backend.stepped, begins, strict=False)
    )
    assert bank.run.progress.position == LANES * begins[-1]
    np.testing.assert_allclose(bank.rates, RATE * lengths / 40)
    assert {batch.loss for batch in of(Batch, told)} == {1.0}
    assert {done.learnrate for done in of(Round, told)} == {RATE}
    short = lengths < 30
    assert short.mean() == pytest.approx(0.3, abs=4 * (0.21 / 400) ** 0.5)
    assert lengths[short].mean() == pytest.approx(20, abs=2)
    assert lengths[~short].mean() == pytest.approx(40, abs=2)
    assert lengths[~short].std() == pytest.approx(5, abs=1)
    assert lengths.min() >= 5 and lengths.max() <= 50


def test_plateau_lowers_the_rate_after_a_round():
    """A rate lowered on the first loss, which has none before it, or one round late; then lost."""
    bank = bench(valid=[2.0, 2.0, 3.0, 1.0, 1.0], schedule="plateau")
    told = bank.train(num_rounds=4, train_len=1)
    expected = [RATE, RATE, 0.8 * RATE, 0.4 * RATE]
    assert bank.rates == pytest.approx(expected)
    assert [done.learnrate for done in of(Round, told)] == pytest.approx(expected)
    assert bank.run.progress.learnrate == pytest.approx(0.4 * RATE)
    _, _, saved = bank.keeper.closed[2]
    assert saved.learnrate == pytest.approx(0.4 * RATE), "saved with the rate that comes next"
    bank.train(num_rounds=1, train_len=1)
    assert bank.rates[-1] == pytest.approx(0.4 * RATE)
    assert bank.run.progress.learnrate == pytest.approx(0.32 * RATE)


def test_plateau_compares_with_the_round_before():
    """Compared with the best instead, a rate halved for one bad round falls on while the loss does."""
    bank = bench(valid=[2.0, 3.0, 2.5], schedule="plateau")
    bank.train(num_rounds=3, train_len=1)
    assert bank.run.progress.learnrate == pytest.approx(0.5 * RATE)


def test_exponential_falls_with_the_epochs():
    """A rate that falls with each batch, or a fall that is taken for the rate in force and compounds."""
    bank = bench(symbols=12, schedule="exponential")
    told = bank.train(num_rounds=12, train_len=0)
    expected = [RATE * 0.97 ** max(0, batch // 2 - 9) for batch in range(24)]
    assert bank.rates == pytest.approx(expected)
    assert bank.run.progress.learnrate == RATE
    assert [done.learnrate for done in of(Round, told)] == pytest.approx(expected[1::2])


def test_cosine_goes_over_the_whole_call():
    """A wave for each round."""
    bank = bench(schedule="cosine", warmup=0.25)
    told = bank.train(num_rounds=2, train_len=4)
    wave = [RATE * (0.1 + 0.9 * (1 + math.cos(math.pi * (k - 2) / 6)) / 2) for k in range(2, 8)]
    assert bank.rates == pytest.approx([0.01 * RATE, RATE / 2, *wave])
    assert [done.learnrate for done in of(Round, told)] == pytest.approx([wave[1], wave[-1]])
    assert bank.run.progress.learnrate == RATE


def test_cosine_follows_the_clock_where_that_decides():
    """A share of rounds that are not the end of the call."""
    bank = bench(schedule="cosine", warmup=0)
    bank.train(train_len=2, max_seconds=8)
    assert bank.rates == pytest.approx(
        [RATE * (0.1 + 0.9 * (1 + math.cos(math.pi * second / 8)) / 2) for second in range(8)]
    )


def test_a_rate_given_stays():
    """learnrate= that holds for one call only."""
    bank = bench()
    bank.train(learnrate=0.5)
    assert bank.rates == [0.5] * 4
    _, _, saved = bank.keeper.closed[0]
    assert saved.learnrate == bank.run.progress.learnrate == 0.5
    bank.train()
    assert bank.rates == [0.5] * 8
    bank.train(learnrate=0)
    assert bank.rates[8:] == [0.0] * 4


def test_a_rate_given_is_undone_when_it_gives_up():
    """A rate that ruined the model is what the next call begins with."""
    bank = bench([NAN] * 4)
    with pytest.raises(NumericsError):
        bank.train(learnrate=64.0)
    assert bank.rates == [64.0, 32.0, 16.0, 8.0]
    assert bank.run.progress.learnrate == RATE


# ---------------------------------------------------------------------- numbers that go wrong


def test_the_way_back_before_any_save():
    """Batches that stay in the curve though they were taken back; a rate that is not halved."""
    bank = bench([1.0, 1.125, NAN, 1.25, 1.5, 1.75, 2.0])
    told = bank.train(train_len=4)
    assert names(told) == ["Begin", "Batch", "Batch", "Notice", *["Batch"] * 4, "Round", "End"]
    assert told[3] == Notice(
        "The loss is nan and the length of the gradient 1. "
        "Back to batch 0, with learnrate 0.0005 instead of 0.001.",
        0,
    )
    assert bank.rates == [RATE] * 3 + [RATE / 2] * 4
    assert [(batch.batch, batch.loss) for batch in told[4:8]] == [
        (1, 1.25), (2, 1.5), (3, 1.75), (4, 2.0),
    ]  # fmt: skip
    done, curve, progress = bank.keeper.closed[0]
    assert curve == [(6, 1.25), (12, 1.5), (18, 1.75), (24, 2.0)]
    assert done.trainloss == 1.625
    assert done.learnrate == RATE / 2
    assert done.characters == 6 * SIZE, "what was read, also what was taken back"
    assert progress.learnrate == RATE / 2
    assert progress.arrays["w"] == 4


def test_the_way_back_leads_to_the_last_save():
    """A way back to the beginning of the call throws away an hour; one batch too few taken back."""
    lost = Act(1.75, gradnorm=9), Act(2.0, gradnorm=9)
    bank = bench([1.0, 1.25, 1.5, *lost, NAN, 1.125, 1.375, 1.625])
    told = bank.train(train_len=6, save_every=2.5)
    assert bank.keeper.kept[0].batches == 3
    (notice,) = of(Notice, told)
    assert notice.position == 3 * SIZE
    assert "Back to batch 3," in notice.text
    done, curve, _ = bank.keeper.closed[0]
    assert done.gradnorm == 1.0
    assert curve == [(6, 1.0), (12, 1.25), (18, 1.5), (24, 1.125), (30, 1.375), (36, 1.625)]
    after = bank.backend.stepped[6]
    assert after.number == 4
    assert after.rate == RATE / 2
    assert (after.state[:, :, 0] == 3 * SEQ_LEN).all()


def test_rounds_before_are_not_taken_back():
    """The number of batches of the run taken for that of the round."""
    bank = bench([1.0] * 4 + [1.125, NAN, 1.25, 1.5])
    told = bank.train(num_rounds=2, train_len=4)
    assert [notice.position for notice in of(Notice, told)] == [4 * SIZE]
    _, curve, _ = bank.keeper.closed[1]
    assert curve == [(30, 1.25), (36, 1.5), (42, 1.0), (48, 1.0)]


def test_a_climb_and_spoilt_weights_lead_back_too():
    """Only nan is seen; or weights that are nan are saved because the loss still looks fine."""
    bank = bench([1.0, 1.0, 100.0])
    (notice,) = of(Notice, bank.train())
    assert notice.text.startswith("The loss climbs far above its start, to 100 nats per character.")
    for spoilt in ("weights", "caches"):
        bank = bench([1.0, Act(1.0, spoils=spoilt)])
        (notice,) = of(Notice, bank.train(train_len=2))
        assert notice.text.startswith(
            "The last update left numbers that are not finite; the loss is 1."
        )
        ((_, _, saved),) = bank.keeper.closed
        assert (saved.arrays["w"], saved.caches["mean"]["w"]) == (2.0, np.float32(RATE))


def test_the_last_update_of_a_round_is_seen_before_it_is_saved():
    """The look ahead finds nan, and the round is saved all the same."""
    bank = bench(looks=[NAN, 1.0])
    told = bank.train(train_len=2)
    assert names(told) == [
        "Begin", "Batch", "Batch", "Notice", "Batch", "Batch", "Round", "End",
    ]  # fmt: skip
    assert bank.log.count(("close", 2)) == 1
    assert bank.run.progress.learnrate == RATE / 2


def test_a_save_in_the_middle_waits_for_a_good_loss():
    """What the last update spoilt is kept, and the way back leads there."""
    bank = bench([1.0, 1.0, 1.0, NAN])
    bank.train(train_len=4, save_every=2.5)
    calls = [each.number if isinstance(each, Call) else each for each in bank.log]
    assert calls[:5] == [1, 2, 3, 4, 1], "back to the beginning: nothing was kept"
    assert bank.keeper.kept[0].learnrate == RATE / 2


def test_the_fourth_time_it_gives_up():
    """A run that halves its rate for ever; a model left as the last attempt made it."""
    bank = bench([1.0] * 4 + [1.0, NAN] * 4)
    told = []
    with pytest.raises(NumericsError) as error:
        for event in bank.session(num_rounds=2, train_len=4):
            told.append(event)
    assert str(error.value) == (
        "The loss is nan and the length of the gradient 1, after the learning rate was halved three "
        "times. The model is as it was saved at batch 4. Try learnrate below 0.000125, a smaller "
        "clip, or clipnorm=1."
    )
    assert bank.rates[4:] == [rate for k in range(4) for rate in [RATE / 2**k] * 2]
    assert [notice.position for notice in of(Notice, told)] == [4 * SIZE] * 3
    _, _, saved = bank.keeper.closed[0]
    assert bank.run.progress is saved
    assert (saved.batches, saved.learnrate) == (4, RATE)


def test_the_times_add_up_over_rounds():
    """A count that begins anew with each round: the rate goes to zero, and no one is told."""
    bank = bench([NAN, 1.0, NAN, 1.0, NAN, 1.0, NAN])
    with pytest.raises(NumericsError):
        bank.train(num_rounds=9, train_len=1)
    assert len(bank.keeper.closed) == 3


def test_time_that_runs_out_on_the_way_back():
    """An empty round is saved, or the call never ends, where all batches were taken back."""
    bank = bench([1.0, 1.0], looks=[NAN])
    told = bank.train(max_seconds=2)
    assert names(told) == ["Begin", "Batch", "Batch", "Notice", "End"]
    assert bank.keeper.closed == []
    assert bank.run.progress.batches == 0


# -------------------------------------------------------------------------------------- patience


def test_patience_counts_over_calls_and_is_granted_anew():
    """A call a day never stops; or once it has run out, every later call stops at once."""
    bank = bench(valid=[2.0, 2.1, 2.2, 2.3, 2.4, 1.9])
    assert bank.train(train_len=1, patience=2)[-1] == End("done")
    assert bank.train(train_len=1, patience=2)[-1] == End("done", 2.0)
    assert bank.run.progress.scores == Scores(2.1, 2.0, 1)
    assert bank.train(num_rounds=5, train_len=1, patience=2)[-1] == End("patience", 2.0)
    told = bank.train(num_rounds=5, train_len=1, patience=2)
    assert len(of(Round, told)) == 2
    assert told[-1] == End("patience", 2.0)
    assert bank.run.progress.scores == Scores(2.4, 2.0, 2)
    assert bank.train(train_len=1)[-1].reason == "done"
    assert bank.run.progress.scores == Scores(1.9, 1.9, 0)


def test_patience_is_not_lost_by_a_call_without_it():
    """A call without patience forgets how many rounds were worse."""
    bank = bench(valid=[2.0, 2.1, 2.2])
    bank.train(num_rounds=3, train_len=1)
    assert bank.run.progress.scores.worse == 2


def test_scores_are_saved_with_the_round():
    """A model restored from the last round has another patience than the one that went on."""
    bank = bench(valid=[2.0, 2.1])
    bank.train(num_rounds=2, train_len=1)
    assert [progress.scores.worse for _, _, progress in bank.keeper.closed] == [0, 1]


# ------------------------------------------------------------------------------- told to stop


def test_told_before_the_first_batch():
    """A batch all the same; a round of nothing is saved, whose mean is 0/0."""
    bank = bench()
    bank.ask()
    assert names(bank.train()) == ["Begin", "End"]
    assert bank.log == []


def test_told_during_a_batch():
    """The batch is thrown away; or what is saved is not validated, so that it can never be the best."""
    bank = bench(valid=[2.0])
    bank.backend.steps.extend([Act(), Act(then=bank.ask)])
    told = bank.train(print_every=1)
    assert names(told) == ["Begin", "Batch", "Drawn", "Batch", "Round", "End"]
    assert told[-1] == End("interrupted")
    assert told[-2].validloss == 2.0
    (during,) = of(Validating, told)
    assert during == Validating(5, 0, 2.0, stopping=True)
    assert bank.log[-3].kind == "losses", "looked at before it is saved"
    assert bank.log[-2:] == ["validate", ("close", 2)]
    assert bank.run.progress.scores == Scores(), "a resumed run is the uninterrupted one"


def test_told_twice():
    """A long validation before the prompt is back."""
    bank = bench(valid=[2.0])
    bank.backend.steps.extend([Act(), Act(then=lambda: (bank.ask(), bank.ask()))])
    told = bank.train()
    assert names(told) == ["Begin", "Batch", "Batch", "Round", "End"]
    assert told[-2].validloss is None
    assert bank.log[-1] == ("close", 2) and "validate" not in bank.log


def test_told_between_two_batches():
    """One more batch, which may take a minute."""
    bank = bench()
    told = []
    for event in bank.session():
        told.append(event)
        if isinstance(event, Batch) and event.batch == 3:
            bank.ask()
    assert [done.checkpoint for done in of(Round, told)] == ["3"]
    assert len(bank.backend.stepped) == 3


def test_told_between_two_rounds():
    """A round begun though the person asked while the last was shown."""
    bank = bench()
    told = []
    for event in bank.session(num_rounds=5):
        told.append(event)
        if isinstance(event, Round):
            bank.ask()
    assert names(told)[-2:] == ["Round", "End"]
    assert len(of(Round, told)) == 1
    assert told[-1] == End("interrupted")


def test_told_during_validation():
    """Half a validation counts as a loss, and patience and plateau believe it; or nothing is saved."""
    for times, loss, scores in (1, 9.0, Scores(9.0, 9.0)), (2, None, Scores()):
        bank = bench()
        bank.valid.append(lambda bank=bank, times=times: [bank.ask() for _ in range(times)] and 9.0)
        told = bank.train(num_rounds=3)
        assert names(told)[-2:] == ["Round", "End"]
        assert told[-2].validloss == loss
        assert told[-2].checkpoint == "4"
        assert told[-1] == End("interrupted")
        assert bank.run.progress.scores == scores


def test_told_at_once_during_a_batch():
    """KeyboardInterrupt loses the round so far, or the batch that was cut short is counted."""
    bank = bench()
    bank.backend.steps.extend([Act(), Act(then=bank.ask, raises=KeyboardInterrupt)])
    told = bank.train()
    assert names(told) == ["Begin", "Batch", "Round", "End"]
    assert told[-1] == End("interrupted")
    assert bank.run.progress.batches == 1
    assert bank.log[-1] == ("close", 1)


def test_an_interrupt_that_nobody_asked_for_is_passed_on():
    """A KeyboardInterrupt of another kind (a debugger's) swallowed, and training never stops."""
    bank = bench([Act(), Act(raises=KeyboardInterrupt)])
    told = []
    with pytest.raises(KeyboardInterrupt):
        for event in bank.session():
            told.append(event)
    assert names(told) == ["Begin", "Batch"]
    assert bank.run.progress.batches == 1


def test_told_at_once_during_validation():
    """The round is lost because its validation was cut short."""
    bank = bench()

    def stop():
        bank.ask()
        raise KeyboardInterrupt

    bank.valid.append(stop)
    told = bank.train()
    assert names(told)[-2:] == ["Round", "End"]
    assert (told[-2].validloss, told[-2].checkpoint) == (None, "4")


def test_told_at_once_during_a_sample():
    """A sample that was cut short ends the call without a save."""
    bank = bench()

    def stop():
        bank.ask()
        raise KeyboardInterrupt

    bank.sample = stop
    told = bank.train(print_every=2)
    assert names(told) == ["Begin", "Batch", "Batch", "Round", "End"]
    assert bank.log[-1] == ("close", 2)


# --------------------------------------------------------------------- what a person has to know


def test_overfitting_is_said_once_when_it_happens():
    """38 rounds in which the loss doubles, and nobody says that the ninth was the best."""
    losses = [2.0, 1.8, 1.79, 1.85, 1.9, 1.95, 2.0]
    bank = bench([4.0 - 0.1 * n for n in range(7)], valid=losses)
    told = bank.train(num_rounds=7, train_len=1)
    (notice,) = of(Notice, told)
    assert notice.text.startswith(
        "Overfitting: the validation loss was lowest 3 rounds ago, 1.7900, and is 1.9500 now"
    )
    assert told.index(notice) < told.index(of(Round, told)[5])


@pytest.mark.parametrize(
    ("steps", "valid"),
    [
        ([3.0] * 7, [2.0, 2.1, 2.2, 2.3, 2.4, 2.5, 2.6]),  # the training loss does not fall
        ([3.0, 2.0, 1.0] * 2, [2.0, 2.01, 2.0, 2.015, 2.01, 2.0, 2.0]),  # chance
    ],
)
def test_what_is_no_overfitting_is_not_called_so(steps, valid):
    """A rate too high, or the noise of a short validation."""
    assert of(Notice, bench(steps, valid=valid).train(num_rounds=6, train_len=1)) == []


def test_a_rate_far_too_high_is_said():
    """A loss of 3.5 for an hour, with 0.5 typed for 0.005."""
    (notice,) = of(Notice, bench().train(num_rounds=1, train_len=1, learnrate=0.5))
    assert notice.text.startswith("learnrate=0.5 is far above what optimizer='rmsprop' learns with")
    progress = replace(bench().run.progress, scores=Scores(latest=3.25))
    told = bench([3.5] * 100, progress=progress, valid=[3.4]).train(train_len=100)
    (notice,) = of(Notice, told)
    assert "is not below that before training, 3.250: learnrate=0.001 is probably" in notice.text


# ------------------------------------------------------------------------- where it sets out from


def trained(lanes: int = LANES, **changes) -> Progress:
    """Progress of a run that had so many lanes."""
    weights = {"w": np.full(1, 9, np.float32)}
    state = np.full((1, lanes, 2), 5, np.float32)
    return replace(Progress(weights, {"mean": weights}, RATE, state, 54, 9), **changes)


def test_a_run_goes_on_with_its_state():
    """A call that starts anew each time."""
    bank = bench(progress=trained())
    told = bank.train()
    assert names(told)[0] == "Begin"
    first = bank.backend.stepped[0]
    assert first.number == 10
    assert (first.state == 5).all()
    assert np.array_equal(first.x, bank.run.data.batch(54, LANES, SEQ_LEN)[0])


def test_other_lanes_start_with_an_empty_state_and_say_so():
    """States of other places in the text carried into the new lanes, or dropped without a word."""
    bank = bench(progress=trained(3))
    told = bank.train()
    assert told[0] == Notice(
        "batchsize changed from 3 to 2. Training goes on at the same place in the text, but the "
        "hidden state starts empty; batchsize=3 continues exactly."
    )
    first = bank.backend.stepped[0]
    assert (first.state == 0).all()
    assert first.state.shape == (1, LANES, 2)
    assert np.array_equal(first.x, bank.run.data.batch(54, LANES, SEQ_LEN)[0])


def test_who_takes_the_advice_before_the_first_batch_goes_on_exactly():
    """The state is dropped before a batch was trained: Ctrl-C and batchsize=3 do not continue."""
    bank = bench([Act(then=lambda: bank.ask(), raises=KeyboardInterrupt)], progress=trained(3))
    told = bank.train()
    assert names(told) == ["Notice", "Begin", "End"]
    assert "batchsize=3 continues exactly" in told[0].text
    bank.asked = False
    assert names(bank.train(batchsize=3, train_len=1))[0] == "Begin"
    last = bank.backend.stepped[-1]
    assert last.number == 10
    assert (last.state == 5).all()


@pytest.mark.parametrize("lanes", [LANES, 3])
def test_a_state_can_be_cleared(lanes):
    """clear_state that has no effect; or a notice of what was asked for."""
    bank = bench(progress=trained(lanes))
    assert names(bank.train(clear_state=True))[0] == "Begin"
    assert (bank.backend.stepped[0].state == 0).all()
    assert (bank.backend.stepped[1].state[:, :, 0] == SEQ_LEN).all(), "cleared once, not each time"


def test_the_way_back_of_a_cleared_state_is_cleared():
    """After a way back the state that was to be cleared is there again."""
    bank = bench([NAN], progress=trained())
    bank.train(clear_state=True)
    assert [(call.state == 0).all() for call in bank.backend.stepped[:2]] == [True, True]


# ------------------------------------------------------------------------------------------ Run


def test_noise_follows_the_batch_not_the_attempt():
    """The same dropout mask for every batch; or a second attempt that cannot be compared."""
    bank = bench([1.0, NAN, 1.0, 1.0, 1.0], dropout=0.5)
    bank.train(train_len=2, save_every=0.5)
    by_number: dict[int, list] = {}
    for call in bank.backend.stepped:
        by_number.setdefault(call.number, []).append(call.noise["outputs"])
    assert [*map(len, by_number.values())] == [2, 2]
    assert all(np.array_equal(*attempts) for attempts in by_number.values())
    assert not np.array_equal(by_number[1][0], by_number[2][0])
    again, other = bench(dropout=0.5), bench(dropout=0.5)
    other.run.seed = 8
    for each in (again, other):
        each.run.propose(LANES, SEQ_LEN, RATE)
    assert np.array_equal(again.backend.stepped[0].noise["outputs"], by_number[1][0])
    assert not np.array_equal(other.backend.stepped[0].noise["outputs"], by_number[1][0])


def test_without_dropout_there_is_no_noise():
    """Masks of ones, drawn for nothing at every batch."""
    bank = bench()
    bank.train(train_len=1)
    assert bank.backend.stepped[0].noise == {}


@pytest.mark.parametrize("places", [False, True])
def test_a_proposal_changes_nothing_and_taking_it_does(places):
    """A proposal that moves on, so that traintime() trains; or a step taken that is not counted."""
    bank = bench(progress=trained(), places=places)
    before = bank.run.progress
    step = bank.run.propose(LANES, SEQ_LEN, 0.5)
    bank.run.propose(LANES, SEQ_LEN, 0.5)
    now = bank.run.progress
    assert (now.position, now.batches, now.learnrate, now.scores) == (54, 9, RATE, Scores())
    assert now.state is before.state
    assert now.arrays["w"] == now.caches["mean"]["w"] == 9
    assert [call.number for call in bank.backend.stepped] == [10, 10]
    bank.run.take(step, SIZE)
    now = bank.run.progress
    assert (now.position, now.batches, now.learnrate) == (60, 10, RATE)
    assert now.arrays["w"] == 10
    assert now.caches["mean"]["w"] == 9.5
    assert now.state is step.state
    assert bank.run.epoch == 60 / 48
    assert before.arrays["w"] == 9, "what was before is as it was"


def test_a_proposal_for_other_lanes_begins_empty():
    """traintime(batchsize=…) given a state of the wrong shape."""
    bank = bench(progress=trained(3))
    bank.run.propose(LANES, SEQ_LEN, RATE)
    assert (bank.backend.stepped[0].state == 0).all()
    assert bank.run.lanes == 3


def test_the_mean_of_a_look_ahead():
    """A mean of means, or of the wrong part of the text; a state not carried from batch to batch."""

    def nats(x, y, state):
        return 100.0 * y + state[0, :, 0]

    bank = bench(looks=nats, progress=trained())
    found = bank.run.lookahead(3, LANES, SEQ_LEN)
    total = 0
    for lane in range(LANES):
        for t in range(3 * SEQ_LEN):
            symbol = (lane * 24 + 54 // LANES + t + 1) % 48 % 4 + 1
            total += 100 * symbol + 5 + t // SEQ_LEN * SEQ_LEN
    assert found.nats == pytest.approx(total / (3 * SIZE))
    assert found.characters == 3 * SIZE
    assert not found.interrupted
    assert bank.run.progress.position == 54


def test_a_look_ahead_that_is_stopped():
    """A mean over what was not read, or one that does not say that it is not whole."""
    bank = bench(looks=[2.0, 4.0, 9.0])
    answers = iter([False, True])
    found = bank.run.lookahead(3, LANES, SEQ_LEN, asked=lambda: next(answers))
    assert (found.nats, found.characters, found.interrupted) == (3.0, 2 * SIZE, True)


# ----------------------------------------------------------------- arrays that are somewhere else


def test_arrays_are_placed_once_and_stay():
    """Every step carries all parameters to the device and back; or one is computed with those here."""
    bank = bench(places=True)
    bank.train(num_rounds=2, save_every=1.5)
    assert bank.backend.placed == 2, "parameters, and one cache: asked for once each"
    assert all(isinstance(progress.arrays["w"], There) for progress in bank.keeper.kept)


def test_the_way_back_is_placed_again():
    """After a way back to what came from the disk, arrays that are not where they are computed on."""
    bank = bench([1.0, NAN], places=True)
    bank.train()
    assert bank.backend.placed == 4
    assert bank.run.progress.arrays["w"] == 4


class Disk:
    """A working directory that only remembers what it was given."""

    def __init__(self):
        self.saved, self.lines = [], []

    def nextstep(self, batches):
        return batches

    def remember(self, done, curve, follows):
        self.lines.append((done.checkpoint, curve, follows))
        return follows + 1

    def save(self, model, *, keep=None, timed=False):
        self.saved.append((model, keep, timed))
        return "saved"


def test_what_is_saved_is_fetched():
    """Arrays of a device in a checkpoint; or, after a save, training with those that were fetched."""
    bank = bench(places=True)
    model = Snapshot(
        modeltype="GRUEncode",
        made=bank.run.hyper,
        chars=bank.run.data.vocab,
        seq_len=SEQ_LEN,
        backend="canned",
        progress=bank.run.progress,
        rng=np.random.default_rng(1),
        seed=7,
    )
    disk, session = Disk(), bank.session(num_rounds=2, save_every=2.5)
    keeper = WorkdirKeeper(disk, model, 48, bank.backend, Plan(7, batchsize=LANES, keep=3))
    session.keeper = keeper
    rounds = of(Round, list(session))
    assert [(model.progress.batches, keep, timed) for model, keep, timed in disk.saved] == [
        (3, None, True), (4, 3, False), (7, None, True), (8, 3, False),
    ]  # fmt: skip
    for saved, _, _ in disk.saved:
        arrays, _ = saved.encode()
        assert not any(isinstance(array, There) for array in arrays.values())
        assert arrays["w"] == saved.progress.batches
        assert saved.plan == {"batchsize": LANES, "keep": 3}, "what holds for the next call"
    assert [done.checkpoint for done in rounds] == ["4", "8"]
    assert [(name, follows) for name, _, follows in disk.lines] == [("4", 0), ("8", 1)]
    assert keeper.model.progress is bank.run.progress
    assert keeper.model.historyline == 2
    assert disk.saved[1][0].summary["epoch"] == 0.5
    assert bank.backend.placed == 2


# --------------------------------------------------------------------------------- validation


def test_validation_is_on_all_of_the_validation_text_or_a_part():
    """A part counted in symbols of one lane; or training text in the validation."""
    bank = bench(looks=lambda x, y, state: y, places=True)
    bank.run.propose(LANES, SEQ_LEN, RATE)
    ids = np.arange(100) % 4 + 1
    corpus = SimpleNamespace(split=90, ids=ids, vocab=bank.run.data.vocab)
    corpus = type("Held", (SimpleNamespace,), {"__len__": lambda self: len(ids)})(**vars(corpus))
    found = finished(validate(bank.run, corpus, Plan(batchsize=LANES), SEQ_LEN))
    assert (found.nats, found.characters) == (pytest.approx(ids[90:].mean()), 10)
    found = finished(validate(bank.run, corpus, Plan(batchsize=LANES, valid_len=1), SEQ_LEN))
    assert (found.nats, found.characters) == (pytest.approx(ids[90:96].mean()), SIZE)
    found = finished(validate(bank.run, corpus, Plan(batchsize=LANES, valid_len=9), SEQ_LEN))
    assert found.characters == 10


@pytest.mark.parametrize(
    ("length", "most", "steps", "rounds"), [(1000, 90, 45, 1), (20, 30, 49, 3)]
)
def test_of_a_long_validation_text_the_beginning_is_read(monkeypatch, length, most, steps, rounds):
    """Two seconds asked for and sixteen taken; or another part of the text in each round."""
    monkeypatch.setattr(session, "LEAST", 10)
    bank = bench(valid=[2.0] * 9)
    bank.validlen = 1000  # at six symbols a second, and thrice that without learning: 56 seconds
    told = bank.train(train_len=length, max_seconds=50)
    assert bank.most == most, (
        "a tenth of a round's time, at 18 symbols a second: 90, and of 20 s 36"
    )
    (notice,) = of(Notice, told)
    assert notice.text.startswith(f"Validation reads the first {most} of 1,000 characters")
    assert bank.backend.stepped[-1].rate and len(bank.backend.stepped) == steps, "the rest is left"
    assert len(of(Round, told)) == rounds


@pytest.mark.parametrize("length", [5, 20, 1000])
def test_training_gets_nine_tenths_of_the_time(monkeypatch, length):
    """Half of the seconds lost to a long text that is read after each of many rounds."""
    monkeypatch.setattr(session, "LEAST", 1)
    bank = bench()
    bank.validlen = 1000

    def reads():
        bank.clock.tick(bank.most / (session.FORWARD * SIZE))
        return 2.0

    bank.valid = [reads] * 99
    told = bank.train(train_len=length, max_seconds=200)
    assert bank.clock.now <= 301
    assert sum(done.trained for done in of(Round, told)) >= 180


def test_what_fits_into_the_time_is_read_whole():
    """A recipe's figure on a part of the text, or a tenth of the time thrown away."""
    bank = bench(valid=[2.0] * 9)
    bank.validlen = 24  # 1.3 seconds
    told = bank.train(train_len=20, max_seconds=50)
    assert bank.most == 24 and not of(Notice, told)
    assert len(bank.backend.stepped) == 49
    bank = bench(valid=[2.0] * 9)
    bank.validlen = 1000
    told = bank.train(train_len=20, max_seconds=50, valid_len=100)
    assert bank.most is None and not of(Notice, told), "it was asked for"


def test_a_round_says_how_long_it_trained():
    """The speed of a round that waits for the validation before it."""
    bank = bench()
    bank.valid = [lambda: bank.clock.tick(100) or 2.0, 2.0]
    first, second = of(Round, bank.train(num_rounds=2, train_len=2))
    assert (first.trained, second.trained) == (2.0, 2.0)
    assert (first.seconds, second.seconds) == (2.0, 104.0)
    assert [row[-2:] for row in History([first, second]).table().rows] == [("6", "2.0")] * 2


def test_without_a_validation_text_it_is_on_what_comes_next():
    """More than an epoch, which counts the same text twice; or a position that moves on."""
    bank = bench(looks=lambda x, y, state: y)
    corpus = type("Held", (SimpleNamespace,), {"__len__": lambda self: 48})(split=48)
    found = finished(validate(bank.run, corpus, Plan(batchsize=LANES), SEQ_LEN))
    assert found.characters == 48
    found = finished(validate(bank.run, corpus, Plan(batchsize=LANES, valid_len=2), SEQ_LEN))
    assert found.characters == 2 * SIZE
    assert bank.run.progress.position == 0


def test_the_formula_of_each_schedule_at_its_ends():
    """A share above 1, after a batch that took long, lets the rate climb again; 0/0 at warmup 0 or 1."""
    for warmup in (0, 0.3, 1):
        hyper = HyperParams(5, schedule="cosine", warmup=warmup)
        assert scheduled(hyper, 1.0, epoch=0, share=7.5) == scheduled(hyper, 1.0, epoch=0, share=1)
        assert 0 < scheduled(hyper, 1.0, epoch=0, share=0) <= 1
    assert scheduled(HyperParams(5, schedule="cosine"), 1.0, epoch=0, share=1) == pytest.approx(0.1)


def test_a_plan_without_end_can_be_saved():
    """JSON has no infinity."""
    lasting = Plan(max_seconds=math.inf, save_every=math.inf, keep=2).lasting
    assert Plan.from_json(decodejson(encodejson(lasting))).keep == 2
    assert Plan.following(lasting).save_every > 1e9, "in the middle of no round"
