"""What every picture begins with: an empty figure, colours, and text that can be drawn.

>>> short(1_250_000)
'1.25 M'
"""

from typing import TYPE_CHECKING, Final

from rngru.errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE: Final = "#0072b2"
RED: Final = "#d55e00"


def blank(width: float, height: float) -> "Figure":
    """Return an empty figure of so many inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra(
            "Pictures need matplotlib, which is not installed: pip install 'rngru[plot]'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def labels(text: str) -> list[str]:
    """Return a character to draw for each of ``text``: blanks visible, a box if the font has none."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(family="monospace")))
    drawn = text.translate({ord("\n"): "↵", ord(" "): "·", ord("\t"): "→"})
    return [
        char if font.get_char_index(ord(char)) and char.isprintable() else "□" for char in drawn
    ]


def short(number: float) -> str:
    """1,250,000 as '1.25 M'."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number:.4g}"
