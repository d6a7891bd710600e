"""The numbers that make a model and decide how it learns: :class:`HyperParams`.

Each hyperparameter is one line in the class; see :mod:`rngru.settings`. To add one, add a line.

>>> hyper = HyperParams(vocab_size=66, state_size=256)
>>> hyper
HyperParams(vocab_size=66, state_size=256)
>>> hyper.replace(learnrate=2e-3).learnrate
0.002
"""

from typing import Final

from rngru.errors import InputError
from rngru.settings import Setting, Settings, flag, one_of, or_none, real, whole

GATES: Final = ("sigmoid", "hard_sigmoid")
"""The forms a gate may have; `rngru.cells` has their equations."""

BEGINNINGS: Final = ("constant", "uniform")
"""How the gates that keep the state may begin; see :meth:`rngru.models.Model.initial`."""

OPTIMIZERS: Final = ("rmsprop", "adam", "adamw", "sgd", "adagrad")
"""The update rules; `rngru.optim` has their equations."""

FALLING: Final = ("cosine", "linear", "onecycle")
"""The schedules that go from one end of a span of training to the other."""

PRECISIONS: Final = ("float32", "tf32", "bf16")
"""How the factors of a product may be rounded; sums are float32 always."""

SCHEDULES: Final = ("constant", "plateau", "exponential", *FALLING)
"""The learning-rate schedules; `rngru.training` has their formulas."""

CACHES: Final = {
    "rmsprop": ("mean",),
    "adam": ("first", "second"),
    "adamw": ("first", "second"),
    "sgd": ("velocity",),
    "adagrad": ("total",),
}
"""The caches that each update rule keeps for each parameter, in its order."""

MEAN: Final = "average"
"""The cache of the averaged weights, if there is one: it comes last."""

REGULARISERS: Final = (
    "dropout", "dropout_in", "dropout_out", "embed_dropout", "dropconnect", "locked", "ar", "tar",
    "smoothing", "random_len",
)  # fmt: skip
"""What changes training alone: a model means the same with and without them."""


class HyperParams(Settings, positional=3, noun="hyperparameter"):
    """The numbers that make a model and decide how it learns.

    {table}

    The first three may be given by position, all others by name. NumPy numbers are accepted and
    become Python's. The cost that is minimised is (sum over time and batch of the cross-entropy
    + regcost * sum of squared weights / 2) / batch size; ``clip`` acts on its gradient, before
    the optimizer sees it. Where weights are averaged, the averaged ones validate, read, write and are
    exported, while training goes on from the others: see :func:`rngru.optim.averaged`.
    ``ar``, ``tar`` and ``smoothing`` add to the cross-entropy that is minimised, but not to a loss that
    is shown: see :func:`rngru.backends.graphs.penalties`.

    A record never changes: ``replace`` makes a changed copy. Its repr shows what differs from the
    defaults. Two records are equal when all their values are.

    Raises
    ------
    InputError
        For names that do not exist and values that are not allowed, all of them in one message.

    Example
    -------
    >>> hyper = HyperParams(66, layers=3)
    >>> hyper
    HyperParams(vocab_size=66, layers=3)
    >>> hyper.state_size
    128
    >>> hyper.replace(layers=2) == HyperParams(66)
    True
    >>> HyperParams.from_json(hyper.to_json()) == hyper
    True
    >>> HyperParams(66, learnrate=-1)
    Traceback (most recent call last):
    rngru.errors.InputError: learnrate=-1: expected a number of at least 0 and at most 1e+30.
    """

    __slots__ = ()

    vocab_size = Setting(
        "symbols the model knows, 'unknown' included", "symbols", whole(1, 10_000_000)
    )
    state_size = Setting(
        "neurons in each layer: more neurons learn more; time and memory grow with the square",
        "neurons",
        whole(1, 1_000_000),
        128,
    )
    layers = Setting(
        "recurrent layers, each reading the states of the one before", "layers", whole(1, 1_000), 2
    )
    bptt_truncate = Setting(
        "how far back in time gradients reach; -1: over the whole sequence",
        "characters",
        whole(1, 1_000_000_000, or_else=-1),
        -1,
    )
    learnrate = Setting(
        "how far one update moves a weight: more learns faster, until it diverges",
        "weight/update",
        real(),
        1e-3,
    )
    decay = Setting(
        "share of the running mean of squared gradients that each update keeps",
        "share",
        real(0, 1, below=True),
        0.95,
    )
    regcost = Setting(
        "penalty on squared weights: more keeps them small (biases are free)",
        "nats/weight²",
        real(),
        0.1,
    )
    gate = Setting(
        "form of the gates: 'sigmoid', or 'hard_sigmoid': clip(0.2x + 0.5, 0, 1)",
        "name",
        one_of(GATES),
        "sigmoid",
    )
    reset_after = Setting(
        "GRU: the reset gate acts after the product, as in cuDNN, Keras and PyTorch",
        "yes or no",
        flag(),
        False,
    )
    gate_init = Setting(
        "how new gates that keep the state begin: 'constant', or 'uniform': from shut to open",
        "name",
        one_of(BEGINNINGS),
        "constant",
    )
    optimizer = Setting(
        "update rule: rmsprop, adam, adamw, sgd or adagrad", "name", one_of(OPTIMIZERS), "rmsprop"
    )
    momentum = Setting(
        "share of the running mean of gradients that each update keeps (sgd, adam, adamw)",
        "share",
        real(0, 1, below=True),
        0.9,
    )
    beta2 = Setting(
        "share of the running mean of squared gradients that each update keeps (adam, adamw)",
        "share",
        real(0, 1, below=True),
        0.999,
    )
    cautious = Setting(
        "leave out steps that the newest gradient disagrees with (sgd, adam, adamw)",
        "yes or no",
        flag(),
        False,
    )
    weightdecay = Setting(
        "how much each update shrinks weights, times the rate (adamw)",
        "share/update",
        real(),
        0.01,
    )
    schedule = Setting(
        "how the rate changes: constant, plateau, exponential, cosine, linear or onecycle",
        "name",
        one_of(SCHEDULES),
        "constant",
    )
    warmup = Setting(
        "part of each cycle with a climbing rate; None: 0.05 if it then falls, onecycle 0.3",
        "share",
        or_none(real(0, 1)),
        None,
    )
    floor = Setting(
        "share of the rate that is left at the end (cosine, linear, onecycle)",
        "share",
        real(0, 1),
        0.1,
    )
    cycles = Setting(
        "how many times the rate climbs and falls: each time starts anew",
        "cycles",
        whole(1),
        1,
    )
    lifetime = Setting(
        "batches from the model's first one that the schedule spans; None: each trainmodel call",
        "batches",
        or_none(whole(1)),
        None,
    )
    dropout = Setting(
        "share of each layer's outputs set to zero while training",
        "share",
        real(0, 1, below=True),
        0.0,
    )
    dropout_in = Setting(
        "share of what the first layer reads that is zero in training (Encode models)",
        "share",
        real(0, 1, below=True),
        0.0,
    )
    dropout_out = Setting(
        "share of the last layer's outputs set to zero in training; None: as dropout",
        "share",
        or_none(real(0, 1, below=True)),
        None,
    )
    embed_dropout = Setting(
        "share of all symbols that one training batch reads as zeros",
        "share",
        real(0, 1, below=True),
        0.0,
    )
    dropconnect = Setting(
        "share of the recurrent weights set to zero for one training batch",
        "share",
        real(0, 1, below=True),
        0.0,
    )
    locked = Setting(
        "one dropout mask for a whole sequence instead of a fresh one each step",
        "yes or no",
        flag(),
        False,
    )
    tied = Setting(
        "output weights are the encoder's, transposed (Encode models)", "yes or no", flag(), False
    )
    embed_size = Setting(
        "numbers that encode a symbol (Encode models); None: as many as state_size",
        "numbers",
        or_none(whole(1, 1_000_000)),
        None,
    )
    layernorm = Setting(
        "each layer's outputs are normalised before they go up", "yes or no", flag(), False
    )
    residual = Setting(
        "each layer above the first adds what it reads to its outputs", "yes or no", flag(), False
    )
    ar = Setting("penalty on the squares of what the output layer reads", "nats", real(), 0.0)
    tar = Setting(
        "penalty on squared changes of the last layer's states from step to step",
        "nats",
        real(),
        0.0,
    )
    smoothing = Setting(
        "share of each target that is spread over all symbols in training",
        "share",
        real(0, 1, below=True),
        0.0,
    )
    random_len = Setting(
        "share of batches of about half the length; all lengths vary then; 0: none does",
        "share",
        real(0, 1),
        0.0,
    )
    clipnorm = Setting(
        "bound on the length of the whole gradient; None: no bound",
        "nats/weight",
        or_none(real(above=True)),
        None,
    )
    clip = Setting(
        "bound on each element of the gradient, either way; None: no bound",
        "nats/weight",
        or_none(real(above=True)),
        5.0,
    )
    average = Setting(
        "share of the averaged weights that each update keeps; 1: their plain mean; None: off",
        "share",
        or_none(real(0, 1)),
        None,
    )
    average_from = Setting(
        "batches of the model's life before the weights are averaged", "batches", whole(0), 0
    )
    precision = Setting(
        "how GPUs round the factors of products: float32, tf32 or bf16 (jax)",
        "name",
        one_of(PRECISIONS),
        "float32",
    )

    @property
    def caches(self) -> tuple[str, ...]:
        """What is kept for each parameter while training: the caches of the rule, and the mean."""
        return CACHES[self.optimizer] + (() if self.average is None else (MEAN,))

    def check(self) -> None:
        """Raise InputError for settings that do nothing without another one."""
        if self.average_from and self.average is None:
            raise InputError(
                f"average_from={self.average_from} says when averaging begins, but average=None averages "
                "nothing. Choose average=1 for the plain mean from then on, or leave it out."
            )
        if self.schedule in FALLING:
            return
        if self.cycles > 1 or (self.lifetime and not self.warmup):
            name = "cycles" if self.cycles > 1 else "lifetime"
            raise InputError(
                f"{name}={getattr(self, name)}: the rate of schedule={self.schedule!r} does not go from "
                f"one end of training to the other. Choose one of {', '.join(FALLING)}, or leave it out."
            )


SETTINGS: Final = HyperParams.settings()
"""Every hyperparameter by name, in the order of the table."""
