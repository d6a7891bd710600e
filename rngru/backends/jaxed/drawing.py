"""Text drawn on the device, in one compiled loop of any length.

The draw is that of :mod:`rngru.sampling`, in float64: who calls this has switched that on.

Shapes: n symbols, K at most at a time, B lanes, V vocabulary, R recent symbols at most.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytensor
import pytensor.tensor as pt
from jax import lax

from rngru.backends import graphs
from rngru.backends.jaxed.computing import computing, parted
from rngru.backends.recurrence import stepped
from rngru.hyper import HyperParams
from rngru.models import Model
from rngru.network import apart

AT_ONCE = 256
"""Symbols that one call of the compiled loop draws at most."""

ROUND = {"cpu": 1}
"""Symbols that one round of the loop draws, by platform; after each, a GPU waits to be told to go on."""

_MANY = 16


def program(model: Model, hyper: HyperParams, *, cuts: bool, repeats: bool) -> Callable:
    """Return what draws: of (parameters, ids (B,), start (L, B, H), uniforms (K, B), count, temperature,
    mask (V,), limits, recent (R, B), latest, penalty) the symbols (K, B), their log-probabilities (K, B),
    and ids, state and recent symbols after them.

    The first ``count`` symbols are drawn. ``limits`` are top_k, top_p and min_p, if it ``cuts``; and if it
    ``repeats``, ``penalty`` is taken off the logits of the ``latest`` of the recent symbols.
    """
    net = graphs.network(model, hyper, apart(stepped))
    parameters = list(net.parameters.values())
    ids, start = pt.imatrix("ids"), pt.ftensor3("start")
    _, top, endings = net.look(ids, start)
    logits = graphs.affine(top[0], *net.readout())
    before, advance = parted([*parameters, ids, start], [logits, *endings], len(parameters))
    with _exactly():
        given = [logits.type(), pt.dscalar(), pt.dvector()]
        given += [pt.lscalar(), pt.dscalar(), pt.dscalar()] if cuts else []
        choose = computing(given, [graphs.choice(*given)])
    symbols = pt.ivector("symbols")
    likely = computing([given[0], symbols], [-graphs.crossentropy(given[0], symbols)])

    def draw(
        values: Sequence[Any],
        ids: Any,
        start: Any,
        uniforms: Any,
        count: Any,
        temperature: Any,
        mask: Any,
        limits: Any,
        recent: Any,
        latest: Any,
        penalty: Any,
    ) -> tuple[Any, ...]:
        steady = before(*values)
        several = ROUND.get(jax.default_backend(), _MANY)

        def one(i: Any, carried: Any) -> Any:
            ids, state, drawn, sure, recent = carried
            logits, *endings = advance(*steady, ids[jnp.newaxis], state)
            ruled = logits + mask
            if repeats:
                ruled = _lowered(ruled, recent, latest, penalty)
            with _exactly():
                (new,) = choose(ruled, temperature, uniforms[i], *(limits if cuts else ()))
            (logprobs,) = likely(logits, new)
            if repeats:
                recent = jnp.concatenate([recent[1:], new[jnp.newaxis]])
            drawn = drawn.at[i].set(new)
            sure = sure.at[i].set(logprobs)
            return new, jnp.stack(endings), drawn, sure, recent

        def some(k: Any, carried: Any) -> Any:
            for j in range(several):
                carried = one(k * several + j, carried)
            return carried

        blank = jnp.zeros(uniforms.shape, jnp.int32)
        carried = ids, start, blank, blank.astype(jnp.float32), recent
        carried = lax.fori_loop(0, count // several, some, carried)
        if several > 1:
            carried = lax.fori_loop(count // several * several, count, one, carried)
        ids, state, drawn, sure, recent = carried
        return drawn, sure, ids, state, recent

    return draw


def _lowered(logits: Any, recent: Any, latest: Any, penalty: Any) -> Any:
    """Take ``penalty`` off the logits (B, V) of the ``latest`` of the recent symbols (R, B)."""
    counts = jnp.arange(len(recent)) >= len(recent) - latest
    equal = recent[:, :, jnp.newaxis] == jnp.arange(logits.shape[1])
    there = (counts[:, jnp.newaxis, jnp.newaxis] & equal).any(axis=0)
    return jnp.where(there, logits - penalty, logits)


def _exactly() -> Any:
    """Let PyTensor use float64, as on purpose here, where the user forbids it in other graphs."""
    return pytensor.config.change_flags(warn_float64="ignore")


def window(recent: np.ndarray | None, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the recent symbols in whole 64, so that few lengths are compiled for, and how many count."""
    if recent is None:
        return np.zeros((0, lanes), np.int32), np.asarray(0, np.int32)
    padding = np.full((-len(recent) % 64, lanes), -1, np.int32)
    found = np.concatenate([padding, recent.astype(np.int32)])
    return found, np.asarray(len(recent), np.int32)
