"""Averaged weights: what they are, and that they are the ones that read and write."""

import numpy as np
import pytest

from rngru import ModelState, models
from rngru.backends import backend, freshcaches
from rngru.errors import InputError
from rngru.hyper import CACHES, MEAN, OPTIMIZERS, HyperParams
from tests.models import INSTALLED
from tests.reference import close
from tests.robust import QUIET

RULES = [{"average": 0.5}, {"average": 0.75, "average_from": 2}, {"average": 1, "average_from": 3}]


def trained(name, hyper, steps=7):
    """Parameters and caches after each step of a small model."""
    model, rng = models.GRUEncode, np.random.default_rng(3)
    arrays = {n: rng.normal(0, 0.5, s).astype("f") for n, s in model.shapes(hyper).items()}
    computes, caches, found = backend(name, model, hyper), freshcaches(arrays, hyper), []
    for number in range(1, steps + 1):
        x, y = rng.integers(0, 5, (2, 7, 3)).astype(np.int32)
        state = computes.freshstate(3)
        step = computes.step(arrays, caches, x, y, state, 0.05, number=number)
        arrays, caches = step.arrays, step.caches
        found.append((arrays, caches))
    return found


def mean(history, hyper):
    """The average of all parameters so far, in float64, with its weights written out.

    They are 1 / n for the first n updates that count, up to 1 / (1 - average), and then decay.
    """
    counted = history[hyper.average_from :] or history[-1:]
    weights = np.zeros(len(counted))
    for n in range(len(counted)):
        share = max(1 - hyper.average, 1 / (n + 1))
        weights[:n] *= 1 - share
        weights[n] = share
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    return sum(w * np.asarray(each, np.float64) for w, each in zip(weights, counted, strict=True))


@pytest.mark.parametrize("changes", RULES, ids=str)
@pytest.mark.parametrize("name", INSTALLED)
def test_average_is_the_mean_of_what_was_trained(name, changes):
    """With a bias towards the start, or a count that is off by one, the first steps would show it."""
    hyper = HyperParams(5, 6, 1, optimizer="adam", **changes)
    found = trained(name, hyper)
    for n in range(1, len(found) + 1):
        arrays, caches = found[n - 1]
        for each, array in arrays.items():
            expected = mean([past[each] for past, _ in found[:n]], hyper)
            close(caches[MEAN][each], expected, 1e-6, f"{each} after {n}")
            if n <= hyper.average_from:
                np.testing.assert_array_equal(caches[MEAN][each], array)
    assert not np.allclose(found[-1][1][MEAN]["V"], found[-1][0]["V"], atol=1e-3)


def test_a_plain_mean_is_that_of_numpy():
    """The weights above might be wrong in the same way as the rule."""
    found = trained("cpu", HyperParams(5, 6, 1, average=1, average_from=3))
    expected = np.mean([arrays["V"] for arrays, _ in found[3:]], axis=0, dtype=np.float64)
    close(found[-1][1][MEAN]["V"], expected, 1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["cpu", "scan"])
def test_averaging_changes_no_bit_of_training(name, optimizer):
    """It looks on: with it, one learns exactly what one learns without."""
    hyper = HyperParams(5, 6, 1, optimizer=optimizer)
    plain, other = trained(name, hyper, 3), trained(name, hyper.replace(average=0.9), 3)
    for (arrays, caches), (same, more) in zip(plain, other, strict=True):
        assert [*more] == [*CACHES[optimizer], MEAN]
        for each in arrays:
            np.testing.assert_array_equal(arrays[each], same[each])
            for cache in caches:
                np.testing.assert_array_equal(caches[cache][each], more[cache][each])


# ---- Which weights are used ----


@pytest.fixture
def averaged(newmodel, verse):
    """A model with an average far from what it is trained with."""
    ms = newmodel(verse, average=1, learnrate=0.02, optimizer="adam")
    ms.trainmodel(batchsize=4, train_len=30, **QUIET)
    return ms


def raw(ms):
    return ms._model.progress.arrays


def test_what_validates_and_writes_is_the_average(averaged, newmodel, verse):
    """A model of its own with those parameters says and writes the same."""
    other = newmodel(verse, learnrate=0.02, optimizer="adam")
    other.setparameters(averaged.parameters())
    found = averaged.evaluate().nats
    assert found == other.evaluate().nats == averaged.history().validloss[-1]
    assert str(averaged.generatestring(50, rng=1)) == str(other.generatestring(50, rng=1))
    other.setparameters(raw(averaged))
    assert other.evaluate().nats != found


def test_where_all_text_is_for_training_the_average_is_validated(newmodel, verse):
    """The text that comes next is read by the run itself, not by a reader of the model."""
    losses = []
    for average in (None, 1):
        ms = newmodel(verse, trainfrac=1, average=average, learnrate=0.02, optimizer="adam")
        losses.append(ms.trainmodel(batchsize=4, train_len=30, **QUIET)[-1])
    assert losses[0].trainloss == losses[1].trainloss
    assert losses[0].validloss != losses[1].validloss


def test_the_average_is_saved_and_training_goes_on_from_the_raw_weights(averaged):
    again = ModelState.load(averaged.workdir)
    for name, array in averaged.parameters().items():
        np.testing.assert_array_equal(again.parameters()[name], array)
        np.testing.assert_array_equal(raw(again)[name], raw(averaged)[name])
        assert not np.array_equal(raw(averaged)[name], array)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_packed_model_writes_with_the_average(averaged, tmp_path, training, half):
    """Without what only training needs, the average is all there is."""
    path = averaged.pack(tmp_path / "model.rngru", training=training, half=half)
    packed = ModelState.load(path)
    for name, array in averaged.parameters().items():
        kept = array.astype(np.float16).astype(np.float32) if half else array
        np.testing.assert_array_equal(packed.parameters()[name], kept)
        assert training != np.array_equal(raw(packed)[name], kept)


def test_parameters_that_are_set_are_their_own_average(averaged):
    """Else what one has just set would not write, or would be gone after the next batch."""
    before, name = raw(averaged)["c"], "V"
    new = np.full_like(averaged.parameters()[name], 0.25)
    averaged.setparameters({name: new})
    np.testing.assert_array_equal(averaged.parameters()[name], new)
    np.testing.assert_array_equal(raw(averaged)[name], new)
    np.testing.assert_array_equal(raw(averaged)["c"], before)
    assert not averaged._model.progress.caches["second"][name].any()


@pytest.mark.parametrize(
    ("changes", "average", "goes_on"),
    [
        ({}, 1, True),
        ({"average": None}, None, False),
        ({"optimizer": "rmsprop"}, 1, False),
    ],
    ids=str,
)
def test_an_old_model_learns_another_text_from_its_average(
    averaged, verse, tmp_path, changes, average, goes_on
):
    """Where the mean goes on, so do the weights below it; else the mean is the model."""
    text = tmp_path / "text.txt"
    text.write_text(verse, encoding="utf-8")
    other = ModelState.initfromsrcfile(
        text, tmp_path / "other", model=averaged, report="silent", **changes
    )
    assert other.hyper.average == average
    for name, array in averaged.parameters().items():
        np.testing.assert_array_equal(other.parameters()[name], array)
        np.testing.assert_array_equal(raw(other)[name], raw(averaged)[name] if goes_on else array)


def test_a_model_that_was_not_averaged_can_be_from_now_on(newmodel, verse, tmp_path):
    old = newmodel(verse, optimizer="adam")
    old.trainmodel(batchsize=4, train_len=3, **QUIET)
    text = tmp_path / "text.txt"
    text.write_text(verse, encoding="utf-8")
    new = ModelState.initfromsrcfile(
        text, tmp_path / "new", model=old, report="silent", average=0.9
    )
    np.testing.assert_array_equal(new.parameters()["V"], old.parameters()["V"])
    new.trainmodel(batchsize=4, train_len=3, **QUIET)
    assert not np.array_equal(new.parameters()["V"], raw(new)["V"])


def test_a_beginning_without_an_average_is_refused(newmodel, verse):
    with pytest.raises(InputError, match=r"average_from=5 .*average=1"):
        newmodel(verse, average_from=5)
