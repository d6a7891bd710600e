"""The sizes that are measured, and how much arithmetic a training step of each is.

Light: a process that trains one side alone imports this and nothing of the other side.
"""

from dataclasses import dataclass

import numpy as np

from rngru.hyper import HyperParams
from rngru.models import MODELS, Model

SYMBOLS = 65


@dataclass(frozen=True, slots=True)
class Case:
    """A size: ``cell``, lanes, steps, units, layers."""

    cell: str
    lanes: int
    steps: int
    size: int
    layers: int

    def __str__(self) -> str:
        return f"{self.cell} {self.lanes}, {self.steps}, {self.size}, {self.layers}"

    @property
    def model(self) -> Model:
        return MODELS[f"{self.cell}Encode"]

    @property
    def hyper(self) -> HyperParams:
        return HyperParams(SYMBOLS, state_size=self.size, layers=self.layers)

    @property
    def flops(self) -> int:
        """Arithmetic of one training step of rngru: each multiply-add of its products is two.

        Products of the recurrence, of the inputs of layers above the first, and of the readout run
        three times, forward, for the gradient of what goes in and for that of the weights; the
        first layer's run over a table of one row for each character. Padding, elementwise work,
        packing and the update are not counted.
        """
        gates = self.model.spec(self.hyper).gates
        rows, square = self.lanes * self.steps, self.size * self.size * gates
        recurrent, inputs = rows * square * self.layers, rows * square * (self.layers - 1)
        first, readout = SYMBOLS * square, rows * self.size * SYMBOLS
        return 2 * 3 * (recurrent + inputs + first + readout)

    @property
    def repeats(self) -> int:
        """How many steps make one measurement long enough for the clock and for both sides' caches."""
        return max(1, round(2e10 / self.flops))

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Return random characters and those that follow them, (T, B) int32."""
        ids = np.random.default_rng(1).integers(0, SYMBOLS, (self.steps + 1, self.lanes), np.int32)
        return ids[:-1], ids[1:].copy()
