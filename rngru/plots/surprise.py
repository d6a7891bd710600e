"""How surprising each symbol of a text was, as a picture.

>>> scoresfigure("the", [3.0, 0.5, 0.25]).axes[0].get_ylabel()
'bits per character'
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rngru.errors import InputError
from rngru.plots.canvas import BLUE, RED, blank, labels, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WRITTEN: Final = 120
"""Symbols of a text that is written below its bars."""


def scoresfigure(
    symbols: Sequence[str], bits: ArrayLike, *, first: int = 0, units: str = "characters"
) -> "Figure":
    """Draw how surprising each symbol of a text was.

    Parameters
    ----------
    symbols
        The text. At most 120 symbols are written below their bars; of a longer text it is a curve of
        means, with the beginnings of some lines.
    bits
        Float array, (n,): how surprising each of them was, bits per symbol.
    first
        Which symbol of the whole text the first one is, counted from 0.
    units
        What a symbol is: ``'characters'``, ``'words'`` or ``'bytes'``.

    Raises
    ------
    InputError
        If there is nothing to draw, or there are not as many numbers as symbols.
    MissingExtra
        Without matplotlib.

    Example
    -------
    >>> scoresfigure("the", [3.0, 0.5, 0.25]).axes[0].get_ylabel()
    'bits per character'
    """
    heights = np.asarray(bits, float)
    if heights.shape != (len(symbols),) or not len(symbols):
        raise InputError(
            f"Expected one number for each symbol, and one symbol or more; got {len(symbols):,} symbols "
            f"and numbers of shape {heights.shape}."
        )
    if len(symbols) <= WRITTEN:
        return _bars(symbols, heights, units)
    return _curve(symbols, heights, first, units)


def _bars(symbols: Sequence[str], bits: NDArray[Any], units: str) -> "Figure":
    """Draw a bar for each symbol, the text below them, in as many bands as it takes."""
    names = ["".join(labels(_cut(symbol, 20))) for symbol in symbols]
    upright = max(map(len, names))  # words would overlap if they lay
    wide, across = (0.24, 40) if upright > 1 else (0.16, 60)
    columns, bands = min(len(symbols), across), math.ceil(len(symbols) / across)
    tall = 1.9 + 0.085 * (upright if upright > 1 else 0)
    figure = blank(max(wide * columns, 3.0) + 1.0, tall * bands + 0.3)
    every = figure.subplots(bands, 1, squeeze=False, sharey=True)[:, 0]
    for band, axes in enumerate(every):
        part = slice(band * across, (band + 1) * across)
        steps = range(len(names[part]))
        axes.bar(steps, bits[part], width=0.85, color=BLUE)
        axes.set_xlim(-0.6, columns - 0.4)
        axes.set_xticks(
            steps, names[part],
            family="monospace", rotation=90 if upright > 1 else 0, parse_math=False,
        )  # fmt: skip
        axes.tick_params(axis="x", length=0, labelsize=9)
        _dress(axes, units, 1.05 * bits.max())
    every[0].set_title(_mean(bits, units), loc="left", fontsize=10)
    return figure


def _curve(symbols: Sequence[str], bits: NDArray[Any], first: int, units: str) -> "Figure":
    """Draw running means, and above them how some lines begin."""
    figure, count = blank(10.0, 4.2), len(bits)
    axes, over = figure.subplots(), max(count // 100, 10)
    sums = np.concatenate([[0.0], bits.cumsum()])
    middles = np.arange(over // 2, count - over // 2 + 1, max(over // 5, 1))
    low, high = middles - over // 2, middles + over // 2
    axes.plot(first + middles, (sums[high] - sums[low]) / (high - low), color=BLUE, lw=1.2)
    axes.axhline(bits.mean(), color=RED, lw=1, ls="--")
    axes.set_xlim(first, first + count)
    axes.xaxis.set_major_formatter(lambda x, _: short(x))
    axes.set_xlabel(f"{units} of the text; the curve is a mean over {over:,} of them")
    _dress(axes, units, None)
    places = _linestarts(symbols)
    above = axes.secondary_xaxis("top")
    above.set_xticks(
        [first + place for place in places],
        ["".join(labels(_beginning(symbols, place))).replace("·", " ") for place in places],
        family="monospace", rotation=30, ha="left", parse_math=False,
    )  # fmt: skip
    above.tick_params(labelsize=8)
    above.spines["top"].set_visible(False)
    axes.set_title(_mean(bits, units), loc="left", fontsize=10)
    return figure


def _dress(axes: "Axes", units: str, top: float | None) -> None:
    axes.set_ylim(0, top)
    axes.set_ylabel(f"bits per {units[:-1]}", fontsize=9)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _mean(bits: NDArray[Any], units: str) -> str:
    return f"{bits.mean():.3f} bits per {units[:-1]} on average"


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"


def _linestarts(symbols: Sequence[str], most: int = 10) -> list[int]:
    """Return where some of the lines of a text start that have letters, far enough from each other."""
    chosen: list[int] = []
    for place in range(1, len(symbols)):
        if chosen and place - chosen[-1] < len(symbols) / most:
            continue
        if "\n" in symbols[place - 1] and any(map(str.isalpha, _beginning(symbols, place))):
            chosen.append(place)
    return chosen


def _beginning(symbols: Sequence[str], place: int, size: int = 18) -> str:
    """Return how the line that starts at a symbol begins."""
    return _cut("".join(symbols[place : place + size + 1]).split("\n", 1)[0], size)
