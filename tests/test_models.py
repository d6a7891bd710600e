"""Both models against plain NumPy loops, and the loops against finite differences, in float64."""

from functools import partial

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from rngru import models, network
from rngru.backends import backend, graphs
from rngru.backends.ops import CPU_MODE, Affine, CrossEntropy, Encode
from rngru.backends.recurrence import PLAIN, fused, scanned
from rngru.errors import InputError
from rngru.hyper import HyperParams
from rngru.kernels import output
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


@pytest.mark.parametrize(
    ("modeltype", "options"),
    [
        ("GRUEncode", {"layernorm": True, "residual": True, "ar": 2.0, "tar": 3.0}),
        ("LSTMResize", {"dropconnect": 0.3, "embed_dropout": 0.3, "smoothing": 0.2, "residual": True}),
        ("BiGRU", {"dropout_in": 0.3, "dropout_out": 0.5, "dropconnect": 0.2, "tar": 3.0}),
    ],
)  # fmt: skip
def test_regularised_references_agree_with_finite_differences(modeltype, options):
    """The same for what is between layers, and for what is added to the loss."""
    hyper, model = HyperParams(4, 3, 2, embed_size=None, **options), models.MODELS[modeltype]
    parameters, x, y, state = case(modeltype, hyper, 4, 2)
    noise = model.noise(hyper, 4, 2, np.random.default_rng(5))

    def result():
        return Result(modeltype, hyper, parameters, x, y, state, noise)

    check(result().gradients, parameters, lambda: result().cost)


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
        affine, encode = (Affine(), Encode()) if fast else (graphs.affine, graphs.encode)
        plain = network.apart(partial(scanned, mode=PLAIN))
        layers, mode = (fused, CPU_MODE) if fast else (plain, PLAIN)
        model = models.MODELS[modeltype]
        engine = network.Engine(layers, affine, encode, pt.zeros_like, pt.concatenate)
        net = network.Network(model, hyper, p, engine)
        top, endings, _ = net.predict(ids, targets, start)
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
    wide = models.MODELS["BiGRU"].shapes(hyper.replace(embed_size=7))
    assert wide["E"] == (9, 7) and wide["a"] == (7,)
    assert wide["layers.0.U"] == wide["back.0.U"] == (7, 12) and wide["layers.1.U"] == (4, 12)
    normed = models.MODELS["GRUEncode"].shapes(hyper.replace(layernorm=True))
    assert normed["layers.0.g"] == normed["layers.1.h"] == (4,)
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


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid"])
@pytest.mark.parametrize("modeltype", models.MODELS)
def test_uniform_gates_keep_from_nothing_to_all(modeltype, gate):
    """In another gate, or with the wrong sign, they would spread something else than what is remembered.

    Without weights each neuron forgets at a rate of its own: a state s is z^t s after t steps, and the memory
    of an LSTM f^t m, which its output gate hands on in half.
    """
    model, hyper = models.MODELS[modeltype], HyperParams(5, 4, gate=gate, gate_init="uniform")
    plain = model.initial(hyper.replace(gate_init="constant"), np.random.default_rng(3))
    arrays = model.initial(hyper, np.random.default_rng(3))
    differ = {name for name in arrays if not np.array_equal(arrays[name], plain[name])}
    keeps = "RNN" not in modeltype
    assert differ == {name for name in arrays if keeps and name.endswith(".b")}
    if modeltype.startswith("LSTM"):
        begin, forget = arrays["layers.0.b"].reshape(4, -1)[:2]
        assert np.array_equal(begin, -forget), "i is 1 - f"
    if model.both or not keeps:
        return
    arrays = {name: a if name.endswith(".b") else np.zeros_like(a) for name, a in arrays.items()}
    start = np.full_like(model.freshstate(hyper, 1), 0.8)
    ids = np.zeros((6, 1), np.int32)
    states = backend("cpu", model, hyper).trace(arrays, ids, start).states[:, :, 0]
    left = 0.8 * np.power([[0.125, 0.375, 0.625, 0.875]], np.arange(1, 7)[:, None])
    expected = 0.5 * np.tanh(left) if modeltype.startswith("LSTM") else left
    close(states, np.stack([expected, expected]), 1e-6)


def test_layer_norm_begins_with_factors_of_one():
    """With zeros, nothing would go up, and no gradient would come down."""
    arrays = models.BiGRU.initial(HyperParams(5, 4, layernorm=True), np.random.default_rng(3))
    assert all((arrays[f"{tower}.1.g"] == 1).all() for tower in ("layers", "back"))
    assert not any(arrays[f"{tower}.1.h"].any() for tower in ("layers", "back"))


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


def test_noise_is_drawn_for_what_is_dropped():
    """The share of one kind taken for another, or a scale that changes the mean."""
    hyper = HyperParams(
        900, 20, 2, dropout=0.2, dropout_out=0.6, dropout_in=0.3, embed_dropout=0.4, dropconnect=0.5,
        embed_size=15,
    )  # fmt: skip
    noise = models.BiGRU.noise(hyper, 6, 5, np.random.default_rng(4))
    shares = {"outputs": 0.4, "inputs": 0.3, "embedding": 0.4, "recurrent": 0.5}
    assert {name: array.shape for name, array in noise.items()} == {
        "outputs": (4, 6, 5, 20), "inputs": (2, 6, 5, 15), "embedding": (900, 1),
        "recurrent": (4, 20, 60),
    }  # fmt: skip
    for name, array in noise.items():
        assert array.dtype == np.float32
        assert abs((array == 0).mean() - shares[name]) < 5 * (0.25 / array.size) ** 0.5, name
        assert abs(array.mean() - 1) < 7 * (1 / array.size) ** 0.5, name
    for layer, share in enumerate((0.2, 0.6, 0.2, 0.6)):
        drawn = noise["outputs"][layer]
        assert set(np.unique(drawn)) == {0, np.float32(1) / np.float32(1 - share)}
        assert abs((drawn == 0).mean() - share) < 0.09
    locked = models.BiGRU.noise(hyper.replace(locked=True), 6, 5, np.random.default_rng(4))
    assert locked["outputs"].shape == (4, 1, 5, 20) and locked["inputs"].shape == (2, 1, 5, 15)
    assert not models.BiGRU.noise(HyperParams(9), 6, 5, np.random.default_rng(4))


def test_layer_norm_is_that_of_pytorch():
    """A variance of n - 1 numbers, or its root taken before what is added."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rng = np.random.default_rng(5)
    rows, gain, shift = rng.normal(size=(4, 3, 6)), rng.normal(size=6), rng.normal(size=6)
    rows[0] = 1e-3 * rows[0]  # where what is added to the variance matters
    expected = torch.nn.functional.layer_norm(
        *map(torch.tensor, (rows,)), (6,), *map(torch.tensor, (gain, shift))
    )
    close(network.normalised(rows, gain, shift), expected.numpy(), 1e-7)


def test_smoothing_is_that_of_pytorch():
    """Spread over the V - 1 others, or taken off the loss that is shown."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rng = np.random.default_rng(6)
    rows, weights, bias = rng.normal(size=(8, 5)), rng.normal(size=(5, 7)), rng.normal(size=7)
    targets = rng.integers(0, 7, 8)
    losses, deltas = output.score(rows, weights, bias, targets, smoothing=0.3, count=1)
    found = output.score_back(rows, weights, deltas, np.ones(1, deltas.dtype), count=1)
    given = [torch.tensor(each, requires_grad=True) for each in (rows, weights, bias)]
    logits = given[0] @ given[1] + given[2]
    entropy = torch.nn.functional.cross_entropy
    close(losses, entropy(logits, torch.tensor(targets), reduction="none").detach(), 1e-12)
    entropy(logits, torch.tensor(targets), reduction="sum", label_smoothing=0.3).backward()
    for one, other in zip(found, given, strict=True):
        close(one[..., : other.shape[-1]], other.grad.numpy(), 1e-12)


def test_a_held_neuron_is_held_whatever_is_between_layers():
    """What goes up is normalised and added to; what is held is the neuron."""
    hyper, model = HyperParams(5, 6, 2, layernorm=True, residual=True), models.GRUEncode
    arrays, start = model.clamped(
        hyper, model.initial(hyper, np.random.default_rng(1)), {(0, 2): 0.5, (1, 3): -0.75}
    )
    ids = np.zeros((4, 1), np.int32)
    states = backend("cpu", model, hyper).trace(arrays, ids, np.nan_to_num(start)).states
    close(states[0, :, 0, 2], np.full(4, 0.5), 1e-6)
    close(states[1, :, 0, 3], np.full(4, -0.75), 1e-6)


def test_options_need_what_they_are_about():
    """A width or a share that nothing has would be believed to do something."""
    for options in ({"embed_size": 3}, {"dropout_in": 0.2}):
        with pytest.raises(InputError, match="encoder.*GRUEncode"):
            models.GRUResize.check(HyperParams(5, 4, **options))
        models.GRUEncode.check(HyperParams(5, 4, **options))
    with pytest.raises(InputError, match=r"dropconnect.*MinGRUEncode has none"):
        models.MinGRUEncode.check(HyperParams(5, 4, dropconnect=0.3))
    with pytest.raises(InputError, match="embed_size=3"):
        models.GRUEncode.check(HyperParams(5, 4, embed_size=3, tied=True))
    models.GRUEncode.check(HyperParams(5, 4, embed_size=4, tied=True))


def test_an_unknown_model_type_is_answered_with_the_nearest():
    """A name mistyped at the prompt should cost one look, not a KeyError."""
    with pytest.raises(InputError, match=r"Did you mean 'GRUEncode'"):
        models.named("GRUEncoder")
    with pytest.raises(InputError, match="reset_after"):
        models.named("LSTMEncode").check(HyperParams(5, 4, reset_after=True))
