"""The fused ``Op``s: their gradients by finite differences in float64, and how they share memory."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.gradient import verify_grad

from rngru.backends.ops import (
    CPU_MODE,
    Affine,
    CrossEntropy,
    CrossEntropyGradient,
    Encode,
    RecurrenceGradient,
)
from rngru.backends.recurrence import fused
from rngru.kernels.spec import LayerSpec, Weights
from tests.reference import GATES, MINIMAL

CELLS = [
    ("GRU", False), ("GRU", True), ("GRU_AFTER", False), ("LSTM", False), ("RNN", False),
    ("MinGRU", False), ("MinLSTM", True),
]  # fmt: skip

STACKS = [
    (*cell, (i + j) % 2 == 1, which)
    for i, cell in enumerate(CELLS)
    for j, which in enumerate([(2,), (0, 4), (1, 2, 3, 5)])
]
"""Each cell with each choice of results that a cost may ask for; any two of cell, choice and masks meet."""


@pytest.fixture
def double():
    """Float64 on purpose."""
    with pytensor.config.change_flags(warn_float64="ignore", floatX="float64"):
        yield


def numbers(cell, *, steps=4, lanes=3, inputs=3, size=5, dtype=np.float64):
    """The arguments of a layer that reads floats: inputs, U, b, start[, W[, second bias]]."""
    rng, layer = np.random.default_rng(1), LayerSpec(cell)
    columns = GATES[cell] * size
    shapes = [(steps, lanes, inputs), (inputs, columns), (columns,), (lanes, layer.state(size)),
              *([] if cell in MINIMAL else [(size, columns)]),
              *([(size,)] if cell == "GRU_AFTER" else [])]  # fmt: skip
    return [rng.normal(0, 0.7, shape).astype(dtype) for shape in shapes]


def single(spec, inputs, into, start, recurrent=None, second=None):
    """A stack of one layer."""
    states, ending = fused(spec, inputs, [Weights(into, recurrent, second)], start[None])
    return states[0], ending[0]


def outcome(states, ending):
    """Both results of a layer as one vector, so that both have a gradient."""
    return pt.concatenate([states.flatten(), ending.flatten()])


def verify(function, *arrays):
    verify_grad(function, list(arrays), rng=np.random.default_rng(2), mode=CPU_MODE, n_tests=1)


@pytest.mark.parametrize(("cell", "hard"), CELLS)
def test_gradient_of_a_layer_by_finite_differences(double, cell, hard):
    """For every input at once, through the states and through the ending."""
    layer = LayerSpec(cell, hard)

    def run(inputs, weights, bias, start, *recurrent):
        return outcome(*single(layer, inputs, (weights, bias), start, *recurrent))

    verify(run, *numbers(cell))


@pytest.mark.parametrize(("cell", "hard"), CELLS)
def test_gradient_of_a_layer_that_reads_characters_by_finite_differences(double, cell, hard):
    """A character that occurs twice must get both gradients; one that does not occur, zero."""
    ids = np.array([[0, 2, 2], [3, 0, 2], [3, 3, 0]], np.int32)  # never 1
    layer, (_, _, _, start, *rest) = LayerSpec(cell, hard), numbers(cell)
    table = np.random.default_rng(3).normal(size=(4, GATES[cell] * 5))

    def run(table, start, *recurrent):
        return outcome(*single(layer, pt.constant(ids), (table,), start, *recurrent))

    verify(run, table, start, *rest)


def test_gradient_of_states_alone_and_of_the_ending_alone(double):
    """A cost that ignores one of the two results hands the gradient something disconnected."""
    layer = LayerSpec("LSTM")
    for which in (0, 1):

        def run(inputs, weights, bias, start, recurrent, which=which):
            return single(layer, inputs, (weights, bias), start, recurrent)[which]

        verify(run, *numbers("LSTM"))


@pytest.mark.parametrize(("cell", "hard", "masked", "which"), STACKS)
def test_gradient_of_a_stack_by_finite_differences(double, cell, hard, masked, which):
    """For costs of any of the outputs and endings of three layers, of which the rest have no gradient."""
    spec, depth, rng = LayerSpec(cell, hard), 3, np.random.default_rng(7)
    _, _, _, start, *_ = numbers(cell)
    ids = np.array([[0, 2, 2], [3, 0, 2], [3, 3, 0]], np.int32)
    first = [rng.normal(0, 0.7, (4, GATES[cell] * 5)), *numbers(cell)[4:]]
    above = [numbers(cell, inputs=5)[1:3] + numbers(cell)[4:] for _ in range(depth - 1)]
    masks = rng.integers(0, 2, (depth, 1, 3, 5)) * 1.5 if masked else None
    sizes = [len(first), *map(len, above)]

    def run(start, *flat):
        rest, layers = iter(flat), []
        for i, size in enumerate(sizes):
            part = [next(rest) for _ in range(size)]
            into = 1 if i == 0 else 2
            layers.append(Weights(tuple(part[:into]), *part[into:]))
        given = None if masks is None else pt.constant(masks)
        outputs, endings = fused(spec, pt.constant(ids), layers, start, given)
        both = [*outputs, *endings]
        untouched = [0 * each.flatten() for each in (start, *flat)]  # verify_grad asks for all
        return pt.concatenate([*(both[i].flatten() for i in which), *untouched])

    flat = [*first, *(each for part in above for each in part)]
    verify(run, np.stack([start] * depth), *flat)


def test_gradient_of_an_affine_map_by_finite_differences(double):
    rng = np.random.default_rng(4)
    verify(Affine(), rng.normal(size=(5, 3)), rng.normal(size=(3, 4)), rng.normal(size=4))


def test_gradient_of_the_encoding_by_finite_differences(double):
    rng = np.random.default_rng(4)
    verify(Encode(), rng.normal(size=(5, 3)), rng.normal(size=3))


def test_gradient_of_the_loss_by_finite_differences(double):
    rng = np.random.default_rng(5)
    targets = pt.constant(np.array([0, 3, 1, 1, 2], np.int32))

    def loss(states, weights, bias):
        return CrossEntropy()(states, weights, bias, targets)[0]

    verify(loss, rng.normal(size=(5, 3)), rng.normal(size=(3, 4)), rng.normal(size=4))


# ------------------------------------------------------------------------- writing in place


def network():
    """Inputs, and two losses that share one layer: of its states, and of its ending."""
    ids, targets = pt.imatrix("ids"), pt.ivector("targets")
    table, start, W, V = pt.fmatrices("table", "start", "W", "V")
    c = pt.fvector("c")
    states, ending = single(LayerSpec("GRU"), ids, (table,), start, W)
    score = CrossEntropy()(states.reshape((-1, W.shape[0])), V, c, targets)
    return [ids, targets, table, start, W, V, c], [table, start, W, V], (score, states, ending)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(6)

    def draw(*shape):
        return rng.normal(0, 0.7, shape).astype(np.float32)

    ids, targets = rng.integers(0, 4, (5, 3)).astype("i"), rng.integers(0, 4, 15).astype("i")
    return [ids, targets, draw(4, 21), draw(3, 7), draw(7, 21), draw(7, 4), draw(4)]


def in_place(function):
    """How many gradients of a compiled function write over their inputs, and how many do not."""
    ops = [node.op for node in function.maker.fgraph.toposort()]
    ops = [op for op in ops if isinstance(op, (RecurrenceGradient, CrossEntropyGradient))]
    return sum(op.inplace for op in ops), sum(not op.inplace for op in ops)


def test_gradients_of_two_losses_in_one_function_are_those_of_each_alone(batch):
    """Each gradient would like to write over what the other still has to read."""
    inputs, wanted, (score, states, ending) = network()
    costs = [3 * score[0], pt.sqr(ending).sum() + 2 * score[0], pt.sqr(states).sum()]

    def compiled(some):
        gradients = [each for cost in some for each in pytensor.grad(cost, wanted, **loose)]
        return pytensor.function(inputs, gradients, mode=CPU_MODE, on_unused_input="ignore")

    loose = {"disconnected_inputs": "ignore"}
    alone = [compiled([cost]) for cost in costs]
    together = compiled(costs)
    assert all(in_place(function)[1] == 0 for function in alone)
    assert in_place(together)[1] > 0
    expected = [each for function in alone for each in function(*batch)]
    for _ in range(2):  # the second time everything stands where the first left it
        for one, same in zip(expected, together(*batch), strict=True):
            assert np.array_equal(one, same)


def test_in_place_gradients_are_those_of_copies(batch):
    """Whether memory is shared may never show in a number."""
    inputs, wanted, (score, _, ending) = network()
    gradients = pytensor.grad(score[0] + pt.sqr(ending).sum(), wanted)
    shared = pytensor.function(inputs, gradients, mode=CPU_MODE)
    plain = pytensor.compile.mode.Mode(linker="py", optimizer=None)
    copied = pytensor.function(inputs, gradients, mode=plain)
    assert in_place(shared) == (2, 0) and in_place(copied) == (0, 2)
    for one, same in zip(copied(*batch), shared(*batch), strict=True):
        assert np.array_equal(one, same)


def test_what_a_function_returned_stays_as_it_was(batch):
    """Arrays are kept for the next batch, but not those that somebody holds."""
    inputs, wanted, (score, states, ending) = network()
    gates = states.owner.outputs[2]
    outputs = [*score, states, ending, gates, *pytensor.grad(score[0], wanted)]
    function = pytensor.function(inputs, outputs, mode=CPU_MODE)
    kept = function(*batch)
    copies = [each.copy() for each in kept]
    other = [each.copy() for each in batch]
    other[2] += 1
    function(*other)
    for before, after in zip(copies, kept, strict=True):
        assert np.array_equal(before, after)


def test_a_function_leaves_its_inputs_alone(batch):
    """Parameters are inputs: a kernel that wrote over one would undo a step that was refused."""
    inputs, wanted, (score, _, _) = network()
    function = pytensor.function(inputs, pytensor.grad(score[0], wanted), mode=CPU_MODE)
    copies = [each.copy() for each in batch]
    function(*batch)
    assert all(map(np.array_equal, copies, batch))


def test_inputs_in_any_memory_layout_give_the_same(batch):
    """The kernels walk over memory: a transposed array read as if it were not is another matrix."""
    inputs, wanted, (score, _, ending) = network()
    outputs = [score[0], ending, *pytensor.grad(score[0], wanted)]
    function = pytensor.function(inputs, outputs, mode=CPU_MODE)
    turned = [np.asfortranarray(each) for each in batch]
    strided = [np.repeat(each, 2, axis=-1)[..., ::2] for each in batch]
    for one, two, three in zip(
        *(function(*each) for each in (batch, turned, strided)), strict=True
    ):
        assert np.array_equal(one, two) and np.array_equal(one, three)


def test_one_compiled_layer_takes_any_size():
    """Storage kept from a larger batch must not be taken for that of a smaller one."""
    variables = [pt.ftensor3(), pt.fmatrix(), pt.fvector(), pt.fmatrix(), pt.fmatrix()]
    inputs, into, bias, start, recurrent = variables
    states, ending = single(LayerSpec("GRU"), inputs, (into, bias), start, recurrent)
    cost = pt.sqr(states).sum() + ending.sum()
    outputs = [states, *pytensor.grad(cost, variables)]
    function = pytensor.function(variables, outputs, mode=CPU_MODE)
    for steps, lanes, size in ((5, 4, 9), (2, 1, 3), (5, 4, 40), (1, 6, 9), (5, 4, 9)):
        sizes = {"steps": steps, "lanes": lanes, "size": size}
        arrays = numbers("GRU", **sizes, dtype=np.float32)
        fresh = pytensor.function(variables, outputs, mode=CPU_MODE)
        for one, same in zip(function(*arrays), fresh(*arrays), strict=True):
            assert np.array_equal(one, same)
