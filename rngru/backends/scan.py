"""The ``scan`` backend: ``pytensor.scan`` and PyTensor's own differentiation, the reference."""

import math
from dataclasses import replace
from functools import partial
from typing import Any, final

import numpy as np
import pytensor

from rngru.backends import graphs
from rngru.backends.base import Backend, Losses, Step, Trace, Written, given
from rngru.backends.recurrence import PLAIN, scanned
from rngru.network import apart


@final
class Scan(Backend):
    """``pytensor.scan`` and PyTensor's own differentiation, in any PyTensor mode.

    Parameters
    ----------
    mode: a PyTensor mode or its name; by default one without generated code, which compiles in
        a second and runs slowly. ``'NUMBA'`` compiles for minutes and runs faster.
    """

    name = "scan"

    def __init__(self, model, hyper, mode: Any = None) -> None:
        super().__init__(model, hyper)
        self._mode = mode or PLAIN
        self._functions: dict[str, Any] = {}

    def __reduce__(self):
        return type(self), (self.model, self.hyper, self._mode)

    def step(self, arrays, caches, x, y, state, rate, *, number=1, noise=None):
        memory = [each for values in caches.values() for each in values.values()]
        numbers = np.float32(rate), np.float32(number)
        loss, norm, *results = self._call(
            "step", *arrays.values(), *memory, x, y, *numbers, *given(state, noise)
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
        depth = self.model.depth(self.hyper)
        return Trace(np.stack(results[:depth]), logits, np.stack(results[depth:]))

    def losses(self, arrays, x, y, state):
        losses, *endings = self._call("losses", *arrays.values(), x, y, state)
        return Losses(losses, np.stack(endings))

    def generate(self, arrays, ids, state, uniforms, sampling, mask=None, recent=None):
        if not uniforms.size:
            nothing = np.empty(uniforms.shape, np.int32)
            return Written(nothing, state, nothing.astype(np.float32))
        ids, uniforms = ids.astype(np.int32), uniforms.astype(np.float64)
        mask = np.zeros(self.hyper.vocab_size) if mask is None else mask
        numbers = [uniforms, np.float64(sampling.temp), mask.astype(np.float32)]
        name = "generate"
        if sampling.cuts:
            top_k = np.int64(sampling.top_k or self.hyper.vocab_size)
            numbers += [top_k, np.float64(sampling.top_p), np.float64(sampling.min_p)]
            name += " cut"
        if recent is not None:
            numbers += [recent.astype(np.int32), np.float32(math.log(sampling.repeat))]
            name += " repeat"
        return Written(*self._call(name, *arrays.values(), ids, state, *numbers))

    def _call(self, name: str, *arguments):
        # What is far below the least number is zero, whatever the session says of it.
        with self._lock.held(), np.errstate(under="ignore", over="ignore", divide="ignore"):
            return self._function(name)(*arguments)

    def _function(self, name: str):
        """Compile one of the graphs when it is first needed."""
        if name not in self._functions:
            layers = apart(partial(scanned, mode=self._mode))
            drawn = partial(
                graphs.generate, mode=self._mode, cuts="cut" in name, repeats="repeat" in name
            )
            build = {
                "step": partial(graphs.step, layers=layers),
                "losses": partial(graphs.losses, layers=layers),
                "trace": partial(graphs.trace, layers=layers),
            }.get(name, drawn)
            # A draw is in float64 on purpose; where the user forbids that, other graphs are meant.
            exact = {"warn_float64": "ignore"} if build is drawn else {}
            with pytensor.config.change_flags(**exact):
                inputs, outputs = build(self.model, self.hyper)
                self._functions[name] = pytensor.function(
                    inputs, outputs, mode=self._mode, on_unused_input="ignore"
                )
        return self._functions[name]
