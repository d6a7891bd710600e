"""Cost per character as the text grows from 1 MB to 1 GB.

Training steps at 16, 100, 128, 2 on batches from memory-mapped files of one byte for each character.
The steps of the sizes are taken in turns, each stretch moving on along the text and reading pages
that no step before it has read; the pages are in the system's cache.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np

from rngru.dataset import DataSet
from rngru.text import ByteSet
from tests.benchmarks.cases import SYMBOLS, Case
from tests.benchmarks.clock import Figure, Options, interleaved, threads
from tests.benchmarks.ours import Rngru

CASE = Case("GRU", 16, 100, 128, 2)
MEGABYTES = (1, 10, 100, 1000)
STEPS = 30


def figures(options: Options) -> Iterator[Figure]:
    """Measure all sizes in turns."""
    with tempfile.TemporaryDirectory() as folder, threads(options.threads):
        walks = {f"{size} MB": _Walk(Path(folder) / f"{size}", size) for size in MEGABYTES}
        batches = interleaved({size: walk.read for size, walk in walks.items()}, options.runs)
        steps = interleaved({size: walk.train for size, walk in walks.items()}, options.runs)
    count = STEPS * CASE.lanes * CASE.steps
    us = {size: 1e6 * median(each) / count for size, each in steps.items()}
    reading = {size: 1e6 * median(each) / count for size, each in batches.items()}
    note = ", ".join(
        f"{size} {us[size]:.2f} us (batch {1000 * reading[size]:.0f} ns)" for size in us
    )
    smallest, *larger = us.values()
    yield Figure(
        "cost per character, 1 GB to 1 MB", max(larger) / smallest, "x", 1.1, most=True,
        detail={"note": note, "us": us, "batch us": reading},
    )  # fmt: skip


class _Walk:
    """A model on its way along a text of so many million characters."""

    def __init__(self, path: Path, megabytes: int) -> None:
        block = np.random.default_rng(4).integers(0, SYMBOLS, 1_000_000, np.uint8)
        with path.open("wb") as stream:
            for _ in range(megabytes):
                block.tofile(stream)
        self.model = Rngru(CASE)
        self.data = DataSet(np.memmap(path, np.uint8, "r"), ByteSet())
        self.position = 0

    def read(self) -> None:
        """Read batches, and do nothing with them."""
        for _ in range(STEPS):
            self.model.batch = self.data.batch(self.position, CASE.lanes, CASE.steps)
            self.position += CASE.lanes * CASE.steps

    def train(self) -> None:
        """Train on batches."""
        for _ in range(STEPS):
            self.model.batch = self.data.batch(self.position, CASE.lanes, CASE.steps)
            self.position += CASE.lanes * CASE.steps
            self.model.step()
