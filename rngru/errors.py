"""Every exception that rngru raises on purpose, in one tree.

::

    RngruError
    ├── InputError (ValueError)          an argument, name or size that makes no sense
    ├── TextError (ValueError)           a text that cannot be read, decoded or encoded
    ├── NumericsError (ArithmeticError)  a loss or gradient that is no longer a number
    ├── WorkdirError (OSError)           a working directory that cannot be used
    │   ├── WorkdirBusy                  another process holds it
    │   └── NoModelError                 it holds no model
    ├── CheckpointError                  a checkpoint that cannot be written or read
    │   ├── CheckpointDamaged            its contents are not what was saved
    │   ├── CheckpointTooNew             it was written by a newer rngru
    │   └── CellUnknown                  its model has a cell that is not registered
    └── MissingExtra (ImportError)       an optional dependency that is not installed
    RngruWarning (UserWarning)           all that rngru warns of

``except RngruError`` catches all errors. Each message says what was expected, what was found and what
to do about it. :func:`choose` is the one way to look a user's word up in a table of names, and
:func:`warn` the one way to warn.
"""

import contextlib
import difflib
import functools
import inspect
import os
import re
import reprlib
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

T = TypeVar("T")


class RngruError(Exception):
    """Base of every exception that rngru raises on purpose."""


class RngruWarning(UserWarning):
    """What rngru warns of; ``warnings.filterwarnings("ignore", category=RngruWarning)`` silences it."""


class InputError(RngruError, ValueError):
    """An argument, name or size that makes no sense."""


class TextError(RngruError, ValueError):
    """A text that cannot be read, decoded or encoded."""


class NumericsError(RngruError, ArithmeticError):
    """A loss or gradient that is no longer a number."""


class WorkdirError(RngruError, OSError):
    """A working directory that cannot be used."""


class WorkdirBusy(WorkdirError):
    """Another process holds the working directory."""


class NoModelError(WorkdirError):
    """The directory holds no model."""


class CheckpointError(RngruError):
    """A checkpoint that cannot be written or read."""


class CheckpointDamaged(CheckpointError):
    """The contents of a checkpoint are not what was saved."""


class CheckpointTooNew(CheckpointError):
    """What is in a file was written by a newer rngru."""

    @classmethod
    def told(cls, where: object, form: int, known: int, needs: object) -> "CheckpointTooNew":
        """Say which format is there, up to which we know them, and which rngru it ``needs``."""
        wanted = f"rngru {reprlib.repr(needs)} or later" if needs else "a newer rngru"
        return cls(
            f"{where} has format {form:,}, but this rngru knows formats up to {known}. "
            f"Install {wanted}."
        )

    @classmethod
    def unknown(cls, where: object, names: Sequence[str], needs: str = "") -> "CheckpointTooNew":
        """Say which ``names`` in it this version does not know, and which rngru it ``needs``."""
        listed = ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if names[5:] else "")
        wanted = f"rngru {needs} or later" if needs else "a newer rngru"
        return cls(f"{where} has what this rngru does not know: {listed}. Install {wanted}.")


class CellUnknown(CheckpointError):
    """The model has a cell of somebody's own, which is not registered here, or otherwise."""


FOREIGN: Final = (CheckpointTooNew, CellUnknown)
"""What an older checkpoint of the same model would be refused for, too: it need not be tried."""


class MissingExtra(RngruError, ImportError):
    """An optional dependency is not installed."""


def choose(what: str, name: object, choices: Iterable[str]) -> str:
    """Return ``name`` if it is one of ``choices``; otherwise say which there are.

    Raises
    ------
    InputError
        Naming ``what``, the choices and the nearest of them.

    Example
    -------
    >>> choose("gate", "sigmoid", ["sigmoid", "hard_sigmoid"])
    'sigmoid'
    >>> choose("gate", "sigmod", ["sigmoid", "hard_sigmoid"])  # doctest: +NORMALIZE_WHITESPACE
    Traceback (most recent call last):
    rngru.errors.InputError: gate='sigmod' is not known. Did you mean 'sigmoid'?
        Choices: 'hard_sigmoid', 'sigmoid'.
    """
    known = sorted(choices)
    if name in known:
        return str(name)
    listed = ", ".join(map(repr, known))
    raise InputError(f"{what}={name!r} is not known.{nearest(name, known)} Choices: {listed}.")


def nearest(name: object, choices: Iterable[str]) -> str:
    """Return a question whether the nearest of ``choices`` was meant, '' if none is near.

    What other libraries call it counts as nearest.

    >>> nearest("SGD", ["adam", "sgd"]), nearest("hidden_size", ["layers", "state_size"])
    (" Did you mean 'sgd'?", " Did you mean 'state_size'?")
    """
    folded = {choice.casefold(): choice for choice in choices}
    typed = str(name).casefold()
    if typed in _STRANGERS:
        return ""
    if (meant := _ELSEWHERE.get(typed.replace("-", "_"))) in folded.values():
        return f" Did you mean {meant!r}?"
    near = difflib.get_close_matches(typed, folded, n=1)
    return f" Did you mean {folded[near[0]]!r}?" if near else ""


_ELSEWHERE: Final = {
    "lr": "learnrate", "learning_rate": "learnrate", "eta": "learnrate", "step_size": "learnrate",
    "hidden_size": "state_size", "hidden": "state_size", "hidden_dim": "state_size",
    "units": "state_size", "rnn_size": "state_size", "n_hidden": "state_size", "size": "state_size",
    "num_layers": "layers", "n_layers": "layers", "depth": "layers",
    "epochs": "num_rounds", "num_epochs": "num_rounds", "max_epochs": "num_rounds",
    "rounds": "num_rounds", "n_epochs": "num_rounds",
    "batch_size": "batchsize", "batch": "batchsize", "bs": "batchsize",
    "steps": "train_len", "iterations": "train_len", "max_steps": "train_len",
    "seconds": "max_seconds", "time": "max_seconds", "timeout": "max_seconds",
    "early_stopping": "patience", "verbose": "report",
    "seq_length": "seq_len", "sequence_length": "seq_len", "bptt": "seq_len", "block_size": "seq_len",
    "temperature": "temp", "length": "numchars", "max_length": "numchars", "max_new_tokens": "numchars",
    "n": "numchars", "num_chars": "numchars", "prompt": "seed", "prefix": "seed", "start": "seed",
    "num_return_sequences": "streams", "num_samples": "streams", "topk": "top_k", "topp": "top_p",
    "repetition_penalty": "repeat", "stop_sequences": "stop", "random_state": "rng", "num_beams": "width",
    "model": "modeltype", "cell": "modeltype", "model_type": "modeltype", "device": "backend",
    "val_frac": "trainfrac", "train_frac": "trainfrac", "vocab_size": "max_vocab",
    "grad_clip": "clip", "clip_norm": "clipnorm", "max_norm": "clipnorm", "weight_decay": "weightdecay",
    "l2": "regcost", "drop": "dropout", "dropout_rate": "dropout", "optim": "optimizer",
    "gru": "GRUEncode", "lstm": "LSTMEncode", "rnn": "RNNEncode", "elman": "RNNEncode",
    "mingru": "MinGRUEncode", "minlstm": "MinLSTMEncode",
    "bidirectional": "BiGRU", "characters": "char", "chars": "char", "words": "word", "tokens": "word",
    "bytes": "byte", "numpy": "cpu", "numba": "cpu", "pytensor": "scan", "theano": "scan",
    "gpu": "jax", "cuda": "jax", "tpu": "jax",
    "quiet": "silent", "none": "silent", "bar": "rich", "tqdm": "rich",
}  # fmt: skip
"""What people type who come from other libraries, and what it is called here."""

_STRANGERS: Final = {"gpu", "cuda", "tpu", "mps", "torch", "tensorflow", "transformer"}
"""What looks near to something of ours, and is something else."""


def helpful(owner: type[T]) -> type[T]:
    """Let the public methods of a class name the nearest argument where one is not known.

    >>> @helpful
    ... class Oven:
    ...     def bake(self, learnrate=1): ...
    >>> Oven().bake(lr=2)
    Traceback (most recent call last):
    rngru.errors.InputError: bake() has no argument 'lr'. Did you mean 'learnrate'?
    """
    for name, method in list(vars(owner).items()):
        inner = getattr(method, "__func__", method)
        if not inspect.isfunction(inner) or (name.startswith("_") and name != "__init__"):
            continue
        if inner is method and name != "__init__":
            inner = _checking(method)
            setattr(owner, name, inner)
        vars(inner)["__signature__"] = _Readable.of(inner)
    return owner


class _Readable(inspect.Signature):
    """A signature that help() shows on lines of at most 80 columns, with short names of types."""

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "_Readable":
        plain = inspect.signature(function)
        return cls([*plain.parameters.values()], return_annotation=plain.return_annotation)

    def __str__(self) -> str:
        own = [*self.parameters.values()]
        plain = inspect.Signature(own, return_annotation=self.return_annotation)
        words = re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])", "", str(plain)).replace("'", "")
        words = re.sub(r"Reading \|[\w |]+\| End", "Event", words)
        if len(words) <= 40:
            return words
        inside, end = words[1:].rsplit(")", 1)[0], words[words.rindex(")") :]
        parts = [
            textwrap.fill(part, 64, subsequent_indent=" " * 12, break_long_words=False)
            for part in re.split(r", (?![^\[]*\])", inside)
        ]
        return "(\n        " + ",\n        ".join(parts) + f"\n    {end}"

    def format(self, **options: Any) -> str:
        """Return what ``str()`` does: newer versions of Python ask in this way."""
        return str(self)


def _checking(method: Callable[..., Any]) -> Callable[..., Any]:
    known = inspect.signature(method).parameters

    @functools.wraps(method)
    def call(*values: Any, **named: Any) -> Any:
        for name in named:
            if name not in known:
                raise InputError(
                    f"{method.__name__}() has no argument {name!r}.{nearest(name, known)}"
                )
        return method(*values, **named)

    return call


def warn(message: str) -> None:
    """Warn at the line of the user's that called into this package, however deep we are.

    Example
    -------
    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn("The text is short.")
    >>> str(caught[0].message)
    'The text is short.'
    """
    # contextlib's frames lie between the body of a with statement and a function of ours, those of
    # importlib between two modules of ours.
    inside = (f"{Path(__file__).parent}{os.sep}", contextlib.__file__, "<frozen importlib")
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, RngruWarning, stacklevel=level)


@contextlib.contextmanager
def fits(what: str, advice: str) -> Iterator[None]:
    """Say ``what`` does not fit into memory, where that is so, and give ``advice``."""
    try:
        yield
    except MemoryError:
        raise InputError(f"{what} does not fit into memory. {advice}") from None
