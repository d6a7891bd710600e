"""What a layer is made of, apart from its numbers; light, for models import it.

>>> Layer("GRU").gates
3
"""

from dataclasses import dataclass
from typing import Final

GRU: Final = 0
GRU_AFTER: Final = 1
LSTM: Final = 2
RNN: Final = 3

CELLS = {"GRU": GRU, "GRU_AFTER": GRU_AFTER, "LSTM": LSTM, "RNN": RNN}
"""Cells by name; :mod:`rngru.kernels.sequence` says what they are."""

GATES = {GRU: 3, GRU_AFTER: 3, LSTM: 4, RNN: 1}
"""How many gates each cell has."""

MAIN = {GRU: 2, GRU_AFTER: 2, LSTM: 4, RNN: 1}
"""How many of them the first product of a step reaches."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What a layer is made of, apart from its numbers.

    Parameters
    ----------
    cell: a key of :data:`CELLS`.
    hard: gates by ``clip(0.2 x + 0.5, 0, 1)`` instead of the logistic sigmoid.
    truncate: how many of the last steps get a gradient; -1 for all.
    """

    cell: str
    hard: bool = False
    truncate: int = -1

    @property
    def code(self) -> int:
        """The cell's number."""
        return CELLS[self.cell]

    @property
    def gates(self) -> int:
        """How many gates it has."""
        return GATES[self.code]

    def main(self, width: int) -> int:
        """Columns of the padded recurrent weights that the first product of a step uses."""
        return MAIN[self.code] * width

    def state(self, size: int) -> int:
        """Numbers in the state of one lane."""
        return 2 * size if self.cell == "LSTM" else size
