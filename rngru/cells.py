r"""One step of each recurrent cell: its equations, its gates and its parameters, in PyTensor.

A step takes the pre-activations that the input contributes, ``pre`` (B, G S) — products and bias are
done for all time steps at once — and the state (B, H), and returns the new state. The output of a
cell is the first S numbers of its state. Gates lie side by side in the order that the table gives.

>>> CELLS["GRU"].gates
('z', 'r', 'c')
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytensor.tensor as pt


def sigmoid(x):
    r"""Logistic sigmoid, :math:`1 / (1 + e^{-x})`."""
    return pt.sigmoid(x)


def hard_sigmoid(x):
    r"""Piecewise linear sigmoid, :math:`\min(\max(0.2 x + 0.5, 0), 1)`."""
    # Constants of the dtype of x: PyTensor takes a Python 0.2 for float64.
    slope, half = np.asarray(0.2, x.dtype), np.asarray(0.5, x.dtype)
    return pt.minimum(pt.maximum(slope * x + half, 0), 1)


GATE_FUNCTIONS = {"sigmoid": sigmoid, "hard_sigmoid": hard_sigmoid}


def gru(pre, state, recurrent, second_bias, gate):
    r"""Gated recurrent unit, the reset gate before the product.

    .. math::
        z &= g(x U_z + s W_z + b_z) \\
        r &= g(x U_r + s W_r + b_r) \\
        c &= \tanh(x U_c + (r \circ s) W_c + b_c) \\
        s' &= (1 - z) \circ c + z \circ s

    z keeps the old state. Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder",
    arXiv 1406.1078v3; the 2016 rngru's form. Torch, Keras and cuDNN reset after the product.
    """
    size = recurrent.shape[0]
    keep = gate(pre[:, : 2 * size] + state @ recurrent[:, : 2 * size])
    z, r = keep[:, :size], keep[:, size:]
    c = pt.tanh(pre[:, 2 * size :] + (r * state) @ recurrent[:, 2 * size :])
    return (1 - z) * c + z * state


@dataclass(frozen=True, slots=True)
class Cell:
    """A recurrent cell.

    Parameters
    ----------
    kernel: its name in :mod:`rngru.kernels`.
    gates: the names of its gates, in the order in which they lie side by side.
    step: its equations, as above.
    """

    kernel: str
    gates: tuple[str, ...]
    step: Callable


CELLS = {"GRU": Cell("GRU", ("z", "r", "c"), gru)}
"""Every cell by the name that model types begin with."""
