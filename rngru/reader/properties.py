"""Properties of a text that a neuron may follow: a number for each of its symbols.

>>> properties = {name: measure("If x:\\n  f('(a)')") for name, measure in BUILTIN.items()}
>>> properties["line position"].astype(int).tolist()
[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
>>> properties["brackets"].astype(int).tolist()
[0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 1, 1, 0]
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from rngru.errors import InputError, nearest

Wanted = str | re.Pattern[str] | Callable[[str], Sequence[float]] | Sequence[float] | np.ndarray
"""What says which property: the name of one, a regular expression, a function or the numbers."""


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _which(text: str, test: Callable[[str], bool]) -> np.ndarray:
    """Return which characters pass a test, bool (m,)."""
    kinds, inverse = np.unique(_codes(text), return_inverse=True)
    return np.array([test(chr(code)) for code in kinds], bool)[inverse]


def _within(starts: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return the sum of ``numbers`` (m,) since the last of the ``starts`` (m,), which is included."""
    whole = np.cumsum(numbers, dtype=np.int64)
    first = np.maximum.accumulate(np.where(starts, np.arange(len(starts)), 0))
    return whole - (whole - numbers)[first]


def _after(text: str, what: str) -> np.ndarray:
    """Return which characters follow ``what`` at once, bool (m,)."""
    starts = np.zeros(len(text) + 1, bool)
    starts[[found.end() for found in re.finditer(re.escape(what), text)]] = True
    return starts[:-1]


def _quoted(text: str) -> np.ndarray:
    paragraphs = _after(text, "\n\n")
    straight = _within(paragraphs, _which(text, '"'.__eq__)) % 2 == 1
    balance = _which(text, "“«".__contains__).astype(int) - _which(text, "”»".__contains__)
    return straight | (_within(paragraphs, balance) > 0)


def _brackets(text: str) -> np.ndarray:
    step = _which(text, "([{".__contains__).astype(int) - _which(text, ")]}".__contains__)
    depth = np.cumsum(step)
    # One that closes nothing does not count.
    return depth - np.minimum.accumulate(np.minimum(depth, 0))


def _lineposition(text: str) -> np.ndarray:
    return _within(_after(text, "\n"), np.ones(len(text), int)) - 1


def _wordposition(text: str) -> np.ndarray:
    inside = _which(text, lambda char: char.isalnum() or char == "_")
    return _within(~inside, inside.astype(int))


def _indent(text: str) -> np.ndarray:
    lines = _after(text, "\n")
    leading = _within(lines, _which(text, lambda char: char not in " \t").astype(int)) == 0
    return _within(lines, leading.astype(int))


BUILTIN: Final[dict[str, Callable[[str], np.ndarray]]] = {
    "quoted": _quoted,
    "brackets": _brackets,
    "line position": _lineposition,
    "word position": _wordposition,
    "indent": _indent,
    "upper case": lambda text: _which(text, str.isupper),
    "digit": lambda text: _which(text, str.isdigit),
    "blank": lambda text: _which(text, str.isspace),
}
"""Each property that has a name: from a text, a number (m,) for each of its characters.

``quoted``: inside double quotation marks, from the opening one on; a blank line ends a quotation.
``brackets``: how many of ``([{`` are open. ``line position``: characters since the line began, from 0.
``word position``: letters and digits of the word so far, 0 outside of words. ``indent``: blanks at the
beginning of the line, as far as it has been read. ``upper case``, ``digit``, ``blank``: 0 or 1.
"""


def measured(symbols: Sequence[str], wanted: Wanted, level: str) -> tuple[str, np.ndarray]:
    """Return the name of a property, and its value at each of the ``symbols``, float64 (n,).

    A function, or the numbers themselves, may have one for each character of the text instead; then,
    and for regular expressions and names, a symbol of several characters has the largest of theirs,
    and each byte of a character that of the character.

    Raises
    ------
    InputError
        If that is no such property, or it is the same at all symbols.
    """
    text = "".join(symbols)
    if level == "byte":
        text = text.encode("latin-1").decode("utf-8", "surrogateescape")
    if isinstance(wanted, str) and wanted in BUILTIN:
        name, values = wanted, BUILTIN[wanted](text)
    elif isinstance(wanted, str | re.Pattern):
        pattern = _pattern(wanted)
        name, values = repr(pattern.pattern), np.zeros(len(text))
        for found in pattern.finditer(text):
            values[found.start() : found.end()] = 1
        if not values.any():
            hint = nearest(wanted, BUILTIN) if isinstance(wanted, str) else ""
            raise InputError(
                f"The regular expression {name} matches nothing in the text.{hint} Properties that have "
                f"a name: {', '.join(map(repr, BUILTIN))}."
            )
    elif callable(wanted):
        name, values = getattr(wanted, "__name__", "a function"), _numbers(wanted(text))
    else:
        name, values = "an array", _numbers(wanted)
    if len(values) != len(symbols):
        if len(values) != len(text):
            raise InputError(
                f"The property has {len(values):,} values, but the text has {len(symbols):,} symbols"
                f" ({len(text):,} characters). Give one for each."
            )
        values = _bysymbol(values, symbols, text, level)
    values = np.asarray(values, np.float64)
    if values.min() == values.max():
        raise InputError(
            f"The property {name} is {values[0]:g} at every symbol of the text: there is nothing to follow. "
            "Give a text in which it changes."
        )
    return name, values


def _pattern(wanted: str | re.Pattern[str]) -> re.Pattern[str]:
    try:
        pattern = re.compile(wanted)
    except re.error as error:
        raise InputError(
            f"{wanted!r} is no regular expression ({error}), nor a property that has a name: "
            f"{', '.join(map(repr, BUILTIN))}."
        ) from None
    if not isinstance(pattern.pattern, str):
        raise InputError("Expected a regular expression for text, got one for bytes.")
    return pattern


def _numbers(given: ArrayLike) -> np.ndarray:
    values = np.asarray(given)
    if values.ndim != 1 or values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        raise InputError(
            "Expected a property: its name, a regular expression, a function of the text or finite "
            f"numbers, one for each symbol; got an array of {values.dtype}, shape {values.shape}."
        )
    return values


def _bysymbol(values: np.ndarray, symbols: Sequence[str], text: str, level: str) -> np.ndarray:
    """Return one value for each symbol, from one for each character of the text."""
    if level == "byte":
        codes = _codes(text)
        alone = (codes < 0x80) | ((codes >= 0xDC80) & (codes < 0xDD00))  # a byte that is not UTF-8
        return np.repeat(values, np.where(alone, 1, 2 + (codes >= 0x800) + (codes >= 0x10000)))
    ends = np.cumsum([len(symbol) for symbol in symbols])
    return np.maximum.reduceat(values, ends - [len(symbol) for symbol in symbols])
