"""A picture of a search over settings: what each trial reached, and with which values.

>>> columns = {"trial": np.arange(3), "state": np.array(["done", "done", "pruned"], object),
...            "loss": np.array([2.1, 2.0, 2.6]), "layers": np.array([1, 2, 3], object)}
>>> [axes.get_xlabel() for axes in sweepfigure(columns).axes]
['trial', 'layers']
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from rngru.errors import InputError
from rngru.plots.canvas import BLUE, RED, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def sweepfigure(
    columns: Mapping[str, np.ndarray], *, units: str = "characters", log: Collection[str] = ()
) -> "Figure":
    """Draw the loss of each trial, and the losses against each setting.

    Parameters
    ----------
    columns
        ``trial`` (numbers), ``state`` (``'done'`` or another word) and ``loss`` (nats per symbol, NaN
        where there is none); and for each setting its values. All are as long as each other.
    units
        What a symbol is, in the plural.
    log
        Settings on a logarithmic axis.

    Raises
    ------
    InputError
        If there is no loss.
    MissingExtra
        Without matplotlib.
    """
    losses, done = np.asarray(columns["loss"], float), columns["state"] == "done"
    if not np.isfinite(losses).any():
        raise InputError("There is nothing to draw yet: no trial has a validation loss.")
    names = [name for name in columns if name not in ("trial", "state", "loss")]
    wide = min(len(names) + 1, 3)
    figure = blank(4.0 * wide, 3.2 * -(-(len(names) + 1) // wide))
    grid = figure.subplots(-(-(len(names) + 1) // wide), wide, sharey=True, squeeze=False).ravel()
    drawn = (
        losses if not done.any() else np.where(done, losses, np.fmin(losses, losses[done].max()))
    )
    for axes, name in zip(grid, ["trial", *names], strict=False):
        _panel(axes, columns[name], drawn, done, log=name in log)
        axes.set_xlabel(name)
    for axes in grid[len(names) + 1 :]:
        axes.remove()
    if done.any():
        best = np.fmin.accumulate(np.where(done, losses, np.nan))
        grid[0].step(columns["trial"], best, where="post", color=RED, lw=1.2, label="best so far")
    if (~done & np.isfinite(losses)).any():
        grid[0].plot([], [], "x", color="0.6", label="ended early")
    grid[0].legend(fontsize=8, frameon=False)
    for axes in grid[::wide]:
        if axes.figure is not None:
            axes.set_ylabel(f"loss (nats per {units[:-1]})")
    return figure


def _panel(
    axes: "Axes", values: np.ndarray, losses: np.ndarray, done: np.ndarray, *, log: bool
) -> None:
    """Draw losses against the values of one setting."""
    numeric = all(
        isinstance(each, int | float | np.number) and not isinstance(each, bool) for each in values
    )
    if numeric:
        places = np.asarray(values, float)
        if log:
            axes.set_xscale("log")
    else:
        words = sorted({str(each) for each in values})
        places = np.array([words.index(str(each)) for each in values], float)
        axes.set_xticks(range(len(words)), words)
        axes.set_xlim(-0.5, len(words) - 0.5)
    axes.plot(places[~done], losses[~done], "x", color="0.6", ms=5)
    axes.plot(places[done], losses[done], "o", color=BLUE, ms=5)
    if done.any():
        best = int(np.argmin(np.where(done, losses, np.inf)))
        axes.plot(places[best], losses[best], "*", color=RED, ms=13, mec="white", zorder=4)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
