"""One stream of text, character after character: state 256, two layers.

Against a loop in torch with weights of the same sizes (embedding, tanh, one step of ``nn.GRU``,
readout, softmax at a temperature, multinomial, in inference mode), on as many threads as suits it
best. Each character reads every weight once, which is what limits it; the limit is the rate at
which one thread, as rngru uses for one stream, sums a buffer as large as those weights.
"""

from collections.abc import Callable, Iterator
from statistics import median

import numba
import numpy as np

from rngru.models import penalised
from tests.benchmarks.cases import Case
from tests.benchmarks.clock import Figure, Options, compared, interleaved, repeated, threads
from tests.benchmarks.ours import Rngru
from tests.benchmarks.theirs import Torch

CASE = Case("GRU", 1, 1, 256, 2)
CHARACTERS = 4000
SLOWER = 10
"""Torch draws so many times fewer characters in a measurement."""


@numba.njit(fastmath=True)
def _total(buffer: np.ndarray) -> np.float32:
    """Sum a buffer, in vectors."""
    total = np.float32(0)
    for i in range(buffer.size):
        total += buffer[i]
    return total


def figures(options: Options) -> Iterator[Figure]:
    """Measure both sides and the memory in turns."""
    ours, theirs = Rngru(CASE), Torch(CASE)
    # The encoder and the first layer's input weights end in a table, of which a character reads a row.
    first = ours.arrays["E"].nbytes + ours.arrays["layers.0.U"].nbytes
    read = sum(each.nbytes for each in ours.arrays.values() if penalised(each.ndim)) - first
    buffer = np.ones(read // 4, np.float32)

    def torch_on(count: int) -> Callable[[], None]:
        def generate() -> None:
            with threads(count):
                theirs.generate(CHARACTERS // SLOWER)

        return generate

    counts = sorted({1, options.threads})
    sides: dict[str, Callable[[], object]] = {str(count): torch_on(count) for count in counts}
    sides |= {
        "rngru": lambda: ours.generate(CHARACTERS),
        "sum": repeated(lambda: _total(buffer), CHARACTERS),
        "dot": repeated(lambda: np.dot(buffer, buffer), CHARACTERS),
    }
    with threads(1):
        seconds = interleaved(sides, options.runs)
    best = min(map(str, counts), key=lambda count: median(seconds[count]))
    ratio, pairs = compared([SLOWER * each for each in seconds[best]], seconds["rngru"])
    rates = {side: CHARACTERS / median(seconds[side]) for side in ("rngru", "sum", "dot")}
    slow = CHARACTERS / SLOWER / median(seconds[best])
    note = f"{rates['rngru']:,.0f} a second, torch {slow:,.0f} on {best} threads; {pairs}"
    detail = {"note": note, "seconds": seconds}
    yield Figure(
        f"generating one stream, {CASE.size}, {CASE.layers}", ratio, "x", 10, detail=detail
    )
    limit = max(rates["sum"], rates["dot"])
    speeds = {side: rate * read / 1e9 for side, rate in (rates | {"limit": limit}).items()}
    note = (
        f"{read / 1e6:.2f} MB of weights a character at {speeds['rngru']:.1f} GB/s of "
        f"{speeds['limit']:.1f}"
    )
    yield Figure(
        "share of the memory bandwidth", 100 * rates["rngru"] / limit, "%",
        detail={"note": note, "GB/s": speeds},
    )  # fmt: skip
