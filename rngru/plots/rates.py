"""A picture of a learning-rate range test: the loss against the rate.

>>> figure = ratefigure(np.array([1e-3, 1e-2]), np.array([3.0, 2.5]), np.array([3.0, 2.5]), 1e-3)
>>> figure.axes[0].get_xlabel()
'learning rate'
"""

from typing import TYPE_CHECKING

import numpy as np

from rngru.plots.canvas import BLUE, RED, blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def ratefigure(
    rates: np.ndarray,
    losses: np.ndarray,
    smoothed: np.ndarray,
    suggestion: float,
    *,
    units: str = "characters",
) -> "Figure":
    """Draw losses (nats per symbol) against the learning rates (n,) that led to them.

    ``smoothed`` (n,) is the curve through them, ``suggestion`` a rate that is marked.

    Raises
    ------
    MissingExtra
        Without matplotlib.
    """
    figure = blank(8.0, 5.0)
    axes = figure.subplots()
    axes.plot(rates, losses, ".", color="0.75", ms=4, label="single batches")
    axes.plot(rates, smoothed, "-", color=BLUE, lw=1.6, label="smoothed")
    axes.axvline(suggestion, color=RED, lw=1.2, ls="--", label=f"suggestion: {suggestion:.2g}")
    axes.set_xscale("log")
    # Where it diverges the loss leaves the picture; the rest of the curve is what one looks at.
    low, start = float(smoothed.min()), float(smoothed[0])
    margin = 0.1 * max(start - low, 0.05 * start)
    axes.set_ylim(low - 2 * margin, start + 5 * margin)
    axes.set_xlabel("learning rate")
    axes.set_ylabel(f"loss (nats per {units[:-1]})")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False)
    return figure
