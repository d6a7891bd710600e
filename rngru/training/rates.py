"""What a training batch costs."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from rngru.training.run import Run


@dataclass(frozen=True, slots=True)
class Timing:
    """What one training batch costs: ``seconds`` (the median of ``batches``) and its size."""

    seconds: float
    batches: int
    batchsize: int
    seq_len: int
    units: str = "characters"

    @property
    def rate(self) -> float:
        """Symbols per second."""
        return self.batchsize * self.seq_len / self.seconds

    def __repr__(self) -> str:
        return (
            f"{1000 * self.seconds:.1f} ms per batch of {self.batchsize} x {self.seq_len} "
            f"{self.units}, {self.rate:,.0f} {self.units} per second (median of {self.batches})"
        )


def timed(
    run: Run, batchsize: int, seq_len: int, batches: int, check: Callable[[], object]
) -> Timing:
    """Measure ``batches`` steps, after one that is not measured; none of them is taken.

    ``check`` raises KeyboardInterrupt to stop.
    """
    seconds = []
    for _ in range(batches + 1):
        began = time.perf_counter()
        run.propose(batchsize, seq_len, run.progress.learnrate)
        seconds.append(time.perf_counter() - began)
        check()
    median = statistics.median(seconds[1:])
    return Timing(median, batches, batchsize, seq_len, run.data.vocab.units)
