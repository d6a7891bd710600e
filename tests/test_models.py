"""Both models against plain NumPy loops, and the loops against finite differences, in float64."""

from functools import partial

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from rngru import models
from rngru.backends.ops import CPU_MODE, Affine, CrossEntropy
from rngru.backends.recurrence import PLAIN, fused, scanned
from rngru.errors import InputError
from rngru.hyper import HyperParams
from tests.reference import Result, close, slope

KINDS = [
    *((name, gate, False) for name in models.MODELS for gate in ("sigmoid", "hard_sigmoid")),
    ("GRUEncode", "sigmoid", True),
    ("GRUResize", "hard_sigmoid", True),
    ("BiGRU", "sigmoid", True),
]
"""Model type, form of the gates and whether the GRU's reset gate acts after the product."""

SCANNED = [
    *(each for each in KINDS if each[0] in ("GRUEncode", "GRUResize")),
    ("LSTMEncode", "sigmoid", False),
    ("RNNResize", "sigmoid", False),
    ("MinGRUResize", "hard_sigmoid", False),
    ("MinLSTMEncode", "sigmoid", False),
    ("BiGRU", "sigmoid", True),
]
"""Those of them that have a graph of their own: a scan takes a second to compile."""


def case(modeltype, hyper, steps, lanes, seed=1):
    """Parameters that use the whole range of the gates, a batch, and a state that is not zero."""
    rng = np.random.default_rng(seed)
    shapes = models.MODELS[modeltype].shapes(hyper)
    parameters = {name: rng.normal(0, 0.8, shape) for name, shape in shapes.items()}
    x, y = rng.integers(0, hyper.vocab_size, (2, steps, lanes)).astype(np.int32)
    state = rng.uniform(-1, 1, models.MODELS[modeltype].freshstate(hyper, lanes).shape)
    return parameters, x, y, state


# ---------------------------------------------------------------------------- the definition


@pytest.mark.parametrize(("modeltype", "gate", "after"), KINDS)
def test_the_reference_agrees_with_finite_differences(modeltype, gate, after):
    """Everything else is checked against this loop: a wrong derivative in it would excuse theirs."""
    hyper = HyperParams(4, 3, 2, gate=gate, reset_after=after)
    parameters, x, y, state = case(modeltype, hyper, 4, 2)
    found = Result(modeltype, hyper, parameters, x, y, state).gradients

    def cost():
        return Result(modeltype, hyper, parameters, x, y, state).cost

    check(found, parameters, cost)


@pytest.mark.parametrize("modeltype", ["GRUEncode", "LSTMResize"])
def test_truncation_in_the_reference_agrees_with_finite_differences(modeltype):
    """What truncation leaves out is what stays where it was when a parameter moves.

    The early steps keep the old parameters; their losses still follow the output weights.
    """
    whole, late = HyperParams(4, 3, 2), slice(2, None)
    parameters, x, y, state = case(modeltype, whole, 5, 2)
    cut = whole.replace(bptt_truncate=len(x[late]))
    found = Result(modeltype, cut, parameters, x, y, state).gradients
    old = {name: value.copy() for name, value in parameters.items()}

    def cost():
        mixed = old | {name: parameters[name] for name in "Vc"}
        early = Result(modeltype, whole, mixed, x[:2], y[:2], state)
        rest = Result(modeltype, whole, parameters, x[late], y[late], early.endings)
        return rest.cost + early.loss / x.shape[1]

    check(found, parameters, cost)


def check(found, parameters, cost):
    """Compare gradients with differences of the cost, each along a random direction."""
    rng = np.random.default_rng(2)
    for name, moved in parameters.items():
        along = rng.normal(size=moved.shape)
        close((found[name] * along).sum(), slope(cost, moved, along), 1e-8, name)


@pytest.mark.parametrize(
    ("modeltype", "gate", "after", "fast"),
    [(*kind, True) for kind in KINDS] + [(*kind, False) for kind in SCANNED],
)
def test_graph_agrees_with_the_loops(modeltype, gate, after, fast):
    """Logits, loss, last states and every gradient, with both ways to compute a layer.

    A gate read from the wrong columns, z and 1 - z exchanged, a reset after the product, a bias
    left out or a state that starts at zero would all still learn, a little worse.
    """
    hyper = HyperParams(5, 6, 2, gate=gate, reset_after=after)
    numbers, x, y, state = case(modeltype, hyper, 5, 3)
    expected = Result(modeltype, hyper, numbers, x, y, state)
    with pytensor.config.change_flags(warn_float64="ignore"):
        p = {name: pt.tensor(name, dtype="float64", shape=(None,) * numbers[name].ndim)
             for name in numbers}  # fmt: skip
        ids, targets, start = pt.imatrix("x"), pt.imatrix("y"), pt.dtensor3("start")
        affine = Affine() if fast else lambda rows, weights, bias: rows @ weights + bias
        plain = models.apart(partial(scanned, mode=PLAIN))
        layers, mode = (fused, CPU_MODE) if fast else (plain, PLAIN)
        model = models.MODELS[modeltype]
        engine = models.Engine(layers, affine, pt.tanh, pt.zeros_like, pt.concatenate)
        network = models.Network(model, hyper, p, engine)
        top, endings = network.predict(ids, targets, start)
        rows = top.reshape((-1, p["V"].shape[0]))
        logits = affine(rows, p["V"], p["c"])
        if fast:
            loss = CrossEntropy()(rows, p["V"], p["c"], targets.flatten())[0]
        else:
            scores = pt.special.log_softmax(logits, axis=-1)
            loss = -scores[pt.arange(targets.size), targets.flatten()].sum()
        function = pytensor.function(
            [*p.values(), ids, targets, start],
            [loss, logits, *endings, *pytensor.grad(loss, list(p.values()))],
            mode=mode,
        )
        loss, logits, *results = function(*numbers.values(), x, y, state)
    assert logits.dtype == np.float64
    close(loss, expected.loss, 1e-12, "loss")
    close(logits.reshape(expected.logits.shape), expected.logits, 1e-12, "logits")
    close(np.stack(results[:2]), expected.endings, 1e-12, "endings")
    lanes = x.shape[1]
    for name, gradient in zip(numbers, results[2:], strict=True):
        penalty = hyper.regcost * numbers[name] if numbers[name].ndim == 2 else 0
        close(gradient, expected.gradients[name] * lanes - penalty, 1e-11, name)


# -------------------------------------------------------------------------------- parameters


def test_shapes_are_those_of_the_design():
    """Checkpoints are read by other programs: a name or an axis changed here breaks them."""
    hyper = HyperParams(9, 4, 2)
    assert models.MODELS["GRUEncode"].shapes(hyper) == {
        "E": (9, 4), "a": (4,),
        "layers.0.U": (4, 12), "layers.0.W": (4, 12), "layers.0.b": (12,),
        "layers.1.U": (4, 12), "layers.1.W": (4, 12), "layers.1.b": (12,),
        "V": (4, 9), "c": (9,),
    }  # fmt: skip
    resize = models.MODELS["GRUResize"].shapes(hyper)
    assert "E" not in resize and "a" not in resize
    assert resize["layers.0.U"] == (9, 12) and resize["layers.1.U"] == (4, 12)
    assert models.MODELS["LSTMEncode"].shapes(hyper)["layers.1.W"] == (4, 16)
    assert models.MODELS["RNNEncode"].shapes(hyper)["layers.1.W"] == (4, 4)
    both = models.MODELS["BiGRU"].shapes(hyper)
    assert both["back.0.U"] == (4, 12) and both["V"] == (8, 9)
    after = models.MODELS["GRUEncode"].shapes(hyper.replace(reset_after=True))
    assert after["layers.0.d"] == after["layers.1.d"] == (4,)
    assert models.MODELS["MinGRUResize"].shapes(hyper) == {
        "layers.0.U": (9, 8), "layers.0.b": (8,), "layers.1.U": (4, 8), "layers.1.b": (8,),
        "V": (4, 9), "c": (9,),
    }  # fmt: skip
    assert models.MODELS["MinLSTMEncode"].shapes(hyper)["layers.1.U"] == (4, 12)


@pytest.mark.parametrize("modeltype", models.MODELS)
def test_initial_weights_are_uniform_and_biases_zero(modeltype):
    """Weights too large saturate the gates, too small vanish: both still learn, slowly.

    A uniform distribution fills its bounds and has a third of their square as its variance.
    """
    hyper = HyperParams(70, 60, 2)
    arrays = models.MODELS[modeltype].initial(hyper, np.random.default_rng(3))
    assert {n: a.shape for n, a in arrays.items()} == models.MODELS[modeltype].shapes(hyper)
    for name, values in arrays.items():
        assert values.dtype == np.float32
        if values.ndim == 1:
            forget = np.zeros_like(values)
            if modeltype in ("LSTMEncode", "LSTMResize", "BiLSTM") and name.endswith(".b"):
                forget[60:120] = 1
            assert np.array_equal(values, forget), name
        else:
            table = name == "E" or (name.endswith(".0.U") and "E" not in arrays)
            bound = 1 if table else 1 / np.sqrt(len(values))
            assert 0.98 * bound < np.abs(values).max() <= bound, name
            assert abs(values.var() / (bound**2 / 3) - 1) < 0.05, name
            assert abs(values.mean()) < 0.05 * bound, name


def test_a_tied_encoder_is_between_a_table_and_a_matrix():
    """Too large, and the first predictions are certain and wrong; too small, and no text is heard."""
    hyper = HyperParams(70, 16, tied=True)
    encoder = models.GRUEncode.initial(hyper, np.random.default_rng(3))["E"]
    assert 0.98 / 2 < np.abs(encoder).max() <= 1 / 2


@pytest.mark.parametrize("modeltype", models.MODELS)
def test_the_output_bias_begins_with_the_frequencies(modeltype):
    """A model that has learned nothing else predicts each symbol as often as it occurs."""
    counts = np.array([0, 5, 93, 0, 2])
    draw = models.MODELS[modeltype].initial
    plain, told = (
        draw(HyperParams(5, 4), np.random.default_rng(3), each) for each in (None, counts)
    )
    assert told["c"].dtype == np.float32
    assert np.allclose(np.exp(told["c"]), np.array([1, 6, 94, 1, 3]) / 105)
    assert all(np.array_equal(plain[name], told[name]) for name in plain.keys() - {"c"})


def test_initial_parameters_follow_the_generator_alone():
    """A run could not be repeated if anything else had a hand in it."""
    hyper, model = HyperParams(5, 4), models.GRUEncode
    one, same, other = (model.initial(hyper, np.random.default_rng(s)) for s in (1, 1, 2))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["V"], other["V"])


def test_fresh_state_is_zero_for_every_lane():
    """The LSTM's state holds its memory too: with half of it, loading a state would fail later."""
    hyper = HyperParams(5, 4, 3)
    for modeltype, width in (("GRUEncode", 4), ("RNNResize", 4), ("LSTMEncode", 8)):
        state = models.MODELS[modeltype].freshstate(hyper, 7)
        assert state.shape == (3, 7, width) and state.dtype == np.float32 and not state.any()


def test_an_unknown_model_type_is_answered_with_the_nearest():
    """A name mistyped at the prompt should cost one look, not a KeyError."""
    with pytest.raises(InputError, match=r"Did you mean 'GRUEncode'"):
        models.named("GRUEncoder")
    with pytest.raises(InputError, match="reset_after"):
        models.named("LSTMEncode").check(HyperParams(5, 4, reset_after=True))
