"""What one call to train is asked to do."""

import math

from rngru.settings import Setting, Settings, flag, or_none, real, whole


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

    num_rounds = Setting("how many rounds", "rounds", whole(1), 1)
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
        "show a sample after so many batches of a round; 0: never", "batches", whole(0), 1000
    )
    clear_state = Setting("start from an empty hidden state", "yes or no", flag(), False)
    max_seconds = Setting(
        "train for this much wall time, however many rounds it takes; inf: until Ctrl-C",
        "seconds",
        or_none(real(0, math.inf, above=True)),
        None,
    )
    learnrate = Setting(
        "changes the learning rate from this call on", "weight/update", or_none(real()), None
    )
    patience = Setting(
        "stop after so many rounds in a row without a lower validation loss",
        "rounds",
        or_none(whole(1)),
        None,
    )
    keep = Setting(
        "keep only so many of the newest checkpoints, and the best",
        "checkpoints",
        or_none(whole(1)),
        None,
    )
    save_every = Setting(
        "save in the middle of a round after so much training; the next save replaces it",
        "seconds",
        real(0, math.inf, above=True),
        60.0,
    )
