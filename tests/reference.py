"""What the models compute, as plain NumPy loops over layers and time: the reference of the tests.

Written from the equations, not from the package, and slow. Every operation is an :class:`Array`, which
remembers how it was made, so that the gradient of a loop follows from the loop by the chain rule; the
tests check that against finite differences once. All in the dtype given, float64 as a rule.

Shapes: T steps, B lanes, S units, L layers, V symbols, H numbers in the state of a layer.
"""

import itertools
from functools import cached_property

import numpy as np

_clock = itertools.count()


class Array:
    """Numbers, and how their gradient reaches the arrays they were made from."""

    # NumPy would take an Array for a scalar object; this makes it ask the methods here instead.
    __array_ufunc__ = None

    def __init__(self, value, *parents):
        self.value, self.parents, self.made = np.asarray(value), parents, next(_clock)

    def __add__(self, other):
        other = array(other)
        return Array(self.value + other.value, (self, lambda g: g), (other, lambda g: g))

    def __mul__(self, other):
        other = array(other)
        return Array(
            self.value * other.value,
            (self, lambda g: g * other.value),
            (other, lambda g: g * self.value),
        )

    def __matmul__(self, other):
        return Array(
            self.value @ other.value,
            (self, lambda g: g @ other.value.T),
            (other, lambda g: self.value.T @ g),
        )

    def __getitem__(self, index):
        def scatter(g):
            whole = np.zeros_like(self.value)
            np.add.at(whole, index, g)
            return whole

        return Array(self.value[index], (self, scatter))

    def __neg__(self):
        return self * -1.0

    def __sub__(self, other):
        return self + -array(other)

    def __truediv__(self, other):
        return Array(
            self.value / other.value,
            (self, lambda g: g / other.value),
            (other, lambda g: -g * self.value / other.value**2),
        )

    def __rsub__(self, other):
        return array(other) - self

    __radd__, __rmul__ = __add__, __mul__

    @property
    def T(self):
        return Array(self.value.T, (self, lambda g: g.T))

    def sum(self):
        return Array(self.value.sum(), (self, lambda g: np.broadcast_to(g, self.value.shape)))


def array(value):
    return value if isinstance(value, Array) else Array(value)


def tanh(x):
    value = np.tanh(x.value)
    return Array(value, (x, lambda g: g * (1 - value**2)))


def sigmoid(x):
    value = 1 / (1 + np.exp(-x.value))
    return Array(value, (x, lambda g: g * value * (1 - value)))


def hard_sigmoid(x):
    line = 0.2 * x.value + 0.5
    return Array(np.clip(line, 0, 1), (x, lambda g: g * 0.2 * ((line > 0) & (line < 1))))


def log_softmax(x):
    shifted = x.value - x.value.max(-1, keepdims=True)
    value = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return Array(value, (x, lambda g: g - np.exp(value) * g.sum(-1, keepdims=True)))


def power(x, exponent):
    slope = exponent * x.value ** (exponent - 1)
    return Array(x.value**exponent, (x, lambda g: g * slope))


def mean(x):
    """The mean of each row, (B, 1)."""
    n = x.value.shape[-1]
    return x @ array(np.full((n, 1), 1 / n))


def layernorm(x, gain, shift):
    centred = x - mean(x)
    return centred * power(mean(centred * centred) + 1e-5, -0.5) * gain + shift


def gradients(result, wanted):
    """Return the gradient of the number ``result`` for each Array of ``wanted``."""
    found, waiting = {result: np.ones_like(result.value)}, {result}
    while waiting:
        node = max(waiting, key=lambda each: each.made)
        waiting.remove(node)
        for parent, back in node.parents:
            g = back(found[node])
            # What was broadcast on the way there is summed on the way back.
            g = g.sum(tuple(range(g.ndim - parent.value.ndim)))
            ones = tuple(i for i, n in enumerate(parent.value.shape) if n == 1)
            g = g.sum(ones, keepdims=True)
            found[parent] = found[parent] + g if parent in found else g
            waiting.add(parent)
    return [found.get(each, np.zeros_like(each.value)) for each in wanted]


# ------------------------------------------------------------------------------------- cells


def gru(x, s, W, _, gate):
    """Reset before the product; z keeps the old state."""
    n = W.value.shape[0]
    z = gate(x[:, :n] + s @ W[:, :n])
    r = gate(x[:, n : 2 * n] + s @ W[:, n : 2 * n])
    c = tanh(x[:, 2 * n :] + (r * s) @ W[:, 2 * n :])
    return (1 - z) * c + z * s


def gru_after(x, s, W, b, gate):
    """Reset after the product, which has a bias of its own, as torch and Keras have it."""
    n = W.value.shape[0]
    z = gate(x[:, :n] + s @ W[:, :n])
    r = gate(x[:, n : 2 * n] + s @ W[:, n : 2 * n])
    c = tanh(x[:, 2 * n :] + r * (s @ W[:, 2 * n :] + b))
    return (1 - z) * c + z * s


def lstm(x, s, W, _, gate):
    """The state is (output, memory) side by side."""
    n = W.value.shape[0]
    h, m = s[:, :n], s[:, n:]
    i, f, o = (gate(x[:, k * n : (k + 1) * n] + h @ W[:, k * n : (k + 1) * n]) for k in range(3))
    m = f * m + i * tanh(x[:, 3 * n :] + h @ W[:, 3 * n :])
    return beside(o * tanh(m), m)


def rnn(x, s, W, _, gate):
    return tanh(x + s @ W)


def min_gru(x, s, W, _, gate):
    """No recurrent weights: what is kept depends on the input alone."""
    n = s.value.shape[1]
    z = gate(x[:, :n])
    return (1 - z) * x[:, n:] + z * s


def min_lstm(x, s, W, _, gate):
    """The two gates are shares of their sum, and none where both are 0."""
    n = s.value.shape[1]
    i, f = gate(x[:, :n]), gate(x[:, n : 2 * n])
    return (f * s + i * x[:, 2 * n :]) / (f + i + 1e-12)


def beside(left, right):
    n = left.value.shape[1]
    return Array(
        np.concatenate([left.value, right.value], axis=1),
        (left, lambda g: g[:, :n]),
        (right, lambda g: g[:, n:]),
    )


CELLS = {
    "GRU": gru,
    "GRU_AFTER": gru_after,
    "LSTM": lstm,
    "RNN": rnn,
    "MinGRU": min_gru,
    "MinLSTM": min_lstm,
}
GATES = {"GRU": 3, "GRU_AFTER": 3, "LSTM": 4, "RNN": 1, "MinGRU": 2, "MinLSTM": 3}
MINIMAL = ("MinGRU", "MinLSTM")
"""The cells without recurrent weights."""


def layer(cell, hard, pre, start, W, second_bias=None, truncate=-1):
    """Run a cell over ``pre``, one Array (B, G S) per step: (list of states (B, S), ending (B, H)).

    Only the last ``truncate`` steps pass gradients on.
    """
    gate, n = hard_sigmoid if hard else sigmoid, pre[0].value.shape[1] // GATES[cell]
    states, s = [], start
    for t, x in enumerate(pre):
        if 0 <= truncate < len(pre) - t:
            # Arrays without parents.
            x, s, *more = (each and array(each.value) for each in (x, s, W, second_bias))
            s = array(CELLS[cell](x, s, *more, gate).value)
        else:
            s = CELLS[cell](x, s, W, second_bias, gate)
        states.append(s[:, :n])
    return states, s


# ------------------------------------------------------------------------------------ models


def tower(modeltype, hyper, p, name, ids, start, noise):
    """Run text ``ids`` (T, B) through a stack of layers: their states per step, what goes up from the
    last one per step, and their endings.

    ``p`` are Arrays by name, ``start`` is (L, B, H), and ``noise`` is that of the stack.
    """
    kind = modeltype.removeprefix("Bi").removesuffix("Encode").removesuffix("Resize")
    cell, hard = "GRU_AFTER" if hyper.reset_after else kind, hyper.gate == "hard_sigmoid"
    states, endings, inputs = [], [], None

    def masked(rows, masks):
        return [each * masks[t % len(masks)] for t, each in enumerate(rows)]

    for k in range(hyper.layers):
        U, W, b = (p.get(f"{name}.{k}.{letter}") for letter in "UWb")
        if k == 0:
            kept = noise.get("embedding", np.ones((hyper.vocab_size, 1)))
            if modeltype.endswith("Resize"):
                pre = [U[row] * kept[row] + b for row in ids]
            else:
                inputs = [tanh(p["E"][row] + p["a"]) * kept[row] for row in ids]
                if "inputs" in noise:
                    inputs = masked(inputs, noise["inputs"])
        if inputs is not None:
            pre = [each @ U + b for each in inputs]
        if "recurrent" in noise:
            W = W * noise["recurrent"][k]
        d, s = p.get(f"{name}.{k}.d"), array(start[k])
        outputs, ending = layer(cell, hard, pre, s, W, d, truncate=hyper.bptt_truncate)
        states.append(outputs)
        endings.append(ending)
        if hyper.layernorm:
            gain, shift = p[f"{name}.{k}.g"], p[f"{name}.{k}.h"]
            outputs = [layernorm(each, gain, shift) for each in outputs]
        if hyper.residual and k > 0:
            outputs = [each + below for each, below in zip(outputs, inputs, strict=True)]
        inputs = masked(outputs, noise["outputs"][k]) if "outputs" in noise else outputs
    return states, inputs, endings


def model(modeltype, hyper, p, x, y, start, noise):
    """Predict ``y`` (T, B) from ``x``, the characters before them: states, logits, endings, penalty.

    In two directions each is predicted from what follows it in ``y`` as well, but for itself.
    """
    depth, both = hyper.layers, modeltype.startswith("Bi")
    there = dict(noise)
    for name, array_ in noise.items():
        if name != "embedding":
            half = 1 if name == "inputs" else depth
            there[name], noise = array_[half:], {**noise, name: array_[:half]}
    if "inputs" in noise:
        noise["inputs"] = noise["inputs"][0]
    states, top, endings = tower(modeltype, hyper, p, "layers", x, start, noise)
    raw, readout = [states[-1]], p["E"].T if hyper.tied else p["V"]
    if both:
        if "inputs" in there:
            there["inputs"] = there["inputs"][0]
        back, up, _ = tower(modeltype, hyper, p, "back", y[::-1], np.zeros_like(start), there)
        raw.append(back[-1])
        after = [array(np.zeros_like(up[-1].value)), *up[:-1]][::-1]
        top = [beside(*each) for each in zip(top, after, strict=True)]
    squares = sum((each * each).sum() for each in top)
    moves = [now - old for each in raw for old, now in itertools.pairwise(each)]
    moved = sum((each * each).sum() for each in moves) if moves else 0.0
    penalty = (squares * hyper.ar + moved * hyper.tar) * (1 / top[0].value.shape[1])
    return states, [each @ readout + p["c"] for each in top], endings, penalty


class Result:
    """What a model makes of one batch, and how its cost changes with each parameter.

    ``logits`` (T, B, V), ``losses`` (T, B) and their sum ``loss`` in nats, ``states`` (L, T, B, S) and
    ``endings`` (L, B, H) of the layers that read forwards, ``cost``, ``gradients`` of the cost by
    name, and ``gradnorm``, their length.
    """

    def __init__(self, modeltype, hyper, parameters, x, y, start, noise=None):
        p = {name: Array(np.asarray(value, np.float64)) for name, value in parameters.items()}
        states, logits, endings, penalty = model(
            modeltype, hyper, p, x, y, np.asarray(start, np.float64), noise or {}
        )
        scores = [log_softmax(each) for each in logits]
        lanes = np.arange(x.shape[1])
        chosen = [each[lanes, targets] for each, targets in zip(scores, y, strict=True)]
        loss = -sum(each.sum() for each in chosen)
        evenly = -sum((each * (1 / hyper.vocab_size)).sum() for each in scores)
        wanted = loss * (1 - hyper.smoothing) + evenly * hyper.smoothing + penalty
        squares = sum((w * w).sum() for w in p.values() if w.value.ndim == 2)
        cost = (wanted + hyper.regcost / 2 * squares) * (1 / x.shape[1])
        self.logits = np.stack([each.value for each in logits])
        self.losses = -np.stack([each.value for each in chosen])
        self.loss, self.cost = float(loss.value), float(cost.value)
        self.states = np.stack([[each.value for each in layer] for layer in states])
        self.endings = np.stack([each.value for each in endings])
        self._cost, self._parameters = cost, p

    @cached_property
    def gradients(self):
        found = gradients(self._cost, self._parameters.values())
        return dict(zip(self._parameters, found, strict=True))

    @property
    def gradnorm(self):
        return np.sqrt(sum((g**2).sum() for g in self.gradients.values()))


# ---------------------------------------------------------------------------------- training


def caution(hyper, steps):
    """Return, for each of ``steps``, what the step of every element is multiplied by, by name.

    An element waits where its clipped gradient is against the sum of d^(n - k) g_k; the others share
    what it does not go. ``steps`` are dicts of clipped gradients.
    """
    factors = []
    for n in range(1, len(steps) + 1):
        agree = {
            name: np.sign(
                sum(hyper.momentum ** (n - k) * steps[k - 1][name] for k in range(1, n + 1))
            )
            * np.sign(gradient)
            for name, gradient in steps[n - 1].items()
        }
        flat = np.concatenate([each.reshape(-1) for each in agree.values()])
        more = np.count_nonzero(flat) / np.count_nonzero(flat == 1)
        factors.append(
            {name: np.array([0, 1, more])[1 + a.astype(int)] for name, a in agree.items()}
        )
    return factors


def descend(hyper, old, gradients, *, rate, weight=True, factors=None):
    """Return a parameter, and what the optimizer remembers of it, after a step for each gradient.

    Nothing is carried along: a running mean after n steps is (1 - d) times the sum of
    d^(n - k) g_k over all steps k so far, for it starts at zero. ``gradients`` are clipped already;
    only a ``weight`` decays. Where there is momentum, each step is multiplied by its ``factors``.
    """
    factors = factors or [1] * len(gradients)

    def total(keep, power, n):
        return sum(keep ** (n - k) * gradients[k - 1] ** power for k in range(1, n + 1))

    p, memory, b1, b2 = old, (), hyper.momentum, hyper.beta2
    for n in range(1, len(gradients) + 1):
        if hyper.optimizer == "rmsprop":
            memory = ((1 - hyper.decay) * total(hyper.decay, 2, n),)
            p = p - rate * gradients[n - 1] / np.sqrt(memory[0] + 1e-6)
        elif hyper.optimizer == "sgd":
            memory = (total(b1, 1, n),)
            p = p - rate * factors[n - 1] * memory[0]
        elif hyper.optimizer == "adagrad":
            memory = (total(1, 2, n),)
            p = p - rate * gradients[n - 1] / np.sqrt(memory[0] + 1e-8)
        else:
            memory = ((1 - b1) * total(b1, 1, n), (1 - b2) * total(b2, 2, n))
            mean, square = memory[0] / (1 - b1**n), memory[1] / (1 - b2**n)
            decay = hyper.weightdecay if hyper.optimizer == "adamw" and weight else 0
            p = p - rate * (factors[n - 1] * mean / (np.sqrt(square) + 1e-8) + decay * p)
    return p, memory


def clipped(hyper, gradients):
    """Clip gradients by name: first their length together to ``clipnorm``, then each to ``clip``."""
    length = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    scale = 1 if hyper.clipnorm is None else min(1, hyper.clipnorm / length)
    most = np.inf if hyper.clip is None else hyper.clip
    return {name: np.clip(scale * g, -most, most) for name, g in gradients.items()}


# ----------------------------------------------------------------------------------- helpers


def close(actual, expected, tolerance, what=""):
    """Assert that arrays agree to ``tolerance``, of the largest number expected if above one."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, not {expected.shape}"
    scale = max(1.0, np.abs(expected).max(initial=0))
    worst = np.abs(actual - expected).max(initial=0) / scale
    assert worst <= tolerance, f"{what}: off by {worst:.2e}, allowed {tolerance:g}"


def slope(function, at, along, step=1e-5):
    """Return how fast ``function`` changes where the array ``at`` moves in the direction ``along``."""
    kept, values = at.copy(), []
    for shift in (step, -step):
        at[...] = kept + shift * along
        values.append(function())
    at[...] = kept
    return (values[0] - values[1]) / (2 * step)
