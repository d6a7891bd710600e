"""Pictures of a training run and of what neurons do, from arrays and events alone.

Nothing here sees a model, opens a window or changes a global setting: each function returns a
matplotlib ``Figure``, which a notebook shows and :func:`savepicture` writes to a file. matplotlib
is imported when the first picture is asked for; it comes with ``pip install 'rngru[plot]'``.

>>> import numpy as np
>>> states = np.tanh(np.random.default_rng(0).normal(size=(1, 8, 12)))
>>> figure = neuronfigure("hello, world", states)
>>> figure.axes[0].get_ylabel()
'neuron of layer 0'
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rngru.disk import topath
from rngru.errors import InputError, WorkdirError
from rngru.plots.canvas import BLUE, RED, blank, labels, short
from rngru.plots.rates import ratefigure
from rngru.plots.search import sweepfigure
from rngru.plots.surprise import scoresfigure

__all__ = [
    "Measured",
    "comparefigure",
    "lossfigure",
    "neuronfigure",
    "ratefigure",
    "savepicture",
    "scoresfigure",
    "short",
    "statesfigure",
    "sweepfigure",
    "textfigure",
]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS: Final = "RdBu_r"
_LONGEST: Final = 2_000


class Measured(Protocol):
    """What :func:`lossfigure` reads of a round; `rngru.events.Round` is one."""

    @property
    def position(self) -> int:
        """Symbols of training text read."""

    @property
    def trainloss(self) -> float:
        """Mean training loss, nats per symbol."""

    @property
    def validloss(self) -> float | None:
        """Validation loss, nats per symbol, if there is one."""


def lossfigure(
    rounds: Sequence[Measured], *, batches: tuple[ArrayLike, ArrayLike] | None = None
) -> "Figure":
    """Draw training and validation loss against the length of text read.

    Parameters
    ----------
    rounds
        What each round measured, in order: a `rngru.report.History`, or any sequence of records
        with ``position``, ``trainloss`` and ``validloss`` (None where nothing was validated).
    batches
        Positions (symbols read) and training losses (nats per symbol) of single batches, two
        arrays of the same length, drawn faintly behind: ``(history.positions, history.losses)``.

    Returns
    -------
    Figure
        Nats per character (word, byte) on the left, bits per character on the right.

    Raises
    ------
    InputError
        If there is nothing to draw, or the arrays differ in length.
    MissingExtra
        Without matplotlib.

    Example
    -------
    >>> from rngru.events import Round
    >>> history = [Round(1, 1000, 0.5, 2.5, 2.4, 3.46, 1e-3, 1.0, 1000, 2.0, None)]
    >>> lossfigure(history).axes[0].get_ylabel()
    'loss (nats per character)'
    """
    positions, losses = (np.ravel(np.asarray(a, float)) for a in batches or ((), ()))
    if positions.shape != losses.shape:
        raise InputError(
            f"batches has {positions.size} positions, but {losses.size} losses; expected as many."
        )
    if not len(rounds) and not losses.size:
        raise InputError("There is nothing to draw yet: train first.")
    figure, units = blank(8.0, 5.0), _units(rounds)
    axes = figure.subplots()
    if losses.size:
        _cloud(axes, positions, losses)
    seen = np.array([r.position for r in rounds], float)
    train = np.array([r.trainloss for r in rounds], float)
    valid = np.array([math.nan if r.validloss is None else r.validloss for r in rounds], float)
    # Marks show where the measurements are, until there are so many that they hide the curve.
    mark = "o" if len(rounds) <= 60 else ""
    if len(rounds):
        axes.plot(seen, train, mark + "-", color=BLUE, ms=4, lw=1.6, label="training, per round")
    if np.isfinite(valid).any():
        axes.plot(seen, valid, mark + "-", color=RED, ms=4, lw=1.6, label="validation")
        best = int(np.nanargmin(valid))
        axes.plot(seen[best], valid[best], "*", color=RED, ms=13, mec="white", zorder=4)
        axes.set_title(
            f"best validation loss {valid[best]:.4f} nats per {units[:-1]} "
            f"after {short(seen[best])} {units}",
            fontsize=10,
            loc="left",
        )
    _dress(axes, np.concatenate([losses, train, valid]), units)
    return figure


def comparefigure(runs: Mapping[str, Sequence[Measured]]) -> "Figure":
    """Draw the validation losses of several runs against the text read, one curve each.

    Parameters
    ----------
    runs
        For each name to show in the legend, the rounds of a run, as for :func:`lossfigure`.

    Raises
    ------
    InputError
        If no run was validated.
    MissingExtra
        Without matplotlib.

    Example
    -------
    >>> from rngru.events import Round
    >>> rounds = [Round(1, 1000, 0.5, 2.5, 2.4, 3.46, 1e-3, 1.0, 1000, 2.0, None)]
    >>> len(comparefigure({"GRU": rounds, "LSTM": rounds}).axes[0].lines)
    2
    """
    curves = {
        name: np.array([(r.position, r.validloss) for r in rounds if r.validloss is not None])
        for name, rounds in runs.items()
    }
    if not any(curve.size for curve in curves.values()):
        raise InputError("There is nothing to draw: no run has a validation loss.")
    figure = blank(8.0, 5.0)
    axes = figure.subplots()
    drawn = [(name, curve) for name, curve in curves.items() if curve.size]
    for name, curve in sorted(drawn, key=lambda each: each[1][-1, 1]):
        label = f"{name}: {curve[-1, 1]:.3f}"
        axes.plot(curve[:, 0], curve[:, 1], "o-", ms=3.5, lw=1.5, label=label)
    axes.set_title("validation loss; in the legend, after the last round", fontsize=10, loc="left")
    kinds = {_units(rounds) for rounds in runs.values()}
    values = np.concatenate([curve[:, 1] for _, curve in drawn])
    _dress(axes, values, kinds.pop() if len(kinds) == 1 else "symbols")
    return figure


def neuronfigure(
    text: str,
    states: ArrayLike,
    layer: int = 0,
    neurons: int | Sequence[int] | None = None,
) -> "Figure":
    """Draw what neurons do while a model reads ``text``.

    Parameters
    ----------
    text
        What was read, at most 2,000 characters.
    states
        Float array, (layer, neuron, step): the state of each neuron after each character, as
        ``trackneurons`` returns it.
    layer
        Which layer to draw, counted from 0.
    neurons
        A list: these, as a heat map with the characters along the x axis. None: the 24 that
        change most. One number: the text itself, each character coloured by that neuron.

    Returns
    -------
    Figure
        Blue is negative, white zero and red positive, to the same scale everywhere.

    Raises
    ------
    InputError
        If the sizes do not fit each other, or a layer or neuron does not exist.
    MissingExtra
        Without matplotlib.

    Example
    -------
    >>> import numpy as np
    >>> states = np.linspace(-1, 1, 2 * 3 * 4).reshape(2, 3, 4)
    >>> neuronfigure("word", states, layer=1, neurons=[2, 0]).axes[0].get_ylabel()
    'neuron of layer 1'
    >>> neuronfigure("word", states, layer=1, neurons=2).axes[0].get_title(loc="left")
    'layer 1, neuron 2'
    """
    chosen = _layer(text, np.asarray(states, float), layer)
    if neurons is None:
        change = np.abs(np.diff(chosen, axis=1)).sum(axis=1)
        picked = np.sort(np.argsort(-change, kind="stable")[:24])
        return statesfigure(text, chosen[picked], picked.tolist(), f"neuron of layer {layer}")
    picked = np.atleast_1d(np.asarray(neurons))
    if not picked.size or picked.dtype.kind not in "iu":
        raise InputError(f"neurons={neurons!r}: expected one whole number or more.")
    if not ((picked >= 0) & (picked < len(chosen))).all():
        raise InputError(f"neurons={neurons!r}: this layer has neurons 0 to {len(chosen) - 1}.")
    if np.ndim(neurons) == 0:
        return textfigure(text, chosen[picked[0]], f"layer {layer}, neuron {picked[0]}")
    return statesfigure(text, chosen[picked], picked.tolist(), f"neuron of layer {layer}")


def savepicture(figure: "Figure", path: str | Path) -> Path:
    """Write ``figure`` to ``path`` and return the path; the suffix says the format.

    Raises
    ------
    InputError
        For what is no path, or a suffix that matplotlib does not know.
    WorkdirError
        If the file cannot be written.

    Example
    -------
    >>> import tempfile
    >>> figure = neuronfigure("ab", [[[0.5, -0.5]]])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     savepicture(figure, folder + "/neurons.png").name
    'neurons.png'
    """
    if not isinstance(path, str | Path):
        raise InputError(f"Expected the path of a picture, got {path!r}.")
    path = Path(os.path.expanduser(topath(path)))  # as working directories are
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in known:
        raise InputError(
            f"{path.name!r} is not the name of a picture. Expected one that ends in "
            + ", ".join(f".{name}" for name in sorted(known))
        )
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise WorkdirError(f"The picture {path} cannot be written: {error.strerror}.") from error
    return path


def _units(rounds: Sequence[Measured]) -> str:
    """Return what the rounds count, in the plural."""
    return str(getattr(rounds[-1], "units", "characters")) if len(rounds) else "characters"


def _dress(axes: "Axes", values: NDArray[Any], units: str) -> None:
    """Label the axes of losses and set their limits."""
    _limits(axes, values)
    axes.set_xlabel(f"{units} of training text read")
    axes.set_ylabel(f"loss (nats per {units[:-1]})")
    axes.xaxis.set_major_formatter(lambda x, _: short(x))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    bits = axes.secondary_yaxis("right", functions=(_tobits, _tonats))
    bits.set_ylabel(f"bits per {units[:-1]}")
    bits.spines["right"].set_visible(False)


def _cloud(axes: "Axes", positions: NDArray[Any], losses: NDArray[Any]) -> None:
    """Draw single batches: as points, or where there are many, as a band around their median."""
    if losses.size <= 400:
        axes.plot(positions, losses, ".", color=BLUE, ms=3, alpha=0.35, label="training batches")
        return
    where = np.array([part.mean() for part in np.array_split(positions, 200)])
    parts = np.array_split(losses, 200)
    low, middle, high = np.array([np.percentile(part, [5, 50, 95]) for part in parts]).T
    axes.fill_between(where, low, high, color=BLUE, alpha=0.15, lw=0, label="90 % of batches")
    axes.plot(where, middle, color=BLUE, alpha=0.45, lw=0.8)


def _limits(axes: "Axes", values: NDArray[Any]) -> None:
    """Leave room around what is drawn, but none for the few highest of many values."""
    values = values[np.isfinite(values)]
    if values.size:
        low, high = values.min(), np.percentile(values, 99.5) if values.size > 50 else values.max()
        room = max(0.06 * (high - low), 0.05)
        axes.set_ylim(max(low - room, 0.0), high + room)


def _layer(text: str, states: NDArray[Any], layer: int) -> NDArray[Any]:
    """Return (neuron, step) of one layer, or say what does not fit."""
    if states.ndim != 3 or not states.size:
        raise InputError(
            "Expected states of shape (layer, neuron, step), as trackneurons returns them, "
            f"got shape {states.shape}."
        )
    if not 0 <= layer < len(states):
        raise InputError(f"layer={layer}: there are layers 0 to {len(states) - 1}.")
    if states.shape[2] != len(text):
        raise InputError(
            f"The text has {len(text)} characters, but states has "
            f"{states.shape[2]} steps. Give the text that the states belong to."
        )
    return states[layer]


def _fits(text: str) -> None:
    """Refuse a text that is too long to be read in a picture."""
    if len(text) > _LONGEST:
        raise InputError(
            f"{len(text):,} characters do not fit in a picture. Draw a part of at most "
            f"{_LONGEST:,}: text[a:b], with states[:, :, a:b] if you give states."
        )


def statesfigure(
    text: str, states: NDArray[Any], names: Sequence[object], title: str, width: int = 100
) -> "Figure":
    """Draw rows of states (neuron, step) against characters, in bands of ``width`` characters.

    ``names`` are those of the rows, ``title`` says what they are.
    """
    _fits(text)
    columns, bands = min(len(text), width), math.ceil(len(text) / width)
    tall = 0.2 * len(states) + 0.75
    figure = blank(max(0.115 * columns, 2.0) + 2.0, tall * bands + 0.5)
    every = figure.subplots(bands, 1, squeeze=False)[:, 0]
    letters = labels(text)
    for band, axes in enumerate(every):
        steps = slice(band * width, band * width + columns)
        # Padded to full width, so that a character is as wide in the last band as in the first.
        cells = np.full((len(states), columns), np.nan)
        cells[:, : len(text[steps])] = states[:, steps]
        image = axes.imshow(
            cells, cmap=_COLOURS, vmin=-1, vmax=1, aspect="auto", interpolation="nearest"
        )
        shown = letters[steps]
        axes.set_xticks(range(len(shown)), shown, family="monospace", parse_math=False)
        axes.set_yticks(range(len(states)), [str(name) for name in names])
        axes.tick_params(length=0, labelsize=8)
        axes.set_ylabel(title, fontsize=9)
        axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=list(every), label="state", fraction=0.03, pad=0.01, aspect=25)
    return figure


def textfigure(text: str, states: NDArray[Any], title: str, width: int = 80) -> "Figure":
    """Write the text on cells coloured by the ``states`` (step,) of one neuron, line by line."""
    _fits(text)
    lines = [
        range(start, min(start + width, stop))
        for first, stop in _lines(text)
        for start in range(first, stop, width)
    ]
    columns = max(24, *map(len, lines))  # so that a cell of a short text is no wider than others
    cells = np.full((len(lines), columns), np.nan)
    for row, steps in enumerate(lines):
        cells[row, : len(steps)] = states[steps.start : steps.stop]
    figure = blank(max(0.115 * columns, 2.0) + 1.6, 0.21 * len(lines) + 0.7)
    axes = figure.subplots()
    image = axes.imshow(
        cells, cmap=_COLOURS, vmin=-1, vmax=1, aspect="auto", interpolation="nearest"
    )
    names = labels(text)
    for row, steps in enumerate(lines):
        for column, step in enumerate(steps):
            axes.text(
                column,
                row,
                names[step],
                family="monospace",
                fontsize=9,
                ha="center",
                va="center_baseline",
                color="white" if abs(states[step]) > 0.7 else "black",
                parse_math=False,
            )
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_axis_off()
    figure.colorbar(image, ax=axes, label="state", fraction=0.03, pad=0.01, aspect=12)
    return figure


def _lines(text: str) -> list[tuple[int, int]]:
    """Return where each line of ``text`` starts and stops, its newline included."""
    stops = [place + 1 for place, char in enumerate(text) if char == "\n"]
    if not text.endswith("\n"):
        stops.append(len(text))
    return list(zip([0, *stops[:-1]], stops, strict=True))


def _tobits(nats: ArrayLike) -> NDArray[Any]:
    return np.asarray(nats) / math.log(2)


def _tonats(bits: ArrayLike) -> NDArray[Any]:
    return np.asarray(bits) * math.log(2)
