"""Pictures that show themselves: as a file, in a notebook, and as text in a terminal.

Nothing here sees a model. What draws with matplotlib stands in :mod:`rngru.plots`; curves made of text
come with ``pip install 'rngru[term]'``.

>>> states = np.array([[0.9, -0.2]], np.float32)
>>> NeuronPlot(("a", "b"), states, ((0, 3),))
layer 0, neuron 3
ab
"""

import html
import math
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from rngru.errors import InputError, MissingExtra
from rngru.shading import Shaded
from rngru.tables import printable

if TYPE_CHECKING:  # what draws is not imported before something is drawn
    from matplotlib.figure import Figure

    from rngru.plots import Measured

SHOWN: Final = 5_000
"""Symbols of a text that a screen shows."""


@final
class NeuronPlot:
    """A text coloured by neurons: red where their state is positive, blue where it is negative.

    At the prompt and in a notebook it shows itself; :meth:`save` writes a
    picture.

    Attributes
    ----------
    pieces : tuple of str, (n,)
        The symbols of the text.
    states : float32 array, (neuron, n)
        The state of each neuron after each symbol.
    names : tuple of (int, int)
        Layer and number of each neuron.
    """

    def __init__(
        self, pieces: Sequence[str], states: np.ndarray, names: Sequence[tuple[int, int]]
    ) -> None:
        self.pieces, self.states, self.names = tuple(pieces), states, tuple(names)

    @property
    def figure(self) -> "Figure":
        """A matplotlib figure: of one neuron the coloured text, of several a heat map.

        Raises
        ------
        InputError
            If the text is longer than 2,000 characters.
        MissingExtra
            Without matplotlib.
        """
        from rngru.plots import statesfigure, textfigure

        text = "".join(self.pieces)
        states = np.repeat(self.states, [len(piece) for piece in self.pieces], axis=1)
        if len(states) == 1:
            return textfigure(text, states[0], _name(self.names[0]))
        names = [f"{layer}, {neuron}" for layer, neuron in self.names]
        return statesfigure(text, states, names, "layer, neuron")

    def save(self, path: str | Path) -> Path:
        """Write the picture to a file, whose ending says the format, and return its path."""
        from rngru.plots import savepicture

        return savepicture(self.figure, path)

    def _shown(self) -> list[tuple[str, Shaded]]:
        pieces = self.pieces[:SHOWN]
        return [
            (
                _name(name),
                Shaded(pieces, row[:SHOWN], titles=[f"{x:+.2f}" for x in row[:SHOWN]], signed=True),
            )
            for name, row in zip(self.names, self.states, strict=True)
        ]

    @property
    def _rest(self) -> str:
        more = len(self.pieces) - SHOWN
        return f"and {more:,} more" if more > 0 else ""

    def __repr__(self) -> str:
        blocks = [f"{name}\n{text!r}".rstrip("\n") for name, text in self._shown()]
        return "\n".join([*blocks, *filter(None, [self._rest])])

    def _repr_html_(self) -> str:
        blocks = [f"<p>{name}</p>{text._repr_html_()}" for name, text in self._shown()]
        return "".join(blocks) + f"<p>{html.escape(self._rest)}</p>" * bool(self._rest)


def _name(which: tuple[int, int]) -> str:
    return f"layer {which[0]}, neuron {which[1]}"


@final
class Picture:
    """Loss curves, saved as a file or drawn as text.

    A notebook shows the picture, a terminal its path and, with ``rngru[term]``,
    the curves in characters. It can be used like the path of its file:
    ``.name``, ``.exists()``, ``open(picture)``.

    Attributes
    ----------
    path : pathlib.Path or None
        The file; None where matplotlib is not installed, so that there is none.
    rounds : sequence
        What was drawn.
    """

    def __init__(self, path: Path | None, rounds: "Sequence[Measured]") -> None:
        self.path, self.rounds = path, rounds

    def __fspath__(self) -> str:
        return os.fspath(self._file)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._file, name)

    @property
    def _file(self) -> Path:
        if self.path is None:
            raise MissingExtra(
                "There is no file: it takes matplotlib, which is not installed: pip install 'rngru[plot]'"
            )
        return self.path

    def __str__(self) -> str:
        return str(self.path) if self.path else curves(self.rounds)

    def __repr__(self) -> str:
        if self.path is None:
            return curves(self.rounds)
        text = printable(str(self.path))
        if sys.stdout is None or not sys.stdout.isatty() or not _drawable():
            return text
        return f"{curves(self.rounds)}\n{text}"

    def _repr_png_(self) -> bytes | None:
        return self._read(".png")

    def _repr_jpeg_(self) -> bytes | None:
        return self._read(".jpg", ".jpeg")

    def _repr_svg_(self) -> str | None:
        found = self._read(".svg")
        return found.decode() if found else None

    def _read(self, *endings: str) -> bytes | None:
        """Return the file if it is of one of some kinds."""
        if self.path is None or self.path.suffix.lower() not in endings:
            return None
        return self.path.read_bytes() if self.path.is_file() else None


def losspicture(
    rounds: "Sequence[Measured]",
    batches: tuple[np.ndarray, np.ndarray],
    path: str | Path,
    *,
    needed: bool = True,
) -> Picture:
    """Draw loss curves into a file, as :func:`rngru.plots.lossfigure` draws them.

    Parameters
    ----------
    needed
        Whether the file itself is wanted. If not, curves in characters do where
        matplotlib is missing.

    Raises
    ------
    MissingExtra
        Without matplotlib, if the file is needed, or what draws characters is
        missing, too.
    """
    from rngru.plots import lossfigure, savepicture

    try:
        figure = lossfigure(rounds, batches=batches)
    except MissingExtra:
        if needed or not _drawable():
            raise
        return Picture(None, rounds)
    return Picture(savepicture(figure, path), rounds)


def _drawable() -> bool:
    try:
        import plotille  # noqa: F401
    except ImportError:
        return False
    return True


def curves(rounds: "Sequence[Measured]") -> str:
    """Return training and validation loss drawn in characters, to fit the terminal.

    Raises
    ------
    InputError
        If there is nothing to draw.
    MissingExtra
        Without plotille.
    """
    from rngru.plots import short

    try:
        import plotille
    except ImportError as error:
        raise MissingExtra(
            "Curves in a terminal need plotille, which is not installed: pip install 'rngru[term]'"
        ) from error
    train, valid = (
        [
            (float(r.position), y)
            for r in rounds
            if (y := getattr(r, name)) is not None and math.isfinite(y)
        ]
        for name in ("trainloss", "validloss")
    )
    if not train:
        raise InputError("There is nothing to draw yet: train first.")
    losses = [y for _, y in train + valid]
    figure, units = plotille.Figure(), getattr(rounds[-1], "units", "characters")
    columns = min(shutil.get_terminal_size().columns, 100)
    figure.width, figure.height, figure.with_colors = max(columns - 14, 20), 10, False
    figure.origin = False
    figure.x_label = figure.y_label = ""
    figure.set_x_limits(0, 1.02 * rounds[-1].position)
    figure.set_y_limits(max(min(losses) - 0.05, 0), max(losses) + 0.05)
    figure.x_ticks_fkt = lambda value, _: short(float(f"{value:.3g}"))
    figure.y_ticks_fkt = lambda value, _: f"{value:.2f}"
    figure.plot(*map(list, zip(*train, strict=True)))
    if valid:
        figure.plot(*map(list, zip(*valid, strict=True)), interp=None, marker="o")
    told = "training (line), validation (o)" if valid else "training"
    # Braille blanks are not blank in every font, and not stripped.
    lines = [line.replace("\u2800", " ").rstrip() for line in figure.show().splitlines()]
    drawn = [line.removesuffix("-> ()")[:columns] for line in lines[1:]]
    return "\n".join([f"nats per {units[:-1]} against {units} read: {told}", *drawn])
