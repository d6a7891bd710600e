"""Text whose symbols are coloured by numbers: in a terminal, and as HTML in a notebook.

>>> text = Shaded(["to", " be"], np.array([0.0, 0.9]))
>>> text  # where standard output is no terminal that shows colours
to be
>>> "background" in text._repr_html_()
True
"""

import html
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final, final

import numpy as np
from numpy.typing import ArrayLike

from rngru.tables import printable

if TYPE_CHECKING:
    from rich.text import Text

_LEVELS: Final = 12
_HIGH: Final = ((253, 219, 199), (214, 47, 39))
_LOW: Final = ((209, 229, 240), (33, 102, 172))


@final
class Shaded:
    """Text, each piece of it on a background that shows a number.

    The repr is the text: in colour where standard output is a terminal that shows colours, and plain
    anywhere else. A notebook shows it in colour, with a note on each piece under the pointer.

    Parameters
    ----------
    pieces
        The text in pieces, usually its symbols.
    values
        One number for each piece, from 0 (no colour) to 1 (red); ``signed``, from -1 (blue) to 1.
        Numbers beyond are taken for the nearest of these; NaN is without colour.
    titles
        What a notebook shows of each piece under the pointer.
    signed
        Whether numbers below 0 have a colour of their own.

    Raises
    ------
    ValueError
        If there are not as many values as pieces.
    """

    def __init__(
        self,
        pieces: Sequence[str],
        values: ArrayLike,
        *,
        titles: Sequence[str] = (),
        signed: bool = False,
    ) -> None:
        given = np.nan_to_num(np.asarray(values, np.float64), nan=0.0)
        if given.shape != (len(pieces),):
            raise ValueError(f"{len(pieces)} pieces, but values of shape {given.shape}.")
        self.pieces, self.titles = tuple(pieces), tuple(titles)
        self.values = np.clip(given, -1.0 if signed else 0.0, 1.0)

    def __str__(self) -> str:
        return "".join(self.pieces)

    def __repr__(self) -> str:
        from rich.console import Console

        console = Console(highlight=False)
        if not console.is_terminal or console.color_system is None:
            return printable(str(self))
        with console.capture() as captured:
            console.print(self._styled(), end="", soft_wrap=True)
        return captured.get()

    def _styled(self) -> "Text":
        from rich.text import Text

        text, levels = Text(), np.rint(self.values * _LEVELS).astype(int).tolist()
        for level, run in groupby(zip(levels, self.pieces, strict=True), lambda pair: pair[0]):
            words = "".join(piece for _, piece in run)
            # The end of a line has no width: a mark shows its colour.
            words = printable(words).replace("\n", "⏎\n") if level else printable(words)
            text.append(words, _style(level) if level else "")
        return text

    def _repr_html_(self) -> str:
        titles = self.titles or [""] * len(self.pieces)
        spans = []
        for piece, value, title in zip(self.pieces, self.values.tolist(), titles, strict=True):
            (red, green, blue), words = (_HIGH if value > 0 else _LOW)[1], printable(piece)
            words = words.replace("\n", "⏎\n") if abs(value) >= 0.5 / _LEVELS else words
            note = f' title="{html.escape(title)}"' if title else ""
            style = f"background:rgba({red},{green},{blue},{abs(value):.2f})"
            spans.append(f'<span{note} style="{style}">{html.escape(words)}</span>')
        return f'<pre style="white-space:pre-wrap">{"".join(spans)}</pre>'


def _style(level: int) -> str:
    """Return the colours of a level, for a terminal whose own background nobody knows."""
    (pale, strong), share = _HIGH if level > 0 else _LOW, abs(level) / _LEVELS
    mixed = (round(a + (b - a) * share) for a, b in zip(pale, strong, strict=True))
    ink = "white" if share > 0.7 else "black"
    return f"{ink} on rgb({','.join(map(str, mixed))})"
