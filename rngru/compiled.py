"""How a model is computed: one class per backend, all with the same four methods.

A backend is a set of pure functions of arrays: it holds no parameters, so an interrupted call changes
nothing, and what it returns replaces the old arrays in one assignment. Nothing is compiled before
the method that needs it is called.

=========  =====================================================================================
``cpu``    the kernels: training through fused ``Op``s and PyTensor's gradient, everything else
           without importing PyTensor
``scan``   ``pytensor.scan`` and PyTensor's own differentiation; the reference, and slow
=========  =====================================================================================

Shapes: T steps, B lanes, L layers, S units, H state, V vocabulary. ``arrays`` are parameters by name,
``caches`` are what the optimizer remembers, by its name for it and then by parameter.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from rngru import models, sampling
from rngru.errors import choose
from rngru.hyper import HyperParams
from rngru.kernels import layers, output, threads, update
from rngru.kernels.sampler import Sampler
from rngru.models import Model

Arrays = Mapping[str, np.ndarray]
Caches = Mapping[str, Arrays]


@dataclass(frozen=True, slots=True)
class Step:
    """What one training step gives.

    ``loss`` is the total cross-entropy of the batch (nats) before the update, ``gradnorm`` the
    length of the cost's gradient before clipping. Where either is not finite, ``arrays`` and
    ``caches`` are the old ones. ``state`` is (L, B, H).
    """

    loss: float
    gradnorm: float
    arrays: Arrays
    caches: Caches
    state: np.ndarray

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.loss) and np.isfinite(self.gradnorm))


def freshcaches(arrays: Arrays) -> Caches:
    """Return what the optimizer remembers before its first step."""
    return {"mean": {name: np.zeros_like(array) for name, array in arrays.items()}}


def _graph(model: Model, hyper: HyperParams, layer, affine):
    """Return symbolic parameters by name, text x (T, B), start (L, B, H), states and endings."""
    import pytensor.tensor as pt

    kinds = {1: pt.fvector, 2: pt.fmatrix}
    parameters = {n: kinds[len(s)](n) for n, s in model.shapes(hyper).items()}
    x, start = pt.imatrix("x"), pt.ftensor3("start")
    xp = SimpleNamespace(tanh=pt.tanh, affine=affine)
    states, endings = models.run(model, hyper, parameters, x, start, layer, xp)
    return parameters, x, start, states, endings


class Backend(ABC):
    """What every backend can do.

    Parameters
    ----------
    model, hyper: what to compute.
    """

    name: str

    def __init__(self, model: Model, hyper: HyperParams) -> None:
        self.model, self.hyper = model, hyper

    def freshstate(self, lanes: int) -> np.ndarray:
        """Return the state before any text: zeros (L, B, H)."""
        return self.model.freshstate(self.hyper, lanes)

    @abstractmethod
    def compile(self) -> None:
        """Build what a training step needs, if that has not been done."""

    @abstractmethod
    def step(
        self,
        arrays: Arrays,
        caches: Caches,
        x: np.ndarray,
        y: np.ndarray,
        state: np.ndarray,
        rate: float,
    ) -> Step:
        """Train on one batch: ``x`` and ``y`` (T, B) int32, ``state`` (L, B, H)."""

    @abstractmethod
    def trace(
        self, arrays: Arrays, ids: np.ndarray, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run text ``ids`` (T, B): states (L, T, B, S), logits (T, B, V) and the last state (L, B, H)."""

    @abstractmethod
    def losses(
        self, arrays: Arrays, x: np.ndarray, y: np.ndarray, state: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cross-entropy (T, B) in nats of each character of ``y``, and the last state (L, B, H)."""

    @abstractmethod
    def generate(
        self,
        arrays: Arrays,
        ids: np.ndarray,
        state: np.ndarray,
        uniforms: np.ndarray,
        temperature: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw characters (n, B) after ``ids`` (B,), one for each of ``uniforms`` (n, B); last state."""


class CPU(Backend):
    """The kernels of :mod:`rngru.kernels`, on all cores."""

    name = "cpu"

    def __init__(self, model: Model, hyper: HyperParams) -> None:
        super().__init__(model, hyper)
        self._gradients: Any = None
        self._sampler: tuple[Arrays, Sampler] | None = None

    def compile(self) -> None:
        if self._gradients is not None:
            return
        import pytensor

        from rngru.recurrence import CPU_MODE, Affine, CrossEntropy, fused

        parameters, x, start, states, endings = _graph(self.model, self.hyper, fused, Affine())
        y = x.type("y")
        rows = states[-1].reshape((-1, self.hyper.state_size))
        loss = CrossEntropy()(rows, parameters["V"], parameters["c"], y.flatten())[0]
        cost = loss / x.shape[1].astype("float32")
        gradients = pytensor.grad(cost, list(parameters.values()))
        self._gradients = pytensor.function(
            [*parameters.values(), x, y, start], [loss, *endings, *gradients], mode=CPU_MODE
        )
        self._gradients.trust_input = True

    def step(self, arrays, caches, x, y, state, rate):
        self.compile()
        hyper, lanes, count = self.hyper, x.shape[1], threads.available()
        loss, *results = self._gradients(*arrays.values(), x, y, state)
        endings, gradients = results[: hyper.layers], results[hyper.layers :]
        penalties = [
            hyper.regcost / lanes if models.penalised(each.ndim) else 0.0 for each in gradients
        ]
        gradients, old = _flat(gradients), (_flat(arrays.values()), _flat(caches["mean"].values()))
        norm = update.norm(gradients, old[0], penalties, count=count)
        result = Step(float(loss), norm, arrays, caches, np.stack(endings))
        if not result.finite:
            return result
        arrays = {name: np.empty_like(array) for name, array in arrays.items()}
        caches = {"mean": {name: np.empty_like(array) for name, array in arrays.items()}}
        update.rmsprop(
            gradients, old, (_flat(arrays.values()), _flat(caches["mean"].values())), rate=rate,
            decay=hyper.decay, clip=np.inf if hyper.clip is None else hyper.clip, count=count,
        )  # fmt: skip
        return replace(result, arrays=arrays, caches=caches)

    def trace(self, arrays, ids, state):
        states, endings = models.run(self.model, self.hyper, arrays, ids, state, _layer, _NUMPY)
        rows = states[-1].reshape(-1, self.hyper.state_size)
        logits = _NUMPY.affine(rows, arrays["V"], arrays["c"])
        return np.stack(states), logits.reshape(*ids.shape, -1), np.stack(endings)

    def losses(self, arrays, x, y, state):
        states, endings = models.run(self.model, self.hyper, arrays, x, state, _layer, _NUMPY)
        rows = states[-1].reshape(-1, self.hyper.state_size)
        losses, _ = output.score(
            rows, arrays["V"], arrays["c"], y.reshape(-1), count=threads.available()
        )
        return losses.reshape(y.shape), np.stack(endings)

    def generate(self, arrays, ids, state, uniforms, temperature):
        if self._sampler is None or self._sampler[0] is not arrays:
            self._sampler = arrays, self._packed(arrays)
        ids, state = ids.astype(np.int32), state.copy()
        return self._sampler[1].generate(ids, state, uniforms, temperature), state

    def _packed(self, arrays: Arrays) -> Sampler:
        depth = range(self.hyper.layers)
        return Sampler(
            self.model.layer(self.hyper),
            models.table(self.model, arrays, _NUMPY),
            [(arrays[f"layers.{i}.U"], arrays[f"layers.{i}.b"]) for i in depth[1:]],
            [arrays[f"layers.{i}.W"] for i in depth],
            [arrays[f"layers.{i}.d"] for i in depth] if self.hyper.reset_after else None,
            (arrays["V"], arrays["c"]),
        )


def _layer(description, inputs, weights, start, recurrent, second_bias=None):
    """A layer on NumPy arrays, by the kernels."""
    count = threads.available()
    return layers.forward(description, inputs, weights, start, recurrent, second_bias, count=count)[
        :2
    ]


_NUMPY = SimpleNamespace(
    tanh=np.tanh, affine=lambda *arrays: output.affine(*arrays, count=threads.available())
)


def _flat(arrays) -> list[np.ndarray]:
    return [np.ascontiguousarray(array).reshape(-1) for array in arrays]


def _affine(rows, weights, bias):
    return rows @ weights + bias


class Scan(Backend):
    """``pytensor.scan`` and PyTensor's own differentiation, in any PyTensor mode.

    Parameters
    ----------
    mode: a PyTensor mode or its name; by default one without generated code, which compiles in
        a second and runs slowly. ``'NUMBA'`` compiles for minutes and runs faster.
    """

    name = "scan"

    def __init__(self, model: Model, hyper: HyperParams, mode: Any = None) -> None:
        super().__init__(model, hyper)
        self.mode = mode
        self._functions: dict[str, Any] = {}

    def compile(self) -> None:
        self._function("step")

    def step(self, arrays, caches, x, y, state, rate):
        means = caches["mean"]
        loss, norm, *results = self._function("step")(
            *arrays.values(), *means.values(), x, y, state, np.float32(rate)
        )
        depth, count = self.hyper.layers, len(arrays)
        result = Step(float(loss), float(norm), arrays, caches, np.stack(results[:depth]))
        if not result.finite:
            return result
        new = dict(zip(arrays, results[depth : depth + count], strict=True))
        memory = dict(zip(means, results[depth + count :], strict=True))
        return replace(result, arrays=new, caches={"mean": memory})

    def trace(self, arrays, ids, state):
        logits, *results = self._function("trace")(*arrays.values(), ids, state)
        depth = self.hyper.layers
        return np.stack(results[:depth]), logits, np.stack(results[depth:])

    def losses(self, arrays, x, y, state):
        _, logits, state = self.trace(arrays, x, state)
        logits = logits.astype(np.float64)
        largest = logits.max(-1, keepdims=True)
        total = np.log(np.exp(logits - largest).sum(-1)) + largest[..., 0]
        chosen = np.take_along_axis(logits, y[..., np.newaxis], -1)[..., 0]
        return total - chosen, state

    def generate(self, arrays, ids, state, uniforms, temperature):
        drawn = np.empty(uniforms.shape, np.int32)
        for i, uniform in enumerate(uniforms):
            _, logits, state = self.trace(arrays, ids[np.newaxis], state)
            drawn[i] = ids = sampling.choose(logits[0], temperature, uniform)
        return drawn, state

    def _function(self, name: str):
        """Compile ``step`` or ``trace`` when it is first needed."""
        import pytensor

        if name not in self._functions:
            from rngru.recurrence import PLAIN, scanned

            mode = self.mode or PLAIN
            build = self._step_graph if name == "step" else self._trace_graph
            inputs, outputs = build(partial(scanned, mode=mode))
            self._functions[name] = pytensor.function(inputs, outputs, mode=mode)
        return self._functions[name]

    def _step_graph(self, layer):
        import pytensor
        import pytensor.tensor as pt

        from rngru import optim

        hyper = self.hyper
        parameters, x, start, states, endings = _graph(self.model, hyper, layer, _affine)
        y, values = x.type("y"), list(parameters.values())
        logits = _affine(states[-1], parameters["V"], parameters["c"])
        logits = logits.reshape((-1, hyper.vocab_size))
        chosen = pt.special.log_softmax(logits, axis=-1)[pt.arange(y.size), y.flatten()]
        loss = -chosen.sum()
        squares = sum(pt.sqr(each).sum() for each in values if models.penalised(each.ndim))
        cost = (loss + np.float32(hyper.regcost / 2) * squares) / x.shape[1].astype("float32")
        gradients = pytensor.grad(cost, values)
        means = [each.type(f"mean of {each.name}") for each in values]
        rate = pt.fscalar("rate")
        updates = optim.rmsprop(
            values, optim.clipped(gradients, hyper.clip), means, rate=rate, decay=hyper.decay
        )
        new = [updates[each] for each in (*values, *means)]
        inputs = [*values, *means, x, y, start, rate]
        return inputs, [loss, optim.norm(gradients), *endings, *new]

    def _trace_graph(self, layer):
        parameters, x, start, states, endings = _graph(self.model, self.hyper, layer, _affine)
        logits = _affine(states[-1], parameters["V"], parameters["c"])
        return [*parameters.values(), x, start], [logits, *states, *endings]


BACKENDS = {backend.name: backend for backend in (CPU, Scan)}
"""Every backend by name."""


def backend(name: str, model: Model, hyper: HyperParams) -> Backend:
    """Return the backend called ``name`` for a model; nothing is compiled yet."""
    return BACKENDS[choose("backend", name, BACKENDS)](model, hyper)
