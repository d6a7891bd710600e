"""How a model is computed: one class per backend, all with the same four methods.

A backend is a set of pure functions of arrays: it holds no parameters, so an interrupted call changes
nothing, and what it returns replaces the old arrays in one assignment. Any number of threads may call
it. Nothing is compiled before the method that needs it is called.

=========  =====================================================================================
``cpu``    the kernels: training through fused ``Op``s and PyTensor's gradient, everything else
           without importing PyTensor
``scan``   ``pytensor.scan`` and PyTensor's own differentiation; the reference, and slow
=========  =====================================================================================

Shapes: T steps, B lanes, L layers, S units, H state, V vocabulary. ``arrays`` are parameters by name,
``caches`` are what the optimizer remembers, by its name for it and then by parameter.

>>> hyper = HyperParams(5, state_size=8, layers=1)
>>> computes, rng = backend("cpu", models.find("GRUEncode"), hyper), np.random.default_rng(1)
>>> arrays = computes.model.initial(hyper, rng)
>>> ids = rng.integers(0, 5, (7, 2), np.int32)
>>> losses, state = computes.losses(arrays, ids, ids, computes.freshstate(lanes=2))
>>> losses.shape, state.shape
((7, 2), (1, 2, 8))
"""

import math
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from rngru import models, sampling
from rngru.errors import choose
from rngru.hyper import CACHES, HyperParams
from rngru.kernels import layers, output, threads, update
from rngru.kernels.sampler import Sampler
from rngru.models import Model, Network

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


def freshcaches(arrays: Arrays, optimizer: str = "rmsprop") -> Caches:
    """Return what the optimizer remembers before its first step: zeros."""
    return {
        cache: {name: np.zeros_like(array) for name, array in arrays.items()}
        for cache in CACHES[optimizer]
    }


def _shrinks(hyper: HyperParams, weights: list[bool]) -> list[float]:
    """Return the weight decay of each parameter; ``weights`` says which are weights, not biases."""
    decay = hyper.weightdecay if hyper.optimizer == "adamw" else 0.0
    return [decay * weight for weight in weights]


def _symbolic(model: Model, hyper: HyperParams, layer, affine):
    """Return a network of symbolic parameters, text x (T, B) and start (L, B, H)."""
    import pytensor.tensor as pt

    from rngru.recurrence import zeros_like

    kinds = {1: pt.fvector, 2: pt.fmatrix}
    parameters = {n: kinds[len(s)](n) for n, s in model.shapes(hyper).items()}
    xp = SimpleNamespace(
        tanh=pt.tanh, zeros_like=zeros_like, concatenate=pt.concatenate, affine=affine
    )
    network = Network(model, hyper, parameters, layer, xp)
    return network, pt.imatrix("x"), pt.ftensor3("start")


def _training(model: Model, hyper: HyperParams, layer, affine):
    """Return a network, x, y, [start, and masks], rows (T B, S or 2 S) to predict from, endings."""
    import pytensor.tensor as pt

    network, x, start = _symbolic(model, hyper, layer, affine)
    y, masks = x.type("y"), []
    if hyper.dropout:
        shape = (None, 1 if hyper.locked else None, None, None)
        masks = [pt.tensor("masks", dtype="float32", shape=shape)]
    top, endings = network.predict(x, y, start, *masks)
    rows = top.reshape((-1, len(model.towers) * hyper.state_size))
    return network, x, y, [start, *masks], rows, endings


class Backend(ABC):
    """What every backend can do.

    Parameters
    ----------
    model, hyper: what to compute.
    """

    name: str

    def __init__(self, model: Model, hyper: HyperParams) -> None:
        self.model, self.hyper = model, hyper
        # A PyTensor function works in memory of its own: two threads in one would spoil it.
        self._alone = threading.RLock()

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
        *,
        number: int = 1,
        masks: np.ndarray | None = None,
    ) -> Step:
        """Train on one batch.

        Parameters
        ----------
        x, y: (T, B), int32.
        state: (L, B, H), what the lanes begin with.
        rate: the learning rate.
        number: 1 for the first update of the parameters' life, and so on.
        masks: what dropout multiplies by, if there is any: see :meth:`rngru.models.Network.run`.
        """

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


class _Recycled:
    """Makes arrays whose memory is used again when nobody holds them or a view of them any more.

    New memory comes from the system a page at a time, which takes longer than to fill it.
    """

    def __init__(self) -> None:
        self._idle: dict[int, list[np.ndarray]] = {}

    def like(self, arrays: Arrays) -> Arrays:
        """Return uninitialised arrays of the names, shapes and dtypes of ``arrays``."""
        return {name: self._one(array) for name, array in arrays.items()}

    def _one(self, array: np.ndarray) -> np.ndarray:
        idle = self._idle.setdefault(array.nbytes, [])
        try:
            memory = idle.pop()  # no "if idle": another thread may pop in between
        except IndexError:
            memory = np.empty(array.nbytes, np.uint8)
        # Of a memoryview and not of the array, so that this one is the base of all views of it.
        flat = np.frombuffer(memory.data, array.dtype)
        weakref.finalize(flat, idle.append, memory).atexit = False
        return flat.reshape(array.shape)


class CPU(Backend):
    """The kernels of :mod:`rngru.kernels`, on all cores."""

    name = "cpu"

    def __init__(self, model: Model, hyper: HyperParams) -> None:
        super().__init__(model, hyper)
        self._gradients: Any = None
        self._sampler: tuple[Arrays, Sampler] | None = None
        self._fresh = _Recycled()

    def compile(self) -> None:
        with self._alone:
            if self._gradients is None:
                self._gradients = self._build()

    def _build(self):
        import pytensor

        from rngru.recurrence import CPU_MODE, Affine, CrossEntropy, fused

        network, x, y, given, rows, endings = _training(self.model, self.hyper, fused, Affine())
        loss = CrossEntropy()(rows, *network.readout(), y.flatten())[0]
        cost = loss / x.shape[1].astype("float32")
        parameters = list(network.parameters.values())
        gradients = pytensor.grad(cost, parameters)
        function = pytensor.function(
            [*parameters, x, y, *given], [loss, *endings, *gradients], mode=CPU_MODE
        )
        function.trust_input = True
        return function

    def step(self, arrays, caches, x, y, state, rate, *, number=1, masks=None):
        self.compile()
        hyper, lanes, count = self.hyper, x.shape[1], threads.available()
        given = [state] if masks is None else [state, masks]
        with self._alone:
            loss, *results = self._gradients(*arrays.values(), x, y, *given)
        endings, gradients = results[: hyper.layers], results[hyper.layers :]
        weights = [models.penalised(each.ndim) for each in gradients]
        old = [_flat(arrays), *map(_flat, caches.values())]
        gradients = [np.ascontiguousarray(each).reshape(-1) for each in gradients]
        penalties = [hyper.regcost / lanes * weight for weight in weights]
        norm = update.norm(gradients, old[0], penalties, count=count)
        result = Step(float(loss), norm, arrays, caches, np.stack(endings))
        if not result.finite:
            return result
        arrays = self._fresh.like(arrays)
        caches = {cache: self._fresh.like(values) for cache, values in caches.items()}
        update.apply(
            hyper.optimizer,
            gradients,
            old,
            [_flat(arrays), *map(_flat, caches.values())],
            rate=rate,
            number=number,
            scale=1.0 if hyper.clipnorm is None else min(1.0, hyper.clipnorm / max(norm, 1e-30)),
            clip=math.inf if hyper.clip is None else hyper.clip,
            decay=hyper.decay,
            momentum=hyper.momentum,
            beta2=hyper.beta2,
            shrinks=_shrinks(hyper, weights),
            count=count,
        )
        return replace(result, arrays=arrays, caches=caches)

    def trace(self, arrays, ids, state):
        network = self._network(arrays)
        states, top, endings = network.look(ids, state)
        logits = _NUMPY.affine(top.reshape(-1, top.shape[2]), *_readout(network))
        return np.stack(states), logits.reshape(*ids.shape, -1), np.stack(endings)

    def losses(self, arrays, x, y, state):
        network = self._network(arrays)
        top, endings = network.predict(x, y, state)
        rows, count = top.reshape(-1, top.shape[2]), threads.available()
        losses, _ = output.score(rows, *_readout(network), y.reshape(-1), count=count)
        return losses.reshape(y.shape), np.stack(endings)

    def generate(self, arrays, ids, state, uniforms, temperature):
        sampler = self._sampler  # another thread may replace it
        if sampler is None or sampler[0] is not arrays:
            sampler = self._sampler = arrays, self._packed(arrays)
        ids, state = ids.astype(np.int32), state.copy()
        drawn = sampler[1].generate(ids, state, uniforms, temperature, count=threads.available())
        return drawn, state

    def _network(self, arrays: Arrays) -> Network:
        return Network(self.model, self.hyper, arrays, _layer, _NUMPY)

    def _packed(self, arrays: Arrays) -> Sampler:
        network, depth = self._network(arrays), range(self.hyper.layers)
        return Sampler(
            self.model.layer(self.hyper),
            network.table(),
            [(arrays[f"layers.{i}.U"], arrays[f"layers.{i}.b"]) for i in depth[1:]],
            [arrays[f"layers.{i}.W"] for i in depth],
            [arrays[f"layers.{i}.d"] for i in depth] if self.hyper.reset_after else None,
            _readout(network),
        )


def _layer(description, inputs, weights, start, recurrent, second_bias=None):
    """A layer on NumPy arrays, by the kernels."""
    count = threads.available()
    return layers.forward(description, inputs, weights, start, recurrent, second_bias, count=count)[
        :2
    ]


_NUMPY = SimpleNamespace(
    tanh=np.tanh,
    zeros_like=np.zeros_like,
    concatenate=np.concatenate,
    affine=lambda *arrays: output.affine(*arrays, count=threads.available()),
)


def _readout(network: Network) -> tuple[np.ndarray, np.ndarray]:
    weights, bias = network.readout()
    return np.ascontiguousarray(weights), bias


def _flat(arrays: Arrays) -> list[np.ndarray]:
    return [array.reshape(-1) for array in arrays.values()]


def _affine(rows, weights, bias):
    return rows @ weights + bias


def _cross_entropy(logits, targets):
    """Cross-entropy of each row of ``logits`` (N, V), in nats, for ``targets`` (N,).

    PyTensor's own log-softmax would be compiled apart, by Numba or a C compiler, whatever the mode.
    """
    import pytensor.tensor as pt
    from pytensor.gradient import disconnected_grad

    # The loss does not depend on what is taken off from all, so its share of the gradient is zero.
    shifted = logits - disconnected_grad(logits.max(axis=-1, keepdims=True))
    return pt.log(pt.exp(shifted).sum(axis=-1)) - shifted[pt.arange(targets.size), targets]


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
        with self._alone:
            self._function("step")

    def step(self, arrays, caches, x, y, state, rate, *, number=1, masks=None):
        memory = [each for values in caches.values() for each in values.values()]
        given = [state] if masks is None else [state, masks]
        loss, norm, *results = self._call(
            "step", *arrays.values(), *memory, x, y, np.float32(rate), np.float32(number), *given
        )
        depth = self.hyper.layers
        result = Step(float(loss), float(norm), arrays, caches, np.stack(results[:depth]))
        if not result.finite:
            return result
        new = iter(results[depth:])
        arrays = {name: next(new) for name in arrays}
        caches = {cache: {name: next(new) for name in values} for cache, values in caches.items()}
        return replace(result, arrays=arrays, caches=caches)

    def trace(self, arrays, ids, state):
        logits, *results = self._call("trace", *arrays.values(), ids, state)
        depth = len(self.model.towers) * self.hyper.layers
        return np.stack(results[:depth]), logits, np.stack(results[depth:])

    def losses(self, arrays, x, y, state):
        losses, *endings = self._call("losses", *arrays.values(), x, y, state)
        return losses, np.stack(endings)

    def generate(self, arrays, ids, state, uniforms, temperature):
        drawn, ids = np.empty(uniforms.shape, np.int32), ids.astype(np.int32)
        for i, uniform in enumerate(uniforms):
            _, logits, state = self.trace(arrays, ids[np.newaxis], state)
            drawn[i] = ids = sampling.choose(logits[0], temperature, uniform)
        return drawn, state

    def _call(self, name: str, *arguments):
        with self._alone:
            return self._function(name)(*arguments)

    def _function(self, name: str):
        """Compile ``step``, ``losses`` or ``trace`` when it is first needed."""
        import pytensor

        if name not in self._functions:
            from rngru.recurrence import PLAIN, scanned

            mode = self.mode or PLAIN
            build = getattr(self, f"_{name}_graph")
            inputs, outputs = build(partial(scanned, mode=mode))
            self._functions[name] = pytensor.function(
                inputs, outputs, mode=mode, on_unused_input="ignore"
            )
        return self._functions[name]

    def _step_graph(self, layer):
        import pytensor
        import pytensor.tensor as pt

        from rngru import optim

        hyper = self.hyper
        network, x, y, given, rows, endings = _training(self.model, hyper, layer, _affine)
        values = list(network.parameters.values())
        logits = _affine(rows, *network.readout())
        loss = _cross_entropy(logits, y.flatten()).sum()
        weights = [models.penalised(each.ndim) for each in values]
        squares = sum(pt.sqr(p).sum() for p, weight in zip(values, weights, strict=True) if weight)
        cost = (loss + np.float32(hyper.regcost / 2) * squares) / x.shape[1].astype("float32")
        gradients = pytensor.grad(cost, values)
        norm = optim.norm(gradients)
        caches = [
            [p.type(f"{cache}.{p.name}") for p in values] for cache in CACHES[hyper.optimizer]
        ]
        rate, number = pt.fscalar("rate"), pt.fscalar("number")
        updates = optim.OPTIMIZERS[hyper.optimizer](
            values,
            optim.clipped(gradients, hyper, norm),
            caches,
            rate=rate,
            hyper=hyper,
            number=number,
            shrinks=_shrinks(hyper, weights),
        )
        memory = [each for cache in caches for each in cache]
        new = [updates[each] for each in (*values, *memory)]
        return [*values, *memory, x, y, rate, number, *given], [loss, norm, *endings, *new]

    def _losses_graph(self, layer):
        hyper = self.hyper.replace(dropout=0)
        network, x, y, given, rows, endings = _training(self.model, hyper, layer, _affine)
        losses = _cross_entropy(_affine(rows, *network.readout()), y.flatten())
        return [*network.parameters.values(), x, y, *given], [losses.reshape(y.shape), *endings]

    def _trace_graph(self, layer):
        network, x, start = _symbolic(self.model, self.hyper, layer, _affine)
        states, top, endings = network.look(x, start)
        logits = _affine(top, *network.readout())
        return [*network.parameters.values(), x, start], [logits, *states, *endings]


BACKENDS = {backend.name: backend for backend in (CPU, Scan)}
"""Every backend by name."""


def backend(name: str, model: Model, hyper: HyperParams) -> Backend:
    """Return the backend called ``name`` for a model; nothing is compiled yet."""
    return BACKENDS[choose("backend", name, BACKENDS)](model, hyper)
