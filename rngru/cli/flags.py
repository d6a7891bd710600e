"""Flags of the command line from what rngru knows anyway: settings, and the manuals of verbs.

A :class:`~rngru.settings.Setting` has its meaning, unit, default and what is allowed; a verb such as
``generatestring`` has a signature, and a manual that says what each argument is. Nothing is written twice.

>>> import argparse
>>> from rngru.sampling import Sampling
>>> parser = argparse.ArgumentParser()
>>> addsettings(parser, Sampling, only=["temp", "top_k"])
>>> given(parser.parse_args(["--top-k", "40"]), Sampling.settings())
{'top_k': 40}
"""

import argparse
import inspect
import re
import typing
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from rngru.settings import Setting, Settings

ANY = argparse.SUPPRESS


def addsettings(
    group: Any,
    kind: type[Settings],
    *,
    only: Collection[str] = (),
    leave: Collection[str] = (),
    also: dict[str, str] | None = None,
) -> None:
    """Add a flag for each setting of a kind, or for ``only`` some, or without those to ``leave``.

    ``also`` has other flags for some of them.
    """
    for name, setting in kind.settings().items():
        if name not in leave and (name in only or not only):
            flags = [flag(name)] + [other for own, other in (also or {}).items() if own == name]
            meaning = setting.meaning + _default(setting.default)
            group.add_argument(
                *flags, dest=name, default=ANY, help=_literal(meaning), **_kind(setting)
            )


def _kind(setting: Setting[Any]) -> dict[str, Any]:
    """Return how argparse is to read a setting."""
    if isinstance(setting.default, bool):
        return {"action": argparse.BooleanOptionalAction}
    if setting.words:
        return {"metavar": "WORD", "type": partial(value, setting)}
    with suppress(TypeError, ValueError, OverflowError):
        if setting.convert("x") == ("x",):  # several strings
            return {"metavar": "TEXT", "action": "append"}
    return {"metavar": setting.unit.upper(), "type": partial(value, setting)}


def value(setting: Setting[Any], text: str) -> Any:
    """Return what a word of the command line says of a setting.

    Raises
    ------
    argparse.ArgumentTypeError
        With what was expected.
    """
    for meant in (text, *_readings(text)):
        with suppress(TypeError, ValueError, OverflowError):
            return setting.convert(meant)
    raise argparse.ArgumentTypeError(_literal(f"expected {setting.allowed}, got {text!r}."))


def _readings(text: str) -> Iterator[Any]:
    """Yield what a word may stand for."""
    for kind in (int, float):
        with suppress(ValueError):
            yield kind(text)
    named = {"none": None, "true": True, "false": False, "yes": True, "no": False}
    if text.lower() in named:
        yield named[text.lower()]


def addarguments(
    group: Any, verb: Callable[..., Any], names: Iterable[str], also: dict[str, str] | None = None
) -> None:
    """Add a flag for each of some arguments of a verb, with what its manual says of it."""
    parameters, manual = inspect.signature(verb).parameters, _manual(verb)
    for name in names:
        flags = [flag(name)] + [other for own, other in (also or {}).items() if own == name]
        kinds = typing.get_args(parameters[name].annotation) or [parameters[name].annotation]
        kind = next((each for each in (bool, float, int) if each in kinds), str)
        how: dict[str, Any] = {
            "type": kind,
            "metavar": {float: "X", int: "N", str: "TEXT"}.get(kind),
        }
        if kind is bool:
            how = {"action": argparse.BooleanOptionalAction}
        default = parameters[name].default
        words = manual.get(name, "").rstrip(".") + _default(default)
        group.add_argument(*flags, dest=name, default=ANY, help=_literal(words), **how)


def _manual(verb: Callable[..., Any]) -> dict[str, str]:
    """Return what the docstring of a verb says of each argument."""
    found: dict[str, str] = {}
    names: list[str] = []
    section = (inspect.getdoc(verb) or "").partition("Parameters\n----------\n")[2]
    for line in section.partition("\n\n")[0].splitlines():
        if not line.startswith(" "):
            names = [name.strip(" *") for name in line.partition(":")[0].split(",")]
        else:
            found |= {name: f"{found.get(name, '')} {line.strip()}".strip() for name in names}
    return {
        name: re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`|``", r"\1", told) for name, told in found.items()
    }


def _default(default: object) -> str:
    return "" if default is None or isinstance(default, bool) else f" (default {default})"


def _literal(words: str) -> str:
    return words.replace("%", "%%")


def flag(name: str) -> str:
    """Return the flag of an argument.

    >>> flag("state_size")
    '--state-size'
    """
    return "--" + name.replace("_", "-")


def given(options: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Return what was said on the command line of some arguments."""
    return {name: vars(options)[name] for name in names if name in vars(options)}
