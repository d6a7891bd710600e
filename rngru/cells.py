r"""One step of each recurrent cell: its equations, in PyTensor.

A step takes ``pre`` (B, G S), which is the input times its weights plus the bias, computed for all time
steps at once; the state (B, H); the gate function; and the recurrent weights (S, G S), if it has any. It
returns the new state. The output of a cell is the first S numbers of its state.
:data:`rngru.kernels.spec.CELLS` has the order in which the gates lie side by side.

>>> step = STEPS["GRU"]
>>> step(pt.fmatrix("pre"), pt.fmatrix("s"), sigmoid, pt.fmatrix("W")).dtype
'float32'
"""

from collections.abc import Callable

import numpy as np
import pytensor.tensor as pt

from rngru.kernels.spec import TINY


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
