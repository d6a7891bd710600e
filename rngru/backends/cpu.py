"""The ``cpu`` backend: the kernels of :mod:`rngru.kernels`, on all cores."""

import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

import numpy as np

from rngru import models
from rngru.backends.base import Ahead, Backend, Losses, Step, Trace, Written, given, newest, shrinks
from rngru.kernels import layers, output, threads, update
from rngru.kernels.memory import Arena, Pieces, Recycled, place, settle
from rngru.kernels.plans import Plan, Plans
from rngru.kernels.preparing import prepare, prepare_sampler
from rngru.kernels.sampler import Sampler
from rngru.network import Engine, Network

if TYPE_CHECKING:
    from rngru.backends.graphplan import GraphPlan


@final
class CPU(Backend):
    """The kernels, on all cores; only training imports PyTensor."""

    name = "cpu"

    def __init__(self, model, hyper) -> None:
        super().__init__(model, hyper)
        prepare()
        settle()
        self._steps: dict[bool, Plans[Any]] = {}
        self._sampler: tuple[Any, Sampler] | None = None
        self._fresh, self._pieces = Recycled(), Pieces()
        self._weights = [models.penalised(len(each)) for each in model.shapes(hyper).values()]
        self._rule = update.Rule(
            hyper.optimizer,
            clipnorm=hyper.clipnorm,
            clip=math.inf if hyper.clip is None else hyper.clip,
            decay=hyper.decay,
            momentum=hyper.momentum,
            beta2=hyper.beta2,
            cautious=hyper.cautious,
        )

    def _planned(self, predictions: bool) -> Plans[Any]:
        """Return what does a step; it is made once.

        It takes parameters and caches, where to put new ones, what :meth:`~update.Rule.numbers` returns, and
        what the graph takes after the parameters. It gives the loss, the norm, the last state of each layer,
        and what the graph has for the ``predictions``.
        """
        if predictions not in self._steps:
            graph, rule, layers = self._build(predictions), self._rule, self.hyper.layers
            size, memories = len(self._weights), 1 + len(self.hyper.caches)

            def make(plan: Plan, *arrays: np.ndarray) -> tuple[Any, ...]:
                sides = [arrays[k * size : (k + 1) * size] for k in range(2 * memories)]
                old, new = sides[:memories], sides[memories:]
                numbers, *batch = arrays[2 * memories * size :]
                loss, *found = graph(plan, *old[0], *batch)
                norm = rule.plan(plan, numbers, found[-size:], old, new)
                return loss, norm, found[:layers], found[layers:-size]

            self._steps[predictions] = Plans(make, Arena())
        return self._steps[predictions]

    def _build(self, predictions: bool) -> "GraphPlan":
        """Return the graph of the gradients.

        It takes parameters, the share of a lane, x, y, state and noise. It gives the loss, the last state of
        each layer, with the ``predictions`` also what :class:`CrossEntropy` keeps of each row, and gradients.
        """
        import pytensor

        from rngru.backends import graphs
        from rngru.backends.graphplan import GraphPlan
        from rngru.backends.ops import Affine, CrossEntropy, Encode
        from rngru.backends.recurrence import fused

        network = graphs.network(self.model, self.hyper, fused, Affine(), Encode())
        (x, y, *more), top, endings, penalties = graphs.predicting(network)
        scored = CrossEntropy(self.hyper.smoothing)
        loss, *kept = scored(top, *network.readout(), y)
        share = pytensor.tensor.fscalar()
        parameters = list(network.parameters.values())
        # Of the mean over lanes; dividing in the graph would cost six more nodes.
        gradients = pytensor.grad(None, parameters, known_grads={sum(penalties, loss): share})
        return GraphPlan(
            [*parameters, share, x, y, *more],
            [loss, *endings, *(kept if predictions else []), *gradients],
        )

    def step(self, arrays, caches, x, y, state, rate, *, number=1, noise=None):
        with self._lock.held():
            step, _ = self._stepped(False, arrays, caches, x, y, given(state, noise), rate, number)
        return step

    def predictstep(self, arrays, caches, x, y, state, rate):
        with self._lock.held():
            step, kept = self._stepped(True, arrays, caches, x, y, [state], rate, 1)
            losses, deltas = kept
            chances = deltas[:, : self.hyper.vocab_size].astype(np.float64)
            chances = np.maximum(chances + self.hyper.smoothing / self.hyper.vocab_size, 0)
            chances[np.arange(y.size), y.reshape(-1)] = np.exp(-losses.astype(np.float64))
        return step, chances.reshape(*y.shape, -1)

    def _stepped(
        self, predictions: bool, arrays, caches, x, y, more, rate, number
    ) -> tuple[Step, list[np.ndarray]]:
        """Return a step, and the ``predictions``, which the next one writes over.

        ``more`` is what :func:`given` returns.
        """
        hyper, lanes = self.hyper, x.shape[1]
        share = np.asarray(np.float32(1) / np.float32(lanes))
        after = self._fresh.like(arrays)
        remembered = {cache: self._fresh.like(values) for cache, values in caches.items()}
        numbers = self._rule.numbers(
            penalties=[hyper.regcost / lanes * weight for weight in self._weights],
            shrinks=shrinks(hyper, self._weights),
            rate=rate,
            number=number,
            newest=newest(hyper, number),
        )
        sides = (arrays, *caches.values(), after, *remembered.values())
        batch = numbers, *self._placed(share, x, y, *more)
        loss, norm, endings, kept = self._planned(predictions)(
            *itertools.chain.from_iterable(each.values() for each in sides),
            *batch,
            count=threads.available(),
            where=(*map(self._fresh.place, sides), *map(place, batch)),
        )
        step = Step(float(loss), float(norm), after, remembered, np.array(endings))
        return (step if step.finite else replace(step, arrays=arrays, caches=caches)), kept

    def _placed(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """Return copies where those of the last batch lay: plans are kept by place."""
        placed = []
        for number, each in enumerate(arrays):
            placed.append(self._pieces.array(number, each.shape, each.dtype))
            np.copyto(placed[-1], each)
        return placed

    def trace(self, arrays, ids, state):
        network = self._network(arrays)
        states, top, endings = network.look(ids, state)
        logits = _ENGINE.affine(top.reshape(-1, top.shape[2]), *_readout(network))
        return Trace(np.stack(states), logits.reshape(*ids.shape, -1), np.stack(endings))

    def losses(self, arrays, x, y, state):
        network = self._network(arrays)
        top, endings, _ = network.predict(x, y, state)
        rows, count = top.reshape(-1, top.shape[2]), threads.available()
        losses, _ = output.score(rows, *_readout(network), y.reshape(-1), count=count)
        return Losses(losses.reshape(y.shape), np.stack(endings))

    def advance(self, arrays, ids, state):
        # What is drawn is not asked for, but what it would have been drawn from.
        sampler, state, one = self._sampling(arrays), state.copy(), np.zeros((1, len(ids)))
        rows = np.empty((len(ids), sampler.bias.size), sampler.bias.dtype)
        sampler.generate(
            ids.astype(np.int32), state, one, (0.0, None, 1.0, 0.0), logits=rows,
            count=threads.available(),
        )  # fmt: skip
        output.softmax(rows)
        return Ahead(rows[:, : self.hyper.vocab_size], state)

    def generate(self, arrays, ids, state, uniforms, sampling, mask=None, recent=None):
        ids, state = ids.astype(np.int32), state.copy()
        rule = sampling.temp, sampling.top_k, sampling.top_p, sampling.min_p
        drawn, logprobs = self._sampling(arrays).generate(
            ids, state, uniforms, rule, mask, recent,
            penalty=math.log(sampling.repeat), count=threads.available(),
        )  # fmt: skip
        return Written(drawn, state, logprobs)

    def _network(self, arrays) -> Network:
        return Network(self.model, self.hyper, arrays, _ENGINE)

    def _sampling(self, arrays) -> Sampler:
        """Return the sampler of these weights: the last one, if they are the same."""
        sampler = self._sampler  # another thread may replace it
        if sampler is None or sampler[0] is not arrays:
            sampler = self._sampler = arrays, self._packed(arrays)
        return sampler[1]

    def _packed(self, arrays) -> Sampler:
        prepare_sampler()
        network, depth = self._network(arrays), range(self.hyper.layers)
        spec = self.model.spec(self.hyper)
        return Sampler(
            spec,
            network.table(),
            [(arrays[f"layers.{i}.U"], arrays[f"layers.{i}.b"]) for i in depth[1:]],
            [arrays[f"layers.{i}.W"] for i in depth] if spec.row.recurrent else [],
            [arrays[f"layers.{i}.d"] for i in depth] if spec.row.second_bias else None,
            _readout(network),
            norms=[[arrays[f"layers.{i}.{letter}"] for i in depth] for letter in "gh"]
            if self.hyper.layernorm
            else None,
            residual=self.hyper.residual,
        )


def _layers(spec, inputs, weights, start, masks=None):
    """Layers on NumPy arrays, by the kernels."""
    passes = layers.forward(spec, inputs, weights, start, masks, count=threads.available())
    return [each.output for each in passes], [each.ending for each in passes]


def _affine(rows, weights, bias):
    return output.affine(rows, weights, bias, count=threads.available())


def _encode(rows, bias):
    return np.tanh(rows + bias)


_ENGINE = Engine(_layers, _affine, _encode, np.zeros_like, np.concatenate)


def _readout(network: Network) -> tuple[np.ndarray, np.ndarray]:
    weights, bias = network.readout()
    return np.ascontiguousarray(weights), bias
