"""What is drawn follows the softmax, from NumPy and from the compiled sampler, which agree."""

import math

import numpy as np
import pytest
from scipy.special import chdtrc

from rngru import models, sampling
from rngru.backends.cpu import CPU
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
    drawn, _ = compute.generate(arrays, ids, state, rng.random((1, DRAWS)), Sampling(temperature))
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
    together, last = compute.generate(arrays, ids, state, uniforms, Sampling(0.8))
    assert together.shape == (40, streams)
    assert len(np.unique(together)) > 3, "text that never changes would agree with anything"
    for i in range(streams):
        here = slice(i, i + 1)
        alone, end = compute.generate(
            arrays, ids[here], state[:, here], uniforms[:, here], Sampling(0.8)
        )
        assert np.array_equal(alone, together[:, here]) and np.array_equal(end, last[:, here])


@pytest.mark.parametrize(("modeltype", "changes"), KINDS)
def test_the_text_is_what_the_loop_would_draw(modeltype, changes):
    """Character by character: each draw from the logits that the loop has for the text so far."""
    compute, arrays = trained(modeltype, changes)
    rng = np.random.default_rng(7)
    state = rng.uniform(-1, 1, compute.freshstate(2).shape).astype(np.float32)
    ids, uniforms = np.array([1, 5]), rng.random((30, 2))
    drawn, last = compute.generate(arrays, ids, state, uniforms, Sampling(1.2))
    read = np.vstack([ids, drawn[:-1]])
    expected = Result(modeltype, compute.hyper, arrays, read, drawn, state)
    for t, logits in enumerate(expected.logits):
        assert np.array_equal(sampling.draw(logits, Sampling(1.2), uniforms[t]), drawn[t]), t
    np.testing.assert_allclose(last, expected.endings, atol=1e-5)


def test_generating_in_pieces_is_the_same_as_at_once():
    """Text is made in pieces, so that Ctrl-C is heard: the seam must not show."""
    compute, arrays = trained("LSTMEncode", {})
    rng = np.random.default_rng(8)
    ids, state, uniforms = np.array([2, 4, 6]), compute.freshstate(3), rng.random((50, 3))
    whole, end = compute.generate(arrays, ids, state, uniforms, Sampling(0.9))
    pieces, at, last = [], state, ids
    for start, stop in ((0, 1), (1, 20), (20, 50)):
        piece, at = compute.generate(arrays, last, at, uniforms[start:stop], Sampling(0.9))
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
    drawn, last = compute.generate(arrays, np.zeros(3, int), state, np.empty((0, 3)), Sampling(1.0))
    assert drawn.shape == (0, 3) and np.array_equal(last, state)
    drawn, last = compute.generate(
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
    for drawn, last in texts[1:]:
        assert np.array_equal(drawn, texts[0][0]) and np.array_equal(last, texts[0][1])
