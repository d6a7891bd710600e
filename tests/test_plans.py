"""Plans: what is done again is right for what the arrays hold now, and keeps none of them alive."""

import gc
import threading
import warnings
import weakref
from functools import partial

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from rngru.backends import backend, freshcaches, ops
from rngru.backends.graphplan import GraphPlan
from rngru.hyper import HyperParams
from rngru.kernels import memory, plans, threads, update
from rngru.kernels.calls import shared
from rngru.kernels.memory import Recycled, place
from rngru.kernels.phases import side_by_side
from rngru.kernels.plans import Plan, Planned, Plans
from rngru.kernels.spec import LayerSpec
from rngru.kernels.tiles import padded
from rngru.models import MODELS, GRUEncode
from tests.reference import CELLS, GATES, MINIMAL


@shared()
def double(numbers, results, first, last):
    for i in range(first, last):
        results[i] = 2 * numbers[i]


def doubled(made, plan, numbers):
    made.append(plan)
    results = plan.empty(numbers.shape, numbers.dtype)
    plan.do(side_by_side([double.bind(numbers, results)], numbers.size, plan.count))
    return results


def test_a_plan_is_made_once_for_each_place_and_shape():
    """Made anew each time, it would be no use; done again for other places, it would read what was there."""
    made = []
    double_it = Plans(partial(doubled, made))
    arrays = [np.arange(n, dtype=np.float64) for n in (7, 5, 5)]
    for _ in range(3):
        for number, each in enumerate(arrays):
            each += 1
            assert np.array_equal(double_it(each, count=1), 2 * each)
            assert len(made) >= number + 1
    assert len(made) == len(arrays)
    double_it(arrays[0], count=2)
    assert len(made) == len(arrays) + 1, "another number of threads"


def test_a_plan_is_for_one_kind_of_numbers():
    """The same place may hold others, as wide: read as if they were not, they are nonsense."""
    double_it, array = Plans(partial(doubled, [])), np.arange(1, 5, dtype=np.float32)
    assert np.array_equal(double_it(array, count=1), [2, 4, 6, 8])
    whole = array.view(np.int32)
    whole[:] = 1, 2, 3, 4
    assert np.array_equal(double_it(whole, count=1), [2, 4, 6, 8])


def test_smaller_memory_is_given_back_when_there_is_larger():
    """Texts of ever more steps: the plans of the shorter ones hold what nobody will use."""
    made = []
    double_it = Plans(partial(doubled, made))
    small, held = weakref.ref(double_it(np.zeros(3), count=1).base), np.zeros(3)
    double_it(held, count=1)
    double_it(np.zeros(1000), count=1)
    made.clear()
    assert small() is None


def test_only_the_last_plans_are_kept():
    """A model whose arrays never lie in one place twice would keep a plan for every step of its life."""
    made = []
    double_it = Plans(partial(doubled, made))
    arrays = [np.zeros(3) for _ in range(plans.KEPT + 1)]
    for each in arrays:
        double_it(each, count=1)
    double_it(arrays[-1], count=1)
    assert len(made) == len(arrays)
    double_it(arrays[0], count=1)
    assert len(made) == len(arrays) + 1


def test_a_plan_keeps_nothing_alive_that_it_was_given():
    """The memory of parameters is used again when nobody holds them: a plan is somebody."""
    double_it = Plans(partial(doubled, []))
    array = np.zeros(8)
    gone = weakref.ref(array)
    double_it(array, count=1)
    del array
    assert gone() is None


@pytest.mark.parametrize("hold", [np.asarray, memoryview, lambda a: a[1:], lambda a: a[1:].T[:1]])
def test_arrays_are_used_again_when_nobody_holds_them_or_a_view(hold):
    """A checkpoint that is being written, or a plot, has a view of parameters that training left behind."""
    shapes = {"a": np.zeros((3, 4), np.float32), "b": np.zeros(8, np.float32)}
    make = Recycled()
    first = make.like(shapes)
    assert {name: each.shape for name, each in first.items()} == {"a": (3, 4), "b": (8,)}
    where, held = place(first["a"]), hold(first["b"])
    del first
    other = make.like(shapes)
    assert place(other["a"]) != where, "somebody holds a part of it"
    del held
    third = make.like(shapes)
    assert place(third["a"]) == where
    assert not np.may_share_memory(third["b"], other["b"])
    double_it, once = Plans(partial(doubled, [])), third["b"]
    double_it(once, count=1)
    del once, third
    assert place(make.like(shapes)["a"]) == where, "a plan holds nothing"


@pytest.mark.parametrize("change", ["shape", "dtype", "flags.writeable"])
def test_arrays_that_somebody_changed_are_not_used_again(change):
    """A snapshot that is frozen, or flattened in place, must not become the parameters of a later step."""
    make, wanted = Recycled(), {"a": np.zeros((3, 4), np.float32), "b": np.zeros(8, np.float32)}
    held = make.like(wanted)
    with warnings.catch_warnings():
        # NumPy 2.5 advises against the first two.
        warnings.simplefilter("ignore", DeprecationWarning)
        if change == "shape":
            held["a"].shape = -1
        elif change == "dtype":
            held["a"].dtype = np.int32
        else:
            held["a"].flags.writeable = False
    held.clear()
    for _ in range(2):
        found = make.like(wanted)
        assert found["a"].flags.writeable
        assert [(each.shape, each.dtype) for each in found.values()] == [
            (each.shape, each.dtype) for each in wanted.values()
        ]


def test_copies_of_what_is_given_move_nothing_else():
    """One step with parameters in Fortran's order must not make all that follows lie elsewhere, and grow."""
    pieces, small, large = memory.Pieces(), np.ones((2, 3)), np.ones((300, 400))
    for array in (large, large.T, large):
        plan = Plan(1, pieces)
        plan.contiguous(array)
        found = [plan.empty(each.shape, each.dtype) for each in (small, large)]
    assert pieces.replaced == 0 and len(pieces._pieces) == 3
    assert [each.shape for each in found] == [small.shape, large.shape]


def test_later_calls_are_made_before_what_reads_their_results():
    """Phases are conducted together where they can be; an order that depends on luck is none."""
    plan, numbers = Plan(count=1), np.ones(4)
    copy, twice, apart, last = (np.zeros(4) for _ in range(4))
    plan.do(side_by_side([double.bind(numbers, twice)], 4, 1))
    plan.later(lambda: np.copyto(copy, twice), copy)
    plan.do(side_by_side([double.bind(numbers, apart)], 4, 1))
    assert len(plan._steps) == 0, "this one need not wait"
    plan.do(side_by_side([double.bind(copy[1:], last)], 3, 1))
    for _ in range(2):
        plan.run()
        assert copy.tolist() == [2, 2, 2, 2] and last.tolist() == [4, 4, 4, 0]
        numbers[:], copy[:] = 1, 9


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_layers_keep_no_parameters_alive(monkeypatch, cell, lanes):
    """Neither those that threads with layers of their own read, nor those whose width is copied."""
    monkeypatch.setattr(threads, "WORTH", 1)
    for op, given in parts(cell, 2, 11, lanes, 32, masked=False, kind="floats"):
        arrays, layers = [each.copy() for each in given], Plans(op.plan)
        layers(*arrays, count=2)
        weights = [weakref.ref(each) for each in arrays if each.ndim == 2]
        del arrays
        gc.collect()
        assert weights and not any(each() is not None for each in weights)


def test_the_places_of_arrays_that_are_gone_are_forgotten():
    """A run of a day makes millions of arrays."""
    before, held = len(memory._places), [np.zeros(3) for _ in range(50)]
    assert len(set(map(place, held))) == 50
    held.clear()
    assert len(memory._places) == before


def test_the_place_of_an_array_is_never_that_of_one_before_it():
    """Arrays that are made and freed get the same identity, at other addresses."""
    held = []
    for n in range(2000):
        some = np.zeros(n % 7 + 1)
        assert place(some) == place(some) and place(some).startswith(f"{some.ctypes.data} ")
        if n % 3 == 0:
            held.append(np.zeros(n % 5 + 1))


def parts(cell, depth, steps, lanes, size, masked, kind):
    """An ``Op`` and its gradient, each with arrays for it."""
    rng, spec = np.random.default_rng(size), LayerSpec(cell)

    def draw(*shape):
        return rng.normal(0, 0.5, shape).astype(np.float32)

    def layer(i):
        first = (
            [draw(5, GATES[cell] * size)]
            if i == 0 and kind == "ids"
            else [draw(size if i else 6, GATES[cell] * size), draw(GATES[cell] * size)]
        )
        recurrent = [] if cell in MINIMAL else [draw(size, GATES[cell] * size)]
        return [*first, *recurrent, *([draw(size)] if cell == "GRU_AFTER" else [])]

    stack = ops.Stack(spec, depth, masked)
    inputs = (
        rng.integers(0, 5, (steps, lanes)).astype(np.int32)
        if kind == "ids"
        else draw(steps, lanes, 6)
    )
    masks = [draw(depth, steps, lanes, size)] if masked else []
    weights = [each for i in range(depth) for each in layer(i)]
    given = [inputs, draw(depth, lanes, spec.state(size)), *masks, *weights]
    found = [each.copy() for each in Plans(ops.Recurrence(stack).plan)(*given, count=1)]
    passes = stack.passes(found)
    for each in passes:
        each.side[..., size:] = 0  # it may be anything
    linked = tuple(i % 2 == 1 for i in range(2 * depth))
    above = [draw(steps, lanes, size) for _ in linked[1:depth:2]]
    above += [draw(lanes, spec.state(size)) for _ in linked[depth + (depth % 2 == 0) :: 2]]
    kept = [[each.gates for each in passes], [each.side for each in passes]]
    kept += [[each.states for each in passes]]
    kept += [[each.output for each in passes]] if masked else []
    gradient = [each for some in kept for each in some] + above[: sum(linked)] + given
    return (ops.Recurrence(stack), given), (ops.RecurrenceGradient(stack, linked), gradient)


def agree_with_new_plans(make, arrays, size=None):
    """Call it again on the same arrays, which hold other numbers each time.

    What lies in the padding behind ``size`` columns may be anything.
    """
    again, rng = Plans(make), np.random.default_rng(0)
    for _ in range(3):
        for count in (1, 2):
            expected = [np.copy(each) for each in Plans(make)(*arrays, count=1)]
            found = again(*arrays, count=count)
            for one, right in zip(found, expected, strict=True):
                if one.shape[-1:] == (padded(size or 0),):
                    one, right = one[..., :size], right[..., :size]
                assert np.array_equal(one, right)
        for each in arrays:
            if each.dtype != np.int32:
                each *= rng.uniform(0.5, 1.5, each.shape).astype(each.dtype)
            else:
                each[...] = rng.permutation(each.reshape(-1)).reshape(each.shape)


@pytest.mark.parametrize("kind", ["ids", "floats"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("lanes", "size"), [(3, 32), (3, 33), (1, 32)])
@pytest.mark.parametrize("cell", CELLS)
def test_layers_done_again_are_those_of_a_new_plan(monkeypatch, cell, lanes, size, masked, kind):
    """Catches whatever was copied when the plan was made: weights of the last step, or of another one.

    With one lane, layers run on threads of their own; a width that is no whole panel is copied.
    """
    monkeypatch.setattr(threads, "WORTH", 1)
    for op, arrays in parts(cell, 2, 11, lanes, size, masked, kind):
        agree_with_new_plans(op.plan, arrays, size)


@pytest.mark.parametrize("size", [32, 33])
@pytest.mark.parametrize("symbols", [5, 64, 65])
def test_losses_done_again_are_those_of_a_new_plan(size, symbols):
    """The bias, the targets and the scale are read each time, and so are the weights."""
    rng, rows = np.random.default_rng(1), 70

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    states, weights, bias = draw(rows, size), draw(size, symbols), draw(symbols)
    targets = rng.integers(0, symbols, rows).astype(np.int32)
    agree_with_new_plans(ops.Affine().plan, [states, weights, bias])
    agree_with_new_plans(ops.AffineGradient().plan, [states, weights, draw(rows, symbols)])
    for smoothing in (0.0, 0.2):
        op = ops.CrossEntropy(smoothing)
        agree_with_new_plans(op.plan, [states, weights, bias, targets])
        deltas = Plans(op.plan)(states, weights, bias, targets, count=1)[2].copy()
        agree_with_new_plans(ops.CrossEntropyGradient().plan, [deltas, draw(1), states, weights])


def planned(rule, plan, *arrays):
    """Plan a rule for numbers, gradients, parameters and three caches, of two arrays each."""
    numbers, *each = arrays
    gradients, *both = (each[k : k + 2] for k in range(0, len(each), 2))
    return rule.plan(plan, numbers, gradients, both[:4], both[4:])


@pytest.mark.parametrize("name", update.RULES)
@pytest.mark.parametrize("clipnorm", [None, 0.5])
@pytest.mark.parametrize("cautious", [False, True])
def test_a_rule_done_again_is_a_new_rule(name, clipnorm, cautious):
    """The rate, the number of the update, the penalties: all may be others in the same places."""
    rng = np.random.default_rng(2)
    options = {"clipnorm": clipnorm, "clip": 0.3, "decay": 0.9, "momentum": 0.8, "beta2": 0.95}
    rule = update.Rule(name, **options, cautious=cautious)
    again, arrays = Plans(partial(planned, rule)), [[], [], []]
    for some, many in zip(arrays, (1, 4, 4), strict=True):
        some += (np.zeros(shape, np.float32) for _ in range(many) for shape in ((4, 5), 3))
    gradients, old, new = arrays
    for number in (1, 2, 3, 4):
        for each in [*gradients, *old]:
            each[...] = rng.uniform(0, 1, each.shape)
        settings = {
            "penalties": [0.1 * (number // 2), 0.0], "shrinks": [0.2, 0.1 * (number % 2)],
            "rate": 0.1 / number, "number": number, "newest": 0.3 * (number % 2),
        }  # fmt: skip
        given, right = ([each.copy() for each in some] for some in (gradients, new))
        length = again(rule.numbers(**settings), *gradients, *old, *new, count=1)
        other = update.Rule(name, **options, cautious=cautious)
        once = Planned(partial(planned, other))
        assert length == once(other.numbers(**settings), *given, *old, *right, count=1) > 0
        assert all(map(np.array_equal, new, right))


def test_a_rule_reads_arrays_in_any_order():
    """A matrix in the order of Fortran is copied to be flat: the copy must be of what it is now."""
    options = {"clipnorm": None, "clip": 9.0, "decay": 0.9, "momentum": 0.0, "beta2": 0.9}
    rule, new = update.Rule("sgd", **options), [np.empty((2, 3), np.float32) for _ in range(2)]

    def make(plan, numbers, gradient, *sides):
        return rule.plan(
            plan, numbers, [gradient], *([[a], [b]] for a, b in (sides[:2], sides[2:]))
        )

    strange, again = np.zeros((3, 2), np.float32).T, Plans(make)
    gradient, zeros = np.zeros((2, 2, 3), np.float32)
    for number in (1, 2, 3):
        strange[:] = np.arange(6).reshape(2, 3) * number
        numbers = rule.numbers(penalties=[0], shrinks=[0], rate=1, number=number)
        gradient[:] = 0
        again(numbers, gradient, strange, zeros, *new, count=1)
        assert np.array_equal(new[0], strange)
    assert len(again._kept) == 1


def test_a_view_that_depends_on_numbers_is_made_each_time():
    """A view of an array in one place may be kept; one of a part that was asked for then may not."""
    x, start, stop = pt.fvector(), pytensor.scalar.int64(), pytensor.scalar.int64()
    graph = Plans(GraphPlan([x, start, stop], [x[start:stop], x[1:]]))
    numbers, bounds = np.arange(6, dtype=np.float32), np.array([0, 2])
    for bounds[0] in (0, 3, 1):
        numbers[:], bounds[1] = numbers + 1, bounds[0] + 2
        part, rest = graph(numbers, *(bounds[i : i + 1].reshape(()) for i in (0, 1)), count=1)
        assert np.array_equal(part, numbers[slice(*bounds)])
        assert np.array_equal(rest, numbers[1:])
    assert len(graph._kept) == 1


FORMS = {
    "GRUEncode": {},
    "GRUResize": {"state_size": 19},
    "RNNResize": {"bptt_truncate": 4},
    "MinGRUEncode": {"tied": True, "gate": "hard_sigmoid"},
    "GRUEncode, dropout": {"dropout": 0.3, "dropout_in": 0.2, "embed_dropout": 0.2},
    "LSTMEncode": {"layernorm": True, "residual": True, "dropout": 0.2},
    "BiLSTM": {"state_size": 17, "smoothing": 0.2},
    "RNNEncode": {"ar": 2.0, "tar": 1.0, "clipnorm": 0.5, "clip": None},
    "LSTMResize": {"optimizer": "adamw", "cautious": True, "average": 0.9, "dropconnect": 0.2},
}


class Run:
    """A small model in training; ``fresh`` backends know no step before."""

    def __init__(self, name, fresh=False):
        self.model = MODELS[name.split(",")[0]]
        self.hyper = HyperParams(7, **({"state_size": 32, "layers": 2} | FORMS[name]))
        self.rng, self.fresh = np.random.default_rng(3), fresh
        self.backend = backend("cpu", self.model, self.hyper)
        self.arrays = self.model.initial(self.hyper, self.rng)
        self.caches = freshcaches(self.arrays, self.hyper)
        self.number = 0

    def step(self, steps, lanes):
        if self.fresh:
            self.backend = backend("cpu", self.model, self.hyper)
        self.number += 1
        x, y = self.rng.integers(0, 7, (2, steps, lanes)).astype(np.int32)
        noise = self.model.noise(self.hyper, steps, lanes, self.rng)
        step = self.backend.step(
            self.arrays, self.caches, x, y, self.backend.freshstate(lanes), 0.01,
            number=self.number, noise=noise,
        )  # fmt: skip
        self.arrays, self.caches = step.arrays, step.caches
        return step.loss, step.gradnorm, step.state


@pytest.mark.parametrize("name", FORMS)
def test_a_step_done_again_is_that_of_a_backend_that_knows_none(monkeypatch, name):
    """Whatever a plan computed once, instead of each time, is that of an old batch or of old parameters."""
    monkeypatch.setattr(threads, "WORTH", 1)  # one lane on threads with layers of their own
    one, other = Run(name), Run(name, fresh=True)
    for lanes in (3, 3, 3, 3, 1, 3, 1, 1, 3):
        for found, right in zip(one.step(9, lanes), other.step(9, lanes), strict=True):
            assert np.array_equal(found, right)
    for name, array in one.arrays.items():
        assert np.array_equal(array, other.arrays[name]), name


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("name", FORMS)
def test_training_plans_a_step_or_two_and_then_no_more(monkeypatch, name, lanes):
    """If something held parameters, or a batch lay elsewhere each time, every step would be planned."""
    monkeypatch.setattr(threads, "WORTH", 1)
    run, made, real = Run(name), [], plans.Plan

    def counting(*given):
        made.append(given)
        return real(*given)

    monkeypatch.setattr(plans, "Plan", counting)
    for number in range(16):
        run.step(9, lanes)
        if number == 9:
            before = len(made)
    assert len(made) == before > 0


def test_two_threads_that_train_with_one_backend_do_not_share_gradients():
    """They are in memory that the next call writes over."""
    hyper = HyperParams(7, state_size=64, layers=2)
    compute = backend("cpu", GRUEncode, hyper)

    def train(seed, out):
        rng = np.random.default_rng(seed)
        arrays = GRUEncode.initial(hyper, rng)
        caches, state = freshcaches(arrays, hyper), compute.freshstate(4)
        for number in range(1, 9):
            x, y = rng.integers(0, 7, (2, 20, 4)).astype(np.int32)
            step = compute.step(arrays, caches, x, y, state, 0.01, number=number)
            arrays, caches, state = step.arrays, step.caches, step.state
        out[seed] = {name: np.copy(each) for name, each in arrays.items()}

    alone, together = {}, {}
    for seed in range(3):
        train(seed, alone)
    runs = [threading.Thread(target=train, args=(seed, together)) for seed in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    for seed, arrays in alone.items():
        assert all(np.array_equal(arrays[name], together[seed][name]) for name in arrays)
