"""The kernels against NumPy: functions over all of float32, products, and six cells there and back."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core.errors import TypingError

from rngru.kernels import encoder, jobs, layers, output, threads, tiles
from rngru.kernels.elementwise import VECTOR, exp, gate, gate_slope, largest, tanh, total
from rngru.kernels.panels import TOGETHER, WIDE, multiply_transposed, room
from rngru.kernels.plans import Plan
from rngru.kernels.spec import LayerSpec, Weights
from tests import reference
from tests.reference import CELLS, GATES, MINIMAL, Array, close, gradients

FLOATS = [np.float32, np.float64]


# ------------------------------------------------------------------------------- elementwise


@numba.njit(**VECTOR)
def _tanh(x, result):
    for j in range(x.size):
        result[j] = tanh(x[j])


@numba.njit(**VECTOR)
def _exp(x, result):
    for j in range(x.size):
        result[j] = exp(x[j])


@numba.njit(**VECTOR)
def _gate(x, result, slope, hard):
    for j in range(x.size):
        result[j] = gate(x[j], hard)
        slope[j] = gate_slope(result[j], hard)


@numba.njit
def _folds(row):
    return largest(row), total(row)


@pytest.fixture(scope="module")
def everywhere():
    """Finite float32 numbers of every exponent, denormals too, and closely where functions bend."""
    bits = np.arange(0, 2**32, 4099, dtype=np.uint64).astype(np.uint32).view(np.float32)
    bends = np.linspace(-100, 100, 400_001).astype(np.float32)
    edges = np.array([0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38, 88, -87, 2.5, -2.5], np.float32)
    return np.concatenate([bits[np.isfinite(bits)], bends, edges])


def test_tanh_everywhere(everywhere):
    """A coefficient mistyped, or a bound that lets the rational function turn back, shows here.

    A value beyond one would turn the sign of 1 - tanh², and with it the gradient's.
    """
    result = np.empty_like(everywhere)
    _tanh(everywhere, result)
    expected = np.tanh(everywhere.astype(np.float64))
    assert np.abs(result - expected).max() < 4e-7
    assert np.abs(result).max() <= 1
    small = (np.abs(everywhere) < 1) & (np.abs(everywhere) > 1e-30)
    assert np.abs(result[small] / expected[small] - 1).max() < 4e-7


def test_exp_everywhere(everywhere):
    """A wrong bit in the power of two is a factor of two, somewhere."""
    result = np.empty_like(everywhere)
    _exp(everywhere, result)
    inside = (everywhere >= -87) & (everywhere <= 88)
    expected = np.exp(everywhere[inside].astype(np.float64))
    assert np.abs(result[inside] / expected - 1).max() < 1e-7
    assert not result[everywhere < -87].any()
    assert np.isposinf(result[everywhere > 88]).all()


@pytest.mark.parametrize("hard", [False, True])
def test_gate_and_its_slope_everywhere(everywhere, hard):
    """The slope is made from the gate's value: where the hard gate is flat it has to be zero."""
    result, slope = np.empty_like(everywhere), np.empty_like(everywhere)
    _gate(everywhere, result, slope, hard)
    x = Array(everywhere.astype(np.float64))
    with np.errstate(over="ignore"):
        y = (reference.hard_sigmoid if hard else reference.sigmoid)(x)
    assert np.abs(result - y.value).max() < 3e-7
    assert result.min() >= 0 and result.max() <= 1
    # In float32 the hard gate reaches its ends a rounding before 2.5.
    away = np.abs(np.abs(everywhere) - 2.5) > 1e-6
    (expected,) = gradients(y.sum(), [x])
    assert np.abs(slope - expected)[away].max() < 3e-7


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_stays_nan_and_infinity_has_its_limit(dtype):
    """Clamping with min and max turns NaN into a number: a broken run would look healthy."""
    x = np.array([np.nan, np.inf, -np.inf], dtype)
    results = {}
    for name, function in (("tanh", _tanh), ("exp", _exp)):
        results[name] = np.empty_like(x)
        function(x, results[name])
    slopes = {hard: np.empty_like(x) for hard in (False, True)}
    for hard, slope in slopes.items():
        results[f"gate {hard}"] = np.empty_like(x)
        _gate(x, results[f"gate {hard}"], slope, hard)
    limits = {"tanh": (1, -1), "exp": (np.inf, 0), "gate False": (1, 0), "gate True": (1, 0)}
    for name, result in results.items():
        assert np.isnan(result[0]), name
        np.testing.assert_allclose(result[1:], limits[name], atol=4e-7, err_msg=name)
    assert all(np.isnan(slope[0]) for slope in slopes.values())
    assert all(abs(slope[1:]).max() < 4e-7 for slope in slopes.values())


def test_float64_is_as_good_as_the_c_library(everywhere):
    """The gradient checks in float64 prove nothing if they run on seven digits."""
    x = everywhere.astype(np.float64)
    result, slope = np.empty_like(x), np.empty_like(x)
    _tanh(x, result)
    np.testing.assert_allclose(result, np.tanh(x), rtol=1e-14)
    _gate(x, result, slope, False)
    np.testing.assert_allclose(result, (1 + np.tanh(x / 2)) / 2, rtol=0, atol=1e-15)
    x = x[np.abs(x) < 600]
    result = np.empty_like(x)
    _exp(x, result)
    np.testing.assert_allclose(result, np.exp(x), rtol=1e-14)


# ---------------------------------------------------------------------------------- products


@numba.njit
def _multiply(a, a_at, a_row, a_col, rows, inner, panels, first, count, c, c_at, c_row):
    tiles.multiply(a, a_at, a_row, a_col, rows, inner, panels, first, count, c, c_at, c_row)


@numba.njit
def _multiply_from(start, a, a_row, rows, inner, panels, count, c, c_row):
    tiles.multiply(a, 0, a_row, 1, rows, inner, panels, 0, count, c, 0, c_row, start=start)


def whole(rng, shape, dtype):
    """Small whole numbers: their products and sums are exact, so any order of addition agrees."""
    return rng.integers(-9, 10, shape).astype(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("columns", [1, 31, 32, 33, 70])
def test_packing_keeps_every_number_and_pads_with_zeros(columns, transpose, dtype):
    """What stands in the padding is multiplied too: rubbish there spoils the next row."""
    matrix = np.random.default_rng(1).normal(size=(37, columns)).astype(dtype)
    source = np.ascontiguousarray(matrix.T) if transpose else matrix
    for count in (1, 3):
        panels = jobs.packed(source, count, transpose=transpose)
        panels = panels.reshape(-1, 37, tiles.PANEL).transpose(1, 0, 2).reshape(37, -1)
        assert panels.shape[1] == tiles.padded(columns)
        assert np.array_equal(panels[:, :columns], matrix) and not panels[:, columns:].any()


def test_packing_some_columns_takes_those():
    """The candidate's weights are the last columns of a matrix that holds three gates."""
    n = tiles.PANEL
    matrix = np.random.default_rng(2).normal(size=(4, 3 * n)).astype(np.float32)
    part = jobs.packed(matrix, 1, left=n, right=2 * n).reshape(4, n)
    assert np.array_equal(part, matrix[:, n : 2 * n])
    turned = jobs.packed(matrix, 1, left=2 * n, right=2 * n + 6, transpose=True).reshape(6, n)
    assert np.array_equal(turned[:, :4], matrix[:, 2 * n : 2 * n + 6].T)
    assert not turned[:, 4:].any()


@pytest.mark.parametrize("size", [1, 32, 33])
def test_trimmed_undoes_widened(size):
    """Gates lie side by side, each padded on its own: padding the row as a whole mixes them."""
    array = np.random.default_rng(3).normal(size=(2, 5, 3 * size)).astype(np.float32)
    wide = jobs.widened(array, 3)
    parts = wide.reshape(2, 5, 3, -1)
    assert parts.shape[-1] == tiles.padded(size) and not parts[..., size:].any()
    assert np.array_equal(parts[..., 1, :size], array[..., size : 2 * size])
    plan = Plan(1)
    found = jobs.trimmed(plan, wide, 3, size)
    plan.run()
    assert np.array_equal(found, array)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("rows", "inner", "columns"),
    [
        *((rows, 5, columns) for rows in range(1, 18) for columns in (7, 32, 7 * tiles.PANEL)),
        (25, 33, 70), (1, 1, 1), (64, 300, 96), (3, 0, 32), (64, 2 * tiles.BLOCK + 1, 7),
    ],
)  # fmt: skip
def test_product_agrees_with_numpy(rows, inner, columns, dtype):
    """Every form of a tile, with rows and panels left over, A in both orders, added to C."""
    tiles.provide(dtype)
    rng = np.random.default_rng(rows)
    a, b = whole(rng, (rows, inner), dtype), whole(rng, (inner, columns), dtype)
    panels, wide = jobs.packed(b, 1), tiles.padded(columns)
    before = whole(rng, (rows, wide), dtype)
    padding = np.zeros((inner, wide - columns), dtype)
    expected = before + a @ np.hstack([b, padding])
    for flat, row, column in ((a, inner, 1), (np.ascontiguousarray(a.T), 1, rows)):
        c = before.copy()
        args = (0, row, column, rows, inner, panels, 0, wide // tiles.PANEL, c.reshape(-1), 0, wide)
        _multiply(flat.reshape(-1), *args)
        assert np.array_equal(c, expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("inner", [0, 1, 4, 2 * tiles.BLOCK + 1])
@pytest.mark.parametrize("rows", [1, 3, 4, 7, 8, 17, 64])
def test_product_from_a_row_agrees_with_numpy(rows, inner, dtype):
    """Added to in each block, or read where memory is not yet filled, a bias spoils everything."""
    tiles.provide(dtype)
    rng, columns = np.random.default_rng(rows), 7 * tiles.PANEL
    a, b = whole(rng, (rows, inner), dtype), whole(rng, (inner, columns), dtype)
    start, c = whole(rng, columns, dtype), np.full((rows, columns), np.nan, dtype)
    panels = jobs.packed(b, 1)
    _multiply_from(start, a.reshape(-1), inner, rows, inner, panels, 7, c.reshape(-1), columns)
    assert np.array_equal(c, start + a @ b)


def test_product_writes_nothing_outside_its_block():
    """An offset counted in the wrong unit tramples on a neighbour, who may be of another thread."""
    tiles.provide(np.float32)
    rng, n = np.random.default_rng(4), tiles.PANEL
    a, b = whole(rng, (6, 9), np.float32), whole(rng, (7, 3 * n), np.float32)
    c = np.full((6, 4 * n), 5, np.float32)
    args = (2 * 9 + 1, 9, 1, 3, 7, jobs.packed(b, 1), 1, 2, c.reshape(-1), 5 * n, 4 * n)
    _multiply(a.reshape(-1), *args)
    expected = np.full((6, 4 * n), 5, np.float32)
    expected[1:4, n : 3 * n] += a[2:5, 1:8] @ b[:, n : 3 * n]
    assert np.array_equal(c, expected)


def test_arrays_with_strides_of_their_own_are_refused():
    """Kernels compute addresses from shapes: a transpose gave wrong numbers, without a word."""
    rng = np.random.default_rng(6)
    rows, weights, bias = rng.normal(size=(6, 5)), rng.normal(size=(5, 3)), np.zeros(3)
    for strange in (np.asfortranarray(rows), rows[::-1], rows[:, ::-1]):
        with pytest.raises(TypingError, match="C-contiguous"):
            output.affine(strange, weights, bias, count=1)
    for cell in CELLS:
        spec, inputs, layer, start = Case(LayerSpec(cell), "ids", 2, 3, 5, np.float32).arguments
        for strange in (np.asfortranarray(start.repeat(2, 0))[:1], start[:, ::-1]):
            with pytest.raises(TypingError, match="C-contiguous"):
                layers.forward(spec, inputs, layer, strange, count=1)


def test_numbers_of_another_width_are_refused():
    """float32 read as float64 is half as many numbers as there should be, and others."""
    rng = np.random.default_rng(6)
    rows, weights, bias = rng.normal(size=(6, 5)), rng.normal(size=(5, 3)), np.zeros(3)
    for strange in (0, 1):
        given = [rows, weights]
        given[strange] = given[strange].astype(np.float32)
        with pytest.raises(TypingError, match="of one dtype"):
            output.affine(*given, bias, count=1)


BACK = """if True:
    import numpy as np
    from rngru.kernels import jobs, layers, output
    from rngru.kernels.spec import LayerSpec, Weights
    one = np.ones((1, 1), "f")
    output.affine_back(one, one, one, count=1)
    spec, wide = LayerSpec("RNN"), jobs.widened(one[None], 1)
    passes = [layers.Pass(one[None], None, one[None], wide.copy(), one[None, :, :0])]
    given = np.zeros((1, 1), np.int32), [Weights((one,), one)], one[None]
    layers.backward(spec, *given, passes, [one[None]], [None], count=1)
    print("fine")
"""


def test_a_gradient_may_be_what_a_process_computes_first():
    """The product that kernels call was provided by those who go forward: it was called at address 0."""
    for part in ("output.affine_back(", "layers.backward("):
        code = "\n".join(line for line in BACK.splitlines() if not line.strip().startswith(part))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == "fine\n", done.stderr


def test_a_row_of_a_product_has_the_same_bits_in_any_company():
    """Lanes are cut over threads: were a short tile summed in another order, threads would show."""
    tiles.provide(np.float32)
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(23, 77)).astype("f"), rng.normal(size=(77, 64)).astype("f")
    panels = jobs.packed(b, 1)

    def product(some):
        c = np.zeros((len(some), 64), np.float32)
        count = 64 // tiles.PANEL
        _multiply(some.reshape(-1), 0, 77, 1, len(some), 77, panels, 0, count, c.reshape(-1), 0, 64)
        return c

    together = product(a)
    for height in range(1, 12):
        parts = [product(a[top : top + height].copy()) for top in range(0, 23, height)]
        assert np.array_equal(np.concatenate(parts), together)


def test_scipy_waits_until_somebody_wants_it(tmp_path):
    """Loading SciPy would double the time to the first prompt; a check that is never put back, or a
    module put in its place, would break the products of whoever uses Numba beside us.
    """
    code = """if True:
        import sys
        from rngru.kernels.compiling import kernel

        @kernel()
        def double(x):
            return 2 * x

        assert double(21) == 42  # compiled now
        from numba.np import arraymath, linalg
        assert "scipy.linalg" not in sys.modules
        assert linalg.ensure_blas.__module__ == "numba.np.linalg" and arraymath._HAVE_BLAS

        import numba, numpy as np
        @numba.njit
        def theirs(a, b):
            return np.dot(a, b), np.convolve(a[0], b[0])

        a, b = np.random.default_rng(0).normal(size=(2, 3, 3))
        ours = a @ b, np.convolve(a[0], b[0])
        assert all(map(np.allclose, theirs(a, b), ours))
        import scipy.linalg.cython_blas
        assert "dgemm" in scipy.linalg.cython_blas.__pyx_capi__
    """
    # A cache of its own, which is empty; what is compiled need not be fast.
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_OPT": "0"}
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, check=True)


@numba.njit
def transposed(a, a_row, rows, inner, b, b_at, b_row, count, c, c_at, c_row, scratch):
    multiply_transposed(a, a_row, rows, inner, b, b_at, b_row, count, c, c_at, c_row, scratch)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("inner", [0, 1, 37, tiles.BLOCK, 2 * tiles.BLOCK + 3])
@pytest.mark.parametrize("beyond", [3, tiles.PANEL // 2 + 1])
@pytest.mark.parametrize("count", [2, TOGETHER + 1])
def test_transposed_product_agrees_with_numpy(inner, dtype, beyond, count):
    """The weight gradient sums over steps and lanes in blocks: the last, short one counts too.

    Its rows are copied in wide ribbons; of the last one some are left, whole vectors and single numbers.
    """
    tiles.provide(dtype)
    rng, n = np.random.default_rng(inner), tiles.PANEL
    rows, wide = 2 * WIDE + beyond, (count + 3) * n
    a, b = whole(rng, (inner, rows + 2), dtype), whole(rng, (inner, wide), dtype)
    before, scratch = whole(rng, (rows, wide - n), dtype), np.empty(room(rows), dtype)
    found = before.copy()
    transposed(
        a.reshape(-1), rows + 2, rows, inner, b.reshape(-1), n, wide, count,
        found.reshape(-1), n, wide - n, scratch,
    )  # fmt: skip
    expected = before.copy()
    expected[:, n : (count + 1) * n] += a[:, :rows].T @ b[:, n : (count + 1) * n]
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (70, 20), (20, 70), (300, 33)])
@pytest.mark.parametrize("pairs", [1, 2])
def test_sums_of_products_agree_with_numpy(rows, columns, pairs):
    """They are cut by panels, or by rows where there are more of those: no part is missed or done twice."""
    tiles.provide(np.float32)
    rng, n = np.random.default_rng(rows), tiles.padded(columns)
    some = [
        (whole(rng, (k, rows + 3), np.float32), whole(rng, (k, n + tiles.PANEL), np.float32))
        for k in (40, 300)[:pairs]
    ]
    expected = sum(left[:, :rows].T @ right[:, tiles.PANEL :] for left, right in some)
    for count in (1, 2, 3):
        plan, found = Plan(count), np.full((rows, n + tiles.PANEL), 7, np.float32)
        sums = jobs.Sums(plan)
        sums.product(some, tiles.PANEL, found, 0, n)
        plan.do(sums.phase())
        plan.run()
        assert np.array_equal(found[:, :n], expected) and (found[:, n:] == 7).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (WIDE, 20), (2 * WIDE + 5, 33), (20, 70)])
def test_a_row_more_is_the_sum_of_the_right_columns(rows, columns, dtype):
    """As if the left matrices had a column of ones: beside the last ribbon, or as one of its own."""
    tiles.provide(dtype)
    rng, n = np.random.default_rng(rows), tiles.padded(columns)
    some = [(whole(rng, (k, rows), dtype), whole(rng, (k, n), dtype)) for k in (40, 300)]
    expected = sum(np.c_[left, np.ones(len(left))].T @ right for left, right in some)
    for count in (1, 2, 3):
        plan, found = Plan(count), np.full((rows + 1, n), 7, dtype)
        sums = jobs.Sums(plan)
        sums.product(some, 0, found, 0, n)
        plan.do(sums.phase())
        plan.run()
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_sum_and_largest_number_of_a_row(dtype):
    """Every place of a row counts, and float32 is added up in float64."""
    row = np.zeros(40, dtype)
    for i in range(row.size):
        row[:] = -1
        row[i] = 0.5
        assert _folds(row) == (0.5, 0.5 - (row.size - 1))
    many = np.full(1 << 16, 4097, dtype)  # added up in float32, they would be cut off
    exact = many.size * 4097
    assert _folds(many) == (4097, exact)
    many[5] = np.nan
    assert np.isnan(_folds(many)[1])


# ------------------------------------------------------------------------------- the encoder


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("rows", "size"), [(1, 2), (5, 33), (70, 16), (3, 100), (900, 7)])
def test_gradient_of_the_encoder_is_that_of_numpy_to_the_bit(monkeypatch, rows, size, dtype):
    """Threads share its columns: none is left out, and none read beyond the end of a row."""
    monkeypatch.setattr(threads, "WORTH", 1)
    rng = np.random.default_rng(4)
    encoded = np.tanh(rng.normal(size=(rows, size)).astype(dtype))
    deltas = rng.normal(size=(rows, size)).astype(dtype)
    expected = deltas * (1 - encoded * encoded)
    for count in (1, 2, 3):
        drows, dbias = encoder.encode_back(encoded, deltas, count=count)
        assert np.array_equal(drows, expected)
        assert np.array_equal(dbias, expected.sum(0, dtype=np.float64).astype(dtype))


# --------------------------------------------------------------------------- affine and loss

SIZES = [(1, 1, 1), (5, 7, 3), (70, 33, 65), (65, 32, 32)]
"""Rows, inputs and outputs: more rows than are scored at once, widths around that of a panel."""


def limit(dtype):
    return 1e-12 if dtype == np.float64 else 3e-6


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("rows", "size", "columns"), SIZES)
def test_affine_and_its_gradient_agree_with_numpy(rows, size, columns, dtype):
    """Also for a gradient that comes padded, as the loss gives it."""
    rng = np.random.default_rng(6)
    shapes = ((rows, size), (size, columns), (columns,), (rows, columns))
    x, w, b, g = (rng.normal(size=shape).astype(dtype) for shape in shapes)
    wide = np.zeros((rows, tiles.padded(columns)), dtype)
    wide[:, :columns] = g
    expected = {"rows": g @ w.T, "weights": x.T @ g, "bias": g.sum(0)}
    for count in (1, 2):
        close(output.affine(x, w, b, count=count), x @ w + b, limit(dtype), "affine")
        for deltas in (g, wide):
            found = output.affine_back(x, w, deltas, count=count)
            for (name, right), gradient in zip(expected.items(), found, strict=True):
                close(gradient, right, 5 * limit(dtype), name)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("rows", "size", "symbols"), SIZES)
def test_loss_and_its_gradient_agree_with_numpy(rows, size, symbols, dtype):
    """Symbols that exist only as padding must get no probability, and no row may be left out."""
    rng = np.random.default_rng(7)
    shapes = ((rows, size), (size, symbols), (symbols,))
    s, w, b = (rng.normal(size=shape).astype(dtype) for shape in shapes)
    targets = rng.integers(0, symbols, rows).astype(np.int32)
    given = [Array(each.astype(np.float64)) for each in (s, w, b)]
    logp = reference.log_softmax(given[0] @ given[1] + given[2])
    total = -logp[np.arange(rows), targets].sum() * 0.25
    expected = gradients(total, given)
    for count in (1, 2):
        losses, deltas = output.score(s, w, b, targets, count=count)
        close(losses, -logp.value[np.arange(rows), targets], limit(dtype), "losses")
        found = output.score_back(s, w, deltas, np.array([0.25], dtype), count=count)
        names = ("states", "weights", "bias")
        for name, right, gradient in zip(names, expected, found, strict=True):
            close(gradient, right, 5 * limit(dtype), name)


def test_loss_of_very_large_logits_is_finite():
    """exp(300) is infinite in float32; the largest logit has to be taken off first."""
    states, weights = np.ones((2, 1), np.float32), np.array([[300, -300, 0]], np.float32)
    targets = np.array([0, 1], np.int32)
    losses, _ = output.score(states, weights, np.zeros(3, np.float32), targets, count=1)
    assert np.array_equal(losses, [0, 600])


def test_loss_of_nan_and_infinite_logits_is_nan():
    """A row that is not a number says so, and only that row."""
    states = np.array([[np.nan], [1], [np.inf]], np.float32)
    weights, bias = np.ones((1, 3), np.float32), np.zeros(3, np.float32)
    losses, deltas = output.score(states, weights, bias, np.zeros(3, np.int32), count=1)
    assert np.array_equal(np.isnan(losses), [True, False, True])
    assert np.array_equal(np.isnan(deltas[:, :3]).all(1), [True, False, True])


# --------------------------------------------------------------------------------- the cells

BATCHES = [(1, 1, 1), (1, 3, 5), (7, 1, 33), (5, 3, 32), (4, 9, 70)]
"""Steps, lanes and units: one of each, odd numbers, and sizes around the width of a vector."""


class Case:
    """A layer with random weights, what it should give, and what its gradient should be.

    ``kind`` is ``'ids'`` for characters, ``'floats'`` for the states of a layer below.
    """

    def __init__(self, spec, kind, steps, lanes, size, dtype):
        rng = np.random.default_rng(8)
        columns, state = GATES[spec.cell] * size, spec.state(size)

        def draw(*shape, spread=0.8):
            return rng.normal(0, spread, shape).astype(dtype)

        if kind == "ids":
            inputs, weights = (
                rng.integers(0, 4, (steps, lanes)).astype(np.int32),
                [draw(4, columns)],
            )
        else:
            inputs, weights = draw(steps, lanes, 6), [draw(6, columns), draw(columns)]
        start, recurrent = draw(lanes, state), draw(size, columns, spread=1 / np.sqrt(size))
        if spec.cell in MINIMAL:
            recurrent = None
        second = draw(size) if spec.cell == "GRU_AFTER" else None
        self.arguments = (spec, inputs, [Weights(tuple(weights), recurrent, second)], start[None])
        self.above, self.ending = draw(steps, lanes, size), draw(lanes, state)

        def node(value):
            return value if value is None else Array(value.astype(np.float64))

        W, s, d = node(recurrent), node(start), node(second)
        given = [node(each) for each in weights]
        if kind == "ids":
            rows = []
            pre = [given[0][row] for row in inputs]
        else:
            rows = [node(row) for row in inputs]
            pre = [row @ given[0] + given[1] for row in rows]
        states, last = reference.layer(spec.cell, spec.hard, pre, s, W, d, spec.truncate)
        total = (last * self.ending).sum()
        total += sum((state * g).sum() for state, g in zip(states, self.above, strict=True))
        self.states, self.last = np.stack([each.value for each in states]), last.value
        wanted = [*rows, *given, s, *(each for each in (W, d) if each is not None)]
        found = gradients(total, wanted)
        self.gradients = ([np.stack(found[: len(rows)])] if rows else []) + found[len(rows) :]

    def forward(self, count):
        return layers.forward(*self.arguments, count=count)

    def backward(self, count, passes):
        """Gradients of inputs (not characters), weights, start, recurrent, second bias if any."""
        found = layers.backward(*self.arguments, passes, [self.above], [self.ending], count=count)
        (mine,) = found.weights
        some = [found.inputs, *mine.into, found.start[0], mine.recurrent, mine.second]
        return [each for each in some if each is not None]


def everything(case, count):
    """All that a layer gives, there and back."""
    passes = case.forward(count)
    results = [passes[0].states.copy(), passes[0].ending.copy()]
    return results + case.backward(count, passes)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", ["ids", "floats"])
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_and_its_gradient_agree_with_the_loop(cell, hard, kind, dtype):
    """Forward and backpropagation through time, for each cell, from either kind of input.

    A step read one too early, a gradient that forgets the last state or the first, a gate's columns
    exchanged with another's: each is wrong in some number here.
    """
    for steps, lanes, size in BATCHES:
        case = Case(LayerSpec(cell, hard), kind, steps, lanes, size, dtype)
        states, ending, *found = everything(case, 1)
        what = f"{steps} steps, {lanes} lanes, {size} units"
        close(states, case.states, limit(dtype), f"states of {what}")
        close(ending, case.last, limit(dtype), f"ending of {what}")
        assert len(found) == len(case.gradients)
        for i, (gradient, expected) in enumerate(zip(found, case.gradients, strict=True)):
            assert gradient.dtype == dtype
            close(gradient, expected, 10 * limit(dtype), f"gradient {i} of {what}")


@pytest.mark.parametrize("truncate", [1, 3, 7, 9])
@pytest.mark.parametrize("cell", CELLS)
def test_truncated_gradients_agree_with_the_loop(cell, truncate):
    """Truncation that is off by one step, or lets the first state have a gradient."""
    case = Case(LayerSpec(cell, truncate=truncate), "floats", 7, 2, 5, np.float64)
    for gradient, expected in zip(everything(case, 2)[2:], case.gradients, strict=True):
        close(gradient, expected, 1e-11)


@pytest.mark.parametrize("kind", ["ids", "floats"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_has_the_same_bits_on_any_number_of_threads(cell, kind):
    """Sums cut between threads depend on how many there are, and so would every run."""
    case = Case(LayerSpec(cell), kind, 6, 7, 45, np.float32)
    alone = everything(case, 1)
    for count in (2, 3, 8):
        for one, same in zip(alone, everything(case, count), strict=True):
            assert np.array_equal(one, same)


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("truncate", [-1, 5, 19])
@pytest.mark.parametrize("cell", CELLS)
def test_a_thread_with_layers_of_its_own_changes_no_bit(monkeypatch, cell, truncate, lanes):
    """With fewer lanes than layers, layers run side by side, some steps apart.

    Catches a layer that starts before the one below has filled its input, a state or a gradient that
    is lost between two windows, and a truncation counted from the wrong end.
    """
    rng, spec = np.random.default_rng(4), LayerSpec(cell, False, truncate)
    steps, size, depth = 21, 37, 3

    def draw(*shape):
        return rng.normal(0, 0.5, shape).astype(np.float32)

    columns = spec.gates * size
    weights = [
        Weights(
            (draw(4, columns),) if i == 0 else (draw(size, columns), draw(columns)),
            draw(size, columns) if spec.row.recurrent else None,
            draw(size) if spec.row.second_bias else None,
        )
        for i in range(depth)
    ]
    ids = rng.integers(0, 4, (steps, lanes)).astype(np.int32)
    start = draw(depth, lanes, spec.state(size))
    masks = draw(depth, 1 if lanes == 1 else steps, lanes, size)
    above = [draw(steps, lanes, size), None, draw(steps, lanes, size)]
    endings = [*draw(depth, lanes, spec.state(size))]

    def both(count):
        given = spec, ids, weights, start
        passes = layers.forward(*given, masks, count=count)
        kept = [np.copy(each) for one in passes for each in (one.output, one.ending, one.states)]
        found = layers.backward(*given, passes, above, endings, masks, count=count)
        return [*kept, found.start, *(each for one in found.weights for each in one.all())]

    alone = both(1)
    monkeypatch.setattr(threads, "WORTH", 1)
    for count in (2, 3, 5):
        for one, same in zip(alone, both(count), strict=True):
            assert np.array_equal(one, same)


def test_an_error_in_one_layer_does_not_leave_another_waiting(monkeypatch):
    """The thread of the upper layer waited for ever for the lower one."""
    monkeypatch.setattr(threads, "WORTH", 1)
    some = [Weights((np.zeros((2, 3), np.float32),), None)] * 2

    def fails(at):
        raise ZeroDivisionError

    def works(at):
        return layers.Part(lambda first, last: None, 1)

    for stages in ([[fails], [works]], [[works], [fails]], [[works], [fails], [works]]):
        with pytest.raises(ZeroDivisionError):
            plan = Plan(len(stages))
            layers._through(jobs.Packing(plan), stages, some, (20, 1))
            plan.run()


@pytest.mark.parametrize("cell", CELLS)
def test_one_lane_that_is_not_a_number_leaves_the_others_alone(cell):
    """Lanes share tiles of a product: NaN must neither spread over one nor be lost in it."""
    clean = Case(LayerSpec(cell), "floats", 3, 4, 5, np.float32)
    spoiled = Case(LayerSpec(cell), "floats", 3, 4, 5, np.float32)
    spoiled.arguments[3][0, 2] = np.nan
    one, other = clean.forward(1), spoiled.forward(1)
    rest = [0, 1, 3]
    assert np.isnan(other[0].states[:, 2]).all() and np.isnan(other[0].ending[2]).all()
    assert np.array_equal(one[0].states[:, rest], other[0].states[:, rest])
    back = clean.backward(1, one), spoiled.backward(1, other)
    assert np.isnan(back[1][0][:, 2]).all() and np.array_equal(
        back[0][0][:, rest], back[1][0][:, rest]
    )
