"""The ``jax`` backend: what a program is, and which devices compute it."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
import pytensor.tensor as pt
from jax import lax

from rngru.backends import graphs
from rngru.backends.base import Backend, Losses, Step, Trace, Written
from rngru.backends.jaxed import drawing, memory
from rngru.backends.jaxed.computing import computing
from rngru.backends.jaxed.devices import (
    EVERYWHERE,
    LANES,
    Devices,
    along,
    first,
    near,
    whole,
    world,
)
from rngru.backends.jaxed.ops import Together
from rngru.backends.jaxed.processes import check, failing
from rngru.backends.recurrence import fused
from rngru.backends.team import TEAM

PRECISIONS = {"float32": "float32", "tf32": "tensorfloat32", "bf16": "BF16_BF16_F32"}
"""What JAX calls the ways to multiply."""


@final
class JAX(Backend):
    """PyTensor's graphs, and the gradient by hand, on whatever devices JAX has.

    The batches, noise and draws are those of ``cpu``, and so are the numbers but for roundings. Parameters
    stay on the devices from one step to the next, and the hidden state with its lanes. Each length and
    number of lanes is compiled once, which takes a second or more; it is kept on the disk. (With
    ``random_len`` there are many lengths.)

    **Several devices.** All that JAX finds share a batch if they get equally many lanes. For n weights
    a step computes 6 n T B floating-point operations, and sums 4 n bytes of gradients. With two layers of S
    units n is about 12 S². This is what a step takes with 64 lanes and T = 100 on each of 8 H100, and
    the share of its time that is spent on computing, where one sum waits for all of the gradient:

    ======  ===========  =========  ========  ==========  ==========  =========
    S       summed       TFLOP      NVLink    400 Gbit/s  100 Gbit/s  10 Gbit/s
    ======  ===========  =========  ========  ==========  ==========  =========
     512       13 MB       0.12       99 %       94 %        81 %        31 %
    1024       50 MB       0.48       97 %       84 %        57 %        12 %
    2048      201 MB        1.9       94 %       73 %        39 %         6 %
    4096      805 MB        7.7       92 %       65 %        31 %         4 %
    ======  ===========  =========  ========  ==========  ==========  =========

    That is arithmetic on paper, which nobody has measured. Bytes and arithmetic both grow with S², so
    what helps is more lanes or longer sequences on each card. 64 lanes in all, spread over 8 cards, are no
    faster than on one: a card takes as long for 8 rows as for 64.

    **Precision.** ``precision="tf32"`` and ``"bf16"`` round the factors of matrix products, on devices that
    can; weights, sums and softmax are float32 always. On an H100 a step with 64 lanes, T = 100 and two
    layers of 512 units took 9.7 ms with float32, 6.9 with TF32 and 6.4 with bf16.

    On a GPU it is not arithmetic that takes the time at such a size, but to start 3 to 5 kernels for each
    layer, time step and direction, one after another.
    """

    name = "jax"

    def __init__(self, model, hyper) -> None:
        super().__init__(model, hyper)
        self._functions: dict[tuple[str, Devices, bool], Callable] = {}

    def place(self, arrays):
        return world().everywhere(arrays)

    def fetch(self, arrays):
        if not any(isinstance(array, jax.Array) for array in arrays.values()):
            return arrays
        with failing():
            return {name: whole(array) for name, array in arrays.items()}

    def share(self, lanes):
        return world().share(lanes)

    def dealt(self, lanes):
        devices = world()
        return devices.share(lanes) if devices.shared(lanes) else slice(0, lanes)

    def hosted(self, lanes):
        if jax.default_backend() != "cpu":
            return 0  # what a device has is known when it says that it is too little
        own = world().share(lanes)
        return own.stop - own.start

    def firstlane(self, state):
        return first(state)[:, :1]

    def finite(self, arrays):
        return bool(_finite(self._values(arrays)))

    def remark(self, lanes):
        devices = world()
        if devices.count == 1:
            return ""
        if devices.shared(lanes):
            return f"{devices.count} devices share each batch, {lanes // devices.count} lanes each."
        return (
            f"{devices.count} devices could share a batch, but not one of {lanes} lanes: each computes "
            f"all of it. batchsize={-(-lanes // devices.count) * devices.count} would use them."
        )

    def step(self, arrays, caches, x, y, state, rate, *, number=1, noise=None):
        lanes, devices = state.shape[1], world()
        with failing(partial(self._advice, devices, lanes, len(x))):
            values = self.place(arrays).values()
            kept = [each for cache in caches.values() for each in self.place(cache).values()]
            x, y, state = (devices.part(each, 1, lanes) for each in (x, y, state))
            masks = [_placed(devices, each, lanes) for each in (noise or {}).values()]
            numbers = np.float32(rate), np.float32(number)
            said = devices.said(TEAM.say()) if devices.shared(lanes) else None
            loss, norm, ending, new, heard = self._call(
                "step", devices, lanes, list(values), kept, x, y, *numbers, state, masks, said
            )
            result = Step(float(loss), float(norm), arrays, caches, ending)
        if TEAM.count > 1:
            TEAM.hear(heard)
        if not result.finite:
            return result
        made = iter(new)
        arrays = {name: next(made) for name in arrays}
        caches = {cache: {name: next(made) for name in values} for cache, values in caches.items()}
        return replace(result, arrays=arrays, caches=caches)

    def trace(self, arrays, ids, state):
        states, logits, ending = self._pieces("trace", arrays, [ids], state)
        return Trace(np.concatenate(states, axis=1), np.concatenate(logits), ending)

    def losses(self, arrays, x, y, state):
        if state.shape[1] == x.shape[1]:
            nats, ending = self._pieces("losses", arrays, [x, y], state)
            return Losses(np.concatenate(nats), ending)
        # Other processes have the other lanes; all of them ask.
        devices, lanes, values = world(), state.shape[1], self.place(arrays).values()
        text = (devices.part(each, 1, lanes) for each in (x, y, state))
        with failing():
            nats, ending = self._call("losses together", devices, lanes, list(values), *text)
            return Losses(np.array(nats), ending)

    def _pieces(self, name, arrays, texts, state):
        """Return lists of what a program gives for pieces of a text, each in NumPy, and the last state."""
        devices, values, (steps, lanes) = near(), self._values(arrays), texts[0].shape
        found, at = [], 0
        for length in [steps] if self.model.both else _lengths(steps):
            part = (devices.part(each[at : at + length], 1, lanes) for each in texts)
            with failing():
                start = devices.part(state, 1, lanes)
                *results, state = self._call(name, devices, lanes, values, *part, start)
                found.append(list(map(np.array, results)))
            at += length
        return *map(list, zip(*found, strict=True)), np.array(state)

    def generate(self, arrays, ids, state, uniforms, sampling, mask=None, recent=None):
        devices, lanes, symbols = near(), len(ids), self.hyper.vocab_size
        values, name = self._values(arrays), "generate"
        name += " cuts" * sampling.cuts + " repeats" * (recent is not None)
        window, latest = drawing.window(recent, lanes)
        mask = np.zeros(symbols, np.float32) if mask is None else mask.astype(np.float32)
        limits = (
            np.int32(sampling.top_k or symbols),
            *map(np.float64, (sampling.top_p, sampling.min_p)),
        )
        rule = np.float64(sampling.temp), mask, limits
        further = latest, np.float32(math.log(sampling.repeat))
        ids, drawn, sure = ids.astype(np.int32), [np.empty((0, lanes), np.int32)], []
        for begin in range(0, len(uniforms), drawing.AT_ONCE):
            some = uniforms[begin : begin + drawing.AT_ONCE]
            piece = np.zeros((drawing.AT_ONCE, lanes))
            piece[: len(some)] = some
            new, likely, ids, state, window = self._call(
                name, devices, lanes,
                values, ids, state, piece, np.int32(len(some)), *rule, window, *further,
                exact=True,
            )  # fmt: skip
            drawn.append(np.asarray(new)[: len(some)])
            sure.append(np.asarray(likely)[: len(some)])
        sure.append(np.empty((0, lanes), np.float32))
        return Written(np.concatenate(drawn), np.array(state), np.concatenate(sure))

    def _values(self, arrays) -> list[Any]:
        """Return parameters on the devices of this process, in a list: JAX would sort their names."""
        return list(near().close(self.place(arrays)).values())

    def _call(self, name: str, devices: Devices, lanes: int, *arguments: Any, exact: bool = False):
        check()
        with self._compiling(exact):
            return self._function(name, devices, devices.shared(lanes))(*arguments)

    @contextmanager
    def _compiling(self, exact: bool = False) -> Iterator[None]:
        # PyTensor, or the user, may have switched float64 on.
        precise = jax.default_matmul_precision(PRECISIONS[self.hyper.precision])
        with self._lock.held(), jax.enable_x64(exact), precise:
            yield

    def _advice(self, devices: Devices, lanes: int, steps: int) -> str:
        """Return what to do about a batch that does not fit into memory; '' if nothing is known."""
        free, count = memory.free(), devices.count if devices.shared(lanes) else 1
        if free is None:
            return ""
        fits = count * memory.fitting(partial(self._needed, steps), free, lanes // count)
        other = "make the model with a smaller seq_len."
        return f"A batch of {lanes} x {steps} does not fit into the memory of a device. " + (
            f"batchsize={fits} should fit. Or {other}"
            if fits
            else f"Not even one lane does: {other}"
        )

    def _needed(self, steps: int, lanes: int) -> int:
        """Return the bytes of a step on one device, by XLA's count, beside what it is given to change."""
        array = partial(jax.ShapeDtypeStruct, dtype=np.float32)
        text = jax.ShapeDtypeStruct((steps, lanes), np.int32)
        values = [array(shape) for shape in self.model.shapes(self.hyper).values()]
        kept = values * len(self.hyper.caches)
        noise = map(array, self.model.noiseshapes(self.hyper, steps, lanes).values())
        state = array(self.freshstate(lanes).shape)
        given = values, kept, text, text, array(()), array(()), state, list(noise), None
        with self._compiling():
            taken = memory.taken(self._function("step", world(), shared=False), given)
        return taken - sum(4 * math.prod(each.shape) for each in (*values, *kept))

    def _function(self, name: str, devices: Devices, shared: bool) -> Callable:
        """Return one of the functions; JAX compiles it for each shape of its arguments."""
        key = name, devices, shared
        if key not in self._functions:
            kind, *how = name.split()
            function, inputs, outputs = _PROGRAMS[kind](
                self.model, self.hyper, how, devices.count if shared else 1
            )
            if shared:
                function = devices.spread(function, inputs, outputs)
            self._functions[key] = jax.jit(function)
        return self._functions[key]


def _lengths(steps):
    """Cut a text into powers of two, so that few lengths are ever compiled for.

    >>> list(_lengths(1500))
    [1024, 256, 128, 64, 16, 8, 4]
    """
    while steps:
        length = min(1 << steps.bit_length() - 1, 1024)
        yield length
        steps -= length


def _placed(devices, mask, lanes):
    """Return noise where its lanes are; that of parameters, which has none, is the same everywhere."""
    return devices.part(mask, 2, lanes) if mask.ndim == 4 else devices.everywhere({"": mask})[""]


def _step(model, hyper, how, count):
    # Each device has the whole penalty, and the mean of their gradients is taken.
    own = hyper.replace(regcost=hyper.regcost / count)
    said, heard, depth = pt.fvector("said"), [], hyper.layers

    def gathered(values):
        *values, total = Together(LANES)(*values, said)
        heard.append(total)
        return values

    inputs, outputs = graphs.step(model, own, fused, list if count == 1 else gathered)
    compute = computing([*inputs, *(said for _ in heard)], [*outputs, *heard])

    def step(values, memory, x, y, rate, number, state, noise, said):
        more = [] if said is None else [said[0]]
        loss, norm, *results = compute(*values, *memory, x, y, rate, number, state, *noise, *more)
        total = results.pop() if more else None
        return loss, norm, jnp.stack(results[:depth]), results[depth:], total

    drawn = model.noise(hyper, 1, 1, np.random.default_rng(0)).values()
    noise = [along(2) if each.ndim == 4 else EVERYWHERE for each in drawn]
    lanes, same = along(1), EVERYWHERE
    places = same, same, lanes, lanes, same, same, lanes, noise, along(0)
    return step, places, (same, same, lanes, same, same)


def _losses(model, hyper, how, count):
    compute, lanes = computing(*graphs.losses(model, hyper, fused)), along(1)

    def losses(values, x, y, state):
        nats, *endings = compute(*values, x, y, state)
        if how:
            nats = lax.all_gather(nats, LANES, axis=1, tiled=True)
        return nats, jnp.stack(endings)

    inputs = EVERYWHERE, lanes, lanes, lanes
    return losses, inputs, (EVERYWHERE if how else lanes, lanes)


def _trace(model, hyper, how, count):
    compute, depth, lanes = (
        computing(*graphs.trace(model, hyper, fused)),
        model.depth(hyper),
        along(1),
    )

    def trace(values, ids, state):
        logits, *results = compute(*values, ids, state)
        return jnp.stack(results[:depth]), logits, jnp.stack(results[depth:])

    return trace, (EVERYWHERE, lanes, lanes), (along(2), lanes, lanes)


def _generate(model, hyper, how, count):
    draw = drawing.program(model, hyper, cuts="cuts" in how, repeats="repeats" in how)
    first, lanes, same = along(0), along(1), EVERYWHERE
    inputs = same, first, lanes, lanes, same, same, same, same, lanes, same, same
    return draw, inputs, (lanes, lanes, first, lanes, lanes)


_PROGRAMS = {"step": _step, "losses": _losses, "trace": _trace, "generate": _generate}


@jax.jit
def _finite(values):
    return jnp.stack([jnp.isfinite(each).all() for each in values]).all()
