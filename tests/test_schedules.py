"""How the learning rate changes: each formula against NumPy, over calls, lives and cycles."""

import math

import numpy as np
import pytest

from rngru.errors import InputError
from rngru.events import Notice
from rngru.hyper import FALLING, SCHEDULES, HyperParams
from rngru.training import scheduled
from tests.robust import QUIET

SHARES = np.linspace(0, 1, 201)
RATE = 0.01


def rates(**hyper):
    """The factor at each of the shares."""
    made = HyperParams(5, **hyper)
    return np.array([scheduled(made, 1.0, epoch=0, share=share) for share in SHARES])


def expected(schedule, warmup, floor):
    """The same from corner points and half waves, by interpolation."""
    wave = (1 - np.cos(np.pi * SHARES)) / 2
    down = np.interp(SHARES, [warmup, 1], [1, 0])
    if schedule != "linear":
        down = np.interp(down, SHARES, wave)
    down = floor + (1 - floor) * down
    up = np.interp(SHARES, [0, warmup], [0, 1])
    wave = floor + (1 - floor) * np.interp(up, SHARES, wave)
    up = wave if schedule == "onecycle" else np.maximum(up, 0.01)
    return np.where(warmup > SHARES, up, down)


@pytest.mark.parametrize("floor", [0.0, 0.1, 0.75])
@pytest.mark.parametrize("warmup", [0.25, 0.5])
@pytest.mark.parametrize("schedule", FALLING)
def test_a_rate_that_climbs_and_falls(schedule, warmup, floor):
    """A floor that is added instead of left, or a fall that begins with the climb."""
    found = rates(schedule=schedule, warmup=warmup, floor=floor)
    np.testing.assert_allclose(found, expected(schedule, warmup, floor), atol=2e-4)
    assert found.max() == 1 and found[-1] == pytest.approx(floor)


@pytest.mark.parametrize(
    ("schedule", "warmup"),
    [("cosine", 0.05), ("linear", 0.05), ("onecycle", 0.3)]
    + [(each, 0.0) for each in SCHEDULES[:3]],
)
def test_each_schedule_has_a_warmup_of_its_own(schedule, warmup):
    """What was constant before there was a choice is constant, bit for bit."""
    np.testing.assert_array_equal(rates(schedule=schedule), rates(schedule=schedule, warmup=warmup))
    if not warmup:
        assert (rates(schedule=schedule) == 1).all()


@pytest.mark.parametrize("schedule", SCHEDULES[:3])
def test_a_warmup_that_is_asked_for_is_for_every_schedule(schedule):
    found = rates(schedule=schedule, warmup=0.25)
    np.testing.assert_allclose(found, np.clip(SHARES / 0.25, 0.01, 1))
    late = HyperParams(5, schedule=schedule, warmup=0.5)
    factor = 0.97**2 if schedule == "exponential" else 1.0
    assert scheduled(late, 1.0, epoch=11.5, share=0.25) == pytest.approx(0.5 * factor)


@pytest.mark.parametrize("schedule", FALLING)
def test_cycles_are_the_curve_again_and_again(schedule):
    """The last one ends at the floor, where another one would begin."""
    hyper = HyperParams(5, schedule=schedule, warmup=0.2, floor=0.25)
    three = hyper.replace(cycles=3)
    for share in np.linspace(0, 0.999, 50):
        once = scheduled(hyper, 1.0, epoch=0, share=share)
        for cycle in range(3):
            again = scheduled(three, 1.0, epoch=0, share=(cycle + share) / 3)
            assert again == pytest.approx(once, abs=1e-9)
    assert scheduled(three, 1.0, epoch=0, share=1) == pytest.approx(0.25)
    assert scheduled(three, 1.0, epoch=0, share=5) == pytest.approx(0.25)


@pytest.mark.parametrize("warmup", [0, 1])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_warmup_and_nothing_else(schedule, warmup):
    """0/0 at either end."""
    found = rates(schedule=schedule, warmup=warmup)
    assert np.isfinite(found).all() and (found >= 0).all() and (found <= 1).all()


# ---- In a call ----


def test_a_life_is_counted_in_batches_over_all_calls(newmodel, verse):
    """Whether a call has rounds, or ends early, says nothing of where a life is."""
    ms = newmodel(
        verse, schedule="linear", warmup=0, floor=0, lifetime=10, learnrate=RATE, optimizer="adam"
    )
    found = [
        each.learnrate
        for rounds in (3, 1, 8)
        for each in ms.trainmodel(rounds, batchsize=2, train_len=1, **QUIET)
    ]
    left = np.maximum(1 - np.arange(12) / 10, 0)
    np.testing.assert_allclose(found, RATE * left, atol=1e-12)
    assert ms.hyper.learnrate == RATE


def test_a_life_needs_no_end_of_the_call(newmodel, verse):
    """Until Ctrl-C, a curve over the call has no end, but one over a life has."""
    endless = {"max_seconds": math.inf, "batchsize": 2, "train_len": 2, **QUIET}
    for changes, told in (
        ({"schedule": "onecycle"}, "schedule='onecycle' needs an end.*lifetime="),
        ({"warmup": 0.5}, r"warmup=0\.5 needs an end.*lifetime="),
    ):
        with pytest.raises(InputError, match=told):
            newmodel(verse, **changes).trainmodel(**endless)
    ms = newmodel(verse, schedule="onecycle", lifetime=4)
    assert ms.trainmodel(listen=lambda event: ms.position >= 160, **endless)


def test_a_schedule_of_ones_own(newmodel, verse):
    """It holds for its call alone, and says so; it knows how far the call and the text are."""
    ms = newmodel(verse, learnrate=RATE, schedule="exponential", optimizer="adam")
    seen, events = [], []

    def falling(share, epoch):
        seen.append((share, epoch))
        return 1 - share

    call = {"batchsize": 2, "train_len": 1, **QUIET}
    history = ms.trainmodel(4, schedule=falling, listen=events.append, **call)
    np.testing.assert_allclose([each.learnrate for each in history], RATE * np.arange(4, 0, -1) / 4)
    assert [share for share, _ in seen[:4]] == [0, 0.25, 0.5, 0.75]
    assert seen[0][1] == 0 and seen[3][1] == pytest.approx(3 * 40 / ms._corpus.split)
    told = [event.text for event in events if isinstance(event, Notice)]
    assert "schedule= is a function, which cannot be saved" in told[0]
    assert "schedule='exponential'" in told[0]
    assert [each.learnrate for each in ms.trainmodel(2, **call)] == [RATE, RATE]


def test_a_schedule_of_ones_own_knows_the_life(newmodel, verse):
    ms, seen = newmodel(verse, schedule="linear", lifetime=5), []
    for _ in "12":
        ms.trainmodel(
            2, batchsize=2, train_len=1, schedule=lambda share, _: seen.append(share) or 1, **QUIET
        )
    assert seen == [0, 0.2, 0.4, 0.6]


@pytest.mark.parametrize("factor", [math.nan, -0.1, math.inf, None, "1"], ids=repr)
def test_a_factor_that_is_none_is_refused(newmodel, verse, factor):
    """The model is as it was; NumPy's numbers are numbers."""
    ms = newmodel(verse)
    ms.trainmodel(batchsize=2, train_len=1, schedule=lambda *_: np.float32(0.5), **QUIET)
    before = ms.position
    with pytest.raises(InputError, match=r"^schedule\(0, .*expected a number of at least 0"):
        ms.trainmodel(batchsize=2, train_len=1, schedule=lambda *_: factor, **QUIET)
    assert ms.position == before


def test_the_name_of_a_schedule_is_no_schedule_of_ones_own(newmodel, verse):
    with pytest.raises(
        InputError, match=r"schedule='cosine': expected a function.*initfromsrcfile"
    ):
        newmodel(verse).trainmodel(schedule="cosine", **QUIET)


@pytest.mark.parametrize(
    "changes", [{"cycles": 2}, {"lifetime": 100}, {"schedule": "plateau", "cycles": 3}], ids=str
)
def test_what_no_schedule_follows_is_refused(newmodel, verse, changes):
    """A life that is given and does nothing would be a day's training wasted."""
    name = next(each for each in changes if each != "schedule")
    with pytest.raises(InputError, match=rf"^{name}=.*cosine, linear, onecycle"):
        newmodel(verse, **changes)
