"""The graphs of a model: a training step, the losses of a text, a trace of it, and text drawn.

Each function returns (inputs, outputs) for ``pytensor.function``. They are written in PyTensor's own
operations, so any backend that can compile those can use them; ``layers`` computes a stack
of layers, as in :class:`rngru.network.Engine`. Parameters come first among the inputs, in the order of
``model.shapes(hyper)``.

Shapes: T steps, B lanes, L layers, S units, H state, V vocabulary, n symbols drawn.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.gradient import disconnected_grad

from rngru import models, optim
from rngru.backends.base import shrinks
from rngru.backends.ops import zeros_like
from rngru.backends.recurrence import setmode, stepped
from rngru.hyper import MEAN, HyperParams
from rngru.models import Model
from rngru.network import Engine, Network, apart

_KINDS = {1: pt.fvector, 2: pt.fmatrix}


def affine(rows, weights, bias):
    """``rows @ weights + bias``."""
    return rows @ weights + bias


def encode(rows, bias):
    """The hyperbolic tangent of ``rows + bias``."""
    return pt.tanh(rows + bias)


def crossentropy(logits, targets):
    """Cross-entropy of each row of ``logits`` (N, V), in nats, for ``targets`` (N,).

    PyTensor's own log-softmax would be compiled apart, by Numba or a C compiler, whatever the mode.
    """
    # The loss does not depend on what is taken off from all, so its share of the gradient is zero.
    shifted = logits - disconnected_grad(logits.max(axis=-1, keepdims=True))
    return pt.log(pt.exp(shifted).sum(axis=-1)) - shifted[pt.arange(targets.size), targets]


def network(
    model: Model,
    hyper: HyperParams,
    layers: Callable,
    product: Callable = affine,
    encoding: Callable = encode,
):
    """Return a network of symbolic parameters."""
    parameters = {n: _KINDS[len(s)](n) for n, s in model.shapes(hyper).items()}
    engine = Engine(layers, product, encoding, zeros_like, pt.concatenate)
    return Network(model, hyper, parameters, engine)


def predicting(net: Network, *, training: bool = True):
    """Return ([x, y, start, …noise], what to predict from (T, B, S or 2 S), last states, penalties).

    The last states are (B, H) for each layer; the noise, which comes last, is that of
    :meth:`rngru.models.Model.noise`; the penalties are those of :func:`penalties`.
    """
    x, y, start = pt.imatrix("x"), pt.imatrix("y"), pt.ftensor3("start")
    shapes = net.model.noiseshapes(net.hyper) if training else {}
    noise = {
        name: pt.tensor(name, dtype="float32", shape=tuple(1 if n == 1 else None for n in shape))
        for name, shape in shapes.items()
    }
    top, endings, states = net.predict(x, y, start, noise)
    return [x, y, start, *noise.values()], top, endings, penalties(net.hyper, top, states)


def flat(net: Network, top):
    """Return what to predict from as rows, (T B, S or 2 S)."""
    return top.reshape((-1, len(net.model.towers) * net.hyper.state_size))


def penalties(hyper: HyperParams, top, states) -> list[Any]:
    r"""Return what is added to the cross-entropy of a batch, in nats.

    Activation regularisation and its temporal form, after Merity et al. (arXiv 1708.02182): for each
    symbol, ``ar`` times the mean square of what it is predicted from, after dropout, and ``tar`` times the
    mean square of how far the last layer's states, before dropout, have moved since the step before; at the
    first step of a batch they have not. (Merity et al. take the second mean over one step less.)

    Label smoothing, :math:`\epsilon` (Szegedy et al., arXiv 1512.00567), is not among them:
    :class:`~rngru.backends.ops.CrossEntropy` has it. With it the target is the symbol with weight
    :math:`1 - \epsilon` and each of all V symbols with :math:`\epsilon / V`.

    Parameters
    ----------
    top: (T, B, S or 2 S), what symbols are predicted from.
    states: (T, B, S), those of the last layer of each stack.
    """
    found, width = [], hyper.state_size * len(states)
    if hyper.ar:
        found.append(np.float32(hyper.ar / width) * pt.sqr(top).sum())
    if hyper.tar:
        moved = [pt.sqr(each[1:] - each[:-1]).sum() for each in states]
        found.append(np.float32(hyper.tar / width) * sum(moved[1:], moved[0]))
    return found


def step(
    model: Model, hyper: HyperParams, layers: Callable, gathered: Callable = list
) -> tuple[list[Any], list[Any]]:
    """A training step: parameters, caches, x, y, rate, number, start, noise to
    (loss, norm, endings, new parameters, new caches).

    ``gathered`` is given loss and gradients, and returns them for all lanes, where others have more.
    """
    net = network(model, hyper, layers)
    values = list(net.parameters.values())
    (x, y, *given), top, endings, more = predicting(net)
    logits, targets = affine(flat(net, top), *net.readout()), y.flatten()
    loss = crossentropy(logits, targets).sum()
    if hyper.smoothing:
        far = logits[pt.arange(targets.size), targets] - logits.mean(axis=-1)
        more.append(np.float32(hyper.smoothing) * far.sum())
    weights = [models.penalised(each.ndim) for each in values]
    squares = sum(pt.sqr(p).sum() for p, weight in zip(values, weights, strict=True) if weight)
    more.append(np.float32(hyper.regcost / 2) * squares)
    cost = sum(more, loss) / x.shape[1].astype("float32")
    loss, *gradients = gathered([loss, *pytensor.grad(cost, values)])
    norm = optim.norm(gradients)
    caches = {cache: [p.type(f"{cache}.{p.name}") for p in values] for cache in hyper.caches}
    memory = [each for cache in caches.values() for each in cache]
    means = caches.pop(MEAN, [])
    rate, number = pt.fscalar("rate"), pt.fscalar("number")
    updates = optim.RULES[hyper.optimizer](
        values,
        optim.clipped(gradients, hyper, norm),
        list(caches.values()),
        rate=rate,
        hyper=hyper,
        number=number,
        shrinks=shrinks(hyper, weights),
    )
    if means:
        after = optim.averaged([updates[p] for p in values], means, number=number, hyper=hyper)
        updates |= dict(zip(means, after, strict=True))
    new = [updates[each] for each in (*values, *memory)]
    return [*values, *memory, x, y, rate, number, *given], [loss, norm, *endings, *new]


def losses(model: Model, hyper: HyperParams, layers: Callable) -> tuple[list[Any], list[Any]]:
    """Losses of a text: parameters, x, y, start to (losses (T, B), endings)."""
    net = network(model, hyper, layers)
    (x, y, start), top, endings, _ = predicting(net, training=False)
    found = crossentropy(affine(flat(net, top), *net.readout()), y.flatten())
    return [*net.parameters.values(), x, y, start], [found.reshape(y.shape), *endings]


def trace(model: Model, hyper: HyperParams, layers: Callable) -> tuple[list[Any], list[Any]]:
    """What a text does: parameters, x, start to (logits (T, B, V), states of each layer, endings)."""
    net = network(model, hyper, layers)
    x, start = pt.imatrix("x"), pt.ftensor3("start")
    states, top, endings = net.look(x, start)
    return [*net.parameters.values(), x, start], [affine(top, *net.readout()), *states, *endings]


def generate(
    model: Model, hyper: HyperParams, mode: Any, cuts: bool, repeats: bool
) -> tuple[list[Any], list[Any]]:
    """Text drawn: parameters, ids (B,), start, uniforms (n, B), temperature, mask (V,), if it
    ``cuts`` top_k, top_p and min_p, and if it looks at what ``repeats`` the recent ids (r, B) and what
    is taken off their logits, to (drawn (n, B), last state, logarithms of probabilities (n, B)).

    One scan over the uniform numbers; the draw is that of :func:`rngru.sampling.draw`, in float64.
    """
    net = network(model, hyper, apart(stepped))
    names, values = list(net.parameters), list(net.parameters.values())
    ids = pt.ivector("ids")
    start = pt.tensor("start", dtype="float32", shape=(hyper.layers, None, None))
    uniforms, temperature = pt.matrix("uniforms", dtype="float64"), pt.dscalar("temperature")
    mask = pt.fvector("mask")
    limits = [pt.lscalar("top_k"), pt.dscalar("top_p"), pt.dscalar("min_p")] if cuts else []
    recent, penalty = ([pt.imatrix("recent")], [pt.fscalar("penalty")]) if repeats else ([], [])

    def advance(uniform, ids, state, *given):
        window, given = given[: len(recent)], given[len(recent) :]
        (table, temperature, mask), given = given[:3], given[3:]
        parameters, given = dict(zip(names, given, strict=False)), given[len(names) :]
        here = Network(model, hyper, parameters, net.engine, {"layers": table})
        _, top, endings = here.look(ids.dimshuffle("x", 0), state)
        logits = affine(top[0], *here.readout())
        ruled = logits + mask
        for latest in window:
            there = pt.eq(latest.dimshuffle(0, 1, "x"), pt.arange(hyper.vocab_size)).any(axis=0)
            ruled = pt.switch(there, ruled - given[-1], ruled)
        drawn = choice(ruled, temperature, uniform, *given[: len(limits)])
        after = [pt.concatenate([each[1:], drawn.dimshuffle("x", 0)]) for each in window]
        return drawn, pt.stack(endings), *after, -crossentropy(logits, drawn)

    drawn, states, *_, logprobs = pytensor.scan(
        advance,
        sequences=[uniforms],
        outputs_info=[ids, start, *recent, None],
        non_sequences=[net.table(), temperature, mask, *values, *limits, *penalty],
        strict=True,
        return_updates=False,
    )
    setmode(drawn, mode)
    inputs = [*values, ids, start, uniforms, temperature, mask, *limits, *recent, *penalty]
    return inputs, [drawn, states[-1], logprobs]


def choice(logits, temperature, uniform, *limits):
    """One symbol for each row of ``logits`` (B, V): int32 (B,)."""
    greedy = pt.eq(temperature, 0)
    exact = logits.astype("float64")
    divisor = pt.switch(greedy, 1.0, temperature)
    best = exact.max(axis=-1, keepdims=True)
    # At temperature 0 the first of the best has all the weight that the draw can reach.
    weights = pt.switch(greedy, pt.eq(exact, best), pt.exp((exact - best) / divisor))
    if limits:
        weights = weights * _kept(exact, weights, divisor, *limits)
    reached = weights.cumsum(axis=-1)
    wanted = pt.switch(greedy, 0.0, uniform) * reached[:, -1]
    return pt.gt(reached, wanted.dimshuffle(0, "x")).astype("int8").argmax(axis=-1).astype("int32")


def _kept(logits, weights, temperature, top_k, top_p, min_p):
    """Which symbols may be drawn, (B, V): :func:`rngru.sampling.kept`."""
    order = pt.argsort(-logits, axis=-1, kind="stable")
    ranks = pt.argsort(order, axis=-1)
    limit = logits.max(axis=-1, keepdims=True) + temperature * pt.log(min_p)
    likely = pt.lt(ranks, top_k) * pt.ge(logits, limit)
    shares = (weights / weights.sum(axis=-1, keepdims=True)).astype("float32").astype("float64")
    ranked = pt.take_along_axis(shares * likely, order, -1)
    within = pt.lt(ranked.cumsum(axis=-1) - ranked, top_p * ranked.sum(axis=-1, keepdims=True))
    return likely * pt.take_along_axis(within, ranks, -1)
