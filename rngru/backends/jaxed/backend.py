"""The ``jax`` backend."""

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np

from rngru.backends import graphs
from rngru.backends.base import Arrays, Backend, Losses, Step, Trace, Written
from rngru.backends.jaxed import drawing
from rngru.backends.jaxed.computing import computing
from rngru.backends.recurrence import fused


@final
class JAX(Backend):
    """PyTensor's graphs, and the gradient by hand, on whatever devices JAX has."""

    name = "jax"

    def __init__(self, model, hyper) -> None:
        super().__init__(model, hyper)
        self._functions: dict[str, Any] = {}

    def place(self, arrays):
        if all(isinstance(array, jax.Array) for array in arrays.values()):
            return arrays
        # A copy: on a CPU, JAX would go on using the memory of NumPy's array.
        return {name: jnp.array(array, copy=True) for name, array in arrays.items()}

    def fetch(self, arrays):
        if not any(isinstance(array, jax.Array) for array in arrays.values()):
            return arrays
        return {name: np.array(array) for name, array in arrays.items()}

    def finite(self, arrays):
        return bool(_finite(list(self.place(arrays).values())))

    def prepare(self) -> None:
        with self._lock.held():
            self._function("step")

    def step(self, arrays, caches, x, y, state, rate, *, number=1, noise=None):
        placed, memory = self.place(arrays), {n: self.place(each) for n, each in caches.items()}
        kept = [each for values in memory.values() for each in values.values()]
        loss, norm, ending, new = self._call(
            "step", list(placed.values()), kept, x, y, np.float32(rate), np.float32(number),
            jnp.array(state), list((noise or {}).values()),
        )  # fmt: skip
        result = Step(float(loss), float(norm), arrays, caches, ending)
        if not result.finite:
            return result
        made = iter(new)
        arrays = {name: next(made) for name in arrays}
        caches = {cache: {name: next(made) for name in values} for cache, values in caches.items()}
        return replace(result, arrays=arrays, caches=caches)

    def trace(self, arrays, ids, state):
        found = self._call("trace", list(self.place(arrays).values()), ids, state)
        return Trace(*map(np.array, found))

    def losses(self, arrays, x, y, state):
        found = self._call("losses", list(self.place(arrays).values()), x, y, state)
        return Losses(*map(np.array, found))

    def generate(self, arrays, ids, state, uniforms, sampling, mask=None, recent=None):
        values, hyper = list(self.place(arrays).values()), self.hyper
        with self._lock.held(), jax.enable_x64(True):
            draw = self._function(f"generate{' cuts' * sampling.cuts}{' repeats' * (recent is not None)}")
            mask = np.zeros(hyper.vocab_size) if mask is None else mask
            limits = (sampling.top_k or hyper.vocab_size, sampling.top_p, sampling.min_p)
            limits = (np.int32(limits[0]), *map(np.float64, limits[1:]))
            window, latest = _window(recent, len(ids))
            rule = np.float64(sampling.temp), np.asarray(mask, np.float32), limits
            penalty, ids = np.float32(math.log(sampling.repeat)), ids.astype(np.int32)
            drawn = [np.empty((0, len(ids)), np.int32)]
            sure = [np.empty((0, len(ids)), np.float32)]
            for first in range(0, len(uniforms), drawing.AT_ONCE):
                piece = np.zeros((drawing.AT_ONCE, len(ids)))
                some = uniforms[first : first + drawing.AT_ONCE]
                piece[: len(some)] = some
                new, likely, ids, state, window = draw(
                    values, ids, state, piece, np.int32(len(some)), *rule, (window, latest, penalty)
                )
                drawn.append(np.asarray(new)[: len(some)])
                sure.append(np.asarray(likely)[: len(some)])
            return Written(np.concatenate(drawn), np.array(state), np.concatenate(sure))

    def _call(self, name: str, *arguments: Any) -> Any:
        with self._lock.held(), jax.enable_x64(False):
            return self._function(name)(*arguments)

    def _function(self, name: str) -> Callable:
        """Return one of the compiled functions; JAX compiles it for each shape of its arguments."""
        if name not in self._functions:
            build = {"step": _step, "losses": _losses, "trace": _trace}.get(name)
            if build is None:
                function = drawing.program(
                    self.model, self.hyper, cuts="cuts" in name, repeats="repeats" in name
                )
            else:
                function = build(self.model, self.hyper)
            self._functions[name] = jax.jit(function)
        return self._functions[name]


def _step(model, hyper):
    compute, depth = computing(*graphs.step(model, hyper, fused)), hyper.layers

    def step(values, memory, x, y, rate, number, state, noise):
        loss, norm, *results = compute(*values, *memory, x, y, rate, number, state, *noise)
        return loss, norm, jnp.stack(results[:depth]), results[depth:]

    return step


def _losses(model, hyper):
    compute = computing(*graphs.losses(model, hyper, fused))

    def losses(values, x, y, state):
        nats, *endings = compute(*values, x, y, state)
        return nats, jnp.stack(endings)

    return losses


def _trace(model, hyper):
    compute, depth = computing(*graphs.trace(model, hyper, fused)), model.depth(hyper)

    def trace(values, ids, state):
        logits, *results = compute(*values, ids, state)
        return jnp.stack(results[:depth]), logits, jnp.stack(results[depth:])

    return trace


@jax.jit
def _finite(values):
    return jnp.stack([jnp.isfinite(each).all() for each in values]).all()


def _window(recent, lanes):
    """Return the recent symbols (R, B), padded to whole 64, and how many of them count."""
    if recent is None:
        return np.zeros((0, lanes), np.int32), np.int32(0)
    more = -len(recent) % 64
    padding = np.full((more, lanes), -1, np.int32)
    return np.concatenate([padding, recent.astype(np.int32)]), np.int32(len(recent))
