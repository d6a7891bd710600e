"""The training step: against torch, against the arithmetic limit, and on two threads against one.

One step is the whole of it: ``Backend.step`` with real arrays, which calls the graph and updates the
parameters, against torch's :meth:`~tests.benchmarks.theirs.Torch.step`. Both sides and one large
sgemm of each kind run in turns in one measurement. The share of the limit is the arithmetic that rngru does
(:attr:`~tests.benchmarks.cases.Case.flops`, less than torch does) per second over the fastest sgemm.
"""

from collections.abc import Iterator
from statistics import median

from rngru.kernels.target import TARGET
from tests.benchmarks.cases import Case
from tests.benchmarks.clock import (
    SGEMM_FLOPS,
    Figure,
    Options,
    compared,
    interleaved,
    repeated,
    sgemms,
    threads,
)
from tests.benchmarks.ours import Rngru
from tests.benchmarks.theirs import Torch

SMALL = Case("GRU", 16, 100, 256, 2), Case("LSTM", 16, 100, 256, 2), Case("RNN", 16, 100, 256, 2)
LARGE = Case("GRU", 64, 100, 512, 2), Case("LSTM", 64, 100, 512, 2), Case("RNN", 64, 100, 512, 2)
CASES = (
    Case("GRU", 16, 100, 128, 2), Case("GRU", 50, 50, 128, 2), SMALL[0], Case("GRU", 32, 64, 512, 1),
    LARGE[0], *SMALL[1:], *LARGE[1:],
)  # fmt: skip

SPEEDUPS = {
    "AVX": dict(zip(CASES, (3.8, 2.5, 2.8, 2.5, 1.8, 1.4, 2.8, 1.5, 1.75), strict=True)),
    "AVX-512": dict(zip(CASES, (3.0, 2.0, 2.0, 2.0, 1.4, 1.1, 2.0, 1.4, 1.4), strict=True)),
}
"""How many times faster than torch a step should be, by instruction set."""

SHARES = {
    "AVX": dict(zip(CASES, (55, 55, 72, 85, 85, 75, 72, 85, 85), strict=True)),
    "AVX-512": {},
}
"""Per cent of the sgemm rate that it should reach."""

TWO_TO_ONE = 1.6


def figures(options: Options) -> Iterator[Figure]:
    """Measure every case whose model there is."""
    for case in CASES:
        yield from _against(case, options)
    for case in CASES[:5]:
        yield _twotoone(case, options)


def _against(case: Case, options: Options) -> Iterator[Figure]:
    """Yield how many times faster than torch a step is, and its share of the sgemm rate."""
    times = case.repeats
    with threads(options.threads), sgemms(options.threads) as products:
        ours, theirs = repeated(Rngru(case).step, times), repeated(Torch(case).step, times)
        seconds = interleaved({"rngru": ours, "theirs": theirs} | products, options.runs)
    steps = {side: [1000 * each / times for each in seconds[side]] for side in ("rngru", "theirs")}
    ratio, pairs = compared(steps["theirs"], steps["rngru"])
    ms = {side: median(each) for side, each in steps.items()}
    note = f"{ms['rngru']:.1f} ms, torch {ms['theirs']:.1f} ms; {pairs}"
    target = SPEEDUPS.get(TARGET.name, {}).get(case)
    yield Figure(f"step {case}", ratio, "x", target, detail={"note": note, "ms": steps})

    rates = {name: SGEMM_FLOPS / median(seconds[name]) / 1e9 for name in products}
    rate = case.flops / ms["rngru"] / 1e6
    shares = ", ".join(
        f"{100 * rate / other:.0f} % of {name}'s {other:.0f}" for name, other in rates.items()
    )
    yield Figure(
        f"arithmetic {case}", 100 * rate / max(rates.values()), "%", SHARES.get(TARGET.name, {}).get(case),
        detail={"note": f"{rate:.0f} GFLOP/s: {shares}", "gflops": rate, "sgemm": rates},
    )  # fmt: skip


def _twotoone(case: Case, options: Options) -> Figure:
    """Return how many times faster a step is on two threads than on one."""
    times, model = case.repeats, Rngru(case)

    def on(count: int) -> None:
        with threads(count):
            for _ in range(times):
                model.step()

    seconds = interleaved({"1": lambda: on(1), "2": lambda: on(2)}, options.runs)
    ratio, pairs = compared(seconds["1"], seconds["2"])
    ms = {count: [1000 * each / times for each in values] for count, values in seconds.items()}
    note = f"{median(ms['1']):.1f} ms to {median(ms['2']):.1f} ms; {pairs}"
    name = f"2 threads to 1, {case}"
    return Figure(name, ratio, "x", TWO_TO_ONE, detail={"note": note, "ms": ms})
