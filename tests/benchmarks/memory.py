"""Peak memory of a process that trains at 64, 100, 512, 2: rngru or torch, five steps.

Resident memory as the kernel counted it, beside that of a process that imports the same things and
trains nothing. Read from ``VmHWM``: ``ru_maxrss`` would also count the process it was forked from.
"""

from collections.abc import Iterator
from statistics import median

from tests.benchmarks.cases import Case
from tests.benchmarks.clock import Figure, Options, child, threads

CASE = Case("GRU", 64, 100, 512, 2)
STEPS = 5

CODE = """
import re
import sys
from pathlib import Path
from tests.benchmarks.cases import Case
side, cell, *sizes, threads = sys.argv[1:]
*sizes, steps, threads = map(int, [*sizes, threads])
if side == "rngru":
    import rngru.backends.recurrence
    from tests.benchmarks.ours import Rngru as Side
else:
    import torch
    from tests.benchmarks.theirs import Torch as Side
    torch.set_num_threads(threads)
if steps:
    model = Side(Case(cell, *sizes))
for _ in range(steps):
    model.step()
print(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def figures(options: Options) -> Iterator[Figure]:
    """Measure processes of both sides in turns."""
    peaks: dict[tuple[str, int], list[float]] = {}
    with threads(options.threads):
        for _ in range(min(options.runs, 3)):
            for side in ("rngru", "torch"):
                for steps in (0, STEPS):
                    sizes = (CASE.lanes, CASE.steps, CASE.size, CASE.layers)
                    _, peak = child(CODE, side, CASE.cell, *sizes, steps, options.threads)
                    peaks.setdefault((side, steps), []).append(int(peak) / 1024)
    mib = {key: median(each) for key, each in peaks.items()}
    note = (
        f"torch {mib['torch', STEPS]:.0f}; imports alone {mib['rngru', 0]:.0f}, "
        f"torch {mib['torch', 0]:.0f}"
    )
    detail = {
        "note": note,
        "MiB": {f"{side}, {steps} steps": v for (side, steps), v in mib.items()},
    }
    yield Figure(
        f"peak memory, {CASE}", mib["rngru", STEPS], "MiB", mib["torch", STEPS], most=True,
        detail=detail,
    )  # fmt: skip
