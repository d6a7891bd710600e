"""What a sweep searches: names of settings, and for each the values it may have.

>>> space = Space.checked({"state_size": [64, 128], "learnrate": (1e-4, 1e-2, "log")})
>>> space
Space(state_size=[64, 128], learnrate=(0.0001, 0.01, 'log'))
>>> Space.from_json(space.to_json()) == space
True
>>> Space.checked({"hidden_size": [64]})
Traceback (most recent call last):
rngru.errors.InputError: hidden_size cannot be varied. Did you mean 'state_size'?
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self, final

from rngru.backends import BACKENDS
from rngru.errors import InputError, nearest
from rngru.hyper import HyperParams
from rngru.models import MODELS
from rngru.settings import Setting, Settings, one_of, whole
from rngru.training import Plan


class Kinds(Settings):
    """What else a sweep may vary of a model, besides the settings of HyperParams.

    {table}
    """

    __slots__ = ()

    modeltype = Setting("which kind of model", "name", one_of(sorted(MODELS)), "GRUEncode")
    seq_len = Setting("symbols per training sequence", "symbols", whole(1), 100)
    backend = Setting("what computes it", "name", one_of(sorted(BACKENDS)), "cpu")


VARIED: Final[dict[str, Setting[Any]]] = {
    **{name: each for name, each in HyperParams.settings().items() if name != "vocab_size"},
    "batchsize": Plan.settings()["batchsize"],
    **Kinds.settings(),
}
"""Every setting that may be varied, by name."""


def checkedvalues(values: Mapping[str, Any], what: str = "set") -> dict[str, Any]:
    """Return settings with their values as they are kept.

    Raises
    ------
    InputError
        For names that are not in :data:`VARIED`, with the nearest, and values that are not allowed.
    """
    for name in values:
        if name not in VARIED:
            raise InputError(f"{name} cannot be {what}.{nearest(name, VARIED)}")
    return {name: VARIED[name].checked(value) for name, value in values.items()}


@final
@dataclass(frozen=True)
class Range:
    """All numbers from ``low`` to ``high``; with ``log`` each order of magnitude is as likely."""

    low: float
    high: float
    log: bool = False

    def __repr__(self) -> str:
        return f"({self.low!r}, {self.high!r}{', ' + repr('log') if self.log else ''})"


@final
@dataclass(frozen=True, repr=False)
class Space:
    """For each setting that is varied a range, or a list of choices.

    Parameters
    ----------
    dimensions: by name, checked; :meth:`checked` makes a space of what a user gives.
    """

    dimensions: Mapping[str, Range | list[Any]]

    @classmethod
    def checked(cls, space: object) -> Self:
        """Return a space: for each name a list of choices, ``(low, high)`` or ``(low, high, 'log')``.

        Raises
        ------
        InputError
            For names that do not exist, with the nearest, and values that are not allowed.
        """
        if not isinstance(space, Mapping) or not space:
            raise InputError(
                "space: expected a dictionary such as {'state_size': [64, 128], "
                f"'learnrate': (1e-4, 1e-2, 'log')}}, got {space!r}."
            )
        checkedvalues(dict.fromkeys(set(space) - VARIED.keys()), "varied")
        found = cls({name: _dimension(name, values) for name, values in space.items()})
        both = {MODELS[name].both for name in found.dimensions.get("modeltype", ())}  # type: ignore[union-attr]
        if len(both) > 1:
            raise InputError(
                "space['modeltype']: models that read both ways know what comes after a symbol, so "
                "their losses are not those of models that read forwards. Search one kind at a time."
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            name: [each.low, each.high, "log" if each.log else "linear"]
            if isinstance(each, Range)
            else {"choices": each}
            for name, each in self.dimensions.items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the space that :meth:`to_json` gave; all of it is checked again."""
        space = {
            name: each["choices"]
            if isinstance(each, Mapping)
            else (*each[:2], "log")[: 3 if each[2] == "log" else 2]
            for name, each in data.items()
        }
        return cls.checked(space)

    def suggested(self, trial: Any) -> dict[str, Any]:
        """Return the values that a trial of Optuna is to try."""
        values: dict[str, Any] = {}
        for name, each in self.dimensions.items():
            if not isinstance(each, Range):
                values[name] = trial.suggest_categorical(name, each)
            elif isinstance(each.low, int):
                values[name] = trial.suggest_int(name, each.low, each.high, log=each.log)
            else:
                values[name] = trial.suggest_float(name, each.low, each.high, log=each.log)
        return values

    def __repr__(self) -> str:
        return f"Space({', '.join(f'{name}={each!r}' for name, each in self.dimensions.items())})"


def _dimension(name: str, values: object) -> Range | list[Any]:
    """Return the values that one setting may have, checked."""
    setting = VARIED[name]
    how = (
        f"space[{name!r}]={values!r}: expected a list of choices, (low, high) or (low, high, 'log')"
    )
    if isinstance(values, list):
        if not values:
            raise InputError(f"{how}, got no choice.")
        return list(dict.fromkeys(setting.checked(each) for each in values))
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) not in (2, 3):
        raise InputError(f"{how}.")
    low, high = (setting.checked(each) for each in values[:2])
    if any(isinstance(each, bool) or not isinstance(each, int | float) for each in (low, high)):
        raise InputError(f"{how}; {name} is no number, so give a list.")
    log = len(values) == 3
    if (log and values[2] != "log") or not low < high or (log and low <= 0):
        raise InputError(
            f"{how}, with low < high" + (", and low above 0 for 'log'." if log else ".")
        )
    return Range(low, high, log)
