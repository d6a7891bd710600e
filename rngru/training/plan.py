"""What one call to train is asked to do."""

import math
from collections.abc import Mapping
from typing import Any, Self

from rngru.settings import LARGEST, Setting, Settings, flag, or_none, real, whole


class Plan(Settings, positional=6, noun="argument"):
    """How to train, for one call to ``trainmodel``.

    {table}

    Example
    -------
    >>> Plan(3, batchsize=32)
    Plan(num_rounds=3, batchsize=32)
    >>> Plan(batchsize=0)
    Traceback (most recent call last):
    rngru.errors.InputError: batchsize=0: expected a whole number of at least 1.
    """

    __slots__ = ()

    num_rounds = Setting(
        "how many rounds at most; None: one, or as many as max_seconds allows",
        "rounds",
        or_none(whole(1)),
        None,
    )
    batchsize = Setting(
        "lanes that move along the text side by side; another number than before starts with an "
        "empty hidden state",
        "lanes",
        whole(1),
        16,
    )
    train_len = Setting("batches in a round; 0: an epoch", "batches", whole(0), 0)
    valid_len = Setting(
        "batches' worth of validation text after each round; 0: all of it", "batches", whole(0), 0
    )
    print_every = Setting(
        "show a sample after so many batches; 0: never; None: every 10 seconds",
        "batches",
        or_none(whole(0)),
        None,
    )
    clear_state = Setting("start from an empty hidden state", "yes or no", flag(), False)
    max_seconds = Setting(
        "stop after this much wall time, validation included; inf: until Ctrl-C",
        "seconds",
        or_none(real(0, math.inf, above=True)),
        None,
    )
    learnrate = Setting(
        "changes the learning rate from this call on", "weight/update", or_none(real()), None
    )
    patience = Setting(
        "stop after so many rounds in a row without a lower validation loss; 0: never",
        "rounds",
        whole(0),
        0,
    )
    keep = Setting(
        "keep only so many of the newest checkpoints, and the best; 0: all",
        "checkpoints",
        whole(0),
        0,
    )
    keep_best = Setting(
        "at the end, go back to the round with the lowest validation loss",
        "yes or no",
        flag(),
        False,
    )
    save_every = Setting(
        "save in the middle of a round after so much training; the next save replaces it",
        "seconds",
        real(0, math.inf, above=True),
        60.0,
    )

    @property
    def rounds(self) -> int | None:
        """How many rounds at most; None if only the clock ends the call."""
        return 1 if self.num_rounds is None and self.max_seconds is None else self.num_rounds

    @classmethod
    def following(cls, before: Mapping[str, Any], /, *values: object, **named: object) -> Self:
        """Return a plan with what is not given, or None, as it was in the call ``before``.

        >>> Plan.following({"batchsize": 32, "train_len": 100}, 2, None, 50, patience=None)
        Plan(num_rounds=2, batchsize=32, train_len=50)

        What a recipe says of the time gives way to a number of rounds:

        >>> Plan.following({"batchsize": 32, "max_seconds": 60.0}, 2)
        Plan(num_rounds=2, batchsize=32)
        """
        given = dict(zip(cls.settings(), values, strict=False)) | named
        said = {name: value for name, value in given.items() if value is not None}
        if "num_rounds" in said:
            before = {name: value for name, value in before.items() if name != "max_seconds"}
        return cls(**{**before, **said})

    @property
    def lasting(self) -> dict[str, Any]:
        """What the next call does as well, unless it is told otherwise."""
        once = ("num_rounds", "max_seconds", "learnrate", "clear_state")
        found = {name: value for name, value in self.to_json().items() if name not in once}
        # JSON has no infinity; after so many seconds nobody saves, either.
        return {n: min(v, LARGEST) if isinstance(v, float) else v for n, v in found.items()}
