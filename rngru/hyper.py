"""The numbers that make a model and decide how it learns, as one checked record.

:class:`HyperParams` is frozen and always valid: whoever holds one need not check it again. Each
hyperparameter is one :class:`Setting`, a line in the class that says its name, meaning, unit,
default and what is allowed; the signature, ``help(HyperParams)``, the checks, the repr and the
JSON form all come from those lines. To add a hyperparameter, add a line.

>>> hyper = HyperParams(vocab_size=66, state_size=256)
>>> hyper
HyperParams(vocab_size=66, state_size=256)
>>> hyper.replace(learnrate=2e-3).learnrate
0.002
"""

import inspect
import numbers
import operator
import reprlib
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, Self, TypeVar, final, overload

import numpy as np

from rngru.errors import InputError, choose, nearest

T = TypeVar("T")

GATES: Final = ("sigmoid", "hard_sigmoid")
"""The forms a gate may have; `rngru.cells` has their equations."""

OPTIMIZERS: Final = ("rmsprop", "adam", "adamw", "sgd", "adagrad")
"""The update rules; `rngru.optim` has their equations."""

SCHEDULES: Final = ("constant", "plateau", "exponential", "cosine")
"""The learning-rate schedules; `rngru.training` has them."""

CACHES: Final = {
    "rmsprop": ("mean",),
    "adam": ("first", "second"),
    "adamw": ("first", "second"),
    "sgd": ("velocity",),
    "adagrad": ("total",),
}
"""What each update rule remembers of each parameter, in the order that it wants."""

_REQUIRED: Final = inspect.Parameter.empty
_LARGEST: Final = 1e30  # far above any use, and still a number in float32


@final
class Setting(Generic[T]):
    """One hyperparameter: ``meaning``, ``unit``, ``default`` and the values ``allowed``.

    ``convert`` takes what a person wrote and returns the value to keep, or raises TypeError,
    ValueError or OverflowError. As an attribute of a class it reads the value in an instance.
    """

    def __init__(
        self,
        meaning: str,
        unit: str,
        check: tuple[str, Callable[[Any], T]],
        default: object = _REQUIRED,
    ) -> None:
        self.meaning = meaning
        self.unit = unit
        self.allowed, self.convert = check
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.__doc__ = f"{self.meaning} ({self.unit}; {self.default_words})"

    @property
    def default_words(self) -> str:
        """The default as the table shows it."""
        return "required" if self.default is _REQUIRED else repr(self.default)

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: Any, owner: type) -> Self | T:
        return self if instance is None else instance._values[self.name]

    def __set__(self, instance: object, value: object) -> None:
        raise InputError(
            f"HyperParams never change, so {self.name} cannot be set. "
            f"hyper.replace({self.name}={value!r}) makes a changed copy."
        )


def _whole(low: int, high: int, *, or_else: int | None = None) -> tuple[str, Callable[[Any], int]]:
    """Accept whole numbers from ``low`` to ``high``, and the number ``or_else``."""

    def convert(value: Any) -> int:
        number = operator.index(value)
        if isinstance(value, bool) or not (low <= number <= high or number == or_else):
            raise ValueError
        return number

    also = "" if or_else is None else f", or {or_else}"
    return f"a whole number from {low:,} to {high:,}{also}", convert


def _real(
    low: float = 0.0, high: float = _LARGEST, *, above: bool = False, below: bool = False
) -> tuple[str, Callable[[Any], float]]:
    """Accept numbers from ``low`` to ``high``, without ``low`` itself if ``above``, and so on."""

    def convert(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError
        number = float(value)
        # Written so that nan, for which every comparison is false, is refused.
        if not (low < number if above else low <= number):
            raise ValueError
        if not (number < high if below else number <= high):
            raise ValueError
        return number

    words = f"a number {'above' if above else 'of at least'} {low:g}"
    return words + f" and {'below' if below else 'at most'} {high:g}", convert


def _or_none(check: tuple[str, Callable[[Any], T]]) -> tuple[str, Callable[[Any], T | None]]:
    """Accept None as well."""
    allowed, convert = check
    return f"{allowed}, or None", lambda value: None if value is None else convert(value)


def _flag() -> tuple[str, Callable[[Any], bool]]:
    """Accept True and False."""

    def convert(value: Any) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise TypeError
        return bool(value)

    return "True or False", convert


def _one_of(names: Sequence[str]) -> tuple[str, Callable[[Any], str]]:
    """Accept one of ``names``."""

    def convert(value: Any) -> str:
        if value not in names:
            raise InputError(nearest(value, names))
        return str(value)

    return "one of " + ", ".join(map(repr, names)), convert


class HyperParams:
    """The numbers that make a model and decide how it learns.

    {table}

    The first three may be given by position, all others by name. NumPy numbers are accepted and
    become Python's. The cost that is minimised is (sum over time and batch of the cross-entropy
    + regcost * sum of squared weights / 2) / batch size; ``clip`` acts on its gradient, before
    the optimizer sees it.

    A record never changes: ``replace`` makes a changed copy. Its repr shows what differs from the
    defaults. Two records are equal when all their values are.

    Raises
    ------
    InputError
        For names that do not exist and values that make no sense, all of them in one message.

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

    __slots__ = ("_values",)

    vocab_size = Setting(
        "symbols the model knows, 'unknown' included", "symbols", _whole(1, 10_000_000)
    )
    state_size = Setting(
        "neurons in each layer: more can learn more, and cost their square",
        "neurons",
        _whole(1, 1_000_000),
        128,
    )
    layers = Setting(
        "recurrent layers, each reading the states of the one before", "layers", _whole(1, 1_000), 2
    )
    bptt_truncate = Setting(
        "how far back in time gradients reach; -1: over the whole sequence",
        "characters",
        _whole(1, 1_000_000_000, or_else=-1),
        -1,
    )
    learnrate = Setting(
        "how far one update moves a weight: more learns faster, until it diverges",
        "weight/update",
        _real(),
        1e-3,
    )
    decay = Setting(
        "share of the running mean of squared gradients that each update keeps",
        "share",
        _real(0, 1, below=True),
        0.95,
    )
    regcost = Setting(
        "penalty on squared weights: more keeps them small (biases are free)",
        "nats/weight²",
        _real(),
        0.1,
    )
    gate = Setting(
        "form of the gates: 'sigmoid', or 'hard_sigmoid': clip(0.2x + 0.5, 0, 1)",
        "name",
        _one_of(GATES),
        "sigmoid",
    )
    reset_after = Setting(
        "GRU: the reset gate acts after the product, as in cuDNN, Keras and PyTorch",
        "yes or no",
        _flag(),
        False,
    )
    optimizer = Setting(
        "update rule: rmsprop, adam, adamw, sgd or adagrad", "name", _one_of(OPTIMIZERS), "rmsprop"
    )
    momentum = Setting(
        "share of the running mean of gradients that each update keeps (sgd, adam, adamw)",
        "share",
        _real(0, 1, below=True),
        0.9,
    )
    beta2 = Setting(
        "share of the running mean of squared gradients that each update keeps (adam, adamw)",
        "share",
        _real(0, 1, below=True),
        0.999,
    )
    weightdecay = Setting(
        "how much each update shrinks weights, times the rate (adamw)",
        "share/update",
        _real(),
        0.01,
    )
    schedule = Setting(
        "how the rate changes: constant, plateau, exponential or cosine",
        "name",
        _one_of(SCHEDULES),
        "constant",
    )
    warmup = Setting(
        "share of a call's length in which the rate rises to learnrate (cosine)",
        "share",
        _real(0, 1),
        0.05,
    )
    dropout = Setting(
        "share of each layer's outputs set to zero while training",
        "share",
        _real(0, 1, below=True),
        0.0,
    )
    locked = Setting(
        "one dropout mask for a whole sequence instead of a fresh one each step",
        "yes or no",
        _flag(),
        False,
    )
    tied = Setting(
        "output weights are the encoder's, transposed (Encode models)", "yes or no", _flag(), False
    )
    clipnorm = Setting(
        "bound on the length of the whole gradient; None: no bound",
        "nats/weight",
        _or_none(_real(above=True)),
        None,
    )
    clip = Setting(
        "bound on each element of the gradient, either way; None: no bound",
        "nats/weight",
        _or_none(_real(above=True)),
        5.0,
    )

    def __init__(self, /, *values: object, **named: object) -> None:
        """Check every value; the table above says what they mean."""
        if len(values) > _BY_POSITION:
            raise InputError(
                f"HyperParams takes {', '.join(list(SETTINGS)[:_BY_POSITION])} by position, "
                f"but {len(values)} values were given. Name the others, as in learnrate=1e-3."
            )
        given = dict(zip(SETTINGS, values, strict=False))
        if twice := given.keys() & named.keys():
            raise InputError(f"HyperParams was given {', '.join(sorted(twice))} twice.")
        self._values = _checked(given | named)

    def replace(self, /, **changes: object) -> "HyperParams":
        """Return a copy in which ``changes`` hold.

        Raises
        ------
        InputError
            As the class does.

        Example
        -------
        >>> HyperParams(66, 256).replace(state_size=512, clip=None)
        HyperParams(vocab_size=66, state_size=512, clip=None)
        """
        return HyperParams(**(self._values | changes))

    def to_json(self) -> dict[str, Any]:
        """Return all values by name: whole numbers, numbers, words and None only.

        Example
        -------
        >>> HyperParams(66).to_json()["learnrate"]
        0.001
        """
        return dict(self._values)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> "HyperParams":
        """Return the record that :meth:`to_json` gave as ``data``.

        What is missing has its default, so that a record outlives the hyperparameters it does not
        know yet. Nothing about ``data`` is trusted.

        Raises
        ------
        InputError
            As the class does, or if ``data`` is not a mapping of names.

        Example
        -------
        >>> HyperParams.from_json({"vocab_size": 66, "state_size": 256})
        HyperParams(vocab_size=66, state_size=256)
        """
        if not isinstance(data, Mapping) or not all(isinstance(name, str) for name in data):
            raise InputError(
                "HyperParams.from_json: expected names with their values, as to_json() gives "
                f"them, got {reprlib.repr(data)}."
            )
        return cls(**data)

    def __repr__(self) -> str:
        changed = (
            f"{name}={value!r}"
            for name, value in self._values.items()
            if value != SETTINGS[name].default
        )
        return f"HyperParams({', '.join(changed)})"

    def __eq__(self, other: object) -> bool:
        return self._values == other._values if isinstance(other, HyperParams) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._values.values()))


SETTINGS: Final[dict[str, Setting[Any]]] = {
    name: item for name, item in vars(HyperParams).items() if isinstance(item, Setting)
}
"""Every hyperparameter by name, in the order of the table."""

_BY_POSITION: Final = 3


def _checked(given: Mapping[str, object]) -> dict[str, Any]:
    """Return a value for every setting, or raise an error that names everything wrong."""
    values, problems = {}, []
    for name in given:
        try:
            choose("hyperparameter", name, SETTINGS)
        except InputError as error:
            problems.append(str(error))
    for name, setting in SETTINGS.items():
        value = given.get(name, setting.default)
        try:
            values[name] = setting.convert(value)
        except (TypeError, ValueError, OverflowError) as error:
            wrong = " is missing" if value is _REQUIRED else f"={reprlib.repr(value)}"
            hint = str(error) if isinstance(error, InputError) else ""
            problems.append(f"{name}{wrong}: expected {setting.allowed}.{hint}")
    if problems:
        raise InputError("\n".join(problems))
    return values


def _table() -> str:
    """Return name, meaning, unit and default of every setting, in aligned columns."""
    rows = [("name", "meaning", "unit", "default")]
    rows += [(s.name, s.meaning, s.unit, s.default_words) for s in SETTINGS.values()]
    lines = []
    for name, meaning, unit, default in rows:
        first, *more = textwrap.wrap(meaning, 34)
        lines.append(f"{name:13}  {first:34}  {unit:13}  {default}".rstrip())
        lines += [f"{'':13}  {line}" for line in more]
    lines.insert(1, f"{'-' * 13}  {'-' * 34}  {'-' * 13}  {'-' * 9}")
    return "\n    ".join(lines)


HyperParams.__doc__ = (HyperParams.__doc__ or "").replace("{table}", _table())
# What help() and completion show: the signature spelled out, rather than *values and **named.
vars(HyperParams)["__init__"].__signature__ = inspect.Signature(
    [
        inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY),
        *(
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD
                if place < _BY_POSITION
                else inspect.Parameter.KEYWORD_ONLY,
                default=setting.default,
            )
            for place, (name, setting) in enumerate(SETTINGS.items())
        ),
    ]
)
