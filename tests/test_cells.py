"""The equations of each cell against NumPy."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from rngru import cells
from rngru.backends.ops import CPU_MODE
from rngru.hyper import GATES as FORMS
from rngru.kernels import spec
from tests import reference
from tests.reference import Array, close

LANES, SIZE = 3, 5
FUNCTIONS = {"sigmoid": reference.sigmoid, "hard_sigmoid": reference.hard_sigmoid}


def arguments(cell):
    """Pre-activations, state, W unless the cell is minimal and, for GRU_AFTER, a second bias."""
    rng = np.random.default_rng(1)
    columns, state = reference.GATES[cell] * SIZE, spec.LayerSpec(cell).state(SIZE)
    shapes = [(LANES, columns), (LANES, state)]
    shapes += [] if cell in reference.MINIMAL else [(SIZE, columns)]
    shapes += [(SIZE,)] if cell == "GRU_AFTER" else []
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def step(cell, form, arrays):
    """One step of a cell by its equations."""
    kinds = {1: pt.fvector, 2: pt.fmatrix}
    variables = [kinds[each.ndim]() for each in arrays]
    pre, state, *weights = variables
    new = cells.STEPS[cell](pre, state, cells.GATE_FUNCTIONS[form], *weights)
    return pytensor.function(variables, new, mode=CPU_MODE)(*arrays)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", cells.STEPS)
def test_a_step_agrees_with_numpy(cell, form):
    """z and 1 - z exchanged, a reset on the wrong side, gates in another order."""
    arrays = arguments(cell)
    found = step(cell, form, arrays)
    pre, state, *more = (Array(each.astype(np.float64)) for each in arrays)
    W, d = [*more, None, None][:2]
    expected = reference.CELLS[cell](pre, state, W, d, FUNCTIONS[form])
    assert found.dtype == np.float32
    close(found, expected.value, 1e-6)


@pytest.mark.parametrize("cell", cells.STEPS)
def test_cells_and_kernels_agree_on_the_gates(cell):
    """A checkpoint of one backend is read by the other."""
    assert spec.CELLS[cell].gates[0] in "zic"
    assert len(spec.CELLS[cell].gates) == spec.LayerSpec(cell).gates == reference.GATES[cell]
    assert cells.STEPS.keys() == spec.CELLS.keys()


@pytest.mark.parametrize("cell", ["GRU", "GRU_AFTER"])
def test_the_update_gate_keeps_the_old_state(cell):
    """Half of the literature has it the other way round, and it learns as well."""
    pre, state, *more = arguments(cell)
    keep, drop = pre.copy(), pre.copy()
    keep[:, :SIZE], drop[:, :SIZE] = 40, -40
    close(step(cell, "sigmoid", [keep, state, *more]), state, 1e-6)
    fresh = step(cell, "sigmoid", [drop, state, *more])
    assert np.abs(fresh).max() <= 1 and np.abs(fresh - state).max() > 0.5


def test_the_reset_gate_acts_before_the_product_or_after_it():
    """Closed, it hides the old state from the candidate; GRU_AFTER hides its second bias too."""
    for cell in ("GRU", "GRU_AFTER"):
        pre, state, W, *second = arguments(cell)
        pre[:, : 2 * SIZE] = -40  # a new state, made of the candidate alone
        found = step(cell, "sigmoid", [pre, state, W, *second])
        close(found, np.tanh(pre[:, 2 * SIZE :]), 1e-6)
    pre, state, W, *second = arguments("GRU_AFTER")
    pre[:, :SIZE], pre[:, SIZE : 2 * SIZE] = -40, 40
    found = step("GRU_AFTER", "sigmoid", [pre, state, W, *second])
    expected = np.tanh(pre[:, 2 * SIZE :] + state @ W[:, 2 * SIZE :] + second[0])
    close(found, expected, 1e-6)


def test_the_hard_gate_is_the_line_of_the_2016_code():
    """0.2 x + 0.5 between 0 and 1: Keras 3 and torch have a slope of 1/6."""
    x = pt.fvector()
    values = np.array([-9, -2.5, -1, 0, 1, 2.5, 9], np.float32)
    found = pytensor.function([x], cells.hard_sigmoid(x), mode=CPU_MODE)(values)
    close(found, [0, 0, 0.3, 0.5, 0.7, 1, 1], 1e-7)
