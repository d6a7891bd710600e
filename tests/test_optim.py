"""Every update rule in closed form: as a graph, as kernels, and in a training step."""

import itertools
import math

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from rngru import models, optim
from rngru.backends import backend, freshcaches
from rngru.backends.ops import CPU_MODE
from rngru.hyper import CACHES, HyperParams
from rngru.kernels import update
from rngru.kernels.plans import Planned
from tests.models import INSTALLED
from tests.reference import Result, caution, clipped, close, descend

RATE, MANY = 0.01, update.BLOCK + 1234  # more numbers than one thread takes at a time
SHAPES = {"W": (3, 4), "b": (5,), "V": (MANY, 1)}
CHANGES = {
    "rmsprop": {"decay": 0.9},
    "adam": {"momentum": 0.8, "beta2": 0.99},
    "adamw": {"momentum": 0.8, "weightdecay": 0.5},
    "sgd": {"momentum": 0.8},
    "adagrad": {},
}
RULES = [*((rule, False) for rule in CHANGES), ("adamw", True), ("sgd", True), ("rmsprop", True)]
"""Each rule, and whether it is cautious; without momentum that changes nothing."""

CLIPS = [{"clip": None}, {"clip": 0.3}, {"clip": 0.005, "clipnorm": 1.0}, {"clipnorm": 1e9}]


@pytest.fixture(scope="module")
def history():
    """Parameters by name, and the gradients of three steps for each, float32."""
    rng = np.random.default_rng(1)

    def draw():
        return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}

    parameters, steps = draw(), [draw() for _ in range(3)]
    steps[1]["b"][:] = 0  # where a gradient vanishes, the means go on
    return parameters, steps


def check(hyper, history, parameters, caches):
    """Compare parameters and caches, lists in order of name, after three steps."""
    steps = [
        clipped(hyper, {n: g.astype(np.float64) for n, g in step.items()}) for step in history[1]
    ]
    factors = caution(hyper, steps) if hyper.cautious else None
    for i, (name, old) in enumerate(history[0].items()):
        gradients, weight = [step[name] for step in steps], old.ndim > 1
        doubts = factors and [each[name] for each in factors]
        new, memory = descend(
            hyper, old.astype(float), gradients, rate=RATE, weight=weight, factors=doubts
        )
        assert len(memory) == len(caches)
        for one, right in zip(
            (parameters[i], *(c[i] for c in caches)), (new, *memory), strict=True
        ):
            assert one.dtype == np.float32
            close(one.reshape(right.shape), right, 2e-6, name)


def shrinks(hyper):
    decay = hyper.weightdecay if hyper.optimizer == "adamw" else 0.0
    return [decay * (len(shape) > 1) for shape in SHAPES.values()]


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize(("optimizer", "cautious"), RULES)
def test_graph_of_a_rule_agrees_with_its_closed_form(history, optimizer, cautious, clip):
    """The small constant on the wrong side of the root, a correction by the wrong power, or a mean
    of gradients as they were before clipping. With caution: signs counted in each parameter alone, or
    a parameter that stands still where it has no gradient.
    """
    hyper = HyperParams(5, optimizer=optimizer, cautious=cautious, **CHANGES[optimizer], **clip)
    ndims = [len(shape) for shape in SHAPES.values()]

    def variables():
        return [pt.tensor(dtype="float32", shape=(None,) * ndim) for ndim in ndims]

    p, g, memory = variables(), variables(), [variables() for _ in CACHES[optimizer]]
    number, flat = pt.fscalar(), [each for cache in memory for each in cache]
    updates = optim.RULES[optimizer](
        p, optim.clipped(g, hyper, optim.norm(g)), memory,
        rate=np.float32(RATE), hyper=hyper, number=number, shrinks=shrinks(hyper),
    )  # fmt: skip
    outputs = [updates[each] for each in (*p, *flat)]
    inputs = [*p, *g, *flat, number]
    function = pytensor.function(inputs, outputs, mode=CPU_MODE, on_unused_input="ignore")
    now = list(history[0].values())
    now += [np.zeros_like(a) for _ in memory for a in now]
    for n, gradients in enumerate(history[1], 1):
        now = function(*now[:3], *gradients.values(), *now[3:], np.float32(n))
    check(hyper, history, now[:3], [now[k : k + 3] for k in range(3, len(now), 3)])


def apply(rule, gradients, old, new, *, count, **settings):
    """Apply a rule once; return the norm."""
    numbers = rule.numbers(**settings, dtype=gradients[0].dtype)
    return float(Planned(rule.plan)(numbers, gradients, old, new, count=count))


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("optimizer", "cautious"), RULES)
def test_kernel_of_a_rule_agrees_with_its_closed_form(history, optimizer, cautious, count, clip):
    """Also beyond the first block, and without writing over what it reads."""
    hyper = HyperParams(5, optimizer=optimizer, cautious=cautious, **CHANGES[optimizer], **clip)
    rule = update.Rule(
        optimizer, clipnorm=hyper.clipnorm, clip=math.inf if hyper.clip is None else hyper.clip,
        decay=hyper.decay, momentum=hyper.momentum, beta2=hyper.beta2, cautious=hyper.cautious,
    )  # fmt: skip
    old = [[a.reshape(-1) for a in history[0].values()]]
    old += [[np.zeros_like(a) for a in old[0]] for _ in CACHES[optimizer]]
    for n, gradients in enumerate(history[1], 1):
        new = [[np.full_like(a, np.nan) for a in each] for each in old]
        before = [a.copy() for each in old for a in each]
        apply(
            rule, [g.reshape(-1).copy() for g in gradients.values()], old, new,
            penalties=[0.0] * 3, shrinks=shrinks(hyper), rate=RATE, number=n, count=count,
        )  # fmt: skip
        assert all(map(np.array_equal, before, (a for each in old for a in each)))
        old = new
    check(hyper, history, old[0], old[1:])


@pytest.mark.parametrize(("optimizer", "cautious"), RULES)
def test_an_update_has_the_same_bits_wherever_its_arrays_lie(optimizer, cautious):
    """Loops run one number at a time where arrays lie so close that they might overlap. If many at
    a time round otherwise, a run is repeated only as often as the memory allocator is in the mood.
    """
    rng, hyper = np.random.default_rng(4), HyperParams(5, optimizer=optimizer)
    rule = update.Rule(
        optimizer, clipnorm=0.7, clip=0.5, decay=hyper.decay, momentum=hyper.momentum,
        beta2=hyper.beta2, cautious=cautious,
    )  # fmt: skip
    for size, gap in itertools.product([*range(4, 18), 40, 1000], (0, 4, 1000)):
        gradient, *old = rng.uniform(-1, 1, (2 + len(CACHES[optimizer]), size)).astype("f")
        if optimizer != "sgd":
            old[-1] = abs(old[-1])  # a mean of squares
        results = []
        for _ in range(6):
            places = iter(rng.permutation(7) * (size + gap))
            room = np.zeros(7 * (size + gap), np.float32)
            g, *arrays = (room[at : at + size] for at in itertools.islice(places, 1 + 2 * len(old)))
            before, after = arrays[: len(old)], arrays[len(old) :]
            for target, source in zip((g, *before), (gradient, *old), strict=True):
                target[:] = source
            apply(
                rule, [g], [[a] for a in before], [[a] for a in after],
                penalties=[0.3], shrinks=[0.1], rate=RATE, number=2, count=1,
            )  # fmt: skip
            results.append(np.concatenate(after))
        assert all(np.array_equal(results[0], each) for each in results[1:]), (size, gap)


def test_kernels_and_graph_have_the_same_rules_and_caches():
    """A rule that one backend lacks is a run that cannot move to it."""
    assert update.RULES.keys() == optim.RULES.keys() == CACHES.keys()


def test_clipping_keeps_nan():
    """A gradient that is not a number must not become the largest one allowed."""
    g, hyper = pt.fvector(), HyperParams(5, clip=5.0)
    values = np.array([np.nan, 7, -7, 1], np.float32)
    clip = pytensor.function([g], optim.clipped([g], hyper, optim.norm([g])), mode=CPU_MODE)
    np.testing.assert_array_equal(clip(values)[0], np.array([np.nan, 5, -5, 1], np.float32))


def numbers(penalties):
    """What the kernels read for each parameter: of a norm, only the penalty."""
    found = np.zeros((len(penalties), update.NUMBERS), np.float32)
    found[:, -2] = penalties
    return found


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
    expected = math.sqrt(sum((g**2).sum() for g in whole))
    norms = set()
    for count in (1, 2, 3):
        given = [g.copy() for g in gradients]
        norms.add(float(update.norm(given, parameters, numbers(penalties), count=count)))
        for one, right in zip(given, whole, strict=True):
            close(one, right, 1e-6)
        for clipnorm in (None, 3.0):  # in one pass with the rule, or in one of its own
            given = [g.copy() for g in gradients]
            old, new = ([[g.copy() for g in parameters] for _ in range(2)] for _ in range(2))
            rule = update.Rule(
                "sgd", clipnorm=clipnorm, clip=math.inf, decay=0.9, momentum=0.0, beta2=0.9
            )
            more = {"penalties": penalties, "shrinks": penalties, "rate": 0.5, "number": 1}
            norms.add(apply(rule, given, old, new, **more, count=count))
            scale = 1.0 if clipnorm is None else clipnorm / expected
            for one, right, start in zip(new[0], whole, old[0], strict=True):
                close(one, start - 0.5 * scale * right, 1e-5)
    assert len(norms) == 1, "the same bits on any number of threads"
    [found] = norms
    assert abs(found / expected - 1) < 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_norm_of_what_is_not_finite_is_not_finite(bad):
    """One number among many is enough to spoil a model, wherever it stands."""
    for place in (0, 7, MANY - 1):
        gradients = [np.ones(5, np.float32), np.ones(MANY, np.float32)]
        parameters = [np.ones_like(g) for g in gradients]
        gradients[1][place] = bad
        assert not np.isfinite(update.norm(gradients, parameters, numbers([0.0, 0.0]), count=2))


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize(
    "changes",
    [
        {"clip": None, "decay": 0.9},
        {"clip": 0.05, "regcost": 3.0},
        {"optimizer": "adamw", "weightdecay": 0.5, "clip": 0.1},
        {"optimizer": "adamw", "cautious": True, "regcost": 3.0, "clip": 0.1},
        {"optimizer": "sgd", "clipnorm": 0.5, "regcost": 0.0},
    ],
    ids=str,
)
def test_three_training_steps_agree_with_the_closed_form(name, changes):
    """Cost, penalty, clipping and rule together, on gradients from the NumPy loop in float64.

    With the penalty on the biases too, divided by T instead of B, or clipped before the penalty is
    added, the parameters are elsewhere after the first step. Where there is a bound, it cuts.
    """
    model, hyper = models.GRUEncode, HyperParams(5, 6, 1, **changes)
    rng = np.random.default_rng(3)
    arrays = {n: rng.normal(0, 0.5, s).astype("f") for n, s in model.shapes(hyper).items()}
    compute, caches = backend(name, model, hyper), freshcaches(arrays, hyper)
    state, old = np.zeros((1, 3, 6), np.float32), {n: a.astype(float) for n, a in arrays.items()}
    now, seen, cut = dict(old), [], 0
    for number in (1, 2, 3):
        x, y = rng.integers(0, 5, (2, 7, 3)).astype(np.int32)
        expected = Result("GRUEncode", hyper, now, x, y, state)
        step = compute.step(arrays, caches, x, y, state, RATE, number=number)
        assert step.finite
        close(step.loss, expected.loss, 1e-6, "loss")
        close(step.gradnorm, expected.gradnorm, 1e-5, "norm of the gradient before clipping")
        close(step.state, expected.endings, 1e-5, "state")
        arrays, caches, state = step.arrays, step.caches, step.state
        seen.append(clipped(hyper, expected.gradients))
        factors = caution(hyper, seen) if hyper.cautious else None
        for n in arrays:
            cut += (seen[-1][n] != expected.gradients[n]).sum()
            gradients, doubts = (
                [each[n] for each in seen],
                factors and [each[n] for each in factors],
            )
            weight = old[n].ndim > 1
            now[n], memory = descend(
                hyper, old[n], gradients, rate=RATE, weight=weight, factors=doubts
            )
            close(arrays[n], now[n], 5e-6, n)
            for cache, right in zip(caches.values(), memory, strict=True):
                close(cache[n], right, 5e-6, f"what is remembered of {n}")
    assert (cut == 0) == (hyper.clip is None), "the bound is there to be tried"


# Three steps of torch.optim in float64, at rate 0.01: Adam(betas=(.9, .999)), AdamW(weight_decay=.1)
# and SGD(momentum=.9). Its RMSprop and Adagrad put their small constant outside the root.
TORCH = {
    "adam": [0.48775965, -1.245325283, 1.982334198],
    "adamw": [0.486277478, -1.241595883, 1.97636701],
    "sgd": [0.48609, -1.25216, 1.93775],
}


@pytest.mark.parametrize("name", TORCH)
def test_where_the_definitions_agree_the_numbers_are_those_of_torch(name):
    """A closed form and a kernel by one author may share a misreading; torch's numbers do not."""
    hyper = HyperParams(2, optimizer=name, weightdecay=0.1, clip=None)
    gradients = [[0.1, -0.4, 3.0], [-0.2, 0.7, 0.05], [1.5, -0.03, -2.0]]
    now = [[np.array([0.5, -1.25, 2.0])], *([np.zeros(3)] for _ in CACHES[name])]
    rule = update.Rule(
        name, clipnorm=None, clip=math.inf, decay=hyper.decay, momentum=hyper.momentum, beta2=hyper.beta2
    )  # fmt: skip
    shrinks = [0.1 if name == "adamw" else 0.0]
    for number, gradient in enumerate(gradients, 1):
        new = [[np.empty(3)] for _ in now]
        given = [np.array(gradient)], now, new
        apply(rule, *given, penalties=[0.0], shrinks=shrinks, rate=0.01, number=number, count=1)
        now = new
    np.testing.assert_allclose(now[0][0], TORCH[name], rtol=0, atol=2e-9)
