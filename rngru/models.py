r"""The models: which parameters they have, how those begin, and what noise training multiplies them by.

How they are composed from layers stands in :mod:`rngru.network`.

Shapes: V vocabulary, S state size, I = S or ``embed_size``, L layers, T sequence length, B batch, H
numbers in a layer's state.

=====================  ============  ===============================================================
name                   shape         meaning
=====================  ============  ===============================================================
``E``                  (V, I)        encoder: one row per character (``…Encode`` only)
``a``                  (I,)          its bias
``layers.<l>.U``       (in, G S)     input weights of layer l, gates side by side
``layers.<l>.W``       (S, G S)      recurrent weights (``Min…`` has none)
``layers.<l>.b``       (G S,)        bias
``layers.<l>.d``       (S,)          second bias of the candidate (``reset_after`` only)
``layers.<l>.g``       (S,)          what normalised outputs are multiplied by (``layernorm`` only)
``layers.<l>.h``       (S,)          and what is added to them
``V``                  (S, V)        output weights (``tied``: those of E, transposed)
``c``                  (V,)          output bias
``back.<l>.…``         as layers     the stack that reads backwards (``Bi…``; V is (2 S, V))
=====================  ============  ===============================================================

.. math:: i = \tanh(E_x + a), \quad i \to \text{L layers} \to s, \quad o = s V + c

A ``…Resize`` model has no encoder: its first layer takes the character itself, a row of ``layers.0.U``.

>>> from rngru.hyper import HyperParams
>>> MODELS["GRUEncode"].shapes(HyperParams(66, layers=1))["layers.0.W"]
(128, 384)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rngru.errors import InputError, choose
from rngru.hyper import HyperParams
from rngru.kernels.spec import LayerSpec

_FULL = 64.0
"""A bias with which a gate is 0 or 1, as far as float32 can tell, whatever the gate function."""

_KEPT = 0.9
"""How much of its memory a held LSTM neuron keeps; the rest comes anew, so that no error adds up."""


@dataclass(frozen=True, slots=True)
class Model:
    """A kind of model: a cell, stacked, with or without an encoder before it.

    Parameters
    ----------
    name: what a user calls it, as ``modeltype='GRUEncode'``.
    cell: the name of its cell.
    encode: whether characters pass through an encoder first.
    both: whether a second stack reads the text backwards. Then each character is predicted from the
        text before it and the text after it, never from itself: the two stacks meet at the output
        alone.
    """

    name: str
    cell: str
    encode: bool
    both: bool = False

    @property
    def towers(self) -> tuple[str, ...]:
        """The first part of the parameter names of each stack."""
        return ("layers", "back") if self.both else ("layers",)

    def depth(self, hyper: HyperParams) -> int:
        """Return how many layers it has, those of both stacks where there are two."""
        return len(self.towers) * hyper.layers

    def spec(self, hyper: HyperParams) -> LayerSpec:
        """Return the description of each layer."""
        cell = "GRU_AFTER" if hyper.reset_after else self.cell
        return LayerSpec(cell, hyper.gate == "hard_sigmoid", hyper.bptt_truncate)

    def check(self, hyper: HyperParams) -> None:
        """Raise InputError if the model cannot have these hyperparameters."""
        hyper.check()
        if hyper.reset_after and self.cell != "GRU":
            raise InputError(
                f"reset_after=True is a form of the GRU, but {self.name} has {self.cell} layers. "
                "Leave it out, or choose GRUEncode or GRUResize."
            )
        if hyper.tied and self.both:
            raise InputError(
                f"tied=True needs an output as wide as the encoder, but that of {self.name} is twice "
                "as wide, because it reads in both directions. Leave it out."
            )
        if hyper.tied and not self.encode:
            raise InputError(
                f"tied=True shares the encoder's weights with the output, but {self.name} has no "
                f"encoder. Leave it out, or choose {self.cell}Encode."
            )
        for name in ("embed_size", "dropout_in"):
            if getattr(hyper, name) and not self.encode:
                raise InputError(
                    f"{name}={getattr(hyper, name)} is about the encoder, but {self.name} has none. "
                    f"Leave it out, or choose {self.cell}Encode."
                )
        if hyper.dropconnect and not self.spec(hyper).row.recurrent:
            raise InputError(
                f"dropconnect={hyper.dropconnect} drops recurrent weights, but {self.name} has none. Leave "
                "it out; dropout= drops the outputs of layers."
            )
        if hyper.tied and hyper.embed_size not in (None, hyper.state_size):
            raise InputError(
                f"tied=True needs an encoder as wide as the layers: embed_size={hyper.embed_size}, but "
                f"state_size={hyper.state_size}. Leave one of the two out."
            )

    def width(self, hyper: HyperParams) -> int:
        """Return how many numbers encode a symbol."""
        return hyper.embed_size or hyper.state_size

    def shapes(self, hyper: HyperParams) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter, in the order of the table above."""
        symbols, size, spec = hyper.vocab_size, hyper.state_size, self.spec(hyper)
        width = self.width(hyper) if self.encode else symbols
        shapes: dict[str, tuple[int, ...]] = {}
        if self.encode:
            shapes |= {"E": (symbols, width), "a": (width,)}
        for name in (f"{tower}.{i}" for tower in self.towers for i in range(hyper.layers)):
            into = width if name.endswith(".0") else size
            shapes[f"{name}.U"] = (into, spec.gates * size)
            if spec.row.recurrent:
                shapes[f"{name}.W"] = (size, spec.gates * size)
            shapes[f"{name}.b"] = (spec.gates * size,)
            if spec.row.second_bias:
                shapes[f"{name}.d"] = (size,)
            if hyper.layernorm:
                shapes |= {f"{name}.g": (size,), f"{name}.h": (size,)}
        return (
            shapes
            | ({} if hyper.tied else {"V": (len(self.towers) * size, symbols)})
            | {"c": (symbols,)}
        )

    def initial(
        self, hyper: HyperParams, rng: np.random.Generator, counts: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Draw fresh parameters: weights uniform in ±1/√fan-in, biases zero but as below; float32.

        Layer norm begins with factors of one.

        The fan-in is how many numbers are added up: the number of rows of a matrix, but 1 for a table
        of which each character reads one row. (The 2016 rngru used V there, and the text had hardly
        any effect on the first layer.) A tied encoder is both table and matrix, so its bound is the
        geometric mean of the two.

        With ``counts`` (V,), how often each symbol occurs, the output bias is the logarithm of their
        shares, one added to each count. With zeros instead, all weights would first learn the shares,
        which takes long; and an LSTM would keep them in its memory, which is empty when a text begins.

        The LSTM's forget gates start with a bias of 1, so that an untrained one already keeps its
        memory (Gers et al. 2000; Jozefowicz et al., ICML 2015). With
        ``gate_init='uniform'`` the gates that keep the state (f, or z of a GRU) start evenly from shut to
        open instead, and i as 1 - f: some neurons remember for long, others not. An RNN has no such gates (Gu
        et al., "Improving the Gating Mechanism of Recurrent Neural Networks", ICML 2020).
        """
        arrays, spec = {}, self.spec(hyper)
        row, biases = spec.row, dict[str, Any](spec.row.initial)
        if hyper.gate_init == "uniform" and row.keeps:
            spread = _opening((np.arange(hyper.state_size) + 0.5) / hyper.state_size, spec.hard)
            biases |= {row.keeps: spread} | ({"i": -spread} if "i" in row.gates else {})
        tables = ["E"] if self.encode else [f"{tower}.0.U" for tower in self.towers]
        for name, shape in self.shapes(hyper).items():
            if len(shape) == 1:
                arrays[name] = np.full(shape, name.endswith(".g"), np.float32)
            else:
                bound = 1.0 if name in tables else shape[0] ** -0.5
                if name == "E" and hyper.tied:
                    bound = hyper.state_size**-0.25
                arrays[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
            for gate, bias in biases.items() if name.endswith(".b") else ():
                arrays[name].reshape(-1, hyper.state_size)[row.gates.index(gate)] = bias
        if counts is not None:
            arrays["c"] += np.log((counts + 1) / (counts.sum() + counts.size))
        return arrays

    def freshstate(self, hyper: HyperParams, lanes: int) -> np.ndarray:
        """Return the state before any text: zeros (L, B, H), float32."""
        width = self.spec(hyper).state(hyper.state_size)
        return np.zeros((hyper.layers, lanes, width), np.float32)

    def clamped(
        self,
        hyper: HyperParams,
        arrays: Mapping[str, np.ndarray],
        values: Mapping[tuple[int, int], float],
    ) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        r"""Return parameters with which some neurons keep a value, and the state to begin with.

        All weights into such a neuron are zero, and its biases make the value v a fixed point of
        its cell (:mod:`rngru.cells`): c = v in an RNN; z = 0 and c = v in a GRU or a MinGRU; i = 1,
        f = 0 and c = v in a MinLSTM; i = o = 1, f = 0.9 and :math:`\tanh(c) = (1 - f)
        \operatorname{artanh} v` in an LSTM, so that the memory is artanh v.

        Parameters
        ----------
        arrays: the parameters; what differs in the result is copied.
        values: a number from -1 to 1 for each (layer, neuron); layers are counted through both
            stacks where there are two.

        Returns
        -------
        (parameters, state (L, 1, H) before any text, NaN where nothing is held). The stacks of a
        model that reads in both directions begin with zeros, so its neurons are held from the first
        symbol on and there is no such state.

        Raises
        ------
        InputError
            If the cell is one's own; or if an LSTM that reads in both directions is to hold more than
            tanh 1 = 0.76: from an empty memory, one step leads no further.
        """
        spec, size, arrays = self.spec(hyper), hyper.state_size, dict(arrays)
        if spec.row.own:
            raise InputError(
                f"{self.name} has a cell of your own. Which of its biases hold a neuron is not known."
            )
        names = [f"{tower}.{i}" for tower in self.towers for i in range(hyper.layers)]
        start = np.full_like(self.freshstate(hyper, 1), np.nan)
        for name in {names[layer] for layer, _ in values}:
            arrays |= {key: arrays[key].copy() for key in arrays if key.startswith(f"{name}.")}
        for (layer, neuron), value in values.items():
            if spec.row.memory and self.both and abs(value) > math.tanh(1):
                raise InputError(
                    f"Neuron {neuron} of layer {layer} cannot be held at {value:g}: those of "
                    f"{self.name} can be held from {-math.tanh(1):.2f} to {math.tanh(1):.2f}."
                )
            for gate, bias in self._holding(spec, value).items():
                column = spec.row.gates.index(gate) * size + neuron
                for weights in {f"{names[layer]}.{letter}" for letter in "UW"} & arrays.keys():
                    arrays[weights][:, column] = 0
                arrays[f"{names[layer]}.b"][column] = bias
            if spec.row.second_bias:
                arrays[f"{names[layer]}.d"][neuron] = 0
            if not self.both:
                start[layer, 0, neuron] = value
                if spec.row.memory:
                    start[layer, 0, size + neuron] = _artanh(value)
        return arrays, None if self.both else start

    def _holding(self, spec: LayerSpec, value: float) -> dict[str, float]:
        """Return the bias of each gate that holds a neuron at a value."""
        memory = _artanh(value)
        if not spec.row.memory:
            # Without recurrent weights, the candidate is linear.
            biases = {"z": -_FULL, "i": _FULL, "f": -_FULL}
            biases["c"] = memory if spec.row.recurrent else value
            return {gate: biases[gate] for gate in spec.row.gates if gate in biases}
        if self.both:
            forget, new = -_FULL, memory
        else:
            forget = float(_opening(_KEPT, spec.hard))
            new = (1 - _KEPT) * memory
        return {"i": _FULL, "o": _FULL, "f": forget, "c": _artanh(new)}

    def noiseshapes(
        self, hyper: HyperParams, steps: int | None = None, lanes: int | None = None
    ) -> dict[str, tuple[int | None, ...]]:
        """Return the shape of the noise of one training batch, by the name of what it multiplies.

        Only what there is noise for; all of it is 0 or 1 / (1 - p), so that the mean is 1.

        ===============  ==================  ===================================================
        ``"outputs"``    (L, T or 1, B, S)   the outputs of each layer of each stack
        ``"inputs"``     (1 or 2, … B, I)    what the first layer of each stack reads
        ``"embedding"``  (V, 1)              the row of each symbol
        ``"recurrent"``  (L, S, G S)         the recurrent weights of each layer
        ===============  ==================  ===================================================
        """
        depth, size = self.depth(hyper), hyper.state_size
        time = (1 if hyper.locked else steps, lanes)
        shapes: dict[str, tuple[int | None, ...]] = {}
        if hyper.dropout or hyper.dropout_out:
            shapes["outputs"] = (depth, *time, size)
        if hyper.dropout_in:
            shapes["inputs"] = (len(self.towers), *time, self.width(hyper))
        if hyper.embed_dropout:
            shapes["embedding"] = (hyper.vocab_size, 1)
        if hyper.dropconnect:
            shapes["recurrent"] = (depth, size, self.spec(hyper).gates * size)
        return shapes

    def noise(
        self, hyper: HyperParams, steps: int, lanes: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Draw the noise of one training batch: arrays of :meth:`noiseshapes`, float32.

        Dropout of outputs and inputs, ``locked`` as in Gal and Ghahramani (arXiv 1512.05287), who drop
        whole symbols, too; DropConnect of recurrent weights as in Merity et al. (arXiv 1708.02182).
        """
        shares = {
            "outputs": hyper.dropout,
            "inputs": hyper.dropout_in,
            "embedding": hyper.embed_dropout,
            "recurrent": hyper.dropconnect,
        }
        found = {
            name: _mask(rng, shape, shares[name])
            for name, shape in self.noiseshapes(hyper, steps, lanes).items()
        }
        if "outputs" in found and hyper.dropout_out not in (None, hyper.dropout):
            last = found["outputs"][hyper.layers - 1 :: hyper.layers]
            last[:] = _mask(rng, last.shape, hyper.dropout_out)
        return found


def _mask(rng: np.random.Generator, shape: Any, share: Any) -> np.ndarray:
    """Draw 0 with probability ``share``, else 1 / (1 - share)."""
    kept = rng.integers(0, 1 << 16, shape, np.uint16) >= round(share * (1 << 16))
    return kept.astype(np.float32) / np.float32(1 - share)


GRUEncode = Model("GRUEncode", "GRU", encode=True)
GRUResize = Model("GRUResize", "GRU", encode=False)
LSTMEncode = Model("LSTMEncode", "LSTM", encode=True)
LSTMResize = Model("LSTMResize", "LSTM", encode=False)
RNNEncode = Model("RNNEncode", "RNN", encode=True)
RNNResize = Model("RNNResize", "RNN", encode=False)
MinGRUEncode = Model("MinGRUEncode", "MinGRU", encode=True)
MinGRUResize = Model("MinGRUResize", "MinGRU", encode=False)
MinLSTMEncode = Model("MinLSTMEncode", "MinLSTM", encode=True)
MinLSTMResize = Model("MinLSTMResize", "MinLSTM", encode=False)
BiGRU = Model("BiGRU", "GRU", encode=True, both=True)
BiLSTM = Model("BiLSTM", "LSTM", encode=True, both=True)
BiRNN = Model("BiRNN", "RNN", encode=True, both=True)

MODELS = {
    model.name: model
    for model in (
        GRUEncode,
        GRUResize,
        LSTMEncode,
        LSTMResize,
        RNNEncode,
        RNNResize,
        MinGRUEncode,
        MinGRUResize,
        MinLSTMEncode,
        MinLSTMResize,
        BiGRU,
        BiLSTM,
        BiRNN,
    )
}
"""Every model type by name."""


def named(name: str) -> Model:
    """Return the model type called ``name``.

    Raises
    ------
    InputError
        If there is none of that name; the message lists the choices and the nearest.
    """
    return MODELS[choose("modeltype", name, MODELS)]


def _opening(shares: Any, hard: bool) -> Any:
    """Return the biases at which gates are open by these shares: the inverse of a gate."""
    return 5 * (shares - 0.5) if hard else np.log(shares / (1 - shares))


def _artanh(value: float) -> float:
    """The inverse of tanh, finite at -1 and 1, where float32 cannot tell the difference."""
    return math.atanh(min(max(value, -1 + 1e-8), 1 - 1e-8))


def penalised(ndim: int) -> bool:
    """Whether the penalty includes a parameter of ``ndim`` dimensions: weights yes, biases no."""
    return ndim > 1
