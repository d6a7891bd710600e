r"""One step of each recurrent cell: its equations, in PyTensor; and :func:`register`, for one of your own.

A step takes ``pre`` (B, G S), which is the input times its weights plus the bias, computed for all time
steps at once; the state (B, H); the gate function; and the recurrent weights (S, G S), if it has any. It
returns the new state. The output of a cell is the first S numbers of its state.
:data:`rngru.kernels.spec.CELLS` has the order in which the gates lie side by side.

>>> step = STEPS["GRU"]
>>> step(pt.fmatrix("pre"), pt.fmatrix("s"), sigmoid, pt.fmatrix("W")).dtype
'float32'
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt

from rngru.errors import InputError
from rngru.kernels.spec import CELLS, OWN, TINY, CellSpec
from rngru.models import MODELS, Model


def sigmoid(x):
    r"""Logistic sigmoid, :math:`1 / (1 + e^{-x})`."""
    return pt.sigmoid(x)


def hard_sigmoid(x):
    r"""Piecewise linear sigmoid, :math:`\min(\max(0.2 x + 0.5, 0), 1)`."""
    # Constants of the dtype of x: PyTensor takes a Python 0.2 for float64.
    slope, half = np.asarray(0.2, x.dtype), np.asarray(0.5, x.dtype)
    return pt.minimum(pt.maximum(slope * x + half, 0), 1)


GATE_FUNCTIONS = {"sigmoid": sigmoid, "hard_sigmoid": hard_sigmoid}


def rnn(pre, state, gate, recurrent):
    r"""Vanilla (Elman) recurrent network.

    .. math:: s' = \tanh(x U + s W + b)

    Elman, "Finding structure in time", Cognitive Science 14 (1990). It has no gates: ``gate`` is
    not used.
    """
    return pt.tanh(pre + state @ recurrent)


def gru(pre, state, gate, recurrent):
    r"""Gated recurrent unit, the reset gate before the product.

    .. math::
        z &= g(x U_z + s W_z + b_z) \\
        r &= g(x U_r + s W_r + b_r) \\
        c &= \tanh(x U_c + (r \circ s) W_c + b_c) \\
        s' &= (1 - z) \circ c + z \circ s

    z keeps the old state. Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder",
    arXiv 1406.1078v3; the 2016 rngru's form.
    """
    size = recurrent.shape[0]
    keep = gate(pre[:, : 2 * size] + state @ recurrent[:, : 2 * size])
    z, r = keep[:, :size], keep[:, size:]
    c = pt.tanh(pre[:, 2 * size :] + (r * state) @ recurrent[:, 2 * size :])
    return (1 - z) * c + z * state


def gru_after(pre, state, gate, recurrent, second_bias):
    r"""Gated recurrent unit, the reset gate after the product, as in cuDNN, Keras and PyTorch.

    .. math:: c = \tanh(x U_c + b_c + r \circ (s W_c + d))

    and z, r and s' as in :func:`gru`. One product per step instead of two, and a bias d of its own.
    """
    size = recurrent.shape[0]
    product = state @ recurrent
    keep = gate(pre[:, : 2 * size] + product[:, : 2 * size])
    z, r = keep[:, :size], keep[:, size:]
    c = pt.tanh(pre[:, 2 * size :] + r * (product[:, 2 * size :] + second_bias))
    return (1 - z) * c + z * state


def lstm(pre, state, gate, recurrent):
    r"""Long short-term memory, without peepholes; the state is (output, memory) side by side.

    .. math::
        i &= g(x U_i + h W_i + b_i) \\
        f &= g(x U_f + h W_f + b_f) \\
        o &= g(x U_o + h W_o + b_o) \\
        m' &= f \circ m + i \circ \tanh(x U_c + h W_c + b_c) \\
        h' &= o \circ \tanh(m')

    Gers, Schmidhuber and Cummins, "Learning to Forget", Neural Computation 12 (2000). PyTorch has
    the gates in the order i, f, c, o.
    """
    size = recurrent.shape[0]
    output, memory = state[:, :size], state[:, size:]
    sums = pre + output @ recurrent
    gates = gate(sums[:, : 3 * size])
    i, f, o = (gates[:, k * size : (k + 1) * size] for k in range(3))
    memory = f * memory + i * pt.tanh(sums[:, 3 * size :])
    return pt.concatenate([o * pt.tanh(memory), memory], axis=1)


def min_gru(pre, state, gate):
    r"""Minimal gated recurrent unit: no recurrent weights, so all products are done before the loop.

    .. math::
        z &= g(x U_z + b_z) \\
        c &= x U_c + b_c \\
        s' &= (1 - z) \circ c + z \circ s

    z keeps the old state; what it keeps depends on the input alone. Feng et al., "Were RNNs All We
    Needed?", arXiv 2410.01201, where z is 1 - z here, and layers of other kinds stand between these.

    The candidate is linear, as in the paper's Algorithm 1. On 300 batches of 32 x 100 characters of
    Shakespeare (2 x 128 neurons, Adam) the mean loss of the last 50 was 1.984 nats with it, 2.009 with
    tanh, and 2.003 with the positive function of the paper's logarithmic form. With gates that begin
    at a bias of 1 or 2, as if to keep more, it was 2.019 and 2.054: so they begin at 0.
    """
    size = state.shape[1]
    z, c = gate(pre[:, :size]), pre[:, size:]
    return (1 - z) * c + z * state


def min_lstm(pre, state, gate):
    r"""Minimal long short-term memory: no recurrent weights, and a state that is the output alone.

    .. math::
        i &= g(x U_i + b_i) \\
        f &= g(x U_f + b_f) \\
        c &= x U_c + b_c \\
        s' &= (f \circ s + i \circ c) / (f + i)

    The two gates are made shares of one, so that the state keeps its size. To f + i, which hard gates
    can make 0, a trillionth is added. Feng et al., arXiv 2410.01201. As in :func:`min_gru`, the
    candidate is linear and the gates begin at 0: 1.960 nats there, against 1.998 with tanh, 1.973 with
    the positive function, and 1.999 with a forget bias of 1.
    """
    size = state.shape[1]
    i, f, c = gate(pre[:, :size]), gate(pre[:, size : 2 * size]), pre[:, 2 * size :]
    return (f * state + i * c) / (f + i + np.asarray(TINY, pre.dtype))


STEPS: dict[str, Callable] = {
    "RNN": rnn,
    "GRU": gru,
    "GRU_AFTER": gru_after,
    "LSTM": lstm,
    "MinGRU": min_gru,
    "MinLSTM": min_lstm,
}
"""The step of every cell, by the name of its row in :data:`rngru.kernels.spec.CELLS`."""


def register(
    name: str,
    step: Callable[..., Any],
    *,
    gates: Sequence[str],
    state: int = 1,
    recurrent: bool = True,
    initial: Mapping[str, float] | None = None,
) -> None:
    """Make a cell of your own: afterwards ``<name>Encode`` and ``<name>Resize`` are model types.

    Such a model trains, saves, resumes, scores, writes and is looked into as any other. There are no
    kernels for it: PyTensor's scan computes it, several times slower; or JAX, with ``backend='jax'``. Its
    checkpoints name the cell, and hold no code: call ``register`` in each process before the model is
    loaded.

    Parameters
    ----------
    name : str
        Letters and digits, a letter first.
    step : callable
        ``step(pre, state, gate, recurrent)`` returns the new state (B, H), float32, in PyTensor's
        operations. ``pre`` is (B, G S): for each gate in turn, S numbers; ``state`` is (B, H); ``gate`` is
        the function of the hyperparameter ``gate``; ``recurrent`` is W, (S, G S).
    gates : sequence of str
        A name for each of the G blocks of S columns in U, W and b.
    state : int
        How many times S numbers are in a state, H = state S. The output comes first: the next layer reads
        the first S.
    recurrent : bool
        Whether it has recurrent weights. If not, ``step(pre, state, gate)`` is given none.
    initial : mapping or None
        The biases that gates start with, as ``{'f': 1.0}``; the others start at 0.

    Raises
    ------
    InputError
        If the name is taken by another cell, or ``step`` does not return such a state.

    Example
    -------
    A leaky unit: each neuron keeps a share of its state.

    >>> def leaky(pre, state, gate, recurrent):
    ...     size = state.shape[1]
    ...     keep = gate(pre[:, :size])
    ...     return keep * state + (1 - keep) * pt.tanh(pre[:, size:] + state @ recurrent[:, size:])
    >>> register("Leaky", leaky, gates=("keep", "new"), initial={"keep": 1.0})
    >>> MODELS["LeakyEncode"].cell
    'Leaky'
    """
    row = _row(name, gates, state, recurrent, dict(initial or {}))
    if name in CELLS or {f"{name}Encode", f"{name}Resize"} & MODELS.keys():
        if name in CELLS and CELLS[name] == row and _same(STEPS[name], step):
            return
        raise InputError(
            f"There is another cell {name!r}. Choose another name; to change one of your own, start "
            "Python anew."
        )
    _try(row, step)
    CELLS[name], STEPS[name] = row, step
    for kind in (
        Model(f"{name}Encode", name, encode=True),
        Model(f"{name}Resize", name, encode=False),
    ):
        MODELS[kind.name] = kind


def _row(name: str, gates: Sequence[str], state: int, recurrent: bool, initial: dict) -> CellSpec:
    """Return the row of a cell, or raise an error with what cannot be."""
    if not (isinstance(name, str) and name.isascii() and name.isalnum() and name[0].isalpha()):
        raise InputError(
            f"name={name!r}: expected letters and digits, a letter first, as 'MyCell'."
        )
    named = () if isinstance(gates, str) else tuple(gates)
    if not named or len({*named}) < len(named) or not all(isinstance(e, str) and e for e in named):
        raise InputError(
            f"gates={gates!r}: expected a different name for each gate, as ('z', 'r', 'c')."
        )
    if type(state) is not int or state < 1:
        raise InputError(
            f"state={state!r}: expected a whole number of at least 1, how many times S numbers a state has."
        )
    for gate, bias in initial.items():
        if gate not in named or not isinstance(bias, int | float) or not math.isfinite(bias):
            raise InputError(
                f"initial={{{gate!r}: {bias!r}}}: expected a finite number for one of {named}."
            )
    biases = tuple(sorted((gate, float(bias)) for gate, bias in initial.items()))
    main = len(named) if recurrent else 0
    return CellSpec(OWN, named, main, memory=state - 1, initial=biases)


def _try(row: CellSpec, step: Callable[..., Any]) -> None:
    """Raise InputError if the result of a step, as far as its graph tells, is no state."""
    lanes, size = 2, 3
    columns, height = len(row.gates) * size, (1 + row.memory) * size
    shapes = [(lanes, columns), (lanes, height), *([(size, columns)] if row.recurrent else [])]
    pre, state, *more = (pt.tensor(dtype="float32", shape=shape) for shape in shapes)
    new = step(pre, state, sigmoid, *more)
    if getattr(new, "dtype", None) != "float32" or new.ndim != 2:
        kind = getattr(new, "type", type(new).__name__)
        raise InputError(
            f"step returned {kind}: expected the new state, a float32 matrix (B, {1 + row.memory} S). "
            "Constants are float32 as np.float32(0.5)."
        )
    width = new.type.shape[1]
    if width not in (None, height):
        raise InputError(
            f"step returned {width / size:g} S numbers for each lane, expected {1 + row.memory} S: the "
            "state before and after a step are alike. state= says how many."
        )


def _same(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Whether two steps are one function, or were made by the same lines."""
    lines = getattr(one, "__code__", one)
    return one is other or lines == getattr(other, "__code__", other)
