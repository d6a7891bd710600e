r"""How characters become states: a model composed from layers.

A model is defined once. A :class:`Network` composes layers from whatever computes one (an
:class:`Engine`: a ``pytensor.scan``, the fused ``Op``, or the kernels called on NumPy arrays), so a
graph to differentiate and a sampler that never imports PyTensor follow the same lines.

Shapes and names of parameters are those of :mod:`rngru.models`.

With ``layernorm`` and ``residual``, what goes up from a layer with states :math:`s` that has read
:math:`x` is

.. math:: \mathrm{norm}(s) \, [+ \, x \text{ above the first layer}], \qquad
          \mathrm{norm}(s) = g \circ \frac{s - \mu}{\sqrt{\sigma^2 + 10^{-5}}} + h

with mean and variance over the S neurons (Ba, Kiros and Hinton, arXiv 1607.06450). From one step to the
next a layer hands its states as they are.

>>> rows = np.array([[1.0, 2.0, 3.0]])
>>> normalised(rows, gain=1, shift=0).round(3).tolist()
[[-1.225, 0.0, 1.225]]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from rngru.hyper import HyperParams
from rngru.kernels.spec import LayerSpec, Weights
from rngru.models import Model

SMALL = np.float32(1e-5)
"""What layer norm adds to a variance, which may be zero."""

_QUIET: Mapping[str, Any] = MappingProxyType({})
"""No noise."""


def normalised(rows: Any, gain: Any, shift: Any) -> Any:
    """Return ``rows`` (…, S) after layer norm with ``gain`` (S,) and ``shift`` (S,); see the module."""
    centred = rows - rows.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return centred / (variance + SMALL) ** 0.5 * gain + shift


@dataclass(frozen=True, slots=True)
class Engine:
    """What computes layers and the few functions between them, for one kind of numbers.

    Parameters
    ----------
    layers: ``layers(spec, ids, weights, start, masks)`` gives (outputs, endings) of each layer of a stack;
        the arguments are those of :func:`rngru.kernels.layers.forward`.
    affine: ``affine(rows, weights, bias)``.
    encode: ``encode(rows, bias)`` gives the hyperbolic tangent of ``rows + bias``.
    zeros_like, concatenate: as in NumPy.
    """

    layers: Callable
    affine: Callable
    encode: Callable
    zeros_like: Callable
    concatenate: Callable


def apart(layer: Callable) -> Callable:
    """Return ``layers`` of an :class:`Engine` from what computes a single layer.

    ``layer(spec, inputs, into, start[, recurrent[, second bias]])`` gives (states, ending).
    """

    def layers(spec: LayerSpec, inputs: Any, weights: Any, start: Any, masks: Any = None) -> Any:
        outputs, endings = [], []
        for i, each in enumerate(weights):
            more = each.all()[len(each.into) :]
            states, ending = layer(spec, inputs, each.into, start[i], *more)
            inputs = states if masks is None else states * masks[i]
            outputs.append(inputs)
            endings.append(ending)
        return outputs, endings

    return layers


@dataclass(frozen=True, slots=True)
class Network:
    """A model with parameters: turns characters into the states that the next are predicted from.

    Parameters
    ----------
    model, hyper: what to compute.
    parameters: arrays or graph variables by name.
    engine: computes with that kind of parameters.
    tables: results of :meth:`table` by tower, if they are known already.
    """

    model: Model
    hyper: HyperParams
    parameters: Mapping[str, Any]
    engine: Engine
    tables: Mapping[str, Any] = field(default_factory=dict)

    def encoded(self, noise: Mapping[str, Any] = _QUIET) -> Any:
        """Return what the first layer reads for each character, (V, I)."""
        encoded = self.engine.encode(self.parameters["E"], self.parameters["a"])
        return encoded * noise["embedding"] if "embedding" in noise else encoded

    def table(self, tower: str = "layers", noise: Mapping[str, Any] = _QUIET) -> Any:
        """Return the first layer's pre-activations for each character, (V, G S).

        They depend on the character alone: V rows, not T B.
        """
        if tower in self.tables:
            return self.tables[tower]
        into, bias = self.parameters[f"{tower}.0.U"], self.parameters[f"{tower}.0.b"]
        if self.model.encode:
            return self.engine.affine(self.encoded(noise), into, bias)
        return (into * noise["embedding"] if "embedding" in noise else into) + bias

    def readout(self) -> tuple[Any, Any]:
        """Return output weights (S, V), or (2 S, V) for two directions, and bias (V,)."""
        weights = self.parameters["E"].T if self.hyper.tied else self.parameters["V"]
        return weights, self.parameters["c"]

    def run(
        self, ids: Any, start: Any, noise: Mapping[str, Any] = _QUIET, tower: str = "layers"
    ) -> tuple[list[Any], Any, list[Any]]:
        """Run text through one stack of layers.

        Parameters
        ----------
        ids: (T, B) characters, int32.
        start: (L, B, H), the state before the first of them.
        noise: that of :meth:`Model.noise`.
        tower: which stack.

        Returns
        -------
        (states of each layer (T, B, S), what goes up from the last one (T, B, S), ending of each layer
        (B, H)). With noise, states may be what dropout left of them, unless the penalty ``tar`` needs them.
        """
        spec, parameters, hyper = self.model.spec(self.hyper), self.parameters, self.hyper
        at, depth = self.model.towers.index(tower), hyper.layers
        here = slice(at * depth, (at + 1) * depth)
        masks = noise["outputs"][here] if "outputs" in noise else None
        weights: list[Weights] = []
        for i, name in enumerate(f"{tower}.{i}" for i in range(depth)):
            # Not every cell has recurrent weights, or a second bias.
            recurrent, second = (parameters.get(f"{name}.{letter}") for letter in "Wd")
            if "recurrent" in noise:
                recurrent = recurrent * noise["recurrent"][here][i]
            into: tuple[Any, ...] = (parameters[f"{name}.U"], parameters[f"{name}.b"])
            if i == 0 and "inputs" not in noise:
                into = (self.table(tower, noise),)
            weights.append(Weights(into, recurrent, second))
        inputs = self.encoded(noise)[ids] * noise["inputs"][at] if "inputs" in noise else ids
        if hyper.layernorm or hyper.residual or hyper.tar:
            return self._apart(inputs, weights, start, masks, tower)
        states, endings = self.engine.layers(spec, inputs, weights, start, masks)
        return states, states[-1], endings

    def _apart(
        self, inputs: Any, weights: list[Weights], start: Any, masks: Any, tower: str
    ) -> tuple[list[Any], Any, list[Any]]:
        """Do what :meth:`run` does, layer by layer, with what happens between layers."""
        spec, parameters = self.model.spec(self.hyper), self.parameters
        states, endings = [], []
        for i, layer in enumerate(weights):
            [output], [ending] = self.engine.layers(spec, inputs, [layer], start[i : i + 1])
            states.append(output)
            endings.append(ending)
            if self.hyper.layernorm:
                gain, shift = (parameters[f"{tower}.{i}.{letter}"] for letter in "gh")
                output = normalised(output, gain, shift)
            if self.hyper.residual and i:
                output = output + inputs
            inputs = output if masks is None else output * masks[i]
        return states, inputs, endings

    def predict(
        self, x: Any, y: Any, start: Any, noise: Mapping[str, Any] = _QUIET
    ) -> tuple[Any, list[Any], list[Any]]:
        """Return what each of ``y`` (T, B) is predicted from, and what it came from.

        That is the text up to ``x``, the character before it; and, in two directions, the rest of
        ``y`` after it. ``noise`` is that of :meth:`Model.noise`.

        Returns
        -------
        (what is predicted from (T, B, S or 2 S), the ending of each layer (B, H), the states of the last
        layer of each stack (T, B, S), as in :meth:`run`).
        """
        states, top, endings = self.run(x, start, noise)
        if not self.model.both:
            return top, endings, states[-1:]
        back, behind, _ = self.run(y[::-1], self.engine.zeros_like(start), noise, "back")
        around = [top, self._earlier(behind)[::-1]]
        return self.engine.concatenate(around, axis=2), endings, [states[-1], back[-1]]

    def look(self, ids: Any, start: Any) -> tuple[list[Any], Any, list[Any]]:
        """Return (states of every layer of every stack, what each prediction is made from, last states).

        In one direction the prediction at t is of the character after ``ids[t]``; in two it is of
        ``ids[t]`` itself, from all the others.
        """
        states, top, endings = self.run(ids, start)
        if not self.model.both:
            return states, top, endings
        back, behind, _ = self.run(ids[::-1], self.engine.zeros_like(start), tower="back")
        around = [self._earlier(top), self._earlier(behind)[::-1]]
        every = [*states, *(each[::-1] for each in back)]
        return every, self.engine.concatenate(around, axis=2), endings

    def _earlier(self, states: Any) -> Any:
        """Return the states one step earlier, with zeros before the first."""
        engine = self.engine
        return engine.concatenate([engine.zeros_like(states[:1]), states[:-1]], axis=0)
