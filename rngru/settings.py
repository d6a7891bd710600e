"""Records that check and explain themselves: a :class:`Settings` class, one :class:`Setting` a line.

A settings record is frozen and always valid: whoever holds one need not check it again. Each setting
is one line in the class, which says its name, meaning, unit, default and what is allowed. The
signature, the table in ``help()``, the checks, the repr and the JSON form all come from those lines.

>>> class Oven(Settings):
...     '''How to bake.
...
...     {table}
...     '''
...
...     degrees = Setting("how hot", "°C", whole(50, 300), 180)
>>> Oven(200), Oven(180).to_json()
(Oven(degrees=200), {})
>>> Oven(20)
Traceback (most recent call last):
rngru.errors.InputError: degrees=20: expected a whole number from 50 to 300.
"""

import inspect
import math
import numbers
import operator
import reprlib
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, final, overload

import numpy as np

from rngru.errors import CheckpointTooNew, InputError, choose, nearest

T = TypeVar("T")

_REQUIRED: Final = inspect.Parameter.empty
LARGEST: Final = 1e30
"""The largest number of a setting: far above any use, and still a number in float32."""


@dataclass(frozen=True, slots=True)
class Check(Generic[T]):
    """What a setting accepts.

    Parameters
    ----------
    allowed: what it accepts, in words.
    convert: returns the value to keep, or raises TypeError, ValueError or OverflowError.
    words: all choices, if it is one of several words.
    """

    allowed: str
    convert: Callable[[Any], T]
    words: tuple[str, ...] = ()


def whole(low: int, high: int = 10**18, *, or_else: int | None = None) -> Check[int]:
    """Accept whole numbers from ``low`` to ``high``, and the number ``or_else``."""

    def convert(value: Any) -> int:
        number = operator.index(value)
        if isinstance(value, bool) or not (low <= number <= high or number == or_else):
            raise ValueError
        return number

    limits = f"of at least {low:,}" if high == 10**18 else f"from {low:,} to {high:,}"
    also = "" if or_else is None else f", or {or_else}"
    return Check(f"a whole number {limits}{also}", convert)


def real(
    low: float = 0.0, high: float = LARGEST, *, above: bool = False, below: bool = False
) -> Check[float]:
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

    words = f"number {'above' if above else 'of at least'} {low:g}"
    if high == math.inf:
        return Check(f"a finite {words}" if below else f"a {words}", convert)
    return Check(f"a {words} and {'below' if below else 'at most'} {high:g}", convert)


def or_none(check: Check[T]) -> Check[T | None]:
    """Accept None as well."""
    convert = check.convert
    return Check(
        f"{check.allowed}, or None", lambda value: None if value is None else convert(value)
    )


def flag() -> Check[bool]:
    """Accept True and False."""

    def convert(value: Any) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise TypeError
        return bool(value)

    return Check("True or False", convert)


def one_of(names: Sequence[str]) -> Check[str]:
    """Accept one of ``names``."""

    def convert(value: Any) -> str:
        # An array of one word equals that word.
        if not isinstance(value, str) or value not in names:
            raise InputError(nearest(value, names))
        return str(value)

    return Check("one of " + ", ".join(map(repr, names)), convert, tuple(names))


def or_function(check: Check[T]) -> Check[T | Callable[..., Any]]:
    """Accept a function as well."""
    convert = check.convert
    return Check(
        f"{check.allowed}, or a function",
        lambda value: value if callable(value) else convert(value),
    )


def string() -> Check[str]:
    """Accept a string."""

    def convert(value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise TypeError
        return value

    return Check("a string that is not empty", convert)


def strings() -> Check[tuple[str, ...]]:
    """Accept a string, or several."""

    def convert(value: Any) -> tuple[str, ...]:
        several = (value,) if isinstance(value, str) else tuple(value)
        if not several or not all(isinstance(each, str) and each for each in several):
            raise TypeError
        return several

    return Check("a string that is not empty, or several", convert)


@final
class Setting(Generic[T]):
    """One setting: its ``meaning``, ``unit``, ``default`` and the values ``allowed``.

    ``since`` is the first rngru that knows it: what is saved with another value than the default
    cannot be read by an older one. As an attribute of a class it reads the value in an instance.
    """

    def __init__(
        self,
        meaning: str,
        unit: str,
        check: Check[T],
        default: object = _REQUIRED,
        *,
        since: str = "0.1",
    ) -> None:
        self.meaning, self.unit, self.since = meaning, unit, since
        self.allowed, self.convert, self.words = check.allowed, check.convert, check.words
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.__doc__ = f"{self.meaning} ({self.unit}; {self.default_words})"

    @property
    def default_words(self) -> str:
        """The default as the table shows it."""
        return "required" if self.default is _REQUIRED else repr(self.default)

    def checked(self, value: object) -> T:
        """Return the value to keep.

        Raises
        ------
        InputError
            With the name, the value and what was expected.
        """
        try:
            return self.convert(value)
        except (TypeError, ValueError, OverflowError) as error:
            wrong = " is missing" if value is _REQUIRED else f"={_brief(value)}"
            hint = str(error) if isinstance(error, InputError) else ""
            raise InputError(f"{self.name}{wrong}: expected {self.allowed}.{hint}") from None

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: Any, owner: type) -> Self | T:
        return self if instance is None else instance._values[self.name]

    def __set__(self, instance: object, value: object) -> None:
        raise InputError(
            f"{type(instance).__name__} never changes, so {self.name} cannot be set. "
            f".replace({self.name}={value!r}) makes a changed copy."
        )


class Settings:
    """A record of settings; each subclass is final, and one line of it is one setting.

    ``noun`` is what one setting is called in messages, and the first ``positional`` settings may be
    given by position: ``class Oven(Settings, positional=2)``. ``{table}`` in the docstring of a
    subclass becomes the table of all its settings.
    """

    __slots__ = ("_values",)

    # Comments, for annotations would be noise in help().
    _settings = {}  # type: dict[str, Setting[Any]]
    _noun, _positional = "setting", 1

    if TYPE_CHECKING:

        def __init__(self, /, *values: object, **named: object) -> None: ...

    def __init_subclass__(cls, *, positional: int = 1, noun: str = "setting") -> None:
        own = {name: item for name, item in vars(cls).items() if isinstance(item, Setting)}
        cls._settings, cls._noun, cls._positional = own, noun, positional
        # Clean, for only from Python 3.13 on a docstring comes without its indentation.
        cls.__doc__ = inspect.cleandoc(cls.__doc__ or "").replace("{table}", _table(own))

        def __init__(self: Settings, /, *values: object, **named: object) -> None:
            """Check every value; the table above says what they mean."""
            self._fill(values, named)

        # What help() and completion show: spelled out, rather than *values and **named.
        kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter(name, kinds[place >= positional], default=setting.default)
            for place, (name, setting) in enumerate(own.items())
        ]
        own_self = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        vars(__init__)["__signature__"] = inspect.Signature([own_self, *parameters])
        cls.__init__ = __init__  # type: ignore[method-assign]

    @classmethod
    def settings(cls) -> dict[str, Setting[Any]]:
        """Return every setting by name, in the order of the table."""
        return dict(cls._settings)

    def _fill(self, values: tuple[object, ...], named: Mapping[str, object]) -> None:
        """Check and keep all values, or say all that is wrong with them."""
        settings, kind = self._settings, type(self).__name__
        if len(values) > self._positional:
            *_, other = settings
            raise InputError(
                f"{kind} takes {', '.join(list(settings)[: self._positional])} by position, but "
                f"{len(values)} values were given. Name the others, as in {other}=…."
            )
        given = dict(zip(settings, values, strict=False))
        if twice := given.keys() & named.keys():
            raise InputError(f"{kind} was given {', '.join(sorted(twice))} twice.")
        given |= named
        self._values: dict[str, Any] = {}
        problems = []
        for name in given:
            try:
                choose(self._noun, name, settings)
            except InputError as error:
                problems.append(str(error))
        for name, setting in settings.items():
            try:
                self._values[name] = setting.checked(given.get(name, setting.default))
            except InputError as error:
                problems.append(str(error))
        if problems:
            raise InputError("\n".join(problems))

    def replace(self, /, **changes: object) -> Self:
        """Return a copy in which ``changes`` hold.

        Raises
        ------
        InputError
            As the class does.
        """
        return type(self)(**(self._values | changes))

    def to_json(self) -> dict[str, Any]:
        """Return the values that differ from the defaults, by name.

        They are whole numbers, numbers, words and None only. What has its default is left out, so
        that a version that does not know a setting can still read what does not use it.
        """
        return {
            name: value
            for name, value in self._values.items()
            if value != self._settings[name].default
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object], *, where: str = "") -> Self:
        """Return the record that :meth:`to_json` gave as ``data``; nothing in it is trusted.

        What is missing has its default.

        Parameters
        ----------
        where
            What ``data`` was read from, for messages.

        Raises
        ------
        CheckpointTooNew
            If it has settings, or words for them, that this version does not know.
        InputError
            As the class does, or if ``data`` is not a mapping of names.
        """
        if not isinstance(data, Mapping) or not all(isinstance(name, str) for name in data):
            raise InputError(
                f"{cls.__name__}.from_json: expected names with their values, as to_json() gives "
                f"them, got {reprlib.repr(data)}."
            )
        unknown = [
            name if name.isidentifier() else reprlib.repr(name)
            for name in data
            if name not in cls._settings
        ]
        unknown += [
            f"{name}={reprlib.repr(data[name])}"
            for name, setting in cls._settings.items()
            if setting.words
            and isinstance(data.get(name, setting.words[0]), str)
            and data.get(name, setting.words[0]) not in setting.words
        ]
        if unknown:
            raise CheckpointTooNew.unknown(where or cls.__name__, unknown)
        return cls(**data)

    @property
    def needs(self) -> str:
        """The oldest rngru that can read what :meth:`to_json` gives."""
        used = [self._settings[name].since for name in self.to_json()]
        return max(used, key=lambda since: [int(part) for part in since.split(".")], default="0.1")

    def __repr__(self) -> str:
        changed = (f"{name}={value!r}" for name, value in self.to_json().items())
        return f"{type(self).__name__}({', '.join(changed)})"

    def __eq__(self, other: object) -> bool:
        return self._values == other._values if isinstance(other, type(self)) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._values.values()))


def _brief(value: object) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python does not print whole numbers of thousands of digits
        return f"<{type(value).__name__}>"


def _table(settings: Mapping[str, Setting[Any]]) -> str:
    """Return name, meaning, unit and default of every setting, in aligned columns."""
    rows = [("name", "meaning", "unit", "default")]
    rows += [(s.name, s.meaning, s.unit, s.default_words) for s in settings.values()]
    lines = []
    for name, meaning, unit, default in rows:
        first, *more = textwrap.wrap(meaning, 34)
        lines.append(f"{name:13}  {first:34}  {unit:13}  {default}".rstrip())
        lines += [f"{'':13}  {line}" for line in more]
    lines.insert(1, f"{'-' * 13}  {'-' * 34}  {'-' * 13}  {'-' * 9}")
    return "\n".join(lines)


def checked(name: str, value: object, check: Check[T]) -> T:
    """Return one argument checked as a setting is, for a call that has only a few.

    Example
    -------
    >>> checked("batches", 0, whole(1))
    Traceback (most recent call last):
    rngru.errors.InputError: batches=0: expected a whole number of at least 1.
    """
    setting = Setting("", "", check)
    setting.name = name
    return setting.checked(value)


def generator(rng: int | np.random.Generator | None) -> np.random.Generator:
    """Return the generator that a seed, a Generator or None (a fresh one) stands for.

    Its state can be saved in a checkpoint. A Generator of another kind than PCG64 seeds a new one.
    """
    try:
        made = np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"rng={rng!r}: expected a whole number or a Generator ({error})."
        ) from None
    if isinstance(made.bit_generator, np.random.PCG64):
        return made
    return np.random.default_rng(made.integers(2**63))
