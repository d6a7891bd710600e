"""RMSProp, clipping and the penalty in closed form, as a graph, as kernels and in a training step."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from rngru import models, optim
from rngru.compiled import BACKENDS, backend, freshcaches
from rngru.hyper import HyperParams
from rngru.kernels import update
from rngru.recurrence import CPU_MODE
from tests.reference import Result, close, rmsprop

RATE, DECAY = 0.01, 0.9
MANY = update.BLOCK + 1234  # more than one thread takes at a time
CLIPS = [None, 5.0, 0.3]


@pytest.fixture(scope="module")
def history():
    """Parameters of several shapes, and the gradients of three steps for each."""
    rng = np.random.default_rng(1)
    parameters = [rng.normal(size=shape).astype(np.float32) for shape in ((3, 4), (5,), (MANY,))]
    steps = [[rng.normal(size=p.shape).astype("f") for p in parameters] for _ in range(3)]
    steps[1][1][:] = 0  # a gradient that vanishes still lets the mean decay
    return parameters, steps


def check(history, found, clip):
    """Compare (parameters, means) after three steps with the closed form."""
    for i, old in enumerate(history[0]):
        gradients = [step[i].astype(np.float64) for step in history[1]]
        expected = rmsprop(old.astype(np.float64), gradients, rate=RATE, decay=DECAY, clip=clip)
        for one, right in zip((found[0][i], found[1][i]), expected, strict=True):
            assert one.dtype == np.float32
            close(one, right, 1e-6)


@pytest.mark.parametrize("clip", CLIPS)
def test_graph_of_rmsprop_agrees_with_its_closed_form(history, clip):
    """The small constant outside the root, or a mean that is of the gradient before clipping."""
    p, g, m = ([pt.ftensor(shape=(None,) * a.ndim) for a in history[0]] for _ in "pgm")
    updates = optim.rmsprop(p, optim.clipped(g, clip), m, rate=np.float32(RATE), decay=DECAY)
    function = pytensor.function([*p, *g, *m], [updates[each] for each in (*p, *m)], mode=CPU_MODE)
    parameters, means = list(history[0]), [np.zeros_like(a) for a in history[0]]
    for gradients in history[1]:
        results = function(*parameters, *gradients, *means)
        parameters, means = results[:3], results[3:]
    check(history, (parameters, means), clip)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("clip", CLIPS)
def test_kernel_of_rmsprop_agrees_with_its_closed_form(history, clip, count):
    """Also beyond the first block, and without writing over what it reads."""
    old = [[a.reshape(-1) for a in history[0]], [np.zeros(a.size, "f") for a in history[0]]]
    for gradients in history[1]:
        new = [[np.full_like(a, np.nan) for a in each] for each in old]
        before = [a.copy() for each in old for a in each]
        flat = [g.reshape(-1) for g in gradients]
        bound = np.inf if clip is None else clip
        update.rmsprop(flat, old, new, rate=RATE, decay=DECAY, clip=bound, count=count)
        assert all(map(np.array_equal, before, (a for each in old for a in each)))
        old = new
    shaped = [[a.reshape(b.shape) for a, b in zip(each, history[0], strict=True)] for each in old]
    check(history, shaped, clip)


def test_clipping_keeps_nan():
    """A gradient that is not a number must not become the largest one allowed."""
    g = pt.fvector()
    values = np.array([np.nan, 7, -7, 1], np.float32)
    found = pytensor.function([g], optim.clipped([g], 5.0), mode=CPU_MODE)(values)[0]
    np.testing.assert_array_equal(found, np.array([np.nan, 5, -5, 1], np.float32))


def test_norm_is_of_all_gradients_together_after_the_penalty():
    """Summed in float32 one after another, the norm of a large model loses its last digits."""
    rng = np.random.default_rng(2)
    gradients = [rng.normal(size=n).astype(np.float32) for n in (3, MANY, 17)]
    parameters = [rng.normal(size=g.size).astype(np.float32) for g in gradients]
    penalties = [0.0, 0.25, 2.0]
    whole = [
        g.astype(np.float64) + w * p.astype(np.float64)
        for g, p, w in zip(gradients, parameters, penalties, strict=True)
    ]
    expected = np.sqrt(sum((g**2).sum() for g in whole))
    norms = []
    for count in (1, 2, 3):
        given = [g.copy() for g in gradients]
        norms.append(update.norm(given, parameters, penalties, count=count))
        for one, right in zip(given, whole, strict=True):
            close(one, right, 1e-6)
    assert norms[0] == norms[1] == norms[2], "the same bits on any number of threads"
    assert abs(norms[0] / expected - 1) < 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_norm_of_what_is_not_finite_is_not_finite(bad):
    """One number among many is enough to spoil a model, wherever it stands."""
    for place in (0, 7, MANY - 1):
        gradients = [np.ones(5, np.float32), np.ones(MANY, np.float32)]
        parameters = [np.ones_like(g) for g in gradients]
        gradients[1][place] = bad
        assert not np.isfinite(update.norm(gradients, parameters, [0.0, 0.0], count=2))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(("clip", "regcost"), [(None, 0.1), (0.05, 3.0)])
def test_three_training_steps_agree_with_the_closed_form(name, clip, regcost):
    """Cost, penalty, clipping and rule together, on gradients from the NumPy loop in float64.

    With the penalty on the biases too, divided by T instead of B, or clipped before the penalty is
    added, the parameters are elsewhere after the first step. Clipping here cuts most gradients.
    """
    model = models.GRUEncode
    hyper = HyperParams(5, 6, 1, clip=clip, regcost=regcost, decay=DECAY)
    rng = np.random.default_rng(3)
    arrays = {n: rng.normal(0, 0.5, s).astype("f") for n, s in model.shapes(hyper).items()}
    compute, caches, state = backend(name, model, hyper), freshcaches(arrays), np.zeros((1, 3, 6))
    old, seen = {n: a.astype(np.float64) for n, a in arrays.items()}, {n: [] for n in arrays}
    state = state.astype(np.float32)
    for _ in range(3):
        x, y = rng.integers(0, 5, (2, 7, 3)).astype(np.int32)
        now = {
            n: rmsprop(old[n], seen[n], rate=RATE, decay=DECAY, clip=clip)[0] if seen[n] else old[n]
            for n in old
        }
        expected = Result("GRUEncode", hyper, now, x, y, state)
        step = compute.step(arrays, caches, x, y, state, RATE)
        assert step.finite
        close(step.loss, expected.loss, 1e-6, "loss")
        close(step.gradnorm, expected.gradnorm, 1e-5, "norm of the gradient before clipping")
        close(step.state, expected.endings, 1e-5, "state")
        arrays, caches, state = step.arrays, step.caches, step.state
        for n, gradient in expected.gradients.items():
            seen[n].append(gradient)
            new, mean = rmsprop(old[n], seen[n], rate=RATE, decay=DECAY, clip=clip)
            close(arrays[n], new, 2e-6, n)
            close(caches["mean"][n], mean, 2e-6, f"mean of {n}")
    if clip:
        every = np.concatenate([abs(g).ravel() for each in seen.values() for g in each])
        assert (every > clip).mean() > 0.5
