"""Everything with everything: each model, level and optimizer takes two steps, alike on every backend."""

import itertools

import numpy as np
import pytest

from rngru.backends import backend, freshcaches
from rngru.dataset import DataSet
from rngru.hyper import OPTIMIZERS, HyperParams
from rngru.models import MODELS
from rngru.text import LEVELS
from tests.models import INSTALLED

LANES, STEPS = 2, 3

# PyTensor differentiates and compiles each of these anew, so each model and each optimizer is
# compared with the reference once.
COMPARED = set(zip(MODELS, itertools.cycle(OPTIMIZERS), strict=False))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("modeltype", MODELS)
def test_a_model_trains_at_every_level_with_every_optimizer(modeltype, optimizer, smalltext):
    """One combination that was forgotten would fail at the prompt, and only there."""
    model = MODELS[modeltype]
    hyper = HyperParams(2, state_size=5, layers=2, optimizer=optimizer, learnrate=0.01)
    names = INSTALLED if (modeltype, optimizer) in COMPARED else ("cpu",)
    if not modeltype.endswith("Encode"):  # JAX compiles for seconds
        names = [name for name in names if name != "jax"]
    backends = [backend(name, model, hyper) for name in names]
    for at, level in enumerate(LEVELS.values()):
        vocab = level(smalltext[:600].encode() if level.level == "byte" else smalltext[:600])
        data = DataSet(vocab.encode(smalltext[:600]), vocab)
        own = hyper.replace(vocab_size=vocab.vocab_size)
        fresh = model.initial(own, np.random.default_rng(1))
        taken = []
        for computes in backends:  # a vocabulary is a size of arrays: only JAX compiles again
            if at and computes.name == "jax":
                continue
            arrays, caches = fresh, freshcaches(fresh, own)
            state = computes.freshstate(LANES)
            for number in (1, 2):
                x, y = data.batch((number - 1) * LANES * STEPS, LANES, STEPS)
                step = computes.step(arrays, caches, x, y, state, 0.01, number=number)
                assert step.finite
                arrays, caches, state = step.arrays, step.caches, step.state
            assert any(not np.array_equal(arrays[name], fresh[name]) for name in fresh)
            taken.append((arrays, state, step.loss))
        one, state, loss = taken[0]
        for other, other_state, other_loss in taken[1:]:
            assert loss == pytest.approx(other_loss, rel=1e-5)
            np.testing.assert_allclose(state, other_state, atol=1e-5)
            for name, array in one.items():
                np.testing.assert_allclose(array, other[name], atol=1e-4, err_msg=name)


ALONE = [
    {"dropconnect": 0.3}, {"embed_dropout": 0.3}, {"dropout_in": 0.3}, {"dropout_out": 0.3},
    {"dropout_in": 0.3, "locked": True}, {"embed_size": 3}, {"layernorm": True}, {"residual": True},
    {"ar": 2.0}, {"tar": 2.0}, {"smoothing": 0.2},
]  # fmt: skip


@pytest.mark.parametrize(
    ("modeltype", "options"),
    [*zip(itertools.cycle(n for n in MODELS if "Resize" not in n), ALONE, strict=False)],
)
def test_each_regulariser_works_alone_and_alike_on_both_backends(modeltype, options):
    """One that works only where another is on, or that is forgotten on one of the backends."""
    model, hyper = MODELS[modeltype], HyperParams(7, state_size=5, layers=2, **options)
    plain = HyperParams(7, state_size=5, layers=2)
    rng = np.random.default_rng(1)
    fresh, found = model.initial(hyper, np.random.default_rng(2)), []
    x, y = rng.integers(0, 7, (2, STEPS, LANES), np.int32)
    noise = [model.noise(hyper, STEPS, LANES, rng) for _ in "12"]
    for name, own in (("cpu", hyper), ("scan", hyper), ("cpu", plain)):
        computes = backend(name, model, own)
        arrays = fresh if own is hyper else model.initial(plain, np.random.default_rng(2))
        caches, state, losses = freshcaches(arrays, own), computes.freshstate(LANES), []
        for number in (1, 2):
            given = noise[number - 1] if own is hyper else {}
            step = computes.step(arrays, caches, x, y, state, 0.01, number=number, noise=given)
            arrays, caches, state = step.arrays, step.caches, step.state
            losses += [step.loss, step.gradnorm]
        found.append((arrays, losses))
    (one, losses), (other, same), (_, without) = found
    assert losses == pytest.approx(same, rel=1e-5)
    assert losses != pytest.approx(without, rel=1e-4), "it does nothing"
    for name, array in one.items():
        np.testing.assert_allclose(array, other[name], atol=1e-4, err_msg=name)


def test_each_model_and_each_optimizer_is_compared():
    """One that was added since would be trusted on the fast backend alone."""
    assert {model for model, _ in COMPARED} == set(MODELS)
    assert {optimizer for _, optimizer in COMPARED} == set(OPTIMIZERS)
