"""The contract of backends: all give the numbers of the NumPy loop, and so of each other."""

import itertools
import subprocess
import sys
import threading

import numba
import numpy as np
import pytensor
import pytest
from pytensor.compile.builders import OpFromGraph
from pytensor.scan.op import Scan
from pytensor.tensor.elemwise import Elemwise

from rngru import kernels, models
from rngru.backends import backend, freshcaches
from rngru.backends.cpu import CPU
from rngru.errors import InputError, MissingExtra
from rngru.hyper import HyperParams
from rngru.sampling import Sampling, probabilities
from tests.models import INSTALLED
from tests.reference import Result, close

# The models of 2016 in every form; of the others, each in one or two. Sizes are odd, or just beside
# the width of a vector.
FORMS = [
    (modeltype, {"gate": gate, "layers": layers, "state_size": size})
    for (modeltype, size), gate, layers in itertools.product(
        [("GRUEncode", 33), ("GRUResize", 17)], ["sigmoid", "hard_sigmoid"], [1, 2, 3]
    )
] + [
    ("GRUEncode", {"reset_after": True, "state_size": 31}),
    ("GRUResize", {"reset_after": True, "gate": "hard_sigmoid", "layers": 1, "state_size": 5}),
    ("GRUEncode", {"tied": True, "state_size": 7}),
    ("GRUEncode", {"bptt_truncate": 3, "state_size": 9}),
    ("GRUEncode", {"dropout": 0.4, "state_size": 32}),
    ("GRUResize", {"dropout": 0.4, "locked": True, "state_size": 5}),
    ("LSTMEncode", {"state_size": 33}),
    ("LSTMResize", {"gate": "hard_sigmoid", "layers": 3, "state_size": 6}),
    ("RNNEncode", {"layers": 3, "state_size": 34}),
    ("RNNResize", {"layers": 1, "state_size": 1}),
    ("MinGRUEncode", {"state_size": 33}),
    ("MinGRUResize", {"gate": "hard_sigmoid", "bptt_truncate": 3, "layers": 3, "state_size": 6}),
    ("MinLSTMEncode", {"tied": True, "dropout": 0.4, "state_size": 32}),
    ("MinLSTMResize", {"gate": "hard_sigmoid", "layers": 1, "state_size": 5}),
    ("BiGRU", {"layers": 1, "state_size": 33, "gate": "hard_sigmoid"}),
    ("BiLSTM", {"dropout": 0.3, "state_size": 5}),
    ("LSTMEncode", {"dropconnect": 0.4, "dropout_in": 0.3, "embed_size": 5, "state_size": 33}),
    ("GRUResize", {"layernorm": True, "residual": True, "layers": 3, "dropout": 0.3, "locked": True,
                   "embed_dropout": 0.4, "state_size": 10, "clip": 99.0}),
    ("GRUEncode", {"residual": True, "embed_dropout": 0.3, "embed_size": 40, "state_size": 31}),
    ("RNNEncode", {"ar": 2.0, "tar": 3.0, "smoothing": 0.3, "dropout_out": 0.5, "state_size": 6,
                   "clip": 99.0}),
    ("MinGRUEncode", {"layernorm": True, "residual": True, "dropout_in": 0.2, "state_size": 9}),
    ("BiLSTM", {"layernorm": True, "ar": 2.0, "tar": 3.0, "dropout_in": 0.2, "dropconnect": 0.2,
                "dropout": 0.3, "embed_size": 3, "layers": 1, "state_size": 5, "clip": 99.0}),
]  # fmt: skip
BATCHES = [(1, 1), (1, 5), (8, 1), (7, 3)]
"""Steps and lanes: one of each, odd ones, and more steps than a gradient may reach back."""
SYMBOLS = 7

# JAX compiles for a second for each length and number of lanes.
SHAPES = {"jax": BATCHES[::3]}


def compared(modeltype, changes):
    """Whether a form is tried on every backend: PyTensor compiles for seconds.

    Of the twelve forms of 2016 it is a half in which any two of model, gate and layers meet.
    """
    first = FORMS[:12]
    parity = changes.get("layers", 0) + (changes.get("gate") == "sigmoid") + (modeltype[3] == "E")
    return (modeltype, changes) not in first or parity % 2 == 0


# JAX compiles for seconds: each cell once, and once all that stands between layers.
ONJAX = [
    *(next(form for form in FORMS if form[0] == name) for name in (
        "GRUEncode", "LSTMEncode", "RNNEncode", "MinGRUResize", "MinLSTMEncode", "BiGRU")),
    ("GRUEncode", {"reset_after": True, "state_size": 31}),
    FORMS[-1],
]  # fmt: skip


def backends(modeltype, changes):
    """The backends that a form is tried on."""
    names = INSTALLED if compared(modeltype, changes) else ["cpu"]
    return [name for name in names if name != "jax" or (modeltype, changes) in ONJAX]


class Form:
    """A model in its backends, with parameters that use the whole range of the gates."""

    def __init__(self, modeltype, changes):
        self.modeltype, self.model = modeltype, models.MODELS[modeltype]
        self.hyper = HyperParams(SYMBOLS, **changes)
        rng = np.random.default_rng(1)
        shapes = self.model.shapes(self.hyper)
        self.arrays = {
            # Products of a wide layer do not grow, and no gradient is cut.
            name: (rng.normal(size=shape) * (0.9 / np.sqrt(shape[0]) if len(shape) > 1 else 0.5))
            .astype(np.float32)
            for name, shape in shapes.items()
        }  # fmt: skip
        self.caches = freshcaches(self.arrays, self.hyper)
        names = backends(modeltype, changes)
        self.backends = {name: backend(name, self.model, self.hyper) for name in names}
        self.cpu = self.backends["cpu"]

    def batch(self, steps, lanes, seed=2):
        """Text x and y, a state that is not zero, and noise if there is any."""
        rng, hyper = np.random.default_rng(seed), self.hyper
        x, y = rng.integers(0, SYMBOLS, (2, steps, lanes)).astype(np.int32)
        state = rng.uniform(-1, 1, self.cpu.freshstate(lanes).shape).astype(np.float32)
        shapes, share = self.model.noiseshapes(hyper, steps, lanes), hyper.dropout or 0.3
        noise = {
            name: ((rng.random(shape) >= share) / (1 - share)).astype(np.float32)
            for name, shape in shapes.items()
        }
        return x, y, state, noise


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: f"{form[0]}-{form[1]}")
def form(request):
    return Form(*request.param)


# -------------------------------------------------------------------------------- the numbers


def test_logits_states_and_losses_agree_with_the_loop(form):
    """What is looked at, scored and drawn from, without dropout."""
    for steps, lanes in BATCHES:
        x, y, state, _ = form.batch(steps, lanes)
        expected = Result(form.modeltype, form.hyper, form.arrays, x, y, state)
        for name, compute in form.backends.items():
            if (steps, lanes) not in SHAPES.get(name, BATCHES):
                continue
            losses, ending = compute.losses(form.arrays, x, y, state)
            close(losses, expected.losses, 1e-5, f"losses of {name}")
            close(ending, expected.endings, 1e-5, f"endings of {name}")
            if form.model.both:
                continue
            states, logits, ending = compute.trace(form.arrays, x, state)
            close(states, expected.states, 1e-5, f"states of {name}")
            close(logits, expected.logits, 1e-5, f"logits of {name}")
            close(ending, expected.endings, 1e-5, f"endings of {name}")


def test_loss_and_every_gradient_agree_with_the_loop(form):
    """A gradient is read off the first step: the mean of squares from its square, and its sign from
    where the parameter went.
    """
    for steps, lanes in BATCHES:
        x, y, state, noise = form.batch(steps, lanes)
        expected = Result(form.modeltype, form.hyper, form.arrays, x, y, state, noise)
        for name, compute in form.backends.items():
            if (steps, lanes) not in SHAPES.get(name, BATCHES):
                continue
            step = compute.step(form.arrays, form.caches, x, y, state, 0.01, noise=noise)
            assert step.finite
            close(step.loss, expected.loss, 1e-6, f"loss of {name}")
            close(step.gradnorm, expected.gradnorm, 1e-5, f"gradnorm of {name}")
            close(step.state, expected.endings, 1e-5, f"endings of {name}")
            (means,) = step.caches.values()
            for key, gradient in expected.gradients.items():
                assert np.abs(gradient).max() < form.hyper.clip, "too large to be compared"
                size = np.sqrt(means[key] / (1 - form.hyper.decay))
                found = size * np.sign(form.arrays[key] - step.arrays[key])
                close(found, gradient, 2e-5, f"gradient of {key} of {name}")


def test_a_step_that_predicts_first_is_the_same_step(form):
    """Learning while reading: probabilities of the new parameters, or of the symbol that came left out."""
    if form.model.both or form.model.noiseshapes(form.hyper):
        return
    x, y, state, _ = form.batch(7, 3)
    plain = form.hyper.replace(regcost=0.0, smoothing=0.3)
    logits = Result(form.modeltype, form.hyper, form.arrays, x, y, state).logits
    for name in form.backends:
        compute = backend(name, form.model, plain)
        found, chances = compute.predictstep(form.arrays, form.caches, x, y, state, 0.01)
        close(chances, probabilities(logits, 1.0), 1e-5, f"probabilities of {name}")
        step = compute.step(form.arrays, form.caches, x, y, state, 0.01)
        for one, same in (
            (found.arrays, step.arrays),
            *zip(found.caches.values(), step.caches.values(), strict=True),
        ):
            assert all(np.array_equal(one[key], same[key]) for key in one), name
        assert found.loss == step.loss and np.array_equal(found.state, step.state)


def test_ten_training_steps_agree_between_backends(form):
    """Errors that one step hides add up: a state not carried, a cache not handed on."""
    if "scan" not in form.backends:
        return
    x, y, state, noise = form.batch(7, 3)
    runs = {}
    for name, compute in form.backends.items():
        arrays, caches, now, losses = form.arrays, form.caches, state, []
        for number in range(1, 11):
            step = compute.step(arrays, caches, x, y, now, 0.005, number=number, noise=noise)
            arrays, caches, now = step.arrays, step.caches, step.state
            losses.append(step.loss)
            assert arrays.keys() == form.arrays.keys()
        runs[name] = arrays, losses, now
    expected = runs.pop("scan")
    assert expected[1][-1] < expected[1][0]
    for arrays, losses, now in runs.values():
        close(losses, expected[1], 1e-5, "losses")
        close(now, expected[2], 1e-4, "state")
        for key, array in arrays.items():
            array = np.asarray(array)
            assert array.dtype == np.float32 and array.flags.c_contiguous
            close(array, expected[0][key], 1e-4, key)


def test_greedy_and_drawn_text_agree_between_backends(form):
    """200 characters, each of which depends on all before: one wrong, and the rest is another text."""
    if form.model.both or "scan" not in form.backends:
        return
    # Larger output weights: what is likeliest is so by more than a rounding.
    sure = "E" if form.hyper.tied else "V"
    arrays = form.arrays | {sure: 4 * form.arrays[sure]}
    _, _, state, _ = form.batch(1, 3)
    ids, uniforms = np.array([0, 3, 6]), np.random.default_rng(3).random((200, 3))
    for temperature in (0.0, 1.0):
        texts = {
            name: compute.generate(arrays, ids, state, uniforms, Sampling(temperature))
            for name, compute in form.backends.items()
        }
        drawn, ending, likely = texts.pop("scan")
        _, logits, _ = form.cpu.trace(arrays, np.vstack([ids, drawn[:-1]]).astype("i"), state)
        best = np.sort(logits, axis=-1)
        assert temperature or (best[..., -1] - best[..., -2]).min() > 1e-4, "another seed, please"
        for text, last, sure in texts.values():
            assert text.dtype == np.int32 and np.array_equal(text, drawn)
            close(last, ending, 1e-4, "the last state")
            close(sure, likely, 1e-4, "how likely it is")


def test_a_text_in_pieces_gives_what_it_gives_at_once(form):
    """States are carried from chunk to chunk for ever; where the seams are may not matter."""
    if form.model.both:
        return
    x, y, state, _ = form.batch(7, 3)
    for compute in form.backends.values():
        whole = [compute.losses(form.arrays, x, y, state)[0], *compute.trace(form.arrays, x, state)]
        now, parts = state, []
        for piece in (slice(0, 1), slice(1, 4), slice(4, 7)):
            losses, _ = compute.losses(form.arrays, x[piece], y[piece], now)
            states, logits, now = compute.trace(form.arrays, x[piece], now)
            parts.append((losses, states, logits))
        axes = (0, 1, 0)
        for i, axis in enumerate(axes):
            close(np.concatenate([part[i] for part in parts], axis), whole[i], 1e-6)
        close(now, whole[3], 1e-6)


# ----------------------------------------------------------------------- what may not matter


def everything(compute, form, steps=6, lanes=5):
    """All that a backend gives, as a list of arrays."""
    x, y, state, noise = form.batch(steps, lanes)
    step = compute.step(form.arrays, form.caches, x, y, state, 0.01, noise=noise)
    results = [step.loss, step.gradnorm, step.state, *step.arrays.values()]
    results += [each for cache in step.caches.values() for each in cache.values()]
    results += [*compute.losses(form.arrays, x, y, state), *compute.trace(form.arrays, x, state)]
    return [np.array(each) for each in results]


def test_bits_are_equal_on_any_number_of_threads(form, monkeypatch):
    """A run is repeated to the bit on another machine only if its cores are not in the numbers."""
    found = []
    for count in ("1", "2", "3"):
        monkeypatch.setenv("RNGRU_THREADS", count)
        found.append(everything(form.cpu, form))
    for other in found[1:]:
        assert all(map(np.array_equal, found[0], other))


def test_bits_are_equal_whatever_was_computed_before(form):
    """Arrays are kept between batches: what a larger one left in them must not show."""
    fresh = everything(CPU(form.model, form.hyper), form)
    everything(form.cpu, form, steps=11, lanes=9)
    everything(form.cpu, form, steps=1, lanes=1)
    assert all(map(np.array_equal, fresh, everything(form.cpu, form)))


def generated(function):
    """Yield what a PyTensor function, or a loop in it, runs as machine code made for it."""
    machine = function.vm
    for node, thunk in zip(machine.nodes, machine.thunks, strict=True):
        if hasattr(thunk, "cthunk") or isinstance(node.op, OpFromGraph):
            yield node.op
        if isinstance(node.op, Scan):
            yield from generated(node.op.fn)


def test_no_generated_code(form):
    """With a C compiler the last bits were others than without, for as long as PyTensor left it on:
    two threads that compile at a time can turn it off for good.
    """
    if "scan" not in form.backends:
        return
    scan, wanted = form.backends["scan"], {"step", "losses", "trace"}
    everything(scan, form)
    if not form.model.both:
        wanted.add("generate")
        uniforms = np.zeros((3, 2))
        scan.generate(form.arrays, np.zeros(2, int), scan.freshstate(2), uniforms, Sampling(1))
    functions = scan._functions
    assert functions.keys() == wanted
    for name, function in functions.items():
        assert any(isinstance(node.op, Scan) for node in function.vm.nodes)
        assert not [*generated(function)], name


def test_the_fast_backend_goes_through_no_array_in_python(form):
    """PyTensor's gradients fill arrays element by element where there is no generated code."""
    for node in form.cpu._build(predictions=False).order:
        if isinstance(node.op, Elemwise) and node.outputs[0].ndim > 1:
            assert node.op.nfunc_spec, node


def test_nothing_that_was_given_is_written_to(form):
    """An interrupted or refused step changes nothing, because it only ever makes new arrays."""
    x, y, state, noise = form.batch(7, 3)
    given = [x, y, state, *form.arrays.values(), *form.caches["mean"].values()]
    copies = [each.copy() for each in given]
    for compute in form.backends.values():
        step = compute.step(form.arrays, form.caches, x, y, state, 0.01, noise=noise)
        assert all(map(np.array_equal, given, copies))
        made = [step.state, *step.arrays.values(), *step.caches["mean"].values()]
        for one, other in itertools.product(made, given):
            assert not np.shares_memory(one, other)


def test_what_a_step_returned_stays_as_it_was(form):
    """History, checkpoints and the state in hand outlive the next batch."""
    x, y, state, noise = form.batch(7, 3)
    for compute in form.backends.values():
        step = compute.step(form.arrays, form.caches, x, y, state, 0.01, noise=noise)
        kept = [step.state, *step.arrays.values(), *step.caches["mean"].values()]
        kept += [*compute.losses(form.arrays, x, y, state), *compute.trace(form.arrays, x, state)]
        copies = [each.copy() for each in kept]
        others = {name: array + 1 for name, array in form.arrays.items()}
        compute.step(others, form.caches, x, y, state + 1, 0.01, noise=noise)
        compute.losses(others, x, y, state + 1)
        compute.trace(others, x, state + 1)
        assert all(map(np.array_equal, kept, copies))


@pytest.mark.parametrize("part", [lambda array: array, lambda array: array[:1], memoryview])
def test_a_part_that_is_held_stays_as_it_was_over_many_steps(part):
    """Memory is used again only when nobody holds an array, a view of one, or its buffer."""
    form = Form("RNNEncode", {"state_size": 16, "layers": 1})
    x, y, state, _ = form.batch(4, 3)
    arrays, caches, kept, places = form.arrays, form.caches, [], set()
    for number in range(12):
        step = form.cpu.step(arrays, caches, x, y, state, 0.1)
        arrays, caches = step.arrays, step.caches
        places.add(arrays["V"].ctypes.data)
        if number < 3:
            kept.append((part(arrays["V"]), arrays["V"].tobytes()[: part(arrays["V"]).nbytes]))
    assert all(bytes(held) == before for held, before in kept)
    assert len(places) < 10, "memory is used again"


# ------------------------------------------------------------------------------- not a number


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", [0, 7])
def test_what_is_not_finite_shows_on_every_backend_and_changes_nothing(which, bad):
    """One bad number in any parameter: NaN is never lost, and infinity only where it has a limit,
    as a gate has; a step may refuse it all the same, and then returns the very arrays it was given.
    """
    form = Form(*FORMS[which])
    x, y, state, _ = form.batch(5, 3)
    x[0] = 0  # the row that is spoiled is used
    for key, array in form.arrays.items():
        spoiled = form.arrays | {key: array.copy()}
        spoiled[key].flat[0] = bad
        with np.errstate(all="ignore"):
            expected = Result(form.modeltype, form.hyper, spoiled, x, y, state)
            finite = np.isfinite(expected.loss) and np.isfinite(expected.gradnorm)
            assert not (np.isnan(bad) and finite), key
            for name, compute in form.backends.items():
                step = compute.step(spoiled, form.caches, x, y, state, 0.01)
                assert finite or not step.finite, (name, key)
                assert np.isfinite(step.loss) == np.isfinite(expected.loss), (name, key)
                assert (step.arrays is spoiled) == (step.caches is form.caches) == (not step.finite)
                _, logits, _ = compute.trace(spoiled, x, state)
                assert np.array_equal(np.isnan(logits), np.isnan(expected.logits)), (name, key)
                losses, _ = compute.losses(spoiled, x, y, state)
                assert np.array_equal(np.isfinite(losses), np.isfinite(expected.losses))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_state_that_is_not_finite_stays_in_its_lane(bad):
    """Only the lane that is spoiled may be lost."""
    form = Form(*FORMS[1])
    x, y, state, _ = form.batch(3, 4)
    spoiled = state.copy()
    spoiled[:, 2] = bad
    for compute in form.backends.values():
        with np.errstate(all="ignore"):
            good, bad_losses = (compute.losses(form.arrays, x, y, s)[0] for s in (state, spoiled))
        assert np.array_equal(np.isfinite(bad_losses).all(0), [True, True, False, True])
        assert np.array_equal(good[:, [0, 1, 3]], bad_losses[:, [0, 1, 3]])


# --------------------------------------------------------------------------- alone and together


def train(form, batches):
    """Train a fresh model for some batches, and return its parameters and a text."""
    compute, arrays, caches = CPU(form.model, form.hyper), form.arrays, form.caches
    for number in range(batches):
        x, y, state, noise = form.batch(12, 5, seed=number)
        step = compute.step(arrays, caches, x, y, state, 0.01, number=number + 1, noise=noise)
        arrays, caches = step.arrays, step.caches
    uniforms = np.random.default_rng(4).random((50, 2))
    text = compute.generate(arrays, np.zeros(2, int), state[:, :2], uniforms, Sampling(1.0)).ids
    return [*arrays.values(), text]


def test_two_models_trained_at_once_are_those_trained_alone(monkeypatch):
    """Two Python threads share the kernels' threads, and nothing else."""
    monkeypatch.setenv("RNGRU_THREADS", "2")
    forms = [Form("GRUEncode", {"state_size": 40}), Form("LSTMEncode", {"state_size": 70})]
    alone = [train(form, 30) for form in forms]
    together, start = [None, None], threading.Barrier(2)

    def run(i):
        start.wait()
        together[i] = train(forms[i], 30)

    workers = [threading.Thread(target=run, args=(i,)) for i in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for one, same in zip(alone, together, strict=True):
        assert same is not None and all(map(np.array_equal, one, same))


# -------------------------------------------------------------------------- what costs no time


def signatures():
    """How many times the kernels have been compiled, for one set of argument types or another."""
    modules = [module for name, module in sys.modules.items() if name.startswith(kernels.__name__)]
    members = [each for module in modules for each in vars(module).values()]
    kinds = numba.core.dispatcher.Dispatcher
    compiled = {each for each in members if isinstance(each, kinds)}
    assert len(compiled) > 10
    return sum(len(each.signatures) for each in compiled)


@pytest.mark.parametrize("modeltype", ["GRUEncode", "LSTMResize"])
def test_other_sizes_cost_no_compilation(monkeypatch, modeltype):
    """A kernel that has a size in its type compiles for seconds whenever somebody changes one."""
    graphs = []
    function = pytensor.function
    monkeypatch.setattr(pytensor, "function", lambda *a, **k: graphs.append(a) or function(*a, **k))

    def use(compute, form, steps, lanes):
        everything(compute, form, steps, lanes)
        uniforms = np.random.default_rng(5).random((3, lanes))
        ids, state = np.zeros(lanes, int), form.cpu.freshstate(lanes)
        compute.generate(form.arrays, ids, state, uniforms, Sampling(1.0))

    small = Form(modeltype, {"state_size": 3, "layers": 2})
    use(small.cpu, small, 2, 2)
    known, before = signatures(), len(graphs)
    for count in ("1", "3"):
        monkeypatch.setenv("RNGRU_THREADS", count)
        use(small.cpu, small, 9, 1)
        use(small.cpu, small, 1, 17)
    assert len(graphs) == before, "the graph is for any text"
    for changes in ({"state_size": 100, "layers": 3}, {"state_size": 32, "layers": 1}):
        large = Form(modeltype, changes)
        use(large.cpu, large, 21, 6)
    assert signatures() == known


def test_generating_and_scoring_need_no_pytensor():
    """It takes a second to import, which is most of the time from a prompt to a first character."""
    code = """
import sys, numpy as np
from rngru import backends, models
from rngru.hyper import HyperParams
from rngru.sampling import Sampling
hyper = HyperParams(5, 4)
compute = backends.backend("cpu", models.GRUEncode, hyper)
arrays, state = models.GRUEncode.initial(hyper, np.random.default_rng(1)), compute.freshstate(1)
ids = np.zeros((3, 1), np.int32)
compute.trace(arrays, ids, state)
compute.losses(arrays, ids, ids, state)
compute.generate(arrays, ids[0], state, np.zeros((4, 1)), Sampling(1))
sys.exit("pytensor" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_backend_is_answered_with_the_choices():
    with pytest.raises(InputError, match=r"Choices: 'cpu', .*'scan'"):
        backend("gpu", models.GRUEncode, HyperParams(5))


def test_jax_is_an_extra(monkeypatch):
    """Whoever has not installed it is told how, and not by a traceback of ours."""
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(MissingExtra, match=r"pip install 'rngru\[jax\]'"):
        backend("jax", models.GRUEncode, HyperParams(5))
