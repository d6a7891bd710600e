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
    │   └── CheckpointTooNew             it was written by a newer rngru
    └── MissingExtra (ImportError)       an optional dependency that is not installed

``except RngruError`` catches them all. Each message says what was expected, what was found and
what to do about it. :func:`choose` is the one way to look a user's word up in a table of names, and
:func:`warn` the one way to warn.
"""

import contextlib
import difflib
import os
import reprlib
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path


class RngruError(Exception):
    """Base of every exception that rngru raises on purpose."""


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

    >>> nearest("SGD", ["adam", "sgd"])
    " Did you mean 'sgd'?"
    """
    folded = {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(str(name).casefold(), folded, n=1)
    return f" Did you mean {folded[near[0]]!r}?" if near else ""


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
    warnings.warn(message, stacklevel=level)


@contextlib.contextmanager
def fits(what: str, advice: str) -> Iterator[None]:
    """Say ``what`` does not fit into memory, where that is so, and give ``advice``."""
    try:
        yield
    except MemoryError:
        raise InputError(f"{what} does not fit into memory. {advice}") from None
