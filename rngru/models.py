r"""The models: which parameters they have, and how characters become states.

A model is defined once. :func:`run` composes layers from whatever computes one — a ``pytensor.scan``,
the fused ``Op``, or the kernels called on NumPy arrays — so a graph to differentiate and a sampler
that never imports PyTensor follow the same lines.

Shapes: V vocabulary, S state size, L layers, T sequence length, B batch, H numbers in a layer's state.

=====================  ============  ===============================================================
name                   shape         meaning
=====================  ============  ===============================================================
``E``                  (V, S)        encoder: one row per character (``…Encode`` only)
``a``                  (S,)          its bias
``layers.<l>.U``       (in, G S)     input weights of layer l, gates side by side
``layers.<l>.W``       (S, G S)      recurrent weights
``layers.<l>.b``       (G S,)        bias
``layers.<l>.d``       (S,)          second bias of the candidate (``reset_after`` only)
``V``                  (S, V)        output weights (``tied``: those of E, transposed)
``c``                  (V,)          output bias
=====================  ============  ===============================================================

.. math:: i = \tanh(E_x + a), \quad i \to \text{L layers} \to s, \quad o = s V + c

A ``…Resize`` model has no encoder: its first layer takes the character itself, a row of ``layers.0.U``.

>>> from rngru.hyper import HyperParams
>>> MODELS["GRUEncode"].shapes(HyperParams(66, layers=1))["layers.0.W"]
(128, 384)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rngru.errors import InputError, choose
from rngru.hyper import HyperParams
from rngru.kernels.layer import Layer


@dataclass(frozen=True, slots=True)
class Model:
    """A kind of model: a cell, stacked, with or without an encoder before it.

    Parameters
    ----------
    name: what a user calls it, as ``modeltype='GRUEncode'``.
    cell: the name of its cell.
    encode: whether characters pass through an encoder first.
    """

    name: str
    cell: str
    encode: bool

    def layer(self, hyper: HyperParams) -> Layer:
        """Return what the recurrence needs to know of each layer."""
        cell = "GRU_AFTER" if hyper.reset_after else self.cell
        return Layer(cell, hyper.gate == "hard_sigmoid", hyper.bptt_truncate)

    def check(self, hyper: HyperParams) -> None:
        """Raise InputError if the model cannot have these hyperparameters."""
        if hyper.reset_after and self.cell != "GRU":
            raise InputError(
                f"reset_after=True is a form of the GRU, but {self.name} has {self.cell} layers. "
                "Leave it out, or choose GRUEncode or GRUResize."
            )
        if hyper.tied and not self.encode:
            raise InputError(
                f"tied=True shares the encoder's weights with the output, but {self.name} has no "
                f"encoder. Leave it out, or choose {self.cell}Encode."
            )

    def shapes(self, hyper: HyperParams) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter, in the order of the table above."""
        symbols, size, gates = hyper.vocab_size, hyper.state_size, self.layer(hyper).gates
        shapes: dict[str, tuple[int, ...]] = {}
        if self.encode:
            shapes |= {"E": (symbols, size), "a": (size,)}
        for i in range(hyper.layers):
            into = symbols if i == 0 and not self.encode else size
            shapes[f"layers.{i}.U"] = (into, gates * size)
            shapes[f"layers.{i}.W"] = (size, gates * size)
            shapes[f"layers.{i}.b"] = (gates * size,)
            if hyper.reset_after:
                shapes[f"layers.{i}.d"] = (size,)
        return shapes | ({} if hyper.tied else {"V": (size, symbols)}) | {"c": (symbols,)}

    def initial(self, hyper: HyperParams, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw fresh parameters: weights uniform in ±1/√fan-in, biases zero; float32.

        The 2016 rngru's initialisation. The LSTM's forget gates begin with a bias of 1, so that
        memory lasts from the start (Gers et al. 2000; Jozefowicz et al., ICML 2015).
        """
        arrays = {}
        for name, shape in self.shapes(hyper).items():
            if len(shape) == 1:
                arrays[name] = np.zeros(shape, np.float32)
            else:
                bound = 1 / math.sqrt(shape[0])
                arrays[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
        if self.cell == "LSTM":
            for i in range(hyper.layers):
                arrays[f"layers.{i}.b"][hyper.state_size : 2 * hyper.state_size] = 1
        return arrays

    def freshstate(self, hyper: HyperParams, lanes: int) -> np.ndarray:
        """Return the state before any text: zeros (L, B, H), float32."""
        width = self.layer(hyper).state(hyper.state_size)
        return np.zeros((hyper.layers, lanes, width), np.float32)


GRUEncode = Model("GRUEncode", "GRU", encode=True)
GRUResize = Model("GRUResize", "GRU", encode=False)
LSTMEncode = Model("LSTMEncode", "LSTM", encode=True)
LSTMResize = Model("LSTMResize", "LSTM", encode=False)
RNNEncode = Model("RNNEncode", "RNN", encode=True)
RNNResize = Model("RNNResize", "RNN", encode=False)

MODELS = {
    model.name: model
    for model in (GRUEncode, GRUResize, LSTMEncode, LSTMResize, RNNEncode, RNNResize)
}
"""Every model type by name."""


def find(name: str) -> Model:
    """Return the model type called ``name``.

    Raises
    ------
    InputError
        With the choices and the nearest of them.
    """
    return MODELS[choose("modeltype", name, MODELS)]


def penalised(ndim: int) -> bool:
    """Whether the penalty on squared weights counts a parameter: weights, not biases."""
    return ndim > 1


def table(model: Model, parameters: Mapping[str, Any], xp: Any) -> Any:
    """Return the first layer's pre-activations for each character, (V, G S).

    They depend on the character alone: V rows, not T B.
    """
    into, bias = parameters["layers.0.U"], parameters["layers.0.b"]
    if model.encode:
        return xp.affine(xp.tanh(parameters["E"] + parameters["a"]), into, bias)
    return into + bias


def readout(parameters: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return output weights (S, V) and bias (V,)."""
    tied = "V" not in parameters
    return parameters["E"].T if tied else parameters["V"], parameters["c"]


def run(
    model: Model,
    hyper: HyperParams,
    parameters: Mapping[str, Any],
    ids: Any,
    start: Any,
    layer: Callable,
    xp: Any,
    masks: Any = None,
) -> tuple[Sequence[Any], Sequence[Any]]:
    """Run text through the layers of a model.

    Parameters
    ----------
    parameters: arrays or graph variables by name.
    ids: (T, B) characters, int32.
    start: (L, B, H), the state before the first of them.
    layer: ``layer(description, inputs, weights, start, recurrent[, second bias])`` gives (states, ending).
    xp: has ``tanh`` and ``affine(rows, weights, bias)`` for the kind of parameters given.

    masks: (L, T or 1, B, S), what each layer's output is multiplied by, for dropout; or None.

    Returns
    -------
    (outputs of each layer (T, B, S), ending of each layer (B, H)).
    """
    description = model.layer(hyper)
    states: list[Any] = []
    endings: list[Any] = []
    inputs: Any = ids
    weights: tuple[Any, ...] = (table(model, parameters, xp),)
    for i in range(hyper.layers):
        if i > 0:
            inputs = states[-1]
            weights = (parameters[f"layers.{i}.U"], parameters[f"layers.{i}.b"])
        second = (parameters[f"layers.{i}.d"],) if hyper.reset_after else ()
        recurrent = parameters[f"layers.{i}.W"]
        output, ending = layer(description, inputs, weights, start[i], recurrent, *second)
        states.append(output if masks is None else output * masks[i])
        endings.append(ending)
    return states, endings
