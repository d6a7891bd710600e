"""Recipes: settings with a name, made to fit a text and the time that one has.

>>> recipes()  # doctest: +NORMALIZE_WHITESPACE
recipe  seconds
quick        60  a text of 100,000 characters or more, and about a minute
best        600  the lowest loss in minutes to an hour
small        60  a short text: few parameters, strong dropout

``initfromsrcfile(text, workdir, recipe='quick', seconds=60)`` makes a model by one, and its first
``trainmodel()`` trains for those seconds. Every setting that is given by name comes first.

>>> recipe("best", symbols=1_000_000, seconds=150).hyper["state_size"]
256
>>> recipe("quick", symbols=20_000, seconds=30).hyper["state_size"]
64

To change a recipe, change a line of :data:`RECIPES`, :data:`BRIEF`, :data:`TIME`, :data:`TEXT` or
:data:`DROPOUT`. All figures are those of two cores of a server: a recipe is the same everywhere, so that a
run can be repeated on another machine.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, final

from rngru.errors import choose
from rngru.hyper import HyperParams
from rngru.settings import checked, or_none, real
from rngru.tables import Table


@final
@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings with a name.

    Attributes
    ----------
    name, about : str
        What it is called, and what it is for.
    hyper : mapping
        Hyperparameters that differ from the defaults. In :data:`RECIPES`
        ``state_size`` is the largest, ``dropout`` the least, and ``learnrate``
        that of layers of :data:`WIDTH`.
    plan : mapping
        What the first ``trainmodel()`` does; :class:`~rngru.training.Plan`
        says what each name means.
    modeltype : str
        Which kind of model.
    seq_len : int
        T: symbols per training sequence.
    """

    name: str
    about: str
    hyper: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    modeltype: str = "GRUEncode"
    seq_len: int = 100

    def completed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return its hyperparameters with those that are ``given`` in their place.

        A learning rate belongs to a size, and to Adam: with another size it is another one, and with
        another optimizer it is the default. Without weight decay it is somewhat high. Caution goes with
        Adam, and without dropout: see :data:`DROPOUT`.

        >>> best = recipe("best", symbols=1_000_000, seconds=150)
        >>> best.completed({"state_size": 512})["learnrate"]
        0.004
        >>> "learnrate" in best.completed({"optimizer": "sgd"})
        False
        """
        made = {**self.hyper, **given}
        adam = made["optimizer"] in ("adam", "adamw")
        if "learnrate" not in given:
            base = _base(self.name, self.plan["max_seconds"])
            made["learnrate"] = rate(base, made["state_size"])
            if not adam:
                del made["learnrate"]
        if "cautious" not in given:
            made["cautious"] = adam and not made["dropout"]
        return made

    def told(self, modeltype: str, hyper: HyperParams, seq_len: int) -> str:
        """Say what a model has become by it, in one sentence."""
        layers = f"{hyper.layers} layer{'s' if hyper.layers > 1 else ''} of {hyper.state_size}"
        dropout = f"dropout {hyper.dropout:g}" if hyper.dropout else "no dropout"
        decays = hyper.optimizer == "adamw" and hyper.weightdecay
        decay = f", weight decay {hyper.weightdecay:g}" if decays else ""
        return (
            f"Recipe {self.name!r} for {self.plan['max_seconds']:g} seconds: {modeltype}, {layers}, "
            f"{hyper.optimizer} at learnrate {hyper.learnrate:g}, {hyper.schedule} schedule, "
            f"{dropout}{decay}; trainmodel() reads batches of {self.plan['batchsize']} x {seq_len}."
        )


DECAY: Final = 0.2
"""Weight decay: a text is read so often that weights which nothing holds up are better small.

With it a higher rate is best, too. On nine tenths of Tiny Shakespeare's training text, the last tenth was at
1.403 nats without, at its best rate, 0.005, after as many batches as 150 seconds have; with 0.1, 0.3, 0.5
and 1 at 1.396, 1.388, 1.397 and 1.453. With 0.2 and a rate of 0.007, 0.008 and 0.01 it was at 1.384, 1.382
and 1.383. LSTM layers of 512, after as many as 600 seconds have: 1.379 without; with 0.2, 0.4 and a rate
of 0.003 at 1.370 and 1.368, with 0.25 and 0.005 at 1.362. After as many as 60 seconds have: 1.418, and
without, from three seeds, 1.421 to 1.430.

Texts that are not read once in that time want no other rate. The standard library's sources (12 MB) and 9 MB
of German were at 1.211 and 1.262 after 150 seconds with 0.006, and at 1.208 and 1.269 with 0.008.
"""

GATE_INIT: Final = "uniform"
"""How gates begin: no other setting gained as much, on each text.

On nine tenths of the training text, its last tenth was after 60 seconds of ``quick`` at 1.394 nats with it
and at 1.409 to 1.415 without (Tiny Shakespeare), at 1.104 and 1.136 (``pydoc``), at 1.248 and 1.292 (2 MB of
German); after 150 seconds of ``best`` at 1.375 and 1.389. LSTM layers gain less: 1.417 and 1.421. With a bias
of 1 for all neurons: 1.409 to 1.413, 1.113 to 1.120, and 1.260. All other figures here were measured without.
"""

_LEARNS: Final = {
    "optimizer": "adamw",
    "weightdecay": DECAY,
    "schedule": "cosine",
    "regcost": 0.0,
    "locked": True,
    "gate_init": GATE_INIT,
}

RECIPES: Final = {
    each.name: each
    for each in (
        Recipe(
            "quick",
            "a text of 100,000 characters or more, and about a minute",
            {**_LEARNS, "state_size": 256, "learnrate": 0.008, "dropout": 0.0},
            {"batchsize": 32, "max_seconds": 60.0},
        ),
        Recipe(
            "best",
            "the lowest loss in minutes to an hour",
            {**_LEARNS, "state_size": 512, "learnrate": 0.01, "dropout": 0.0},
            {"batchsize": 32, "max_seconds": 600.0, "keep_best": True},
            modeltype="LSTMEncode",
        ),
        Recipe(
            "small",
            "a short text: few parameters, strong dropout",
            {**_LEARNS, "weightdecay": 0.0, "state_size": 128, "learnrate": 0.004, "dropout": 0.3},
            {"batchsize": 16, "max_seconds": 60.0, "keep_best": True},
        ),
    )
}
"""The recipes by name, before they are made to fit."""

BRIEF: Final = {
    "best": replace(
        RECIPES["best"],
        hyper={**RECIPES["best"].hyper, "state_size": 256, "learnrate": 0.008, "dropout": 0.1},
        modeltype="GRUEncode",
    )
}
"""Those that are another model where there is little time: see :data:`SOON`."""

SOON: Final = 400
"""Seconds up to which that is so: a GRU reads more, and learns sooner.

On Tiny Shakespeare an LSTM with layers of 384 was at 1.405 nats after 150 seconds, a GRU with layers of 256
at 1.384.
"""

WIDTH: Final = 256
"""The size of layers that the learning rates above are for."""

HIGHEST: Final = 0.012
"""Learning rate that no layers go beyond, however small they are."""

TIME: Final = ((20, 128), (75, 192), (400, 256), (math.inf, 512))
"""Up to so many seconds of training, layers of this size.

On nine tenths of Tiny Shakespeare's training text, its last tenth was after 60 seconds of ``quick`` at 1.409,
1.411 and 1.415 nats from three seeds with 192, and at 1.428, 1.429 and 1.422 with 256. With 128, 160 and 224
it was at 1.427, 1.420 and 1.413 (rates of 0.016, 0.015 and 0.011); with one layer of 320 and of 384 at 1.413
and 1.419 (0.01 and 0.008). Between 60 and 150 seconds nothing was measured.
"""

TEXT: Final = (
    (3_000, 24), (30_000, 64), (100_000, 96), (300_000, 128), (800_000, 192), (math.inf, 512),
)  # fmt: skip
"""Up to so many symbols of training text, layers of this size at most."""

DROPOUT: Final = ((8, 0.0), (15, 0.1), (40, 0.2), (100, 0.3), (math.inf, 0.4))
"""Up to so many passes over the training text in that time, this share.

Layers wider than :data:`WIDTH` learn a text by heart in fewer passes, by the square of their size: what a
long run needs is a wide model with dropout. After as many batches as 600 seconds have time for, on
nine tenths of Tiny Shakespeare's training text, its last tenth was at 1.362 nats with LSTM layers of 512,
dropout 0.3, weight decay 0.25 and a rate of 0.005, and at 1.359 with 0.2, 0.3 and 0.004. Without weight decay
they were at 1.379 with dropout 0.3, GRU layers of 512 and 0.3 at 1.395, of 384 and 0.2 at 1.404, of 256 and
0.4 at 1.464. After as many as 150 seconds have, also without: LSTM layers of 384 without dropout 1.398, GRU
layers of 384 without 1.399, with 0.1 1.405, of 256 with 0.1 1.403 and with 0.2 1.425. With weight decay: GRU
layers of 256 and 0.1 1.384, of 320 and 0.1 1.392; LSTM layers of 384 without dropout 1.405.

Where there is no dropout, training is ``cautious``: what is read few times is then learned sooner, and what
is read often is learned by heart sooner. On nine tenths of the training text, its last tenth was after as
many batches of ``quick`` as 60 seconds have, with it and without: at 1.231 and 1.250 (2 MB of German, two
passes); from three seeds at 1.394 and 1.400, 1.398 and 1.405, 1.399 and 1.408 (Tiny Shakespeare, five); at
1.099 and 1.096 (``pydoc``, ten). LSTM layers of 512 were after 150 seconds at 1.460 and 1.472 (Tiny
Shakespeare, 1.6 passes), GRU layers of 256 at 1.378 and 1.375 (eight).
"""

AVERAGED: Final = 600
"""Batches from which on averaged weights pay: a mean of the last hundred is behind in a shorter run.

After 1,000 batches of a GRU with layers of 256: 1.429 nats with it, 1.437 without.
"""

AVERAGE: Final = 0.99
"""Share of the averaged weights that each update keeps then."""

ROUNDS: Final = 4
"""Rounds in that time, about: each ends with a validation, which takes time of its own."""

LANE: Final = 10
"""Batches that a lane has of its own at least: of a short text there are fewer lanes."""

SPEED: Final = 2e11
"""Multiplications and additions per second, about; of two cores of a server."""

GATES: Final = {"GRUEncode": 3, "LSTMEncode": 4}
"""Products of a layer's state, and of what it reads, in each step."""

OUTPUTS: Final = {"char": 100, "byte": 150, "word": 10_000}
"""Symbols in a vocabulary, about."""

SHARE: Final = 1 / 20
"""Share of a text below which it is far too large for the time."""

SHORT: Final = 100_000
"""Symbols of training text below which it is one for the recipe ``small``."""


def recipe(name: str, symbols: int, seconds: float | None = None, level: str = "char") -> Recipe:
    """Return a recipe, made to fit a text and a time.

    Parameters
    ----------
    name : str
        Which one; :func:`recipes` lists them.
    symbols : int
        Symbols of training text.
    seconds : float
        How long it will train; by default as :func:`recipes` says.
    level : str
        What a symbol is: ``'char'``, ``'word'`` or ``'byte'``.

    Raises
    ------
    InputError
        If there is no such recipe, or for a time that makes no sense.

    Example
    -------
    >>> recipe("small", 1_400).hyper["dropout"], recipe("small", 1_400).plan["batchsize"]
    (0.4, 1)
    """
    wanted = checked("seconds", seconds, or_none(real(0, 1e7, above=True)))
    base = _base(name, wanted)
    time = base.plan["max_seconds"] if wanted is None else wanted
    size = min(base.hyper["state_size"], _upto(TIME, time), _upto(TEXT, symbols))
    read = reads(size, time, level, base.modeltype)
    passes = read / max(symbols, 1)
    dropout = max(base.hyper["dropout"], _upto(DROPOUT, passes * max(1.0, size / WIDTH) ** 2))
    lanes = min(base.plan["batchsize"], max(1, symbols // (LANE * base.seq_len)))
    batches = read / (lanes * base.seq_len)
    average = AVERAGE if batches >= AVERAGED else None
    fitted = {
        "state_size": size,
        "learnrate": rate(base, size),
        "dropout": dropout,
        "average": average,
    }
    return replace(
        base,
        hyper={**base.hyper, **fitted},
        plan={
            **base.plan,
            "batchsize": lanes,
            "max_seconds": time,
            "train_len": max(1, round(batches / ROUNDS)),
        },
    )


def _base(name: str, seconds: float | None) -> Recipe:
    """Return a recipe for a time, before it is made to fit."""
    found = RECIPES[choose("recipe", name, RECIPES)]
    time = found.plan["max_seconds"] if seconds is None else seconds
    return BRIEF.get(name, found) if time <= SOON else found


def kind(
    name: str | None, modeltype: str, seq_len: int, seconds: float | None = None
) -> tuple[str, int]:
    """Return the model type and T of a recipe, where a call leaves them at their defaults.

    >>> kind("quick", "LSTMEncode", 100), kind(None, "GRUEncode", 50)
    (('LSTMEncode', 100), ('GRUEncode', 50))
    >>> kind("best", "GRUEncode", 100, seconds=150), kind("best", "GRUEncode", 100)
    (('GRUEncode', 100), ('LSTMEncode', 100))
    """
    if name is None:
        return modeltype, seq_len
    plain, found = Recipe("", ""), _base(name, seconds)
    return (
        found.modeltype if modeltype == plain.modeltype else modeltype,
        found.seq_len if seq_len == plain.seq_len else seq_len,
    )


def recipes() -> Table:
    """Return a table of all recipes, with the time that each is meant for if none is given."""
    rows = [[each.name, f"{each.plan['max_seconds']:g}", each.about] for each in RECIPES.values()]
    return Table(["recipe", "seconds", ""], rows)


def rate(base: Recipe, size: int) -> float:
    """Return the learning rate of a recipe for layers of a size.

    Adam wants it in inverse proportion to their width (Yang et al., arXiv 2203.03466).

    >>> [rate(RECIPES["quick"], size) for size in (256, 192, 16)]
    [0.008, 0.0107, 0.012]
    """
    return min(round(base.hyper["learnrate"] * WIDTH / size, 4), HIGHEST)


def reads(size: int, seconds: float, level: str = "char", modeltype: str = "GRUEncode") -> float:
    """Return about how many symbols a model with two layers of a size is trained on in a time.

    Each weight takes part in three products, of a multiplication and an addition each.

    >>> round(reads(256, 1.0), -3)
    54000.0
    """
    weights = 3 * GATES[modeltype] * size**2 + OUTPUTS[level] * size
    return seconds * SPEED / (6 * weights)


def misfit(found: Recipe, size: int, symbols: int, level: str, units: str) -> str:
    """Say that a text is far too short or too long for a recipe, and what to do; '' if it is not."""
    seconds = found.plan["max_seconds"]
    share = reads(size, seconds, level, found.modeltype) / max(symbols, 1)
    if symbols < SHORT and found.name != "small":
        return (
            f"{symbols:,} {units} to train on are few for recipe={found.name!r}: recipe='small' learns "
            "less of such a text by heart."
        )
    if share < SHARE:
        return (
            f"In {seconds:g} seconds a model with layers of {size} reads about {100 * share:.1g} % of "
            f"the {symbols:,} {units} to train on. More seconds= reads more; a part of the text would "
            "do as well."
        )
    return ""


def _upto(table: tuple[tuple[float, Any], ...], value: float) -> Any:
    """Return what the first line of a table says whose limit is not below a value."""
    return next(found for limit, found in table if value <= limit)
