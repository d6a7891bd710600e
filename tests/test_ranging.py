"""A learning-rate range test tells the rates that learn from those that do not, and touches nothing."""

import numpy as np
import pytest

from rngru import ModelState
from rngru.errors import InputError, WorkdirError
from rngru.interrupts import never
from rngru.training import RateTest, ranged
from rngru.training.ranging import FEWEST, MOST

SMALL = {"state_size": 16, "layers": 1, "regcost": 0}


def whole(ms, **changes):
    """A test of as many batches as there can be, whatever the clock says."""
    options = {"lowest": 1e-5, "highest": 1.0, "asked": never} | changes
    return ranged(ms._run(), 4, ms.seq_len, 1e9, **options)


def trained(ms, rate, batches):
    """The mean loss of the last quarter of so many batches at one rate, computed without a session."""
    run, losses = ms._run(), []
    for _ in range(batches):
        step = run.propose(4, ms.seq_len, rate)
        losses.append(step.loss / (4 * ms.seq_len))
        run.take(step, 4 * ms.seq_len)
    return np.mean(losses[-batches // 4 :])


def test_the_edge_of_a_curve_that_is_known():
    """Catches a suggestion that hangs on the lowest point, which chance moves along a flat curve."""
    rates = np.geomspace(1e-6, 1, 601)
    places = np.log10(rates)
    valley = 3 - np.clip(places + 4, 0, 2) + 20 * np.clip(places + 1, 0, 1)
    assert RateTest(rates, valley).edge == pytest.approx(0.1, rel=0.15)
    flat = np.where(rates <= 0.01, 1.5, 3.0) + np.random.default_rng(1).normal(0, 0.02, 601)
    assert RateTest(rates, flat).edge == pytest.approx(0.01, rel=0.3)
    test = RateTest(rates, flat)
    assert test.suggestion == test.edge / 5 and not test.low
    assert RateTest(rates, 3 - 0.5 * np.clip(places + 4, 0, 9)).low, "it falls to the end"


def test_the_smoothed_loss_is_a_mean_of_neighbours():
    """Catches a smoothing that lags behind, so that every rate looks better than it is."""
    rates = np.geomspace(1e-3, 1e-1, 41)
    straight = np.linspace(4, 2, 41)
    smoothed = RateTest(rates, straight).smoothed
    np.testing.assert_allclose(smoothed[5:-5], straight[5:-5], atol=1e-12)
    single = RateTest(rates, np.eye(41)[20]).smoothed
    assert single.argmax() == 20 and np.allclose(single[:20], single[:20:-1])


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam", "sgd", "adagrad"])
def test_the_losses_are_those_of_training_with_a_growing_rate(newmodel, smalltext, optimizer):
    """Catches caches that are not carried along, and a rate that an update does not see."""
    ms = newmodel(smalltext, optimizer=optimizer, **SMALL)
    found = whole(ms, highest=0.01)
    assert len(found.rates) == MOST and found.optimizer == optimizer
    np.testing.assert_allclose(np.diff(np.log(found.rates)), np.log(1e3) / (MOST - 1), rtol=1e-9)
    run = ms._run()
    for rate, loss in zip(found.rates[:30], found.losses, strict=False):
        step = run.propose(4, ms.seq_len, rate)
        assert step.loss / (4 * ms.seq_len) == loss
        run.take(step, 4 * ms.seq_len)


def test_the_suggestion_learns(newmodel, smalltext):
    """Catches a suggestion that is off by more than a factor of ten, either way."""
    ms = newmodel(smalltext, optimizer="adam", **SMALL)
    rate = whole(ms).suggestion
    slow, good, wild = (trained(ms, rate * factor, 120) for factor in (1 / 20, 1, 20))
    assert good < slow - 0.2 and good < wild - 0.2


def test_nothing_is_changed(newmodel, smalltext):
    """Catches a test that trains the model itself, or draws from its generator."""
    one, other = (newmodel(smalltext, optimizer="adam", dropout=0.2, **SMALL) for _ in range(2))
    plan = {"batchsize": 4, "train_len": 5, "print_every": 0}
    for ms in one, other:
        ms.trainmodel(1, **plan)
    found = one.findrate(0.01)
    assert len(found.losses) >= 2 and one.history().losses.shape == other.history().losses.shape
    assert one.position == other.position and one.rng.random() == other.rng.random()
    for ms in one, other:
        ms.trainmodel(1, **plan)
    for name, array in one.parameters().items():
        np.testing.assert_array_equal(array, other.parameters()[name])


def test_backends_agree(newmodel, verse):
    """Catches a test that only one of them can do."""
    found = []
    for kind in ("cpu", "scan"):
        answers = iter([False] * 20 + [True] * 9)
        ms = newmodel(verse, backend=kind, **SMALL)
        found.append(whole(ms, lowest=1e-3, asked=lambda answers=answers: next(answers)).losses)
    assert len(found[0]) == 16, "four of the answers were for the measurement"
    np.testing.assert_allclose(*found, rtol=1e-4)


def test_it_ends_where_the_loss_climbs(newmodel, verse):
    """Catches minutes spent on numbers that are lost already."""
    ms = newmodel(verse, optimizer="sgd", **SMALL)
    found = whole(ms, highest=1e9)
    assert len(found.rates) < MOST and found.rates[-1] < 1e6
    assert np.isfinite(found.losses).all()
    with pytest.raises(InputError, match=r"lowest=1e\+08: the loss climbs at once"):
        whole(ms, lowest=1e8, highest=1e9)


def test_time_is_kept(newmodel, verse):
    """Catches a test that goes on after its time where batches have become slow."""
    ticks = iter(range(10**6))
    found = ranged(
        newmodel(verse, **SMALL)._run(), 4, 20, 100.0,
        lowest=1e-6, highest=1.0, asked=never, clock=lambda: next(ticks),
    )  # fmt: skip
    assert 140 < len(found.rates) < 160 and found.low
    assert "higher highest=" in repr(found)
    assert len(whole(newmodel(verse, **SMALL), highest=0.1).rates) == MOST
    few = ranged(
        newmodel(verse, **SMALL)._run(), 4, 20, 1e-9, lowest=1e-6, highest=1e-3, asked=never
    )
    assert len(few.rates) == FEWEST


def test_ctrl_c_leaves_what_is_known(newmodel, verse):
    """Catches a Ctrl-C that throws away a minute of measuring."""
    ms, answers = newmodel(verse, **SMALL), iter([False] * 4 + [False] * 50 + [True] * 9)
    found = whole(ms, asked=lambda: next(answers))
    assert len(found.losses) == 50 and found.interrupted and "(Interrupted.)" in repr(found)
    with pytest.raises(KeyboardInterrupt):
        whole(ms, asked=lambda: True)


def test_what_a_person_sees(newmodel, verse, tmp_path):
    """Catches a record that does not begin with its answer."""
    found = newmodel(verse, **SMALL).findrate(0.01, highest=0.1, batchsize=2)
    first, *table = repr(found).splitlines()
    assert first.startswith(f"Try learnrate={found.suggestion:.2g} with optimizer='rmsprop'")
    assert table[0].split() == ["learnrate", "loss"] and len(table) == 10
    assert "<table>" in found._repr_html_() and "Try learnrate=" in found._repr_html_()
    columns = found.columns()
    assert list(columns) == ["rate", "loss", "smoothed"]
    assert {len(each) for each in columns.values()} == {len(found.rates)}
    assert found.figure.axes[0].get_xscale() == "log"
    assert found.plot(tmp_path / "rates.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"seconds": 0}, "seconds=0"),
        ({"lowest": 0}, "lowest=0"),
        ({"lowest": 0.1, "highest": 0.01}, "highest=0.01: expected a number above 0.1"),
        ({"batchsize": 0}, "batchsize=0"),
    ],
)
def test_what_makes_no_sense(newmodel, verse, options, told):
    """Catches numbers that come to nothing, deep inside."""
    with pytest.raises(InputError, match=told):
        newmodel(verse, **SMALL).findrate(**options)


def test_a_model_without_its_text(newmodel, verse, tmp_path):
    """Catches an error that does not say what is missing."""
    packed = ModelState.load(newmodel(verse, **SMALL).pack(tmp_path / "model.rngru"))
    with pytest.raises(WorkdirError, match="text"):
        packed.findrate()
