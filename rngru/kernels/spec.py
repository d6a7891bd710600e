"""Descriptions of cells and layers. Models import it, so it loads no Numba.

Each cell is one row of :data:`CELLS`. Its equations stand in :mod:`rngru.cells`, its loops over time
in :mod:`rngru.kernels.sequence`; everything else that differs between cells is in the row.

>>> LayerSpec("GRU").gates
3
"""

from dataclasses import dataclass
from typing import Any, Final

GRU: Final = 0
GRU_AFTER: Final = 1
LSTM: Final = 2
RNN: Final = 3
MIN_GRU: Final = 4
MIN_LSTM: Final = 5
OWN: Final = -1
"""The code of a cell of one's own, which kernels do not have."""

TINY: Final = 1e-12
"""Added to the sum of the MinLSTM's gates, which may both be 0; far below the rounding of any other sum."""


@dataclass(frozen=True, slots=True)
class CellSpec:
    """What differs between cells, apart from their equations.

    Parameters
    ----------
    code: its number in compiled code.
    gates: the names of its gates, in the order in which they lie side by side.
    side: whether a step keeps more than its state and its gates, for the gradient.
    main: how many of them the first matrix product of a step computes; 0 for a cell without recurrent
        weights.
    memory: how many more times S numbers a state has beside the output, which comes first.
    second_bias: whether the candidate has a bias of its own inside the reset gate.
    initial: the biases that gates start with, by name; those that are not there start at 0.
    keeps: the gate that says how much of the state is kept; '' where there is none.
    """

    code: int
    gates: tuple[str, ...]
    main: int
    side: bool = False
    memory: int = 0
    second_bias: bool = False
    initial: tuple[tuple[str, float], ...] = ()
    keeps: str = ""

    @property
    def own(self) -> bool:
        """Whether it is one's own, made by :func:`rngru.cells.register`."""
        return self.code == OWN

    @property
    def recurrent(self) -> bool:
        """Whether it has recurrent weights."""
        return self.main > 0


CELLS: Final = {
    "GRU": CellSpec(GRU, ("z", "r", "c"), main=2, side=True, keeps="z"),
    "GRU_AFTER": CellSpec(
        GRU_AFTER, ("z", "r", "c"), main=2, side=True, second_bias=True, keeps="z"
    ),
    "LSTM": CellSpec(
        LSTM, ("i", "f", "o", "c"), main=4, side=True, memory=1, initial=(("f", 1.0),), keeps="f"
    ),
    "RNN": CellSpec(RNN, ("c",), main=1),
    "MinGRU": CellSpec(MIN_GRU, ("z", "c"), main=0, keeps="z"),
    "MinLSTM": CellSpec(MIN_LSTM, ("i", "f", "c"), main=0, keeps="f"),
}
"""Every cell by name."""


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """Description of a layer, without its weights.

    Parameters
    ----------
    cell: a key of :data:`CELLS`.
    hard: whether a gate is ``clip(0.2 x + 0.5, 0, 1)`` instead of the logistic sigmoid.
    truncate: how many of the last steps get a gradient; -1 for all.
    """

    cell: str
    hard: bool = False
    truncate: int = -1

    @property
    def row(self) -> CellSpec:
        """The row of its cell in :data:`CELLS`."""
        return CELLS[self.cell]

    @property
    def code(self) -> int:
        """The number of its cell in compiled code."""
        return self.row.code

    @property
    def gates(self) -> int:
        """The number of its gates."""
        return len(self.row.gates)

    def main(self, width: int) -> int:
        """Columns of the padded recurrent weights that the first product of a step uses."""
        return self.row.main * width

    def state(self, size: int) -> int:
        """Numbers in the state of one lane."""
        return (1 + self.row.memory) * size

    def size(self, state: int) -> int:
        """Units of a layer whose lanes have states of so many numbers."""
        return state // self.state(1)


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of one layer.

    Parameters
    ----------
    into: for floats ``(U, b)``, (I, G S) and (G S,); for characters ``(table,)``, (V, G S), a row each.
    recurrent: W, (S, G S); None for a cell without.
    second: the candidate's second bias, (S,), for GRU_AFTER; or None.
    """

    into: tuple[Any, ...]
    recurrent: Any = None
    second: Any = None

    def all(self) -> tuple[Any, ...]:
        """Return them side by side."""
        return (*self.into, *(each for each in (self.recurrent, self.second) if each is not None))
