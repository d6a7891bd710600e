"""What is drawn follows the softmax, from NumPy and from the compiled sampler, which agree."""

import math

import numpy as np
import pytest
from scipy.special import chdtrc

from rngru import models, sampling
from rngru.backends.cpu import CPU
from rngru.backends.scan import Scan
from rngru.errors import InputError
from rngru.hyper import HyperParams
from rngru.kernels import sampler
from rngru.sampling import Sampling
from tests.reference import Result

SYMBOLS, DRAWS = 7, 20_000
TEMPERATURES = [0.3, 0.7, 1.0, 2.5]


def softmax(logits, temperature):
    """In float64, straight from the definition."""
    weights = np.exp(np.asarray(logits, np.float64) / temperature)
    return weights / weights.sum(-1, keepdims=True)


def chisquare(drawn, expected):
    """The probability that counts as far from the expected ones as these, or farther, occur."""
    counts = np.bincount(drawn.ravel(), minlength=len(expected))
    assert len(counts) == len(expected), "a symbol that does not exist was drawn"
    wanted = drawn.size * expected
    rare = wanted < 5  # the test holds for counts that are not tiny: put those together
    counts = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(wanted[~rare], wanted[rare].sum())
    kept = wanted > 0
    return chdtrc(kept.sum() - 1, ((counts - wanted)[kept] ** 2 / wanted[kept]).sum())


def constant(logits):
    """A sampler that gives these logits whatever the text: all weights but the last bias are zero."""
    hyper = HyperParams(len(logits), 3, 1)
    arrays = {
        name: np.zeros(shape, np.float32) for name, shape in models.GRUEncode.shapes(hyper).items()
    }
    return CPU(models.GRUEncode, hyper), arrays | {"c": np.asarray(logits, np.float32)}


def draw(logits, temperature, uniforms):
    """Draw with the compiled sampler, one character for each of ``uniforms`` (n,)."""
    compute, arrays = constant(logits)
    ids, state = np.zeros(len(uniforms), np.int32), compute.freshstate(len(uniforms))
    return compute.generate(arrays, ids, state, uniforms[np.newaxis], Sampling(temperature))[0][0]


# --------------------------------------------------------------------------------- the draw


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(1).normal(0, 1.5, SYMBOLS).astype(np.float32)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_frequencies_follow_the_softmax(logits, temperature):
    """Multiplied by the temperature, drawn from the wrong side of a boundary, or a symbol left out:
    none of it shows in the text, all of it in 20,000 draws.
    """
    uniforms = np.random.default_rng(2).random(DRAWS)
    expected = softmax(logits, temperature)
    drawn = sampling.draw(np.tile(logits, (DRAWS, 1)), Sampling(temperature), uniforms)
    assert drawn.dtype == np.int32 and drawn.shape == (DRAWS,)
    assert chisquare(drawn, expected) > 1e-3
    assert chisquare(draw(logits, temperature, uniforms), expected) > 1e-3
    assert chisquare(drawn, softmax(logits, temperature * 1.5)) < 1e-6, "the test would notice"


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_probabilities_are_the_softmax(logits, temperature):
    """A table shown to a person has to be what is drawn from."""
    many = np.stack([logits, logits + 300, -logits])
    found = sampling.probabilities(many, temperature)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(found[0], softmax(logits, temperature), rtol=1e-12)
    np.testing.assert_allclose(found[1], found[0], rtol=3e-4)
    np.testing.assert_allclose(found[2], softmax(-logits, temperature), rtol=1e-12)


@pytest.mark.parametrize("symbols", [1, 7, 32, 65])
@pytest.mark.parametrize("temperature", [0.05, 1.0, 40.0])
def test_both_samplers_draw_the_same(symbols, temperature):
    """The same generator gives the same text on every backend: draws agree one by one.

    Uniforms within a rounding of float32 from a boundary may fall on either side, and are left out.
    """
    logits = np.random.default_rng(3).normal(0, 2, symbols).astype(np.float32)
    uniforms = np.append((np.arange(4000) + 0.5) / 4000, [0.0, 1 - 2**-53])
    reached = softmax(logits, temperature).cumsum()
    away = np.abs(uniforms[:, np.newaxis] - reached[:-1]).min(1, initial=1) > 1e-5
    assert away.mean() > 0.9
    chosen = sampling.draw(np.tile(logits, (len(uniforms), 1)), Sampling(temperature), uniforms)
    drawn = draw(logits, temperature, uniforms)
    assert np.array_equal(chosen[away], drawn[away])
    assert chosen.max() < symbols and drawn.max() < symbols and drawn.min() >= 0


@pytest.mark.parametrize("temperature", [0.0, 1e-6, 1e-40])
def test_low_temperatures_take_the_likeliest(temperature):
    """Without a division by zero on the way, and the first of several that are equal."""
    logits = np.array([1, 3, -2, 3, 0.5], np.float32)
    uniforms = np.array([0.0, 0.2, 0.4])
    assert sampling.draw(np.tile(logits, (3, 1)), Sampling(temperature), uniforms).tolist() == [
        1,
        1,
        1,
    ]
    assert draw(logits, temperature, uniforms).tolist() == [1, 1, 1]


def test_a_very_high_temperature_draws_all_alike():
    """Padding must not take a share of it."""
    uniforms = (np.arange(5000) + 0.5) / 5000
    for drawn in (
        draw(np.arange(5.0), 1e30, uniforms),
        draw(np.arange(5.0), 1e300, uniforms),
        sampling.draw(np.tile(np.arange(5.0), (5000, 1)), Sampling(1e30), uniforms),
    ):
        assert np.array_equal(np.bincount(drawn), [1000] * 5)


def test_what_has_no_probability_is_never_drawn():
    """Not even for the smallest and the largest number a generator gives."""
    logits = np.array([-np.inf, 0, -np.inf, 0, -np.inf], np.float32)
    uniforms = np.array([0.0, 0.49, 0.51, 1 - 2**-53])
    assert sampling.draw(np.tile(logits, (4, 1)), Sampling(1.0), uniforms).tolist() == [1, 1, 3, 3]
    assert draw(logits, 1.0, uniforms).tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize("temperature", [-0.1, math.nan, math.inf, "warm", None])
def test_a_temperature_that_makes_no_sense_is_refused(temperature):
    """A negative one would draw the unlikeliest; NaN always the same."""
    with pytest.raises(InputError, match="temp="):
        Sampling(temperature)


# ------------------------------------------------------------------------------- the sampler

KINDS = [
    ("GRUEncode", {}),
    ("GRUResize", {"gate": "hard_sigmoid", "layers": 1}),
    ("GRUEncode", {"reset_after": True, "layers": 3}),
    ("GRUEncode", {"tied": True}),
    ("LSTMEncode", {"layers": 3}),
    ("LSTMResize", {"gate": "hard_sigmoid"}),
    ("MinGRUResize", {}),
    ("MinLSTMEncode", {"layers": 3}),
    ("RNNEncode", {}),
]


def trained(modeltype, changes, symbols=SYMBOLS, size=9, seed=4):
    """A backend with parameters far from zero, as after training."""
    hyper = HyperParams(symbols, size, **changes)
    rng, model = np.random.default_rng(seed), models.MODELS[modeltype]
    arrays = {n: rng.normal(0, 0.6, s).astype("f") for n, s in model.shapes(hyper).items()}
    return CPU(model, hyper), arrays


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_first_character_of_many_streams_follows_the_model(temperature):
    """The whole way from a state to a draw: the softmax is of the loop's logits, not of its own."""
    compute, arrays = trained("GRUEncode", {})
    rng = np.random.default_rng(5)
    state = np.repeat(rng.uniform(-1, 1, (2, 1, 9)), DRAWS, axis=1).astype(np.float32)
    ids = np.full(DRAWS, 3, np.int32)
    drawn = compute.generate(arrays, ids, state, rng.random((1, DRAWS)), Sampling(temperature)).ids
    one = np.array([[3]])
    logits = Result("GRUEncode", compute.hyper, arrays, one, one, state[:, :1]).logits[0, 0]
    assert chisquare(drawn, softmax(logits, temperature)) > 1e-3


@pytest.mark.parametrize(("modeltype", "changes"), KINDS)
def test_many_streams_are_the_same_as_each_alone(modeltype, changes):
    """Streams share the products: one that sees its neighbour's state writes its neighbour's text."""
    compute, arrays = trained(modeltype, changes)
    rng, streams = np.random.default_rng(6), 5
    ids = rng.integers(0, SYMBOLS, streams)
    state = rng.uniform(-1, 1, compute.freshstate(streams).shape).astype(np.float32)
    uniforms = rng.random((40, streams))
    together, last, sure = compute.generate(arrays, ids, state, uniforms, Sampling(0.8))
    assert together.shape == (40, streams)
    assert len(np.unique(together)) > 3, "text that never changes would agree with anything"
    for i in range(streams):
        here = slice(i, i + 1)
        alone, end, likely = compute.generate(
            arrays, ids[here], state[:, here], uniforms[:, here], Sampling(0.8)
        )
        assert np.array_equal(alone, together[:, here]) and np.array_equal(end, last[:, here])
        assert np.array_equal(likely, sure[:, here])


@pytest.mark.parametrize(("modeltype", "changes"), KINDS)
def test_the_text_is_what_the_loop_would_draw(modeltype, changes):
    """Character by character: each draw from the logits that the loop has for the text so far."""
    compute, arrays = trained(modeltype, changes)
    rng = np.random.default_rng(7)
    state = rng.uniform(-1, 1, compute.freshstate(2).shape).astype(np.float32)
    ids, uniforms = np.array([1, 5]), rng.random((30, 2))
    drawn, last, likely = compute.generate(arrays, ids, state, uniforms, Sampling(1.2))
    read = np.vstack([ids, drawn[:-1]])
    expected = Result(modeltype, compute.hyper, arrays, read, drawn, state)
    for t, logits in enumerate(expected.logits):
        assert np.array_equal(sampling.draw(logits, Sampling(1.2), uniforms[t]), drawn[t]), t
        own = np.log(softmax(logits, 1.0)[np.arange(2), drawn[t]])
        np.testing.assert_allclose(likely[t], own, atol=1e-4)
    np.testing.assert_allclose(last, expected.endings, atol=1e-5)


def test_generating_in_pieces_is_the_same_as_at_once():
    """Text is made in pieces, so that Ctrl-C is heard: the seam must not show."""
    compute, arrays = trained("LSTMEncode", {})
    rng = np.random.default_rng(8)
    ids, state, uniforms = np.array([2, 4, 6]), compute.freshstate(3), rng.random((50, 3))
    whole, end, _ = compute.generate(arrays, ids, state, uniforms, Sampling(0.9))
    pieces, at, last = [], state, ids
    for start, stop in ((0, 1), (1, 20), (20, 50)):
        piece, at, _ = compute.generate(arrays, last, at, uniforms[start:stop], Sampling(0.9))
        pieces.append(piece)
        last = piece[-1]
    assert np.array_equal(np.concatenate(pieces), whole) and np.array_equal(at, end)


def test_generating_leaves_what_it_was_given_alone():
    """The state of a sample can be continued twice, in two directions."""
    compute, arrays = trained("GRUEncode", {})
    rng = np.random.default_rng(9)
    ids = np.array([1, 2], np.int32)
    state = rng.uniform(-1, 1, (2, 2, 9)).astype(np.float32)
    copies = [each.copy() for each in (ids, state, *arrays.values())]
    compute.generate(arrays, ids, state, rng.random((10, 2)), Sampling(1.0))
    assert all(map(np.array_equal, copies, (ids, state, *arrays.values())))


def test_a_sampler_follows_the_parameters():
    """Weights are packed once for many calls: after a training step they are others."""
    compute, arrays = trained("GRUEncode", {})
    _, others = trained("GRUEncode", {}, seed=10)
    ids, state = np.array([1]), compute.freshstate(1)
    uniforms = np.random.default_rng(11).random((60, 1))
    texts = [
        compute.generate(each, ids, state, uniforms, Sampling(1.0))[0] for each in (arrays, others)
    ]
    fresh = CPU(compute.model, compute.hyper).generate(others, ids, state, uniforms, Sampling(1.0))[
        0
    ]
    assert not np.array_equal(*texts) and np.array_equal(texts[1], fresh)


def test_no_characters_and_no_streams():
    """Asking for nothing gives nothing, with the state as it was."""
    compute, arrays = trained("GRUEncode", {})
    state = np.ones((2, 3, 9), np.float32)
    drawn, last, _ = compute.generate(
        arrays, np.zeros(3, int), state, np.empty((0, 3)), Sampling(1.0)
    )
    assert drawn.shape == (0, 3) and np.array_equal(last, state)
    drawn, last, _ = compute.generate(
        arrays, np.zeros(0, int), state[:, :0], np.empty((4, 0)), Sampling(1.0)
    )
    assert drawn.shape == (4, 0) and last.shape == (2, 0, 9)


@pytest.mark.parametrize(("modeltype", "changes"), KINDS)
def test_any_number_of_threads_writes_the_same_text(monkeypatch, modeltype, changes):
    """Threads that work on one stream wait for each other: one that does not reads half a state."""
    monkeypatch.setattr(sampler, "CACHE_BYTES", 0)
    rng, texts = np.random.default_rng(12), []
    ids, uniforms, state = np.array([1, 5]), rng.random((5, 2)), None
    for count in ("1", "2", "3"):
        monkeypatch.setenv("RNGRU_THREADS", count)
        compute, arrays = trained(modeltype, changes, size=70, symbols=40)
        if state is None:
            state = rng.uniform(-1, 1, compute.freshstate(2).shape).astype(np.float32)
        texts.append(compute.generate(arrays, ids, state, uniforms, Sampling(1.0)))
    for each in texts[1:]:
        assert all(map(np.array_equal, each, texts[0]))


# ----------------------------------------------------------------------------- leaving out


def cutby(logits, temperature, top_k, top_p, min_p):
    """Which symbols of one row may be drawn, one rule after another, from the words of the manual."""
    order = sorted(range(len(logits)), key=lambda j: (-logits[j], j))
    if top_k is not None:
        order = order[:top_k]
    best = max(logits)
    order = [j for j in order if min_p == 0 or logits[j] >= best + temperature * math.log(min_p)]
    weights = {j: float(np.float32(math.exp((logits[j] - best) / temperature))) for j in order}
    total, reached, left = sum(weights.values()), 0.0, []
    for j in order:
        if reached < top_p * total or not left:
            left.append(j)
        reached += weights[j]
    return sorted(left)


def rules(rng):
    """A random rule: each of the three on or off."""
    return {
        "temp": float(rng.choice([0.3, 1.0, 2.0])),
        "top_k": int(rng.integers(1, 12)) if rng.random() < 0.5 else None,
        "top_p": float(rng.uniform(0.05, 1)) if rng.random() < 0.5 else 1.0,
        "min_p": float(rng.uniform(0.001, 0.9)) if rng.random() < 0.5 else 0.0,
    }


def loweredby(logits, recent, repeat):
    """One row of logits after the rule on repetition, from the words of the manual."""
    return [x - np.float32(math.log(repeat)) if j in recent else x for j, x in enumerate(logits)]


def test_what_was_written_is_less_likely_as_the_manual_says():
    """1,000 random cases: once by the factor, however often a symbol occurs; before the other rules."""
    rng = np.random.default_rng(13)
    for _ in range(1000):
        lanes, symbols = rng.integers(1, 4), rng.integers(2, 20)
        logits = rng.normal(0, 2, (lanes, symbols)).astype(np.float32)
        recent = rng.integers(0, symbols, (rng.integers(1, 30), lanes))
        repeat, uniforms = float(rng.choice([1.0, 1.2, 3.0, 1e30])), rng.random(lanes)
        found = sampling.lowered(logits, recent, repeat)
        wanted = [loweredby(logits[b], recent[:, b], repeat) for b in range(lanes)]
        assert found.dtype == np.float32 and np.array_equal(found, np.array(wanted, np.float32))
        how = Sampling(**rules(rng), repeat=repeat)
        drawn = sampling.draw(logits, how, uniforms, recent)
        assert np.array_equal(drawn, sampling.draw(found, how, uniforms))


def test_the_kernel_lowers_the_same():
    """1,000 random masks and texts; and what a draw costs in nats is of the logits before all that."""
    rng = np.random.default_rng(14)
    for number in range(1000):
        logits = rng.normal(0, 2, 19).astype(np.float32)
        logits = np.round(logits) if number % 3 == 0 else logits
        mask = np.where(rng.random(19) < 0.3, -np.inf, 0).astype(np.float32)
        mask[rng.integers(19)] = 0
        recent = rng.integers(0, 19, (rng.integers(0, 30), 2)).astype(np.int32)
        repeat = float(rng.choice([1.2, 3.0, 1e30]))
        ruled = np.empty(19, np.float32)
        sampler._ruled(logits, mask, recent, 1, np.float32(math.log(repeat)), ruled)
        wanted = sampling.lowered((logits + mask)[np.newaxis], recent[:, 1:], repeat)[0]
        assert np.array_equal(ruled, wanted)
        likely = np.log(softmax(logits, 1.0))
        padded = np.append(logits, np.float32(-np.inf))
        symbol = rng.integers(19)
        found = sampler._logprob(padded, symbol, np.empty(20, np.float32))
        assert abs(found - likely[symbol]) < 1e-5


def far(logits, rule):
    """Whether no symbol is within a rounding of where a rule cuts."""
    p = softmax(logits, rule["temp"])
    ranked = np.sort(p)[::-1][: rule["top_k"]]
    ranked = ranked[ranked >= ranked[0] * rule["min_p"]]
    share = np.abs(ranked.cumsum() / ranked.sum() - rule["top_p"]).min() if rule["top_p"] < 1 else 1
    return share > 1e-5 and np.abs(p / p.max() - rule["min_p"]).min() > 1e-5


def test_what_is_left_out_is_what_the_manual_says():
    """1,000 random rules, with equal logits among them: ties go by the id."""
    rng = np.random.default_rng(11)
    for _ in range(1000):
        logits = rng.normal(0, 2, rng.integers(1, 20)).astype(np.float32)
        logits = np.round(logits) if rng.random() < 0.3 else logits
        rule = rules(rng)
        if far(logits, rule):
            keep = sampling.kept(logits[np.newaxis], Sampling(**rule))[0]
            assert np.flatnonzero(keep).tolist() == cutby(logits.tolist(), *rule.values()), rule


def test_the_kernel_leaves_out_the_same():
    """Its heap against sorting: 1,000 random rules, each drawn from at many points."""
    draw = sampler._draw
    rng, uniforms = np.random.default_rng(12), (np.arange(200) + 0.5) / 200
    for number in range(1000):
        logits = rng.normal(0, 2, 19).astype(np.float32)
        logits = np.round(logits) if number % 3 == 0 else logits
        rule = rules(rng)
        if not far(logits, rule):
            continue
        wanted = sampling.draw(np.tile(logits, (200, 1)), Sampling(**rule), uniforms)
        weights = (
            softmax(logits, rule["temp"]) * sampling.kept(logits[np.newaxis], Sampling(**rule))[0]
        )
        reached = weights.cumsum() / weights.sum()
        away = np.abs(uniforms[:, np.newaxis] - reached).min(1) > 1e-5
        given = rule["temp"], rule["top_k"] or 19, rule["top_p"], rule["min_p"]
        row, heap = np.empty(19, np.float32), np.empty(19, np.int32)
        drawn = np.array([draw(logits, row, heap, *given, uniform) for uniform in uniforms])
        assert np.array_equal(drawn[away], wanted[away]), rule


@pytest.mark.parametrize(
    "rule",
    [
        {"top_k": 3},
        {"top_p": 0.6},
        {"min_p": 0.2},
        {"top_k": 4, "top_p": 0.7, "min_p": 0.05},
        {"repeat": 2.0, "repeat_last": 1},
        {"repeat": 3.0, "repeat_last": 7, "top_k": 6, "top_p": 0.7, "min_p": 0.05},
    ],
)
def test_both_backends_write_the_same_text(rule):
    """What is left out of a draw decides about all that follows it."""
    hyper, rng = HyperParams(11, 8, 2), np.random.default_rng(4)
    arrays = {name: 3 * array for name, array in models.GRUEncode.initial(hyper, rng).items()}
    ids, uniforms, how = np.zeros(2, np.int32), rng.random((60, 2)), Sampling(1.5, **rule)
    recent = np.repeat(ids[np.newaxis], how.repeat_last, axis=0) if how.repeat > 1 else None
    mask, texts = np.where(np.arange(11) == 5, -np.inf, 0).astype(np.float32), []
    for kind in (CPU, Scan):
        compute = kind(models.GRUEncode, hyper)
        start = compute.freshstate(2)
        texts.append(compute.generate(arrays, ids, start, uniforms, how, mask, recent).ids)
    assert np.array_equal(*texts) and 5 not in texts[0]
    plain = compute.generate(arrays, ids, compute.freshstate(2), uniforms, Sampling(1.5)).ids
    assert not np.array_equal(plain, texts[0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_k": 0},
        {"top_k": 2.5},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": math.nan},
    ],
)
def test_rules_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Sampling(1.0, **wrong)


def test_the_facade_hands_the_rules_on(newmodel, verse):
    """top_k=1 is greedy at any temperature."""
    ms = newmodel(verse)
    greedy = ms.generatestring(40, temp=0, seed="The ").text
    for rule in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        assert ms.generatestring(40, temp=5.0, seed="The ", **rule).text == greedy
