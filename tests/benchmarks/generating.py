"""One stream of text, character after character: state 256, two layers.

Against a loop in torch with weights of the same sizes (embedding, tanh, one step of ``nn.GRU``,
readout, softmax at a temperature, multinomial, in inference mode), on as many threads as suits it
best. Each character reads every weight once, which is what limits it; the limit is the rate at
which as many threads sum a buffer as large as those weights, each its own part.
"""

from collections.abc import Callable, Iterator
from statistics import median

import numba
import numpy as np

from rngru.kernels import threads as pool
from rngru.models import penalised
from tests.benchmarks.cases import Case
from tests.benchmarks.clock import Figure, Options, compared, interleaved, threads
from tests.benchmarks.ours import Rngru
from tests.benchmarks.theirs import Torch

CASE = Case("GRU", 1, 1, 256, 2)
CHARACTERS = 4000
SLOWER = 10
"""Torch draws so many times fewer characters in a measurement."""


@numba.njit(nogil=True, fastmath=True)
def _read(part: np.ndarray, totals: np.ndarray) -> None:
    """Sum numbers, in vectors, as many times as there are ``totals``."""
    for k in range(totals.size):
        total = np.float32(0)
        for i in range(part.size):
            total += part[i]
        totals[k] = total


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

    def limit() -> None:
        def share(first: int, last: int) -> None:
            _read(buffer[first:last], np.empty(CHARACTERS, np.float32))

        pool.run(share, buffer.size, options.threads)

    counts = sorted({1, options.threads})
    sides: dict[str, Callable[[], object]] = {str(count): torch_on(count) for count in counts}
    sides |= {"rngru": lambda: ours.generate(CHARACTERS), "limit": limit}
    with threads(options.threads):
        seconds = interleaved(sides, options.runs)
    best = min(map(str, counts), key=lambda count: median(seconds[count]))
    ratio, pairs = compared([SLOWER * each for each in seconds[best]], seconds["rngru"])
    rates = {side: CHARACTERS / median(seconds[side]) for side in ("rngru", "limit")}
    slow = CHARACTERS / SLOWER / median(seconds[best])
    note = f"{rates['rngru']:,.0f} a second, torch {slow:,.0f} with {best} thread(s); {pairs}"
    detail = {"note": note, "seconds": seconds}
    yield Figure(
        f"generating one stream, {CASE.size}, {CASE.layers}", ratio, "x", 10, detail=detail
    )
    speeds = {side: rate * read / 1e9 for side, rate in rates.items()}
    note = (
        f"{read / 1e6:.2f} MB of weights a character at {speeds['rngru']:.0f} GB/s of "
        f"{speeds['limit']:.0f}"
    )
    yield Figure(
        "share of the memory bandwidth", 100 * rates["rngru"] / rates["limit"], "%", 80,
        detail={"note": note, "GB/s": speeds},
    )  # fmt: skip
